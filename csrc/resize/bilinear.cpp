#include "resize/bilinear.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace medvlad {
namespace {

constexpr int kBits = 22;  // of a weight, behind the point
constexpr int kLanes = 8;

// NOLINTNEXTLINE(bugprone-incorrect-roundings): Pillow rounds so.
inline std::int32_t rounded(double value) { return static_cast<std::int32_t>(value + 0.5); }

// Weights of the pixels for each place of the result. All places have the same number of pixels: those
// without a share have the weight 0.
struct Filter {
  std::int64_t n_taps = 0;
  std::vector<std::int64_t> first;    // pixel, for each place
  std::vector<std::int32_t> weights;  // for each place and pixel

  // `multiple`: n_taps becomes a multiple of it.
  Filter(std::int64_t size, float start, float end, std::int64_t side, std::int64_t multiple) {
    const double scale = static_cast<double>(end - start) / static_cast<double>(side);
    const double support = std::max(scale, 1.0), inverse = 1.0 / support;
    std::vector<std::int64_t> begins, ends;
    for (std::int64_t place = 0; place < side; ++place) {
      const double centre = start + (static_cast<double>(place) + 0.5) * scale;
      begins.push_back(std::max<std::int64_t>(rounded(centre - support), 0));
      ends.push_back(std::min<std::int64_t>(rounded(centre + support), size));
      n_taps = std::max(n_taps, ends.back() - begins.back());
    }
    n_taps = (n_taps + multiple - 1) / multiple * multiple;
    if (n_taps > size) return;
    weights.resize(static_cast<std::size_t>(side * n_taps));
    std::vector<double> shares(static_cast<std::size_t>(n_taps));
    for (std::int64_t place = 0; place < side; ++place) {
      const double centre = start + (static_cast<double>(place) + 0.5) * scale;
      const std::int64_t begin = begins[static_cast<std::size_t>(place)];
      const std::int64_t n = ends[static_cast<std::size_t>(place)] - begin;
      first.push_back(std::min(begin, size - n_taps));
      double sum = 0;
      for (std::int64_t i = 0; i < n; ++i) {
        const double distance = std::abs((static_cast<double>(i + begin) - centre + 0.5) * inverse);
        const double share = distance < 1.0 ? 1.0 - distance : 0.0;
        shares[static_cast<std::size_t>(i)] = share;
        sum += share;
      }
      std::int32_t* own = weights.data() + place * n_taps + (begin - first.back());
      for (std::int64_t i = 0; i < n; ++i) {
        double share = shares[static_cast<std::size_t>(i)];
        if (sum != 0.0) share /= sum;
        own[i] = rounded(share * (1 << kBits));
      }
    }
  }

  bool fits() const { return !first.empty(); }

  // Each weight `n` times, side by side.
  std::vector<std::int32_t> repeated(int n) const {
    std::vector<std::int32_t> result;
    result.reserve(weights.size() * static_cast<std::size_t>(n));
    for (const std::int32_t weight : weights)
      result.insert(result.end(), static_cast<std::size_t>(n), weight);
    return result;
  }
};

// What both passes have in common, prepared once.
struct Plan {
  const Pixels& pixels;
  std::int64_t side;
  int n_channels;  // 1 or 4 bytes of a pixel between the passes
  Filter across, down;
  std::int64_t first_row = 0, n_rows = 0, stride = 0;  // of the rows between the passes
  std::vector<std::int32_t> weights;                   // of `across`, one for each byte

  Plan(const Pixels& given, const float box[4], std::int64_t side_of_square)
      : pixels(given),
        side(side_of_square),
        n_channels(given.n_bytes == 1 ? 1 : 4),
        across(given.width, box[0], box[2], side, kLanes / n_channels),
        down(given.height, box[1], box[3], side, 1) {
    if (!fits()) return;
    first_row = down.first.front(), n_rows = down.first.back() + down.n_taps - first_row;
    stride = (side * n_channels + kLanes - 1) / kLanes * kLanes;
    weights = n_channels == 1 ? across.weights : across.repeated(n_channels);
  }

  bool fits() const { return across.fits() && down.fits(); }
};

#if defined(__x86_64__)
#define MEDVLAD_AVX2 __attribute__((target("avx2")))

// Adds 8 bytes times their weights.
MEDVLAD_AVX2 inline __m256i added(__m256i sums, const std::uint8_t* bytes, __m256i weights) {
  const __m256i numbers = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes)));
  return _mm256_add_epi32(sums, _mm256_mullo_epi32(numbers, weights));
}

