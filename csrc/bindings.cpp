// Python bindings of the core: check shapes, release the GIL, call the core.
//
// Only this file, jpeg_bindings.cpp and resize_bindings.cpp include Python headers. It contains no
// mathematics. It is compiled once for each instruction set; MEDVLAD_MODULE is the name of the resulting
// module.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/column_sums.hpp"
#include "core/convnet.hpp"
#include "core/gram.hpp"
#include "core/processor.hpp"
#include "core/seeding.hpp"
#include "core/vlad.hpp"

namespace py = pybind11;

namespace {

// Releases the GIL while it exists.
//
// If the interpreter has ended, taking the GIL again makes Python unwind the thread. A destructor is
// noexcept, so the unwinding would abort the process. Only daemon threads can get here. They wait for the end
// of the process instead. Python 3.14 and later do the same by themselves.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;
  ~WithoutGil() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      while (true) std::this_thread::sleep_for(std::chrono::hours(1));
    }
  }

 private:
  PyThreadState* state_;
};

using Floats = py::array_t<float, py::array::c_style>;
using Doubles = py::array_t<double, py::array::c_style>;
using Offsets = py::array_t<std::int64_t, py::array::c_style>;
using Labels = py::array_t<std::int32_t, py::array::c_style>;

// Upper limit of channels of a layer. More would not fit into memory, and products of sizes would overflow.
constexpr py::ssize_t kMostChannels = 1 << 20;

medvlad::Method method_of(const std::string& name) {
  if (name == "auto") return medvlad::Method::automatic;
  if (name == "dense") return medvlad::Method::dense;
  if (name == "sparse") return medvlad::Method::sparse;
  if (name == "bf16") return medvlad::Method::bf16;
  if (name == "bf16x3") return medvlad::Method::bf16x3;
  throw py::value_error("method must be auto, dense, sparse, bf16 or bf16x3");
}

int checked_threads(int n_threads) {
  if (n_threads < 1) throw py::value_error("n_threads must be at least 1");
  return n_threads;
}

medvlad::Execution execution_of(const py::capsule& sgemm, int n_threads, const std::string& method) {
  if (std::string(sgemm.name()) != medvlad::kSgemmCapsule) {
    throw py::value_error("the capsule does not hold medvlad's sgemm");
  }
  return {reinterpret_cast<medvlad::Sgemm>(sgemm.get_pointer()), checked_threads(n_threads),
          method_of(method)};
}

// Shapes and offsets have been checked in Python, with readable messages. They are checked again here because
// a wrong one would read or write memory outside the arrays.
medvlad::Batch batch_of(const Floats& x, const Offsets* offsets, const Floats& centers) {
  constexpr py::ssize_t largest = std::numeric_limits<std::int32_t>::max();
  if (x.ndim() != 2 || centers.ndim() != 2 || x.shape(1) != centers.shape(1) || x.shape(1) < 1 ||
      centers.shape(0) < 1 || centers.shape(0) > largest || x.shape(1) > largest) {
    throw py::value_error("x must be (N, D) and centers (K, D) with D >= 1 and K >= 1");
  }
  medvlad::Batch batch{x.data(), x.shape(0), nullptr, 0, centers.data(), centers.shape(0), centers.shape(1)};
  if (offsets != nullptr) {
    if (offsets->ndim() != 1 || offsets->shape(0) < 1) throw py::value_error("offsets must be (B + 1,)");
    batch.offsets = offsets->data();
    batch.n_images = offsets->shape(0) - 1;
    bool valid = batch.offsets[0] == 0 && batch.offsets[batch.n_images] == batch.n_rows;
    for (py::ssize_t i = 0; i < batch.n_images; ++i)
      valid = valid && batch.offsets[i] <= batch.offsets[i + 1];
    if (!valid) throw py::value_error("offsets must run from 0 to N without decreasing");
  }
  return batch;
}

// Returns the memory of an output array, which must hold exactly `size` numbers. pybind11 raises an error if
// the array is read-only.
template <class Array>
auto* output_of(Array& array, std::int64_t size, const char* message) {
  if (array.size() != size) throw py::value_error(message);
  return array.mutable_data();
}

std::int64_t assign(const py::capsule& sgemm, const Floats& x, const Floats& centers, Labels& labels,
                    int n_threads, const std::string& method) {
  const auto batch = batch_of(x, nullptr, centers);
  const auto execution = execution_of(sgemm, n_threads, method);
  std::int32_t* out = output_of(labels, batch.n_rows, "labels must be (N,)");
  const WithoutGil released;
  return medvlad::assign(batch, execution, out);
}

