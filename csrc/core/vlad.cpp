#include "vlad.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <utility>
#include <vector>

#include "aligned.hpp"
#include "assign.hpp"
#include "cells.hpp"
#include "decide.hpp"
#include "parallel.hpp"
#include "size.hpp"
#include "write.hpp"

namespace medvlad {

namespace {

constexpr std::int64_t kRunRows = 128;      // a thread takes small images in runs of about this many rows
constexpr std::int64_t kSmallImage = 8192;  // an image with more rows is always divided among threads
constexpr std::int64_t kStreamedBytes = 4 << 20;  // a larger output is written past the cache
constexpr double kNormFloor = 1e-12;
constexpr double kCenterRounding = 0x1p-22;  // of a float32 centre, relative to its norm
constexpr double kSafeSquare = 1e76;         // numbers whose squares add up to this are within float32

int threads_for(std::int64_t n_tasks, int n_threads) {
  return static_cast<int>(std::clamp<std::int64_t>(n_tasks, 1, n_threads));
}

double inverse_norm(double squared) {
  const double norm = std::sqrt(squared);
  return norm < kNormFloor ? 0.0 : 1.0 / norm;
}

void signed_power(double power, std::int64_t d, double* v) {
  for (std::int64_t j = 0; j < d; ++j) {
    const double magnitude = std::fabs(v[j]);
    v[j] = std::copysign(power == 0.5 ? std::sqrt(magnitude) : std::pow(magnitude, power), v[j]);
  }
}

// Inputs and settings of one call of encode, shared by all its threads.
struct EncodeJob {
  const Batch& batch;
  const CenterSet& set;
  const Normalisation& how;
  const Output& output;
  int n_threads;
  bool streamed;
  std::int64_t kept_cells;  // number of cells whose residuals a thread can keep

  const float* rows_of(std::int64_t image) const { return batch.x + batch.offsets[image] * batch.d; }
  float* vector_of(std::int64_t image) const { return output.vectors + image * batch.k * batch.d; }

  // Return the squared norm up to which the residual of a cell is rounding of its centre only.
  double rounding(const Cells& cells, std::int64_t i) const {
    const double reach = kCenterRounding * cells.reach(i);
    return reach * reach * (2.0 * set.half_norms[size(cells.index[size(i)])]);
  }

  // Write the residual of a cell, after mass, power and intra-normalisation, to v. Returns its squared norm.
  double cell_vector(const Cells& cells, std::int64_t i, const float* x, double* v) const {
    double squared = residual(cells, i, x, set, v);
    if (how.intra && squared <= rounding(cells, i)) {
      std::fill(v, v + batch.d, 0.0);
      return 0.0;
    }
    if (how.mass) {
      const double mass = cells.mass(i);
      const double scale = std::fabs(mass) < kNormFloor ? 0.0 : 1.0 / mass;
      for (std::int64_t j = 0; j < batch.d; ++j) v[j] *= scale;
      squared = squared_norm(v, batch.d);
    }
    if (how.power != 1.0) {
      signed_power(how.power, batch.d, v);
      squared = squared_norm(v, batch.d);
    }
    if (how.intra) {
      const double scale = inverse_norm(squared);
      for (std::int64_t j = 0; j < batch.d; ++j) v[j] *= scale;
      squared = squared_norm(v, batch.d);
    }
    return squared;
  }

  // Whether a number of a residual with this squared norm may be beyond float32 when it is written.
  bool may_overflow(double squared) const { return !how.l2 && !(squared <= kSafeSquare); }

  void count(const Cells& cells, std::int64_t image) const {
    if (output.counts == nullptr) return;
    std::int64_t* counts = output.counts + image * batch.k;
    std::fill(counts, counts + batch.k, std::int64_t{0});
    for (std::int64_t i = 0; i < cells.filled(); ++i) counts[cells.index[size(i)]] = cells.count(i);
  }

