#include "vlad.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "decide.hpp"
#include "parallel.hpp"

namespace medvlad {

namespace {

constexpr std::int64_t kBlockRows = 256;        // rows of one sgemm call
constexpr std::int64_t kScoreFloats = 1 << 20;  // at most this many scores at a time
constexpr std::int64_t kTaskRows = 1024;        // small images are handed to threads in runs of about this
constexpr double kNormFloor = 1e-12;

std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

// Labels of consecutive rows; owns the scores of one block.
class Assigner {
 public:
  Assigner(const CenterSet& set, Sgemm sgemm)
      : set_(set),
        sgemm_(sgemm),
        block_rows_(std::clamp<std::int64_t>(kScoreFloats / set.k, 1, kBlockRows)),
        scores_(size(block_rows_ * set.k)) {}

  void operator()(const float* x, std::int64_t n, std::int32_t* labels) {
    for (std::int64_t first = 0; first < n; first += block_rows_) {
      block(x + first * set_.d, std::min(block_rows_, n - first), labels + first);
    }
  }

 private:
  void block(const float* x, std::int64_t n, std::int32_t* labels) {
    for (std::int64_t row = 0; row < n; ++row) {
      std::copy(set_.bias.begin(), set_.bias.end(), scores_.begin() + row * set_.k);
    }
    sgemm_(n, set_.k, set_.d, x, set_.centers, 1.0F, scores_.data());
    for (std::int64_t row = 0; row < n; ++row) {
      labels[row] = label(x + row * set_.d, scores_.data() + row * set_.k);
    }
  }

  std::int32_t label(const float* x, const float* scores) {
    const double error = float32_score_error(norm_bound(x, set_.d), set_);
    // An infinite bound keeps every centre in, scores that are not numbers included.
    float threshold = -std::numeric_limits<float>::infinity();
    if (!std::isinf(error)) {
      const double exact = double{largest(scores, set_.k)} - 2.0 * error;
      threshold = std::nextafter(static_cast<float>(exact), threshold);
    }
    candidates_.clear();
    constexpr std::int64_t kRun = 16;
    for (std::int64_t first = 0; first < set_.k; first += kRun) {
      const std::int64_t last = std::min(set_.k, first + kRun);
      int kept = 0;
      for (std::int64_t k = first; k < last; ++k) kept += !(scores[k] < threshold);
      if (kept == 0) continue;
      for (std::int64_t k = first; k < last; ++k) {
        if (!(scores[k] < threshold)) candidates_.push_back(static_cast<std::int32_t>(k));
      }
    }
    return decide(x, set_, candidates_);
  }

  // The maximum in lanes, so that a compiler without -ffast-math can use its vector unit.
  static float largest(const float* scores, std::int64_t k) {
    constexpr int kLanes = 16;
    float lanes[kLanes];
    std::fill(lanes, lanes + kLanes, -std::numeric_limits<float>::infinity());
    std::int64_t i = 0;
    for (; i + kLanes <= k; i += kLanes) {
      for (int j = 0; j < kLanes; ++j) lanes[j] = scores[i + j] > lanes[j] ? scores[i + j] : lanes[j];
    }
    for (; i < k; ++i) lanes[0] = std::max(lanes[0], scores[i]);
    return *std::max_element(lanes, lanes + kLanes);
  }

  const CenterSet& set_;
  Sgemm sgemm_;
  std::int64_t block_rows_;
  std::vector<float> scores_;
  std::vector<std::int32_t> candidates_;
};

// Sums of the rows of each cell that has any: cells ascending, sums (cells, d) in float64.
struct CellSums {
  std::vector<std::int32_t> cells;
  std::vector<std::int64_t> counts;
  std::vector<double> sums;

  void gather(const float* x, const std::int32_t* labels, std::int64_t n, std::int64_t k, std::int64_t d) {
    // A counting sort of the rows by label keeps their order within a cell.
    begin_.assign(size(k + 1), 0);
    for (std::int64_t row = 0; row < n; ++row) ++begin_[size(labels[row] + 1)];
    cells.clear();
    counts.clear();
    for (std::int64_t cell = 0; cell < k; ++cell) {
      if (begin_[size(cell + 1)] > 0) {
        cells.push_back(static_cast<std::int32_t>(cell));
        counts.push_back(begin_[size(cell + 1)]);
      }
      begin_[size(cell + 1)] += begin_[size(cell)];
    }
    rows_.resize(size(n));
    for (std::int64_t row = 0; row < n; ++row) rows_[size(begin_[size(labels[row])]++)] = row;
    sums.assign(cells.size() * size(d), 0.0);
    const std::int64_t* row = rows_.data();
    for (std::size_t i = 0; i < cells.size(); ++i) {
      double* sum = sums.data() + i * size(d);
      for (std::int64_t left = counts[i]; left > 0; --left, ++row) {
        const float* values = x + *row * d;
        for (std::int64_t j = 0; j < d; ++j) sum[j] += static_cast<double>(values[j]);
      }
    }
  }

