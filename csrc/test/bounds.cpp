// Test program of the scorers: their error bounds hold, and are not much larger than they must be.
//
// Scores are compared with sums in long double. Exit status: 1 at the first bound that does not hold.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "core/scorer.hpp"
#include "test/plain.hpp"

namespace {

using medvlad::Method;
using medvlad::test::check;
using medvlad::test::sgemm;

// The largest part of the bound that the errors of some scores reach.
double compare(const std::vector<float>& x, const std::vector<float>& centers, std::int64_t k, std::int64_t d,
               Method method, const std::string& name) {
  const medvlad::CenterSet set(centers.data(), k, d);
  const auto scorer = medvlad::make_scorer(set, {sgemm, method, std::int64_t{8} << 20});
  const auto rows = static_cast<std::int64_t>(x.size()) / d;
  std::vector<float> scores(static_cast<std::size_t>(scorer->block_rows * scorer->stride));
  std::vector<double> errors(static_cast<std::size_t>(scorer->block_rows)), norms(errors);
  medvlad::ScorerHistory history;
  medvlad::PendingZeros zeros;
  double most = 0.0;
  for (std::int64_t first = 0; first < rows; first += scorer->block_rows) {
    const std::int64_t n = std::min(scorer->block_rows, rows - first);
    (*scorer)(x.data() + first * d, n, {scores.data(), errors.data(), norms.data()}, history, zeros);
    for (std::int64_t r = 0; r < n; ++r) {
      const float* row = x.data() + (first + r) * d;
      long double squared = 0.0L;
      for (std::int64_t j = 0; j < d; ++j) squared += static_cast<long double>(row[j]) * row[j];
      const double norm = norms[static_cast<std::size_t>(r)], bound = errors[static_cast<std::size_t>(r)];
      check(norm >= static_cast<double>(std::sqrt(squared)), name + ": norm of row " + std::to_string(r));
      if (std::isinf(bound)) continue;
      // All scores of a row may be off by the same offset, so their errors lie within twice the bound.
      long double low = HUGE_VALL, high = -HUGE_VALL;
      for (std::int64_t c = 0; c < k; ++c) {
        long double score = 0.0L, half = 0.0L;
        for (std::int64_t j = 0; j < d; ++j) {
          const long double center = centers[static_cast<std::size_t>(c * d + j)];
          score += static_cast<long double>(row[j]) * center;
          half += center * center / 2;
        }
        const long double error =
            static_cast<long double>(scores[static_cast<std::size_t>(r * scorer->stride + c)]) -
            (score - half);
        low = std::min(low, error);
        high = std::max(high, error);
      }
      const double part = static_cast<double>((high - low) / (2.0L * bound));
      check(part <= 1.0,
            name + ": error of row " + std::to_string(r) + " is " + std::to_string(part) + " bounds");
      // One part in 64 of the product of the norms is more than any method may lose, but for tiny numbers.
      const double allowed =
          norm * set.max_norm / 64 + 1e-4 * set.max_norm * set.max_norm + 1e-17 * (1.0 + norm + set.max_norm);
      check(bound <= allowed, name + ": bound of row " + std::to_string(r) + " is " +
                                  std::to_string(bound / allowed) + " of the most allowed, norms " +
                                  std::to_string(norm) + " " + std::to_string(set.max_norm));
      most = std::max(most, part);
    }
  }
  return most;
}

}  // namespace

int main() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const auto filled = [&](std::int64_t n, const std::function<float()>& number) {
    std::vector<float> values(static_cast<std::size_t>(n));
    std::generate(values.begin(), values.end(), number);
    return values;
  };
  struct Kind {
    const char* name;
    std::function<float()> number;
  };
  const std::vector<Kind> kinds = {
      {"normal", [&] { return normal(random); }},
      {"rectified", [&] { return std::max(0.0F, normal(random) - 0.6F); }},
      {"far from the origin", [&] { return 100.0F + normal(random); }},
      {"of all sizes", [&] { return normal(random) * std::exp2(static_cast<float>(random() % 40) - 20.0F); }},
      {"tiny", [&] { return normal(random) * 1e-20F; }},
      {"denormal", [&] { return normal(random) * 1e-39F; }},
      {"huge", [&] { return normal(random) * 1e15F; }},
      {"nearly too large", [&] { return normal(random) * 4e16F; }},
      {"halfway between two bfloat16", [&] { return 1.0F + static_cast<float>(random() % 128) * 0x1p-8F; }},
  };
  int n_checked = 0;
  double most = 0.0;
  for (const Method method :
       {Method::automatic, Method::dense, Method::sparse, Method::bf16, Method::bf16x3}) {
    for (const Kind& kind : kinds) {
      for (const std::int64_t d : {1, 31, 32, 100, 512}) {
        for (const std::int64_t k : {1, 16, 40}) {
          const auto centers = filled(k * d, kind.number), x = filled(70 * d, kind.number);
          const std::string name = std::string(kind.name) + ", d " + std::to_string(d) + ", k " +
                                   std::to_string(k) + ", method " + std::to_string(static_cast<int>(method));
          most = std::max(most, compare(x, centers, k, d, method, name));
          ++n_checked;
        }
      }
    }
  }
  check(most > 0.0, "no error was found at all");
  std::printf("%d sets of rows within their bounds\n", n_checked);
}