  // Write zeros for the centres [first, last), which have no rows. If the output is streamed, they are
  // written later.
  void clear(std::int64_t first, std::int64_t last, float* vector, PendingZeros& zeros) const {
    if (output.zeroed) return;
    float* out = vector + first * batch.d;
    const std::int64_t n = (last - first) * batch.d;
    streamed ? zeros.add(out, n) : write_zeros(n, out, false);
  }
};

// Computes and writes the vectors of small images; one for each thread.
struct Writer {
  // Write the vector of an image whose rows are in `cells`.
  void image(const EncodeJob& job, std::int64_t image) {
    const std::int64_t d = job.batch.d;
    const float* x = job.rows_of(image);
    float* vector = job.vector_of(image);
    job.count(cells, image);
    const bool kept = cells.filled() <= job.kept_cells;
    vectors.reserve(size(job.how.l2 && kept ? cells.filled() * d : d));
    const auto kept_at = [&](std::int64_t i) { return vectors.data() + (job.how.l2 && kept ? i * d : 0); };

    double scale = 1.0;
    if (job.how.l2) {
      double squared = 0.0;
      for (std::int64_t i = 0; i < cells.filled(); ++i) {
        squared += job.cell_vector(cells, i, x, kept_at(i));
      }
      scale = inverse_norm(squared);
    }
    std::int64_t done = 0;
    for (std::int64_t i = 0; i < cells.filled(); ++i) {
      const std::int64_t cell = cells.index[size(i)];
      job.clear(done, cell, vector, zeros);
      if (!job.how.l2 || !kept) overflows |= job.may_overflow(job.cell_vector(cells, i, x, kept_at(i)));
      write_scaled(kept_at(i), scale, d, vector + cell * d, job.streamed);
      done = cell + 1;
    }
    job.clear(done, job.batch.k, vector, zeros);
  }

  Cells cells;
  AlignedBuffer<double> vectors;
  PendingZeros zeros;
  bool overflows = false;  // whether a number that was written may be beyond float32
};

struct Worker {
  Worker(const EncodeJob& job, const Scorer& scorer) : assigner(job.set, scorer) {}

  Assigner assigner;
  std::vector<std::int32_t> labels;
  Writer writer;
};

// Division of a batch into runs of small images, each for one thread, and large images, which all threads
// share.
struct Plan {
  std::vector<std::pair<std::int64_t, std::int64_t>> runs;  // [first, last) image
  std::vector<std::int64_t> large;

  Plan(const Batch& batch, int n_threads) {
    // With several threads an image is large if the others would wait for the thread that computes it.
    const std::int64_t fair =
        std::max<std::int64_t>(4 * kRunRows, batch.n_rows / (std::int64_t{4} * n_threads));
    const std::int64_t most = n_threads == 1 ? kSmallImage : std::min(kSmallImage, fair);
    std::int64_t first = 0;
    for (std::int64_t image = 0; image < batch.n_images; ++image) {
      const bool is_large = batch.offsets[image + 1] - batch.offsets[image] > most;
      const bool full =
          batch.offsets[image + 1] - batch.offsets[first] >= kRunRows || image + 1 - first >= kRunRows;
      const std::int64_t last = is_large ? image : image + 1;
      if ((is_large || full || image + 1 == batch.n_images) && last > first) runs.emplace_back(first, last);
      if (is_large) large.push_back(image);
      if (is_large || full) first = image + 1;
    }
  }
};

// The first row of a batch that holds NaN or infinity.
class FirstNotFinite {
 public:
  explicit FirstNotFinite(const Batch& batch) : batch_(batch) {}

  void see(const Assigner& assigner) {
    if (assigner.not_finite() == nullptr) return;
    const std::int64_t row = (assigner.not_finite() - batch_.x) / batch_.d;
    row_ = row_ == kAllFinite ? row : std::min(row_, row);
  }
  std::int64_t row() const { return row_; }

