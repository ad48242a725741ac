// The only file that knows Python: checks shapes, releases the GIL, calls the core. No mathematics.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <limits>
#include <string>

#include "core/vlad.hpp"

namespace py = pybind11;

namespace {

using Floats = py::array_t<float, py::array::c_style>;
using Offsets = py::array_t<std::int64_t, py::array::c_style>;

medvlad::Sgemm sgemm_of(const py::capsule& capsule) {
  if (std::string(capsule.name()) != medvlad::kSgemmCapsule) {
    throw py::value_error("the capsule does not hold medvlad's sgemm");
  }
  return reinterpret_cast<medvlad::Sgemm>(capsule.get_pointer());
}

// Shapes and offsets were checked with readable messages in medvlad/_validate.py. They are looked at again
// here because a wrong one would read memory that is not ours.
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

int checked_threads(int n_threads) {
  if (n_threads < 1) throw py::value_error("n_threads must be at least 1");
  return n_threads;
}

py::array_t<std::int32_t> assign(const py::capsule& sgemm, const Floats& x, const Floats& centers,
                                 int n_threads) {
  const auto batch = batch_of(x, nullptr, centers);
  const auto gemm = sgemm_of(sgemm);
  const int threads = checked_threads(n_threads);
  py::array_t<std::int32_t> labels(batch.n_rows);
  std::int32_t* out = labels.mutable_data();
  const py::gil_scoped_release release;
  medvlad::assign(batch, gemm, threads, out);
  return labels;
}

py::tuple aggregate(const py::capsule& sgemm, const Floats& x, const Offsets& offsets, const Floats& centers,
                    int n_threads) {
  const auto batch = batch_of(x, &offsets, centers);
  const auto gemm = sgemm_of(sgemm);
  const int threads = checked_threads(n_threads);
  Floats residuals({batch.n_images, batch.k, batch.d});
  py::array_t<std::int64_t> counts({batch.n_images, batch.k});
  {
    float* residuals_out = residuals.mutable_data();
    std::int64_t* counts_out = counts.mutable_data();
    const py::gil_scoped_release release;
    medvlad::aggregate(batch, gemm, threads, residuals_out, counts_out);
  }
  return py::make_tuple(residuals, counts);
}

Floats encode(const py::capsule& sgemm, const Floats& x, const Offsets& offsets, const Floats& centers,
              double power, bool intra_norm, bool l2_norm, int n_threads) {
  const auto batch = batch_of(x, &offsets, centers);
  const auto gemm = sgemm_of(sgemm);
  const int threads = checked_threads(n_threads);
  Floats encoded({batch.n_images, batch.k * batch.d});
  float* out = encoded.mutable_data();
  const py::gil_scoped_release release;
  medvlad::encode(batch, gemm, threads, {power, intra_norm, l2_norm}, out);
  return encoded;
}

}  // namespace

// noconvert: a wrong dtype or layout is an error, never a silent copy.
PYBIND11_MODULE(_native_portable, m, py::mod_gil_not_used()) {
  using py::literals::operator""_a;
  m.doc() = "medvlad's C++ core, portable build";
  m.def("assign", &assign, "sgemm"_a, "x"_a.noconvert(), "centers"_a.noconvert(), "n_threads"_a);
  m.def("aggregate", &aggregate, "sgemm"_a, "x"_a.noconvert(), "offsets"_a.noconvert(),
        "centers"_a.noconvert(), "n_threads"_a);
  m.def("encode", &encode, "sgemm"_a, "x"_a.noconvert(), "offsets"_a.noconvert(), "centers"_a.noconvert(),
        "power"_a, "intra_norm"_a, "l2_norm"_a, "n_threads"_a);
}
