// Fuzzing of the core's entry points.
//
// The input bytes choose shapes, offsets, threads, methods and bit patterns of finite numbers. Results are
// compared with plain sums in long double, labels with an exact argmax. A wrong result ends the program.
//
// libFuzzer calls LLVMFuzzerTestOneInput. If MEDVLAD_DRIVER is defined, `fuzz RUNS SEED` uses random bytes
// instead and prints a digest of all results that must not depend on the instruction set.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/convnet.hpp"
#include "core/seeding.hpp"
#include "core/size.hpp"
#include "core/vlad.hpp"
#include "test/fuzz_problem.hpp"
#include "test/maps.hpp"
#include "test/source.hpp"

namespace {

using medvlad::Method;
using medvlad::size;
using medvlad::test::Maps;
using medvlad::test::Problem;
using medvlad::test::Real;
using medvlad::test::Source;

constexpr double kDouble = 0x1p-53, kFloat = 0x1p-24;

std::uint64_t digest = 1469598103934665603U;

template <class T>
void add_to_digest(const std::vector<T>& values) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(values.data());
  for (std::size_t i = 0; i < values.size() * sizeof(T); ++i) digest = (digest ^ bytes[i]) * 1099511628211U;
}

void check(bool right, const char* what) {
  if (right) return;
  static_cast<void>(std::fprintf(stderr, "wrong: %s\n", what));
  std::abort();
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

// Whether the float32 number `found` is `expected` after rounding, if `expected` has the given error.
bool is_near(float found, Real expected, Real error) {
  if (std::isnan(found)) return false;
  const Real allowed = error + std::fabs(expected) * kFloat + 0x1p-149L;
  if (std::isinf(found)) return (found > 0 ? expected : -expected) + allowed >= Real{FLT_MAX};
  return std::fabs(Real{found} - expected) <= allowed;
}

medvlad::Normalisation normalisation_of(Source& source) {
  const double powers[] = {1.0, 0.5, 0.25, 0.9};
  const std::uint32_t bits = source.bits(1);
  return {powers[bits & 3U], (bits & 4U) != 0, (bits & 8U) != 0, false};
}

// Check that norms are 0 or 1 if normalised, and that no number is NaN.
void check_norms(const std::vector<float>& vectors, std::int64_t k, std::int64_t d,
                 const medvlad::Normalisation& how) {
  for (const float one : vectors) check(!std::isnan(one), "no NaN in a vector");
  if (!how.l2 && !how.intra) return;
  const std::int64_t part = how.l2 ? k * d : d;
  for (std::int64_t begin = 0; begin < static_cast<std::int64_t>(vectors.size()); begin += part) {
    double squared = 0.0;
    for (std::int64_t j = 0; j < part; ++j)
      squared += double{vectors[size(begin + j)]} * double{vectors[size(begin + j)]};
    check(squared == 0.0 || std::fabs(squared - 1.0) < 1e-4, "a norm is 0 or 1");
  }
}

// c = a b^T + beta c in float32, with rounding and overflow as in a BLAS.
void sgemm(std::int64_t m, std::int64_t n, std::int64_t d, const float* a, const float* b, float beta,
           float* c) {
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      float sum = beta == 0.0F ? 0.0F : beta * c[i * n + j];
      for (std::int64_t l = 0; l < d; ++l) sum += a[i * d + l] * b[j * d + l];
      c[i * n + j] = sum;
    }
  }
}

medvlad::Execution execution_of(Source& source) {
  const std::uint32_t bits = source.bits(1);
  return {sgemm, static_cast<int>(bits % 4) + 1, static_cast<Method>(bits / 4 % 5)};
}

struct Encoded {
  std::vector<float> vectors;
  std::vector<std::int32_t> labels;
  std::vector<std::int64_t> counts;

  Encoded(const medvlad::Batch& batch, const medvlad::Execution& execution, const medvlad::Normalisation& how,
          bool zeroed)
      : vectors(size(batch.n_images * batch.k * batch.d), zeroed ? 0.0F : NAN),
        labels(size(batch.n_rows), -1),
        counts(size(batch.n_images * batch.k), -1) {
    medvlad::encode(batch, execution, how, {vectors.data(), zeroed, labels.data(), counts.data()});
  }
};