std::int64_t encode(const py::capsule& sgemm, const Floats& x, const Offsets& offsets, const Floats& centers,
                    Floats& vectors, bool zeroed, std::optional<Labels> labels, std::optional<Offsets> counts,
                    double power, bool intra_norm, bool l2_norm, int n_threads, const std::string& method) {
  const auto batch = batch_of(x, &offsets, centers);
  const auto execution = execution_of(sgemm, n_threads, method);
  medvlad::Output output{
      output_of(vectors, batch.n_images * batch.k * batch.d, "vectors must be (B, K * D) or (B, K, D)")};
  output.zeroed = zeroed;
  if (labels) output.labels = output_of(*labels, batch.n_rows, "labels must be (N,)");
  if (counts) output.counts = output_of(*counts, batch.n_images * batch.k, "counts must be (B, K)");
  const WithoutGil released;
  return medvlad::encode(batch, execution, {power, intra_norm, l2_norm}, output);
}

void encode_weighted(const Floats& x, const Offsets& offsets, const Floats& centers, const Labels& cells,
                     const Doubles& weights, std::optional<Doubles> scales, Floats& vectors,
                     std::optional<Doubles> masses, double power, bool mass_norm, bool intra_norm,
                     bool l2_norm, int n_threads) {
  const auto batch = batch_of(x, &offsets, centers);
  const int threads = checked_threads(n_threads);
  if (cells.ndim() != 2 || cells.shape(0) != batch.n_rows || cells.shape(1) < 1 || cells.shape(1) > batch.k ||
      weights.ndim() != 2 || weights.shape(0) != cells.shape(0) || weights.shape(1) != cells.shape(1)) {
    throw py::value_error("cells and weights must be (N, r) with 1 <= r <= K");
  }
  if (scales &&
      (scales->ndim() != 2 || scales->shape(0) != cells.shape(0) || scales->shape(1) != cells.shape(1))) {
    throw py::value_error("scales must have the shape (N, r) of cells");
  }
  for (py::ssize_t i = 0; i < cells.size(); ++i) {
    if (cells.data()[i] < 0 || cells.data()[i] >= batch.k) throw py::value_error("cells must be in [0, K)");
  }
  const medvlad::Output output{
      output_of(vectors, batch.n_images * batch.k * batch.d, "vectors must be (B, K * D) or (B, K, D)")};
  double* masses_out =
      masses ? output_of(*masses, batch.n_images * batch.k, "masses must be (B, K)") : nullptr;
  const medvlad::Memberships memberships{cells.data(), weights.data(), scales ? scales->data() : nullptr,
                                         cells.shape(1)};
  const WithoutGil released;
  medvlad::encode_weighted(batch, memberships, threads, {power, intra_norm, l2_norm, mass_norm}, output,
                           masses_out);
}

void squared_distances(const Floats& x, const Floats& centers, const Labels& labels, Doubles& distances,
                       int n_threads) {
  const auto batch = batch_of(x, nullptr, centers);
  const int threads = checked_threads(n_threads);
  if (labels.size() != batch.n_rows) throw py::value_error("labels must be (N,)");
  for (py::ssize_t i = 0; i < labels.size(); ++i) {
    if (labels.data()[i] < 0 || labels.data()[i] >= batch.k)
      throw py::value_error("labels must be in [0, K)");
  }
  double* out = output_of(distances, batch.n_rows, "distances must be (N,)");
  const std::int32_t* of = labels.data();
  const WithoutGil released;
  medvlad::squared_distances(batch.x, batch.n_rows, batch.d, batch.centers, of, threads, out);
}

void column_sums(const Floats& x, Doubles& sums, int n_threads) {
  if (x.ndim() != 2) throw py::value_error("x must be (N, D)");
  const int threads = checked_threads(n_threads);
  double* out = output_of(sums, x.shape(1), "sums must be (D,)");
  const WithoutGil released;
  medvlad::column_sums(x.data(), x.shape(0), x.shape(1), threads, out);
}

// Seeding among rows of x (N, D), or all of them if `rows` is None. Both arrays are kept alive.
class Seeding {
 public:
  Seeding(const Floats& x, std::optional<Offsets> rows, int n_threads)
      : x_(x), rows_(std::move(rows)), seeding_(make(n_threads)) {}

