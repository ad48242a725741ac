#include "seeding.hpp"

#include <algorithm>
#include <cmath>

#include "aligned.hpp"
#include "lanes64.hpp"
#include "parallel.hpp"
#include "products64.hpp"
#include "seeding_filter.hpp"
#include "size.hpp"

namespace medvlad {

namespace {

constexpr std::int64_t kTaskRows = 1024;  // potentials are summed over this many rows, then over tasks
constexpr std::int64_t kBlockRows = 32;   // rows that are multiplied by one group after another
constexpr std::int64_t kAhead = 8;        // number of rows to prefetch
// Narrower rows are cheap to multiply exactly.
constexpr std::int64_t kFilteredWidth = 32;
// If the filter leaves more than this share of the pairs, products of whole blocks are faster.
constexpr double kMostLeft = 0.5;
constexpr int kStepsWithout = 3;

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

std::int64_t tasks_of(std::int64_t n) { return (n + kTaskRows - 1) / kTaskRows; }

}  // namespace

// The candidates of one step, and exact distances to them.
class Seeding::Step {
 public:
  Step(const Seeding& of, const std::int64_t* candidates, std::int64_t n_candidates, const double* closest)
      : n(n_candidates), of_(of), closest_(closest), d_(of.from_.d), norms_(size(n)) {
    std::vector<const float*> rows(size(n));
    for (std::int64_t t = 0; t < n; ++t) {
      rows[size(t)] = of.from_[candidates[t]];
      norms_[size(t)] = of.norms_[size(candidates[t])];
    }
    groups_.reserve(size((n + kGroup - 1) / kGroup));
    for (std::int64_t first = 0; first < n; first += kGroup) groups_.emplace_back(rows.data(), n, d_, first);
  }

  // distances (end - begin, n) of the rows [begin, end).
  void whole(std::int64_t begin, std::int64_t end, double* distances) const {
    const RowsOf& from = of_.from_;
    for (std::int64_t group = 0; group < static_cast<std::int64_t>(groups_.size()); ++group) {
      for (std::int64_t i = begin; i < end; i += kRows) {
        // The last row may be multiplied twice.
        const float *rows[kRows], *ahead[kRows];
        for (int r = 0; r < kRows; ++r) {
          rows[r] = from[std::min(i + r, end - 1)];
          ahead[r] = group > 0 ? rows[r] : from[std::min(i + r + kAhead, from.n - 1)];
        }
        double product[kRows][kGroup];
        groups_[size(group)].dots(rows, ahead, product);
        for (std::int64_t row = i; row < std::min(i + kRows, end); ++row) {
          for (std::int64_t t = group * kGroup; t < std::min(n, (group + 1) * kGroup); ++t) {
            distances[(row - begin) * n + t] = distance(row, t, product[row - i][t - group * kGroup]);
          }
        }
      }
    }
  }

  // Add those of the pairs that are nearer than all seeds. Their rows are counted from `first`.
  void pairs(const std::vector<Left>& left, std::int64_t first, std::vector<Nearer>& nearer) const {
    for (std::size_t begin = 0; begin < left.size(); begin += kPairs) {
      Pair some[kPairs];
      const float* ahead[kPairs];
      for (std::size_t i = 0; i < kPairs; ++i) {  // the last pair may be multiplied several times
        const auto [row, t] = left[std::min(begin + i, left.size() - 1)];
        some[i] = {of_.from_[first + row], groups_[size(t / kGroup)].candidate(t % kGroup)};
        ahead[i] = of_.from_[first + left[std::min(begin + kPairs + i, left.size() - 1)].row];
      }
      double products[kPairs];
      pair_dots(some, ahead, d_, products);
      for (std::size_t i = 0; i < std::min<std::size_t>(kPairs, left.size() - begin); ++i) {
        const auto [row, t] = left[begin + i];
        const double product = groups_[size(t / kGroup)].rest(some[i].x, t % kGroup, products[i]);
        const double found = distance(first + row, t, product);
        if (found < closest_[first + row]) nearer.push_back({row, t, found});
      }
    }
  }

