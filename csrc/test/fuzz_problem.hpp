// Descriptors and centres that the fuzzing input chooses.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "core/size.hpp"
#include "test/batch.hpp"
#include "test/exact.hpp"
#include "test/source.hpp"

namespace medvlad::test {

using Real = long double;

struct Problem {
  std::int64_t k = 1, d = 1;
  std::vector<std::int64_t> offsets{0};
  std::vector<float> x, centers;

  // Mostly small problems: many small ones find more than a large one. The bytes that choose large problems
  // are values that libFuzzer does not prefer.
  Problem(Source& source, std::int64_t fewest_rows) {
    constexpr std::int64_t widths[] = {1,  2,  3,  7,  8,  9,   15,  16,  17, 31,
                                       32, 33, 63, 64, 65, 130, 255, 256, 257};
    constexpr std::int64_t rows[] = {0,  0,  1,  1,  2,   3,   5,   15,  16,  17, 31,
                                     32, 33, 49, 64, 127, 128, 129, 255, 256, 257};
    constexpr std::int64_t images[] = {0, 1, 1, 2, 3, 7, 31, 32, 33, 70};
    k = source.one_of(widths), d = source.one_of(widths);
    const std::uint32_t bits = source.bits(1);
    std::int64_t work = bits > 240 ? 1 << 16 : 1 << 13;
    if (bits == 251) work = 1 << 21;
    const std::int64_t n_images = std::min(source.one_of(images), work / (k * d) + 1);
    const std::int64_t most = std::max<std::int64_t>(work / (k * d), 3);
    for (std::int64_t image = 0; image < n_images; ++image) {
      offsets.push_back(std::min(offsets.back() + source.one_of(rows), most));
    }
    if (offsets.back() < fewest_rows) offsets.push_back(fewest_rows);
    fill(source, source.below(10), centers, k, nullptr);
    fill(source, source.below(10), x, offsets.back(), &centers);
  }

  medvlad::Batch batch() const { return batch_of(x, offsets, centers, k, d); }
  const float* row(std::int64_t i) const { return x.data() + i * d; }
  const float* center(std::int64_t i) const { return centers.data() + i * d; }

  // Whether `label` is the lowest of the nearest centres of row i.
  bool is_nearest(std::int64_t i, std::int64_t label) const {
    if (label < 0 || label >= k) return false;
    Real own_error = 0;
    const Real own = score(i, label, own_error);
    for (std::int64_t other = 0; other < k; ++other) {
      Real error = 0;
      const Real its = score(i, other, error);
      if (other == label || its + error + own_error < own) continue;
      Exact difference;
      for (std::int64_t j = 0; j < d; ++j) {
        difference.add(row(i)[j], center(other)[j], 2);
        difference.add(row(i)[j], center(label)[j], -2);
        difference.add(center(other)[j], center(other)[j], -1);
        difference.add(center(label)[j], center(label)[j], 1);
      }
      const int sign = difference.sign();
      if (sign > 0 || (sign == 0 && other < label)) return false;
    }
    return true;
  }

 private:
  // Fill rows with new numbers, or with copies of earlier rows or of `others`. Some copies differ in one
  // number.
  void fill(Source& source, std::int64_t kind, std::vector<float>& to, std::int64_t n,
            const std::vector<float>* others) const {
    const std::int64_t copies = source.below(3);
    to.resize(size(n * d));
    for (std::int64_t i = 0; i < n; ++i) {
      float* own = to.data() + i * d;
      const bool copied = copies > 0 && source.below(4) < copies;
      const float* from = nullptr;
      if (others != nullptr) {
        from = others->data() + source.below(k) * d;
      } else if (i > 0) {
        from = to.data() + source.below(i) * d;
      }
      for (std::int64_t j = 0; j < d; ++j) own[j] = copied && from != nullptr ? from[j] : source.number(kind);
      if (copied && source.below(2) == 0) {
        float& one = own[source.below(d)];
        const float next = std::nextafter(one, 0.0F);
        one = source.below(2) == 0 ? next : -one;
      }
    }
  }

  Real score(std::int64_t i, std::int64_t label, Real& error) const {
    Real sum = 0, magnitude = 0;
    for (std::int64_t j = 0; j < d; ++j) {
      const Real c = center(label)[j], product = 2 * Real{row(i)[j]} * c;
      sum += product - c * c;
      magnitude += std::fabs(product) + c * c;
    }
    error = 2 * static_cast<Real>(d + 4) * std::numeric_limits<Real>::epsilon() * magnitude;
    return sum;
  }
};

}  // namespace medvlad::test