  void distances(const Offsets& candidates, const Doubles& closest, Doubles& distances, Doubles& potentials) {
    const std::int64_t n = seeding_->n_rows();
    check_candidates(candidates);
    if (closest.size() != n) throw py::value_error("closest must be (N,)");
    double* out = output_of(distances, candidates.size() * n, "distances must be (T, N)");
    double* sums = output_of(potentials, candidates.size(), "potentials must be (T,)");
    const WithoutGil released;
    const std::lock_guard<std::mutex> lock(mutex_);
    seeding_->distances(candidates.data(), candidates.size(), closest.data(), out, sums);
  }

  std::int64_t add_best(const Offsets& candidates, Doubles& closest) {
    check_candidates(candidates);
    double* out = output_of(closest, seeding_->n_rows(), "closest must be (N,)");
    const WithoutGil released;
    const std::lock_guard<std::mutex> lock(mutex_);
    return seeding_->add_best(candidates.data(), candidates.size(), out);
  }

  std::int64_t n_exact() const { return seeding_->n_exact(); }

 private:
  static void check_rows(const Offsets& rows, std::int64_t n, const char* message) {
    for (py::ssize_t i = 0; i < rows.size(); ++i) {
      if (rows.data()[i] < 0 || rows.data()[i] >= n) throw py::value_error(message);
    }
  }

  void check_candidates(const Offsets& candidates) const {
    if (candidates.size() < 1) throw py::value_error("candidates must be (T,) with T >= 1");
    check_rows(candidates, seeding_->n_rows(), "candidates must be in [0, N)");
  }

  std::unique_ptr<medvlad::Seeding> make(int n_threads) const {
    const auto batch = batch_of(x_, nullptr, x_);
    const int threads = checked_threads(n_threads);
    if (rows_) check_rows(*rows_, batch.n_rows, "rows must be in [0, N)");
    const medvlad::RowsOf from{batch.x, rows_ ? rows_->data() : nullptr, rows_ ? rows_->size() : batch.n_rows,
                               batch.d};
    const WithoutGil released;
    return std::make_unique<medvlad::Seeding>(from, threads);
  }

  Floats x_;
  std::optional<Offsets> rows_;
  std::unique_ptr<medvlad::Seeding> seeding_;
  std::mutex mutex_;  // one thread at a time may change the seeding
};

// `x` holds floats or doubles with any strides, so that no copy is made.
void add_gram(const py::array& x, const Doubles& shift, const Doubles& along, const Doubles& direction,
              Doubles& gram, int n_threads) {
  const bool is_double = py::isinstance<py::array_t<double>>(x);
  const py::ssize_t size = x.itemsize();
  if (!(is_double || py::isinstance<py::array_t<float>>(x)) || x.ndim() != 2 || x.strides(0) % size != 0 ||
      x.strides(1) % size != 0) {
    throw py::value_error("x must be (N, D) of float32 or float64, with aligned numbers");
  }
  const medvlad::ShiftedRows rows{x.data(),     is_double,           x.shape(0),
                                  x.shape(1),   x.strides(0) / size, x.strides(1) / size,
                                  shift.data(), direction.data(),    along.data()};
  if (shift.size() != rows.d || direction.size() != rows.d || along.size() != rows.n) {
    throw py::value_error("shift and direction must be (D,), along (N,)");
  }
  const int threads = checked_threads(n_threads);
  const medvlad::GramKernel kernel = medvlad::gram_kernel();
  if (kernel == nullptr) throw py::value_error("this level has no tiles");
  double* out = output_of(gram, rows.n * rows.n, "gram must be (N, N)");
  const WithoutGil released;
  kernel(rows, threads, out);
}

// A layer is (kernel, bias, has_relu) for a convolution, or None for 2 x 2 maximum pooling.
std::unique_ptr<medvlad::ConvNet> make_convnet(const std::vector<py::object>& layers,
                                               std::int64_t n_channels) {
  if (n_channels < 1 || n_channels > kMostChannels) throw py::value_error("too few or too many channels");
  std::vector<medvlad::Layer> all;
  for (const py::object& layer : layers) {
    if (layer.is_none()) {
      all.push_back({nullptr, nullptr, 0, 0, false});
      continue;
    }
    const auto parts = layer.cast<py::tuple>();
    if (parts.size() != 3 || !py::isinstance<Floats>(parts[0]) || !py::isinstance<Floats>(parts[1])) {
      throw py::value_error("a layer must be None or (kernel, bias, has_relu), float32 and C-contiguous");
    }
    // The list `layers` owns both arrays until this function returns.
    const auto kernel = py::reinterpret_borrow<Floats>(parts[0]);
    const auto bias = py::reinterpret_borrow<Floats>(parts[1]);
    if (kernel.ndim() != 4 || kernel.shape(0) != 3 || kernel.shape(1) != 3 || kernel.shape(2) < 1 ||
        kernel.shape(3) < 1 || kernel.shape(3) > kMostChannels || bias.ndim() != 1 ||
        bias.shape(0) != kernel.shape(3)) {
      throw py::value_error("kernel must be (3, 3, C, D) and bias (D,)");
    }
    all.push_back({kernel.data(), bias.data(), kernel.shape(2), kernel.shape(3), parts[2].cast<bool>()});
  }
  const WithoutGil released;
  return std::make_unique<medvlad::ConvNet>(all, n_channels);
}