// Four sums, rounded to bytes.
MEDVLAD_AVX2 inline std::uint32_t rounded(__m128i sums) {
  const __m128i numbers = _mm_srai_epi32(_mm_add_epi32(sums, _mm_set1_epi32(1 << (kBits - 1))), kBits);
  const __m128i shorts = _mm_packs_epi32(numbers, numbers);
  return static_cast<std::uint32_t>(_mm_cvtsi128_si32(_mm_packus_epi16(shorts, shorts)));
}

template <int n_channels>
MEDVLAD_AVX2 void resize_row(const Plan& plan, const std::uint8_t* row, std::uint8_t* out) {
  const std::int64_t n = plan.across.n_taps * n_channels, side = plan.side;
  const std::int64_t* first = plan.across.first.data();
  const std::int32_t* weights = plan.weights.data();
  for (std::int64_t place = 0; place < side; ++place, weights += n) {
    const std::uint8_t* from = row + n_channels * first[place];
    __m256i sums = _mm256_setzero_si256();
    for (std::int64_t i = 0; i < n; i += kLanes) {
      sums = added(sums, from + i, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights + i)));
    }
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    if (n_channels == 1) {
      four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0b01001110));
      four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0b10110001));
    }
    const std::uint32_t pixel = rounded(four);
    std::memcpy(out + place * n_channels, &pixel, n_channels);
  }
}

MEDVLAD_AVX2 void resize_column(const Plan& plan, const std::uint8_t* rows, const std::int32_t* weights,
                                std::uint8_t* out) {
  for (std::int64_t x = 0; x < plan.stride; x += kLanes) {
    __m256i sums = _mm256_setzero_si256();
    for (std::int64_t i = 0; i < plan.down.n_taps; ++i) {
      sums = added(sums, rows + i * plan.stride + x, _mm256_set1_epi32(weights[i]));
    }
    const std::uint32_t low = rounded(_mm256_castsi256_si128(sums));
    const std::uint32_t high = rounded(_mm256_extracti128_si256(sums, 1));
    std::memcpy(out + x, &low, sizeof low);
    std::memcpy(out + x + 4, &high, sizeof high);
  }
}

void resize(const Plan& plan, std::uint8_t* rows, std::uint8_t* padded, std::uint8_t* square) {
  const std::int64_t width = plan.pixels.width, n_bytes = plan.pixels.n_bytes;
  for (std::int64_t y = 0; y < plan.n_rows; ++y) {
    const std::uint8_t* row = plan.pixels.data + (plan.first_row + y) * width * n_bytes;
    if (n_bytes == 3) {
      for (std::int64_t x = 0; x < width; ++x) std::memcpy(padded + 4 * x, row + 3 * x, 3);
      row = padded;
    }
    (n_bytes == 1 ? resize_row<1> : resize_row<4>)(plan, row, rows + y * plan.stride);
  }
  for (std::int64_t place = 0; place < plan.side; ++place) {
    const std::int64_t first = plan.down.first[static_cast<std::size_t>(place)] - plan.first_row;
    resize_column(plan, rows + first * plan.stride, plan.down.weights.data() + place * plan.down.n_taps,
                  padded);
    if (n_bytes == 1) {
      std::memcpy(square + place * plan.side, padded, static_cast<std::size_t>(plan.side));
      continue;
    }
    for (std::int64_t x = 0; x < plan.side; ++x) {
      std::memcpy(square + 3 * (place * plan.side + x), padded + 4 * x, 3);
    }
  }
}

bool can_resize() { return __builtin_cpu_supports("avx2"); }
#else
void resize(const Plan&, std::uint8_t*, std::uint8_t*, std::uint8_t*) {}

bool can_resize() { return false; }
#endif

}  // namespace

bool resize_bilinear(const Pixels& pixels, const float box[4], std::int64_t side, std::uint8_t* square) {
  if (!can_resize()) return false;
  const Plan plan(pixels, box, side);
  if (!plan.fits()) return false;
  std::vector<std::uint8_t> rows(static_cast<std::size_t>(plan.n_rows * plan.stride));
  std::vector<std::uint8_t> padded(static_cast<std::size_t>(std::max(4 * pixels.width, plan.stride)));
  resize(plan, rows.data(), padded.data(), square);
  return true;
}

}  // namespace medvlad