void fuzz_encode(Source& source) {
  const Problem problem(source, 0);
  const auto batch = problem.batch();
  const auto one = execution_of(source), other = execution_of(source);
  std::vector<std::int32_t> labels(size(batch.n_rows), -1);
  medvlad::assign(batch, one, labels.data());
  for (std::int64_t i = 0; i < batch.n_rows; ++i)
    check(problem.is_nearest(i, labels[size(i)]), "a label is the nearest centre");

  const Encoded raw(batch, other, {1.0, false, false, false}, false);
  check(same_bits(raw.labels, labels), "labels depend on neither threads nor method");
  for (std::int64_t image = 0; image < batch.n_images; ++image) {
    std::vector<Real> sums(size(batch.k * batch.d)), magnitudes(sums.size());
    std::vector<std::int64_t> counts(size(batch.k));
    for (std::int64_t i = batch.offsets[image]; i < batch.offsets[image + 1]; ++i) {
      const std::int64_t cell = labels[size(i)];
      ++counts[size(cell)];
      for (std::int64_t j = 0; j < batch.d; ++j) {
        const Real x = problem.row(i)[j], c = problem.center(cell)[j];
        sums[size(cell * batch.d + j)] += x - c;
        magnitudes[size(cell * batch.d + j)] += std::fabs(x) + std::fabs(c);
      }
    }
    for (std::int64_t cell = 0; cell < batch.k; ++cell) {
      check(raw.counts[size(image * batch.k + cell)] == counts[size(cell)], "counts");
      for (std::int64_t j = cell * batch.d; j < (cell + 1) * batch.d; ++j) {
        const Real error = static_cast<Real>(counts[size(cell)] + 3) * kDouble * magnitudes[size(j)];
        check(is_near(raw.vectors[size(image * batch.k * batch.d + j)], sums[size(j)], error), "a residual");
      }
    }
  }

  const auto how = normalisation_of(source);
  const Encoded a(batch, one, how, source.bits(1) % 2 == 0), b(batch, other, how, false);
  check(same_bits(a.vectors, b.vectors) && same_bits(a.counts, b.counts),
        "vectors depend on neither threads nor method");
  check_norms(a.vectors, batch.k, batch.d, how);
  add_to_digest(labels), add_to_digest(raw.vectors), add_to_digest(a.vectors);
}

// A weight: a share, a mask of 0 and 1, a tiny number, or a number beyond float32.
double weight_of(Source& source, std::int64_t kind, double raw) {
  if (kind == 0) return raw / 255.0;
  if (kind == 1) return raw > 128 ? 1.0 : 0.0;
  if (kind == 2) return std::ldexp(raw, static_cast<int>(source.bits(1)) - 900);
  return raw * 1e48;
}

void fuzz_weighted(Source& source) {
  const Problem problem(source, 0);
  const auto batch = problem.batch();
  const std::int64_t r = std::min<std::int64_t>(source.below(5) + 1, batch.k), kind = source.below(4);
  std::vector<std::int32_t> cells(size(batch.n_rows * r));
  std::vector<double> weights(cells.size()), scales(cells.size(), 1.0);
  for (std::int64_t i = 0; i < batch.n_rows; ++i) {
    const std::int64_t first = source.below(batch.k);
    for (std::int64_t j = 0; j < r; ++j) {
      cells[size(i * r + j)] = static_cast<std::int32_t>((first + j) % batch.k);
      weights[size(i * r + j)] = weight_of(source, kind, source.bits(1));
      if (kind == 0) scales[size(i * r + j)] = source.bits(1) / 64.0;
    }
  }
  const medvlad::Memberships memberships{cells.data(), weights.data(), scales.data(), r};
  const auto encoded = [&](const medvlad::Normalisation& how, int n_threads, double* masses) {
    std::vector<float> vectors(size(batch.n_images * batch.k * batch.d), NAN);
    medvlad::encode_weighted(batch, memberships, n_threads, how, {vectors.data()}, masses);
    return vectors;
  };
  const int one = static_cast<int>(source.below(4)) + 1, other = static_cast<int>(source.below(4)) + 1;
  std::vector<double> masses(size(batch.n_images * batch.k), NAN);
  const std::vector<float> raw = encoded({1.0, false, false, false}, one, masses.data());
  for (std::int64_t image = 0; image < batch.n_images; ++image) {
    std::vector<Real> sums(size(batch.k * batch.d)), magnitudes(sums.size()), mass(size(batch.k));
    const std::int64_t first = batch.offsets[image], last = batch.offsets[image + 1];
    for (std::int64_t i = first; i < last; ++i) {
      for (std::int64_t at = i * r; at < (i + 1) * r; ++at) {
        const std::int64_t cell = cells[size(at)];
        const Real weight = weights[size(at)], factor = weight * Real{scales[size(at)]};
        mass[size(cell)] += weight;
        for (std::int64_t j = 0; j < batch.d; ++j) {
          const Real term = factor * (Real{problem.row(i)[j]} - Real{problem.center(cell)[j]});
          sums[size(cell * batch.d + j)] += term;
          magnitudes[size(cell * batch.d + j)] += std::fabs(term);
        }
      }
    }
    const Real relative = static_cast<Real>(last - first + 4) * kDouble;
    for (std::int64_t cell = 0; cell < batch.k; ++cell) {
      const Real found = masses[size(image * batch.k + cell)];
      check(std::fabs(found - mass[size(cell)]) <= relative * mass[size(cell)] + 0x1p-1000L, "a mass");
    }
    for (std::int64_t j = 0; j < batch.k * batch.d; ++j) {
      check(is_near(raw[size(image * batch.k * batch.d + j)], sums[size(j)],
                    relative * magnitudes[size(j)] + 0x1p-1000L),
            "a weighted residual");
    }
  }
  auto how = normalisation_of(source);
  how.mass = source.bits(1) % 2 == 0;
  const std::vector<float> a = encoded(how, one, nullptr), b = encoded(how, other, nullptr);
  check(same_bits(a, b), "weighted vectors do not depend on threads");
  check_norms(a, batch.k, batch.d, how);
  add_to_digest(raw), add_to_digest(masses), add_to_digest(a);
}