Floats run_convnet(const medvlad::ConvNet& net, const Floats& images, int n_threads) {
  const int threads = checked_threads(n_threads);
  if (images.ndim() != 4 || images.shape(3) != net.n_channels()) {
    throw py::value_error("images must be (B, H, W, C)");
  }
  const std::int64_t n = images.shape(0), h = images.shape(1), w = images.shape(2);
  const medvlad::Maps shape = net.shape_of_output(n, h, w);
  Floats result({shape.n, shape.h, shape.w, shape.c});
  const float* from = images.data();
  float* to = result.mutable_data();
  const WithoutGil released;
  net.run(from, n, h, w, threads, to);
  return result;
}

}  // namespace

// noconvert: a wrong dtype or memory layout is an error. pybind11 would copy the array silently otherwise.
PYBIND11_MODULE(MEDVLAD_MODULE, m, py::mod_gil_not_used()) {
  using py::literals::operator""_a;
  m.doc() = "medvlad's C++ core for one instruction set";
  m.def("supported_levels", &medvlad::supported_levels);
  m.def("may_use_tiles", &medvlad::may_use_tiles);
  m.def(
      "needs_sgemm",
      [](std::int64_t k, std::int64_t d, int n_threads) {
        return medvlad::needs_sgemm(k, d, medvlad::pack_bytes(n_threads));
      },
      "k"_a, "d"_a, "n_threads"_a);
  m.def("assign", &assign, "sgemm"_a, "x"_a.noconvert(), "centers"_a.noconvert(), "labels"_a.noconvert(),
        "n_threads"_a, "method"_a = "auto");
  m.def("encode", &encode, "sgemm"_a, "x"_a.noconvert(), "offsets"_a.noconvert(), "centers"_a.noconvert(),
        "vectors"_a.noconvert(), "zeroed"_a, "labels"_a.noconvert().none(true),
        "counts"_a.noconvert().none(true), "power"_a, "intra_norm"_a, "l2_norm"_a, "n_threads"_a,
        "method"_a = "auto");
  m.def("encode_weighted", &encode_weighted, "x"_a.noconvert(), "offsets"_a.noconvert(),
        "centers"_a.noconvert(), "cells"_a.noconvert(), "weights"_a.noconvert(),
        "scales"_a.noconvert().none(true), "vectors"_a.noconvert(), "masses"_a.noconvert().none(true),
        "power"_a, "mass_norm"_a, "intra_norm"_a, "l2_norm"_a, "n_threads"_a);
  m.def("squared_distances", &squared_distances, "x"_a.noconvert(), "centers"_a.noconvert(),
        "labels"_a.noconvert(), "distances"_a.noconvert(), "n_threads"_a);
  m.def("column_sums", &column_sums, "x"_a.noconvert(), "sums"_a.noconvert(), "n_threads"_a);
  // module_local: every module registers its own classes, compiled for its own instruction set.
  py::class_<Seeding>(m, "Seeding", py::module_local())
      .def(py::init<const Floats&, std::optional<Offsets>, int>(), "x"_a.noconvert(),
           "rows"_a.noconvert().none(true), "n_threads"_a)
      .def("distances", &Seeding::distances, "candidates"_a.noconvert(), "closest"_a.noconvert(),
           "distances"_a.noconvert(), "potentials"_a.noconvert())
      .def("add_best", &Seeding::add_best, "candidates"_a.noconvert(), "closest"_a.noconvert())
      .def_property_readonly("n_exact", &Seeding::n_exact);
  py::class_<medvlad::ConvNet>(m, "ConvNet", py::module_local())
      .def(py::init(&make_convnet), "layers"_a, "n_channels"_a)
      .def("run", &run_convnet, "images"_a.noconvert(), "n_threads"_a);
  m.def("has_gram", [] { return medvlad::gram_kernel() != nullptr; });
  m.def("add_gram", &add_gram, "x"_a.noconvert(), "shift"_a.noconvert(), "along"_a.noconvert(),
        "direction"_a.noconvert(), "gram"_a.noconvert(), "n_threads"_a);
}