  // Adds `other`, cell by cell.
  void merge(const CellSums& other, std::int64_t d) {
    CellSums both;
    both.sums.reserve(sums.size() + other.sums.size());
    std::size_t a = 0, b = 0;
    while (a < cells.size() || b < other.cells.size()) {
      const bool take_a = b == other.cells.size() || (a < cells.size() && cells[a] <= other.cells[b]);
      const bool take_b = a == cells.size() || (b < other.cells.size() && other.cells[b] <= cells[a]);
      both.cells.push_back(take_a ? cells[a] : other.cells[b]);
      both.counts.push_back((take_a ? counts[a] : 0) + (take_b ? other.counts[b] : 0));
      for (std::int64_t j = 0; j < d; ++j) {
        both.sums.push_back((take_a ? sums[a * size(d) + size(j)] : 0.0) +
                            (take_b ? other.sums[b * size(d) + size(j)] : 0.0));
      }
      a += take_a;
      b += take_b;
    }
    *this = std::move(both);
  }

 private:
  std::vector<std::int64_t> begin_, rows_;
};

double norm(const double* v, std::size_t n) {
  double sum = 0.0;
  for (std::size_t i = 0; i < n; ++i) sum += v[i] * v[i];
  return std::sqrt(sum);
}

void scale_to_unit(double* v, std::size_t n) {
  const double length = norm(v, n);
  for (std::size_t i = 0; i < n; ++i) v[i] = length < kNormFloor ? 0.0 : v[i] / length;
}

// Turns sums into residuals V_k = sum - n_k c_k, in place.
void subtract_centers(CellSums& cell_sums, const CenterSet& set) {
  for (std::size_t i = 0; i < cell_sums.cells.size(); ++i) {
    const float* center = set.centers + cell_sums.cells[i] * set.d;
    const double n = static_cast<double>(cell_sums.counts[i]);
    double* v = cell_sums.sums.data() + i * size(set.d);
    for (std::int64_t j = 0; j < set.d; ++j) v[j] -= n * static_cast<double>(center[j]);
  }
}

// Empty cells are zeros through every step, so only the others are worked on.
void normalise(CellSums& residuals, const Normalisation& how, std::size_t d) {
  auto& v = residuals.sums;
  if (how.power == 0.5) {
    for (double& value : v) value = std::copysign(std::sqrt(std::fabs(value)), value);
  } else if (how.power != 1.0) {
    for (double& value : v) value = std::copysign(std::pow(std::fabs(value), how.power), value);
  }
  if (how.intra) {
    for (std::size_t i = 0; i < residuals.cells.size(); ++i) scale_to_unit(v.data() + i * d, d);
  }
  if (how.l2) scale_to_unit(v.data(), v.size());
}

// Writes the (k, d) block of one image, zeros where a cell is empty.
void write(const CellSums& residuals, std::int64_t k, std::int64_t d, float* out) {
  std::size_t next = 0;
  for (std::int64_t cell = 0; cell < k; ++cell) {
    float* block = out + cell * d;
    if (next < residuals.cells.size() && residuals.cells[next] == cell) {
      const double* v = residuals.sums.data() + next++ * size(d);
      std::transform(v, v + d, block, [](double value) { return static_cast<float>(value); });
    } else {
      std::fill(block, block + d, 0.0F);
    }
  }
}

// Runs of small images of about kTaskRows rows; an image of more than kChunkRows is left to itself.
struct Plan {
  std::vector<std::pair<std::int64_t, std::int64_t>> runs;  // [first, last) image
  std::vector<std::int64_t> large;

  explicit Plan(const Batch& batch) {
    std::int64_t first = 0;
    for (std::int64_t image = 0; image < batch.n_images; ++image) {
      const bool is_large = batch.offsets[image + 1] - batch.offsets[image] > kChunkRows;
      const bool full = batch.offsets[image + 1] - batch.offsets[first] >= kTaskRows;
      const std::int64_t last = is_large ? image : image + 1;
      if ((is_large || full || image + 1 == batch.n_images) && last > first) runs.emplace_back(first, last);
      if (is_large) large.push_back(image);
      if (is_large || full) first = image + 1;
    }
  }