void fuzz_distances(Source& source) {
  const Problem problem(source, 1);
  const auto batch = problem.batch();
  const std::int64_t n = batch.n_rows, d = batch.d;
  const int one = static_cast<int>(source.below(4)) + 1, other = static_cast<int>(source.below(4)) + 1;
  std::vector<std::int32_t> labels(size(n));
  for (std::int32_t& label : labels) label = static_cast<std::int32_t>(source.below(batch.k));
  const auto squared = [&](const float* a, const float* b) {
    Real sum = 0;
    for (std::int64_t j = 0; j < d; ++j) sum += (Real{a[j]} - Real{b[j]}) * (Real{a[j]} - Real{b[j]});
    return sum;
  };
  std::vector<double> to_centers(size(n), NAN), again(size(n), NAN), norms(size(n), NAN), closest(size(n));
  medvlad::squared_distances(batch.x, n, d, batch.centers, labels.data(), one, to_centers.data());
  medvlad::squared_distances(batch.x, n, d, batch.centers, labels.data(), other, again.data());
  check(same_bits(to_centers, again), "distances do not depend on threads");
  for (std::int64_t i = 0; i < n; ++i) {
    const Real expected = squared(problem.row(i), problem.center(labels[size(i)]));
    const Real found = to_centers[size(i)];
    check(std::fabs(found - expected) <= static_cast<Real>(d + 8) * kDouble * expected + 0x1p-1000L,
          "a distance to a centre");
  }
  const std::vector<float> origin(size(d));
  const std::vector<std::int32_t> zeros(size(n));
  medvlad::squared_distances(batch.x, n, d, origin.data(), zeros.data(), 1, norms.data());
  // Seeds that are rows, or distances that belong to no row.
  const medvlad::RowsOf from{batch.x, nullptr, n, d};
  medvlad::Seeding filtered(from, one), exact(from, other, false);
  std::vector<double> distances, potentials;
  std::fill(closest.begin(), closest.end(), INFINITY);
  const bool begun = source.bits(1) % 4 == 0;
  const std::int64_t n_steps = begun ? 1 : source.below(6) + 1;
  if (begun) closest = to_centers;
  for (std::int64_t step = 0; step < n_steps; ++step) {
    std::vector<std::int64_t> candidates(size(source.below(19) + 1));
    for (std::int64_t& row : candidates) row = source.below(n);
    const auto n_candidates = static_cast<std::int64_t>(candidates.size());
    distances.assign(size(n_candidates * n), NAN), potentials.assign(candidates.size(), NAN);
    auto distances_again = distances, potentials_again = potentials;
    filtered.distances(candidates.data(), n_candidates, closest.data(), distances.data(), potentials.data());
    exact.distances(candidates.data(), n_candidates, closest.data(), distances_again.data(),
                    potentials_again.data());
    check(same_bits(distances, distances_again) && same_bits(potentials, potentials_again),
          "distances depend on neither threads nor the filter");
    for (std::int64_t t = 0; t < n_candidates; ++t) {
      const std::int64_t row = candidates[size(t)];
      Real potential = 0;
      for (std::int64_t i = 0; i < n; ++i) {
        const double found = distances[size(t * n + i)];
        const Real real = squared(problem.row(i), problem.row(row));
        const Real scale = Real{norms[size(i)]} + Real{norms[size(row)]};
        const Real expected = std::min(real, Real{closest[size(i)]}),
                   error = 8 * static_cast<Real>(d + 4) * kDouble * scale;
        check(found >= 0.0 && std::fabs(Real{found} - expected) <= error + 0x1p-1000L,
              "a distance to a candidate");
        potential += Real{found};
      }
      check(std::fabs(Real{potentials[size(t)]} - potential) <= static_cast<Real>(n) * kDouble * potential,
            "a potential");
    }
    auto closest_again = closest;
    const std::int64_t best = filtered.add_best(candidates.data(), n_candidates, closest.data());
    check(best == exact.add_best(candidates.data(), n_candidates, closest_again.data()) &&
              best == std::min_element(potentials.begin(), potentials.end()) - potentials.begin(),
          "the best candidate");
    check(same_bits(closest, closest_again) &&
              std::equal(closest.begin(), closest.end(), distances.begin() + best * n),
          "distances of a new seed");
  }
  add_to_digest(to_centers), add_to_digest(distances), add_to_digest(potentials);
}

