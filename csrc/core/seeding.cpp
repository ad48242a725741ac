#include "seeding.hpp"

#include <algorithm>
#include <cassert>
#include <vector>

#include "aligned.hpp"
#include "lanes64.hpp"
#include "parallel.hpp"
#include "size.hpp"

namespace medvlad {

namespace {

constexpr std::int64_t kTaskRows = 1024;  // potentials are summed over this many rows, then over tasks
// Numbers of candidates and rows that are multiplied with each other at a time. Their sums fill the
// registers, which hides the latency of the additions. If there is room, a candidate is loaded once for two
// rows.
constexpr int kGroup = kParts == 1 ? 8 : 4;
constexpr int kRows = kParts == 1 ? 2 : 1;
constexpr std::int64_t kBlockRows = 32;
constexpr std::int64_t kAhead = 8;  // number of rows to prefetch

// Prefetch the cache line at `address`, which must be valid.
inline void prefetch(const float* address) {
#if defined(__GNUC__)
  __builtin_prefetch(address, 0, 3);
#else
  static_cast<void>(address);
#endif
}

double squared_distance(const float* x, const float* c, std::int64_t d) {
  const Lanes64 minus_one = broadcast(-1.0);
  Lanes64 lanes = broadcast(0.0);
  std::int64_t j = 0;
  for (; j + kDoubles <= d; j += kDoubles) {
    const Lanes64 difference = exact_multiply_add(minus_one, widen(c + j), widen(x + j));
    lanes += difference * difference;
  }
  double total = sum(lanes);
  for (; j < d; ++j) {
    const double difference = double{x[j]} - double{c[j]};
    total += difference * difference;
  }
  return total;
}

// kGroup candidates in float64. Eight numbers of one candidate follow eight of another, so that one pointer
// is enough to read them all.
class Group {
 public:
  Group(const CandidateStep& step, std::int64_t first) : d_(step.d), values_(size(kGroup * step.d)) {
    for (int t = 0; t < kGroup; ++t) {
      const std::int64_t at = std::min(first + t, step.n_candidates - 1);
      const float* row = step.x + step.candidates[at] * d_;
      for (std::int64_t j = 0; j < d_; ++j) values_.data()[index(j, t)] = double{row[j]};
    }
  }

  // result[r][t] = x_r.c_t for kRows rows at x, `stride` apart. The rows at `ahead` are prefetched line by
  // line, because prefetching all at once would delay the loads of these rows.
  void dots(const float* x, std::int64_t stride, const float* ahead, double (&result)[kRows][kGroup]) const {
    const double* c = values_.data();
    Lanes64 lanes[kRows][kGroup];
    for (auto& row : lanes) {
      for (Lanes64& one : row) one = broadcast(0.0);
    }
    std::int64_t j = 0;
    for (; j + kDoubles <= d_; j += kDoubles, c += kGroup * kDoubles) {
      prefetch(ahead + kRows * j);
      Lanes64 values[kRows];
      for (int r = 0; r < kRows; ++r) values[r] = widen(x + r * stride + j);
      for (int t = 0; t < kGroup; ++t) {
        const Lanes64 candidate = load(c + t * kDoubles);
        for (int r = 0; r < kRows; ++r) lanes[r][t] = exact_multiply_add(values[r], candidate, lanes[r][t]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int t = 0; t < kGroup; ++t) {
        result[r][t] = sum(lanes[r][t]);
        for (std::int64_t rest = j; rest < d_; ++rest) {
          result[r][t] += double{x[r * stride + rest]} * values_.data()[index(rest, t)];
        }
      }
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
  groups.reserve(size(n_groups));
  for (std::int64_t group = 0; group < n_groups; ++group) groups.emplace_back(step, group * kGroup);
  const double rounding = 4.0 * (static_cast<double>(d) + 4.0) * 0x1p-53;
  const std::int64_t n_tasks = (n + kTaskRows - 1) / kTaskRows;
  std::vector<double> partial(size(n_tasks * n_groups * kGroup));
  parallel_for(n_tasks, n_threads, [&](std::int64_t task, int) {
    double* sums = partial.data() + task * n_groups * kGroup;
    const std::int64_t last = std::min(n, (task + 1) * kTaskRows);
    // Each group is multiplied by a whole block of rows, so that the group stays in the first-level cache.
    for (std::int64_t begin = task * kTaskRows; begin < last; begin += kBlockRows) {
      const std::int64_t end = std::min(last, begin + kBlockRows);
      for (std::int64_t group = 0; group < n_groups; ++group) {
        const std::int64_t in_group = std::min<std::int64_t>(kGroup, step.n_candidates - group * kGroup);
        for (std::int64_t i = begin; i < end; i += kRows) {
          // Always multiply kRows rows: the last rows of all may be multiplied twice.
          const std::int64_t first = std::max<std::int64_t>(0, std::min(i, n - kRows));
          const std::int64_t ahead =
              group > 0 ? first : std::max<std::int64_t>(0, std::min(i + kAhead, n - kRows));
          double product[kRows][kGroup];
          groups[size(group)].dots(step.x + first * d, n < kRows ? 0 : d, step.x + ahead * d, product);
          for (std::int64_t row = i; row < std::min(i + kRows, end); ++row) {
            assert(row >= first && row - first < kRows);
            for (std::int64_t t = 0; t < in_group; ++t) {
              const std::int64_t at = group * kGroup + t;
              const double scale = step.norms[row] + step.norms[step.candidates[at]];
              double distance = scale - 2.0 * product[row - first][t];
              if (!(distance > rounding * scale)) distance = 0.0;
              distance = std::min(distance, step.closest[row]);
              distances[at * n + row] = distance;
              sums[at] += distance;
            }
          }
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
