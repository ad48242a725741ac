#include "seeding.hpp"

#include <algorithm>
#include <vector>

#include "aligned.hpp"
#include "lanes64.hpp"
#include "parallel.hpp"

namespace medvlad {

namespace {

constexpr std::int64_t kTaskRows = 1024;  // potentials are summed over this many rows, then over tasks
constexpr int kGroup = 4;                 // candidates that go by with one reading of a row

std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

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

// dots[t] = x.c_t for kGroup candidates in float64.
void dots(const float* x, const double* const (&candidates)[kGroup], std::int64_t d, double (&result)[kGroup]) {
  Lanes lanes[kGroup];
  for (Lanes& one : lanes) one = broadcast(0.0);
  std::int64_t j = 0;
  for (; j + kDoubles <= d; j += kDoubles) {
    const Lanes values = widen(x + j);
    for (int t = 0; t < kGroup; ++t) lanes[t] = exact_multiply_add(values, load(candidates[t] + j), lanes[t]);
  }
  for (int t = 0; t < kGroup; ++t) result[t] = sum(lanes[t]);
  for (; j < d; ++j) {
    for (int t = 0; t < kGroup; ++t) result[t] += double{x[j]} * candidates[t][j];
  }
}

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
  AlignedBuffer<double> wide(size(n_groups * kGroup * d));
  for (std::int64_t t = 0; t < n_groups * kGroup; ++t) {
    const float* row = step.x + step.candidates[std::min(t, step.n_candidates - 1)] * d;
    std::transform(row, row + d, wide.data() + t * d, [](float value) { return double{value}; });
  }
  const double rounding = 4.0 * (static_cast<double>(d) + 4.0) * 0x1p-53;
  const std::int64_t n_tasks = (n + kTaskRows - 1) / kTaskRows;
  std::vector<double> partial(size(n_tasks * n_groups * kGroup));
  parallel_for(n_tasks, n_threads, [&](std::int64_t task, int) {
    double* sums = partial.data() + task * n_groups * kGroup;
    const std::int64_t last = std::min(n, (task + 1) * kTaskRows);
    for (std::int64_t i = task * kTaskRows; i < last; ++i) {
      for (std::int64_t group = 0; group < n_groups; ++group) {
        const double* c = wide.data() + group * kGroup * d;
        double product[kGroup];
        dots(step.x + i * d, {c, c + d, c + 2 * d, c + 3 * d}, d, product);
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
    for (std::int64_t task = 0; task < n_tasks; ++task) potentials[t] += partial[size(task * n_groups * kGroup + t)];
  }
}

}  // namespace medvlad
