#include "seeding.hpp"

#include <algorithm>
#include <vector>

#include "aligned.hpp"
#include "lanes64.hpp"
#include "parallel.hpp"

namespace medvlad {

namespace {

constexpr std::int64_t kTaskRows = 1024;  // potentials are summed over this many rows, then over tasks
// Candidates that go by with one reading of a row: as many sums as registers hold, to hide their latency.
constexpr int kGroup = kParts == 1 ? 8 : 4;

constexpr std::int64_t kAhead = 8;  // rows asked for in advance

std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

void prefetch(const float* row, std::int64_t d) {
#if defined(__GNUC__)
  for (std::int64_t j = 0; j < d; j += 16) __builtin_prefetch(row + j, 0, 2);
#else
  static_cast<void>(row);
  static_cast<void>(d);
#endif
}

double squared_distance(const float* x, const float* c, std::int64_t d) {
  const Lanes minus_one = broadcast(-1.0);
  Lanes lanes = broadcast(0.0);
  std::int64_t j = 0;
  for (; j + kDoubles <= d; j += kDoubles) {
    const Lanes difference = exact_multiply_add(minus_one, widen(c + j), widen(x + j));
    lanes += difference * difference;
  }
  double total = sum(lanes);
  for (; j < d; ++j) {
    const double difference = double{x[j]} - double{c[j]};
    total += difference * difference;
  }
  return total;
}

// kGroup candidates in float64, eight numbers of each after the other, so that one pointer reads them all.
class Group {
 public:
  Group(const CandidateStep& step, std::int64_t first) : d_(step.d), values_(size(kGroup * step.d)) {
    for (int t = 0; t < kGroup; ++t) {
      const std::int64_t at = std::min(first + t, step.n_candidates - 1);
      const float* row = step.x + step.candidates[at] * d_;
      for (std::int64_t j = 0; j < d_; ++j) values_.data()[index(j, t)] = double{row[j]};
    }
  }

  // result[t] = x.c_t
  void dots(const float* x, double (&result)[kGroup]) const {
    const double* c = values_.data();
    Lanes lanes[kGroup];
    for (Lanes& one : lanes) one = broadcast(0.0);
    std::int64_t j = 0;
    for (; j + kDoubles <= d_; j += kDoubles, c += kGroup * kDoubles) {
      const Lanes values = widen(x + j);
      for (int t = 0; t < kGroup; ++t)
        lanes[t] = exact_multiply_add(values, load(c + t * kDoubles), lanes[t]);
    }
    for (int t = 0; t < kGroup; ++t) {
      result[t] = sum(lanes[t]);
      for (std::int64_t rest = j; rest < d_; ++rest)
        result[t] += double{x[rest]} * values_.data()[index(rest, t)];
    }
  }

 private:
  std::int64_t index(std::int64_t j, int t) const {
    const std::int64_t whole = d_ - d_ % kDoubles;
    if (j >= whole) return whole * kGroup + (j - whole) * kGroup + t;
    return j / kDoubles * kDoubles * kGroup + t * kDoubles + j % kDoubles;
  }

  std::int64_t d_;
  AlignedBuffer<double> values_;
};

}  // namespace

void squared_distances(const float* x, std::int64_t n, std::int64_t d, const float* centers,
                       const std::int32_t* labels, int n_threads, double* distances) {
  const std::int64_t n_tasks = (n + kTaskRows - 1) / kTaskRows;
  parallel_for(n_tasks, n_threads, [&](std::int64_t task, int) {
    const std::int64_t last = std::min(n, (task + 1) * kTaskRows);
    for (std::int64_t i = task * kTaskRows; i < last; ++i) {
      distances[i] = squared_distance(x + i * d, centers + labels[i] * d, d);
    }
  });
}

void candidate_distances(const CandidateStep& step, int n_threads, double* distances, double* potentials) {
  const std::int64_t n = step.n, d = step.d;
  const std::int64_t n_groups = (step.n_candidates + kGroup - 1) / kGroup;
  std::vector<Group> groups;
  for (std::int64_t group = 0; group < n_groups; ++group) groups.emplace_back(step, group * kGroup);
  const double rounding = 4.0 * (static_cast<double>(d) + 4.0) * 0x1p-53;
  const std::int64_t n_tasks = (n + kTaskRows - 1) / kTaskRows;
  std::vector<double> partial(size(n_tasks * n_groups * kGroup));
  parallel_for(n_tasks, n_threads, [&](std::int64_t task, int) {
    double* sums = partial.data() + task * n_groups * kGroup;
    const std::int64_t last = std::min(n, (task + 1) * kTaskRows);
    for (std::int64_t i = task * kTaskRows; i < last; ++i) {
      // Rows are long and read once a step: ask for them before they are needed.
      prefetch(step.x + std::min(i + kAhead, n - 1) * d, d);
      for (std::int64_t group = 0; group < n_groups; ++group) {
        double product[kGroup];
        groups[size(group)].dots(step.x + i * d, product);
        const std::int64_t in_group = std::min<std::int64_t>(kGroup, step.n_candidates - group * kGroup);
        for (std::int64_t t = 0; t < in_group; ++t) {
          const std::int64_t at = group * kGroup + t;
          const double scale = step.norms[i] + step.norms[step.candidates[at]];
          double distance = scale - 2.0 * product[t];
          if (!(distance > rounding * scale)) distance = 0.0;
          distance = std::min(distance, step.closest[i]);
          distances[at * n + i] = distance;
          sums[at] += distance;
        }
      }
    }
  });
  for (std::int64_t t = 0; t < step.n_candidates; ++t) {
    potentials[t] = 0.0;
    for (std::int64_t task = 0; task < n_tasks; ++task)
      potentials[t] += partial[size(task * n_groups * kGroup + t)];
  }
}

}  // namespace medvlad