 private:
  const Batch& batch_;
  std::int64_t row_ = kAllFinite;
};

void assign_rows(const Batch& batch, const CenterSet& set, const Scorer& scorer, int n_threads,
                 std::int64_t first, std::int64_t n, std::int32_t* labels, FirstNotFinite& not_finite) {
  // Tasks of a few blocks, so that no thread waits long for the last one.
  const std::int64_t task_rows = 4 * scorer.block_rows;
  const std::int64_t n_tasks = (n + task_rows - 1) / task_rows;
  n_threads = threads_for(n_tasks, n_threads);
  std::vector<Assigner> assigners;
  assigners.reserve(size(n_threads));
  for (int i = 0; i < n_threads; ++i) assigners.emplace_back(set, scorer);
  parallel_for(n_tasks, n_threads, [&](std::int64_t task, int worker) {
    const std::int64_t begin = task * task_rows;
    PendingZeros none;
    assigners[size(worker)](batch.x + (first + begin) * batch.d, std::min(task_rows, n - begin),
                            labels + begin, none);
  });
  for (const Assigner& assigner : assigners) not_finite.see(assigner);
}

// Returns whether a number may be beyond float32, as the next two functions do.
bool encode_small(const EncodeJob& job, const Scorer& scorer,
                  const std::vector<std::pair<std::int64_t, std::int64_t>>& runs,
                  FirstNotFinite& not_finite) {
  const int n_threads = threads_for(static_cast<std::int64_t>(runs.size()), job.n_threads);
  std::vector<Worker> workers;
  workers.reserve(size(n_threads));
  for (int i = 0; i < n_threads; ++i) workers.emplace_back(job, scorer);
  parallel_for(static_cast<std::int64_t>(runs.size()), n_threads, [&](std::int64_t task, int index) {
    Worker& worker = workers[size(index)];
    const auto [first_image, last_image] = runs[size(task)];
    const std::int64_t* offsets = job.batch.offsets;
    const std::int64_t begin = offsets[first_image], n = offsets[last_image] - begin;
    std::int32_t* labels = job.output.labels == nullptr ? nullptr : job.output.labels + begin;
    if (labels == nullptr) {
      worker.labels.resize(size(n));
      labels = worker.labels.data();
    }
    worker.assigner(job.batch.x + begin * job.batch.d, n, labels, worker.writer.zeros);
    for (std::int64_t image = first_image; image < last_image; ++image) {
      worker.writer.cells.sort(labels + (offsets[image] - begin), offsets[image + 1] - offsets[image],
                               job.batch.k);
      worker.writer.image(job, image);
    }
    finish_streaming();
  });
  bool overflows = false;
  for (Worker& worker : workers) {
    worker.writer.zeros.all();
    not_finite.see(worker.assigner);
    overflows |= worker.writer.overflows;
  }
  finish_streaming();
  return overflows;
}

// Write the vector of an image whose rows are in `cells`. All threads share its cells.
bool share_out(const EncodeJob& job, const Cells& cells, std::int64_t image) {
  const std::int64_t d = job.batch.d;
  const float* x = job.rows_of(image);
  float* vector = job.vector_of(image);
  job.count(cells, image);
  if (cells.filled() == 0) {
    PendingZeros zeros;
    job.clear(0, job.batch.k, vector, zeros);
    zeros.all();
    finish_streaming();
    return false;
  }
  const int n_threads = threads_for(cells.filled(), job.n_threads);
  const bool kept = job.how.l2 && cells.filled() <= job.kept_cells * n_threads;
  AlignedBuffer<double> vectors(size((kept ? cells.filled() : n_threads) * d));
  const auto vector_at = [&](std::int64_t i, int worker) { return vectors.data() + (kept ? i : worker) * d; };
  double scale = 1.0;
  if (job.how.l2) {
    std::vector<double> squared(size(cells.filled()));
    parallel_for(cells.filled(), n_threads, [&](std::int64_t i, int worker) {
      squared[size(i)] = job.cell_vector(cells, i, x, vector_at(i, worker));
    });
    double total = 0.0;
    for (const double one : squared) total += one;
    scale = inverse_norm(total);
  }
  std::atomic<bool> overflows{false};
  parallel_for(cells.filled(), n_threads, [&](std::int64_t i, int worker) {
    const std::int64_t cell = cells.index[size(i)];
    PendingZeros zeros;  // written at once, because nothing is multiplied meanwhile
    job.clear(i == 0 ? 0 : cells.index[size(i - 1)] + 1, cell, vector, zeros);
    if (i + 1 == cells.filled()) job.clear(cell + 1, job.batch.k, vector, zeros);
    zeros.all();
    double* v = vector_at(i, worker);
    if (!kept && job.may_overflow(job.cell_vector(cells, i, x, v))) overflows = true;
    write_scaled(v, scale, d, vector + cell * d, job.streamed);
    finish_streaming();
  });
  return overflows;
}

bool encode_large(const EncodeJob& job, const Scorer& scorer, std::int64_t image,
                  FirstNotFinite& not_finite) {
  const std::int64_t begin = job.batch.offsets[image];
  const std::int64_t n = job.batch.offsets[image + 1] - begin;
  std::vector<std::int32_t> own_labels;
  std::int32_t* labels = job.output.labels == nullptr ? nullptr : job.output.labels + begin;
  if (labels == nullptr) {
    own_labels.resize(size(n));
    labels = own_labels.data();
  }
  assign_rows(job.batch, job.set, scorer, job.n_threads, begin, n, labels, not_finite);
  Cells cells;
  cells.sort(labels, n, job.batch.k);
  return share_out(job, cells, image);
}

EncodeJob job_of(const Batch& batch, const CenterSet& set, const Normalisation& how, const Output& output,
                 int n_threads) {
  const std::int64_t image_bytes = batch.k * batch.d * static_cast<std::int64_t>(sizeof(float));
  return {batch,
          set,
          how,
          output,
          n_threads,
          batch.n_images * image_bytes > kStreamedBytes,
          kResidualBytes / (batch.d * static_cast<std::int64_t>(sizeof(double)))};
}

ScorerOptions scorer_options(const Batch& batch, const Execution& execution) {
  return {execution.sgemm, execution.method, pack_bytes(execution.n_threads), batch.n_rows};
}

}  // namespace

std::int64_t assign(const Batch& batch, const Execution& execution, std::int32_t* labels) {
  const CenterSet set(batch.centers, batch.k, batch.d);
  const auto scorer = make_scorer(set, scorer_options(batch, execution));
  FirstNotFinite not_finite(batch);
  assign_rows(batch, set, *scorer, execution.n_threads, 0, batch.n_rows, labels, not_finite);
  return not_finite.row();
}

std::int64_t encode(const Batch& batch, const Execution& execution, const Normalisation& normalisation,
                    const Output& output) {
  const CenterSet set(batch.centers, batch.k, batch.d);
  const auto scorer = make_scorer(set, scorer_options(batch, execution));
  const EncodeJob job = job_of(batch, set, normalisation, output, execution.n_threads);
  const Plan plan(batch, execution.n_threads);
  FirstNotFinite not_finite(batch);
  bool overflows = encode_small(job, *scorer, plan.runs, not_finite);
  for (const std::int64_t image : plan.large) overflows |= encode_large(job, *scorer, image, not_finite);
  return overflows && not_finite.row() == kAllFinite ? kMayOverflow : not_finite.row();
}

void encode_weighted(const Batch& batch, const Memberships& memberships, int n_threads,
                     const Normalisation& normalisation, const Output& output, double* masses) {
  const CenterSet set(batch.centers, batch.k, batch.d);
  const EncodeJob job = job_of(batch, set, normalisation, output, n_threads);
  const auto sort = [&](Cells& cells, std::int64_t image) {
    const std::int64_t begin = batch.offsets[image], first = begin * memberships.per_row;
    const double* scales = memberships.scales == nullptr ? nullptr : memberships.scales + first;
    cells.sort(memberships.cells + first, memberships.weights + first, scales,
               batch.offsets[image + 1] - begin, memberships.per_row, batch.k);
    if (masses == nullptr) return;
    double* own = masses + image * batch.k;
    std::fill(own, own + batch.k, 0.0);
    for (std::int64_t i = 0; i < cells.filled(); ++i) own[cells.index[size(i)]] = cells.mass(i);
  };
  const Plan plan(batch, n_threads);
  const auto n_runs = static_cast<std::int64_t>(plan.runs.size());
  std::vector<Writer> writers(size(threads_for(n_runs, n_threads)));
  parallel_for(n_runs, static_cast<int>(writers.size()), [&](std::int64_t task, int index) {
    Writer& writer = writers[size(index)];
    for (std::int64_t image = plan.runs[size(task)].first; image < plan.runs[size(task)].second; ++image) {
      sort(writer.cells, image);
      writer.image(job, image);
    }
    finish_streaming();
  });
  for (Writer& writer : writers) writer.zeros.all();
  finish_streaming();
  for (const std::int64_t image : plan.large) {
    Cells cells;
    sort(cells, image);
    share_out(job, cells, image);
  }
}

}  // namespace medvlad