// Numbers of ordinary size, because Python checks the weights and pixels that it loads.
void fuzz_convolutions(Source& source) {
  constexpr std::int64_t widths[] = {1, 2, 3, 15, 16, 17, 20, 31, 32, 33};
  constexpr std::int64_t sides[] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 13};
  const float scales[] = {1.0F, 1.0F, 0x1p-20F, 0x1p12F, 0.0F, 255.0F};
  const auto numbers = [&](std::int64_t n) {
    const float scale = scales[source.bits(1) % 6];
    std::int64_t kind = 3;
    if (source.bits(1) % 3 != 0) kind = source.bits(1) % 2 == 0 ? 8 : 1;
    std::vector<float> all(size(n));
    for (float& one : all) one = source.number(kind) * scale;
    return all;
  };
  const std::int64_t n_channels = source.one_of(widths);
  Maps maps{source.below(3), source.one_of(sides), source.one_of(sides), n_channels};
  const std::vector<float> images = numbers(maps.n * maps.h * maps.w * maps.c);
  maps.values.assign(images.begin(), images.end());
  for (std::size_t i = 0; i < maps.values.size(); ++i) maps.magnitudes[i] = std::fabs(maps.values[i]);
  const std::int64_t n_layers = source.below(4) + 1, n = maps.n, h = maps.h, w = maps.w;
  std::vector<std::vector<float>> weights;
  std::vector<medvlad::Layer> layers;
  Real allowed = 0x1p-120L;
  for (std::int64_t i = 0; i < n_layers; ++i) {
    if (source.bits(1) % 3 == 0) {
      layers.push_back({nullptr, nullptr, 0, 0, false});
      maps = pooled(maps);
      continue;
    }
    const std::int64_t c = maps.c, d = source.one_of(widths);
    weights.push_back(numbers(9 * c * d));
    weights.push_back(numbers(d));
    layers.push_back(
        {weights[weights.size() - 2].data(), weights.back().data(), c, d, source.bits(1) % 2 == 0});
    maps = convolved(maps, layers.back());
  }
  for (const Real magnitude : maps.magnitudes) allowed = std::max(allowed, 3e-5L * magnitude);
  const medvlad::ConvNet net(layers, n_channels);
  const auto shape = net.shape_of_output(n, h, w);
  check(shape.h == maps.h && shape.w == maps.w && shape.c == maps.c, "the shape of what comes out");
  const int one = static_cast<int>(source.below(4)) + 1, other = static_cast<int>(source.below(4)) + 1;
  std::vector<float> a(maps.values.size(), NAN), b(a);
  net.run(images.data(), n, h, w, one, a.data());
  net.run(images.data(), n, h, w, other, b.data());
  check(same_bits(a, b), "convolutions do not depend on threads");
  for (std::size_t i = 0; i < a.size(); ++i)
    check(std::fabs(Real{a[i]} - maps.values[i]) <= allowed, "a convolution");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t n);

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t n) {
  Source source(data, n);
  const std::uint32_t target = source.bits(1) % 8;
  if (target < 4) fuzz_encode(source);
  if (target == 4 || target == 5) fuzz_weighted(source);
  if (target == 6) fuzz_distances(source);
  if (target == 7) fuzz_convolutions(source);
  return 0;
}

#if defined(MEDVLAD_DRIVER)
int main(int n_arguments, char** arguments) {
  const int n_runs = n_arguments > 1 ? std::stoi(arguments[1]) : 1000;
  std::mt19937 random(n_arguments > 2 ? static_cast<unsigned>(std::stoi(arguments[2])) : 1U);
  std::vector<std::uint8_t> input;
  for (int i = 0; i < n_runs; ++i) {
    input.resize(random() % 64 + 8);
    for (std::uint8_t& byte : input) byte = static_cast<std::uint8_t>(random());
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  std::printf("%d hostile inputs, digest %016llx\n", n_runs, static_cast<unsigned long long>(digest));
}
#endif
