// Convolutions and pooling as plain sums in long double, for the test programs. Each result comes with the
// sum of magnitudes that bounds its rounding error.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "core/convnet.hpp"

namespace medvlad::test {

struct Maps {
  std::vector<long double> values, magnitudes;  // magnitudes: sums of the absolute values of all terms
  std::int64_t n, h, w, c;

  Maps(std::int64_t images, std::int64_t height, std::int64_t width, std::int64_t channels)
      : values(static_cast<std::size_t>(images * height * width * channels)),
        magnitudes(values.size()),
        n(images),
        h(height),
        w(width),
        c(channels) {}

  std::size_t at(std::int64_t image, std::int64_t y, std::int64_t x, std::int64_t k) const {
    return static_cast<std::size_t>(((image * h + y) * w + x) * c + k);
  }

  // Image, row, column and channel of number i.
  std::array<std::int64_t, 4> place(std::size_t i) const {
    const auto flat = static_cast<std::int64_t>(i);
    return {flat / c / w / h, flat / c / w % h, flat / c % w, flat % c};
  }
};

inline Maps pooled(const Maps& from) {
  Maps to(from.n, from.h / 2, from.w / 2, from.c);
  for (std::size_t i = 0; i < to.values.size(); ++i) {
    const auto [image, y, x, k] = to.place(i);
    to.values[i] = -std::numeric_limits<long double>::infinity();
    for (std::int64_t part = 0; part < 4; ++part) {
      const std::size_t source = from.at(image, 2 * y + part / 2, 2 * x + part % 2, k);
      to.values[i] = std::max(to.values[i], from.values[source]);
      to.magnitudes[i] = std::max(to.magnitudes[i], from.magnitudes[source]);
    }
  }
  return to;
}

inline Maps convolved(const Maps& from, const medvlad::Layer& layer) {
  Maps to(from.n, from.h, from.w, layer.n_out);
  for (std::size_t i = 0; i < to.values.size(); ++i) {
    const auto [image, y, x, k] = to.place(i);
    long double sum = layer.bias[k], magnitude = std::fabs(sum);
    for (std::int64_t tap = 0; tap < 9; ++tap) {
      const std::int64_t from_y = y + tap / 3 - 1, from_x = x + tap % 3 - 1;
      if (from_y < 0 || from_y >= from.h || from_x < 0 || from_x >= from.w) continue;
      for (std::int64_t in = 0; in < from.c; ++in) {
        const long double weight = layer.kernel[(tap * from.c + in) * to.c + k];
        const std::size_t source = from.at(image, from_y, from_x, in);
        sum += weight * from.values[source];
        magnitude += std::fabs(weight) * from.magnitudes[source];
      }
    }
    to.values[i] = layer.has_relu ? std::max(sum, 0.0L) : sum;
    to.magnitudes[i] = magnitude;
  }
  return to;
}

}  // namespace medvlad::test