  const std::int64_t n;

 private:
  double distance(std::int64_t row, std::int64_t t, double product) const {
    const double scale = of_.norms_[size(row)] + norms_[size(t)];
    double squared = scale - 2.0 * product;
    if (!(squared > rounding_share(d_) * scale)) squared = 0.0;
    return std::min(squared, closest_[row]);
  }

  const Seeding& of_;
  const double* closest_;
  std::int64_t d_;
  std::vector<double> norms_;
  std::vector<Group> groups_;
};

void squared_distances(const float* x, std::int64_t n, std::int64_t d, const float* centers,
                       const std::int32_t* labels, int n_threads, double* distances) {
  parallel_for(tasks_of(n), n_threads, [&](std::int64_t task, int) {
    const std::int64_t last = std::min(n, (task + 1) * kTaskRows);
    for (std::int64_t i = task * kTaskRows; i < last; ++i) {
      distances[i] = squared_distance(x + i * d, centers + labels[i] * d, d);
    }
  });
}

Seeding::Seeding(const RowsOf& from, int n_threads, bool filtered)
    : from_(from), n_threads_(n_threads), norms_(size(from.n)), nearer_(size(tasks_of(from.n))) {
  const std::vector<float> origin(size(from.d));
  parallel_for(tasks_of(from.n), n_threads, [&](std::int64_t task, int) {
    const std::int64_t last = std::min(from.n, (task + 1) * kTaskRows);
    for (std::int64_t i = task * kTaskRows; i < last; ++i) {
      norms_[size(i)] = squared_distance(from[i], origin.data(), from.d);
    }
  });
  if (!filtered || from.d < kFilteredWidth) return;
  scorer_ = make_candidate_scorer(from.d);
  if (scorer_ != nullptr) rounded_ = std::make_unique<RoundedRows>(from, norms_.data(), n_threads);
}

void Seeding::distances(const std::int64_t* candidates, std::int64_t n_candidates, const double* closest,
                        double* distances, double* potentials) {
  all(Step(*this, candidates, n_candidates, closest), distances, potentials);
}

std::int64_t Seeding::add_best(const std::int64_t* candidates, std::int64_t n_candidates, double* closest) {
  const Step step(*this, candidates, n_candidates, closest);
  // Before the first seed nothing can be left out, and a single candidate is rarely worth the filter.
  const bool filtered = scorer_ != nullptr && n_candidates > 1 && from_.n > 0 && std::isfinite(closest[0]);
  if (filtered && unfiltered_steps_ == 0) {
    const std::int64_t best = best_of_few(step, candidates, closest);
    if (best >= 0) {
      for (std::size_t task = 0; task < nearer_.size(); ++task) {
        double* of_task = closest + static_cast<std::int64_t>(task) * kTaskRows;
        for (const Nearer& one : nearer_[task]) {
          if (one.t == best) of_task[one.row] = one.distance;
        }
      }
      return best;
    }
  }
  unfiltered_steps_ = std::max(unfiltered_steps_ - 1, 0);
  distances_.reserve(from_.n * n_candidates);
  std::vector<double> potentials(size(n_candidates));
  all(step, distances_.data(), potentials.data());
  const std::int64_t best = std::min_element(potentials.begin(), potentials.end()) - potentials.begin();
  std::copy_n(distances_.data() + best * from_.n, from_.n, closest);
  return best;
}

// Compute all distances exactly.
void Seeding::all(const Step& step, double* distances, double* potentials) {
  const auto n_tasks = static_cast<std::int64_t>(nearer_.size());
  std::vector<double> partial(size(n_tasks * step.n));
  std::vector<AlignedBuffer<double>> buffers(size(n_threads_));
  parallel_for(n_tasks, n_threads_, [&](std::int64_t task, int worker) {
    AlignedBuffer<double>& buffer = buffers[size(worker)];
    buffer.reserve(size(kBlockRows * step.n));
    double* sums = partial.data() + task * step.n;
    const std::int64_t first = task * kTaskRows, last = std::min(from_.n, first + kTaskRows);
    for (std::int64_t begin = first; begin < last; begin += kBlockRows) {
      const std::int64_t end = std::min(last, begin + kBlockRows);
      step.whole(begin, end, buffer.data());
      const std::int64_t n = end - begin;
      for (std::int64_t i = 0; i < n; ++i) {
        for (std::int64_t t = 0; t < step.n; ++t) sums[t] += buffer.data()[i * step.n + t];
      }
      for (std::int64_t t = 0; t < step.n; ++t) {
        double* to = distances + t * from_.n + begin;
        for (std::int64_t i = 0; i < n; ++i) to[i] = buffer.data()[i * step.n + t];
      }
    }
  });
  std::fill_n(potentials, step.n, 0.0);
  for (std::int64_t task = 0; task < n_tasks; ++task) {
    for (std::int64_t t = 0; t < step.n; ++t) potentials[t] += partial[size(task * step.n + t)];
  }
  n_exact_ = from_.n * step.n;
}

// The candidate with the least potential, or -1 if too many distances are left after the first pass.
std::int64_t Seeding::best_of_few(const Step& step, const std::int64_t* candidates, const double* closest) {
  const SeedingFilter filter(from_, *rounded_, *scorer_, norms_.data(), candidates, step.n, closest);
  const auto n_tasks = static_cast<std::int64_t>(nearer_.size());
  std::vector<SeedingFilter::Buffer> buffers(size(n_threads_));
  std::vector<SeedingFilter::Gains> gains(size(n_tasks), SeedingFilter::Gains(step.n));
  left_.resize(size(n_tasks));
  parallel_for(n_tasks, n_threads_, [&](std::int64_t task, int worker) {
    const std::int64_t first = task * kTaskRows;
    left_[size(task)].clear();
    filter.list(first, std::min(from_.n, first + kTaskRows), buffers[size(worker)], left_[size(task)],
                gains[size(task)]);
  });
  SeedingFilter::Gains total(step.n);
  for (const SeedingFilter::Gains& of_task : gains) total.add(of_task);
  const std::vector<bool> may_win = filter.contenders(total);
  n_exact_ = 0;
  for (std::vector<Left>& left : left_) {
    const auto loses = [&](const Left& one) { return !may_win[size(one.t)]; };
    left.erase(std::remove_if(left.begin(), left.end(), loses), left.end());
    n_exact_ += static_cast<std::int64_t>(left.size());
  }
  if (static_cast<double>(n_exact_) > kMostLeft * static_cast<double>(from_.n * step.n)) {
    unfiltered_steps_ = kStepsWithout;
    return -1;
  }
  std::vector<double> partial(size(n_tasks * step.n));
  parallel_for(n_tasks, n_threads_, [&](std::int64_t task, int) {
    const std::int64_t first = task * kTaskRows, n = std::min(from_.n - first, kTaskRows);
    std::vector<Nearer>& nearer = nearer_[size(task)];
    nearer.clear();
    step.pairs(left_[size(task)], first, nearer);
    double distances[kTaskRows];
    std::copy_n(closest + first, n, distances);
    for (std::int64_t t = 0; t < step.n; ++t) {
      if (!may_win[size(t)]) continue;
      for (const Nearer& one : nearer) {
        if (one.t == t) distances[one.row] = one.distance;
      }
      double sum = 0.0;
      for (std::int64_t row = 0; row < n; ++row) sum += distances[row];
      partial[size(task * step.n + t)] = sum;
      for (const Nearer& one : nearer) {
        if (one.t == t) distances[one.row] = closest[first + one.row];
      }
    }
  });
  std::int64_t best = -1;
  double least = 0.0;
  for (std::int64_t t = 0; t < step.n; ++t) {
    if (!may_win[size(t)]) continue;
    double potential = 0.0;
    for (std::int64_t task = 0; task < n_tasks; ++task) potential += partial[size(task * step.n + t)];
    if (best < 0 || potential < least) best = t, least = potential;
  }
  return best;
}

}  // namespace medvlad