  // More threads than pieces of work would only take memory.
  int useful_threads(const Batch& batch, int n_threads) const {
    auto most = static_cast<std::int64_t>(runs.size());
    for (const std::int64_t image : large) {
      most = std::max(most, (batch.offsets[image + 1] - batch.offsets[image]) / kChunkRows + 1);
    }
    return static_cast<int>(std::clamp<std::int64_t>(most, 1, n_threads));
  }
};

// Calls finish(image, sums) for every image, from any thread but once each.
template <class Finish>
void for_each_image(const Batch& batch, const CenterSet& set, Sgemm sgemm, int n_threads, Finish&& finish) {
  struct Worker {
    Worker(const CenterSet& set, Sgemm sgemm) : assigner(set, sgemm) {}
    Assigner assigner;
    std::vector<std::int32_t> labels;
    CellSums sums;
  };
  const Plan plan(batch);
  n_threads = plan.useful_threads(batch, n_threads);
  std::vector<Worker> workers;
  workers.reserve(size(n_threads));
  for (int i = 0; i < n_threads; ++i) workers.emplace_back(set, sgemm);

  // Labels of rows [first, last) of the batch, and the sums of the part of them that belongs to one image.
  auto label = [&](Worker& worker, std::int64_t first, std::int64_t last) {
    worker.labels.resize(size(last - first));
    worker.assigner(batch.x + first * set.d, last - first, worker.labels.data());
  };

  parallel_for(static_cast<std::int64_t>(plan.runs.size()), n_threads,
               [&](std::int64_t task, int worker_index) {
                 Worker& worker = workers[size(worker_index)];
                 const auto [first_image, last_image] = plan.runs[size(task)];
                 const std::int64_t first_row = batch.offsets[first_image];
                 label(worker, first_row, batch.offsets[last_image]);
                 for (std::int64_t image = first_image; image < last_image; ++image) {
                   const std::int64_t begin = batch.offsets[image], n = batch.offsets[image + 1] - begin;
                   worker.sums.gather(batch.x + begin * set.d, worker.labels.data() + (begin - first_row), n,
                                      set.k, set.d);
                   finish(image, worker.sums);
                 }
               });

  for (const std::int64_t image : plan.large) {
    const std::int64_t begin = batch.offsets[image], end = batch.offsets[image + 1];
    CellSums total;
    // A wave is one chunk a thread; chunks are added in their order whatever the width of the wave.
    for (std::int64_t wave = begin; wave < end; wave += kChunkRows * n_threads) {
      const std::int64_t n_chunks =
          std::min<std::int64_t>(n_threads, (end - wave + kChunkRows - 1) / kChunkRows);
      parallel_for(n_chunks, n_threads, [&](std::int64_t chunk, int) {
        Worker& worker = workers[size(chunk)];
        const std::int64_t first = wave + chunk * kChunkRows;
        const std::int64_t last = std::min(end, first + kChunkRows);
        label(worker, first, last);
        worker.sums.gather(batch.x + first * set.d, worker.labels.data(), last - first, set.k, set.d);
      });
      for (std::int64_t chunk = 0; chunk < n_chunks; ++chunk) total.merge(workers[size(chunk)].sums, set.d);
    }
    finish(image, total);
  }
}

}  // namespace

void assign(const Batch& batch, Sgemm sgemm, int n_threads, std::int32_t* labels) {
  const CenterSet set(batch.centers, batch.k, batch.d);
  const std::int64_t n_tasks = (batch.n_rows + kTaskRows - 1) / kTaskRows;
  n_threads = static_cast<int>(std::clamp<std::int64_t>(n_tasks, 1, n_threads));
  std::vector<Assigner> assigners(size(n_threads), Assigner(set, sgemm));
  parallel_for(n_tasks, n_threads, [&](std::int64_t task, int worker) {
    const std::int64_t first = task * kTaskRows;
    assigners[size(worker)](batch.x + first * batch.d, std::min(kTaskRows, batch.n_rows - first),
                            labels + first);
  });
}

void aggregate(const Batch& batch, Sgemm sgemm, int n_threads, float* residuals, std::int64_t* counts) {
  const CenterSet set(batch.centers, batch.k, batch.d);
  std::fill(counts, counts + batch.n_images * batch.k, std::int64_t{0});
  for_each_image(batch, set, sgemm, n_threads, [&](std::int64_t image, CellSums& sums) {
    for (std::size_t i = 0; i < sums.cells.size(); ++i) {
      counts[image * batch.k + sums.cells[i]] = sums.counts[i];
    }
    subtract_centers(sums, set);
    write(sums, batch.k, batch.d, residuals + image * batch.k * batch.d);
  });
}

void encode(const Batch& batch, Sgemm sgemm, int n_threads, const Normalisation& normalisation,
            float* encoded) {
  const CenterSet set(batch.centers, batch.k, batch.d);
  for_each_image(batch, set, sgemm, n_threads, [&](std::int64_t image, CellSums& sums) {
    subtract_centers(sums, set);
    normalise(sums, normalisation, size(batch.d));
    write(sums, batch.k, batch.d, encoded + image * batch.k * batch.d);
  });
}

}  // namespace medvlad
