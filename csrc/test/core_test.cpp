// Test program of the core without Python, made for the sanitizers.
//
// It calls every entry point with unusual shapes and compares the results with plain loops in double
// precision. The data are integers, so the plain loops are exact. Exit status: 1 at the first wrong result.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "core/convnet.hpp"
#include "core/seeding.hpp"
#include "core/vlad.hpp"
#include "test/batch.hpp"
#include "test/gram.hpp"
#include "test/history.hpp"
#include "test/plain.hpp"
#include "test/seeding_steps.hpp"

namespace {

std::atomic<std::int64_t> allocated{0}, peak{0};
// Number of allocations that still succeed. After them one fails, or all of them if `for_ever`.
std::atomic<std::int64_t> times_left{INT64_MAX}, failed{0};
std::atomic<bool> for_ever{false};

// The size is stored in front of the memory, in a space of one alignment.
void* take(std::size_t bytes, std::size_t alignment) {
  const std::int64_t left = times_left--;
  if (left == 0 || (left < 0 && for_ever)) {
    ++failed;
    throw std::bad_alloc();
  }
  alignment = std::max(alignment, alignof(std::max_align_t));
  void* memory = std::aligned_alloc(alignment, (bytes + 2 * alignment - 1) / alignment * alignment);
  if (memory == nullptr) throw std::bad_alloc();
  *static_cast<std::size_t*>(memory) = bytes;
  const std::int64_t now = allocated += static_cast<std::int64_t>(bytes);
  for (std::int64_t most = peak; now > most && !peak.compare_exchange_weak(most, now);) {
  }
  return static_cast<char*>(memory) + alignment;
}

void give_back(void* memory, std::size_t alignment) {
  if (memory == nullptr) return;
  char* begin = static_cast<char*>(memory) - std::max(alignment, alignof(std::max_align_t));
  allocated -= static_cast<std::int64_t>(*reinterpret_cast<std::size_t*>(begin));
  std::free(begin);
}

}  // namespace

void* operator new(std::size_t bytes) { return take(bytes, 1); }
void* operator new(std::size_t bytes, std::align_val_t at) {
  return take(bytes, static_cast<std::size_t>(at));
}
void operator delete(void* memory) noexcept { give_back(memory, 1); }
void operator delete(void* memory, std::size_t) noexcept { give_back(memory, 1); }
void operator delete(void* memory, std::align_val_t at) noexcept {
  give_back(memory, static_cast<std::size_t>(at));
}
void operator delete(void* memory, std::size_t, std::align_val_t at) noexcept {
  give_back(memory, static_cast<std::size_t>(at));
}

namespace {

using medvlad::Method;
using medvlad::test::check;
using medvlad::test::sgemm;

struct Problem {
  std::int64_t k, d;
  std::vector<std::int64_t> offsets;
  std::vector<float> x, centers;

  Problem(const std::vector<std::int64_t>& lengths, std::int64_t k_, std::int64_t d_, unsigned seed)
      : k(k_), d(d_) {
    offsets.push_back(0);
    for (const std::int64_t length : lengths) offsets.push_back(offsets.back() + length);
    std::mt19937 random(seed);
    std::uniform_int_distribution<int> value(-9, 4);
    // The exact sizes, so that a sanitizer sees a read beyond the end.
    x.resize(static_cast<std::size_t>(offsets.back() * d));
    centers.resize(static_cast<std::size_t>(k * d));
    for (float& one : x) one = static_cast<float>(std::max(value(random), 0));
    for (float& one : centers) one = static_cast<float>(std::max(value(random), 0));
  }

  medvlad::Batch batch() const { return medvlad::test::batch_of(x, offsets, centers, k, d); }

  std::int32_t nearest(std::int64_t row) const {
    std::int32_t best = 0;
    double best_distance = INFINITY;
    for (std::int64_t i = 0; i < k; ++i) {
      double distance = 0.0;
      for (std::int64_t j = 0; j < d; ++j) {
        const double difference = double{x[at(row, j)]} - double{centers[at(i, j)]};
        distance += difference * difference;
      }
      if (distance < best_distance) best_distance = distance, best = static_cast<std::int32_t>(i);
    }
    return best;
  }

  std::size_t at(std::int64_t row, std::int64_t column) const {
    return static_cast<std::size_t>(row * d + column);
  }
};

void test(const Problem& problem, Method method, int n_threads) {
  const auto batch = problem.batch();
  const std::string name = "k=" + std::to_string(problem.k) + " d=" + std::to_string(problem.d) +
                           " n=" + std::to_string(batch.n_rows) + " threads=" + std::to_string(n_threads) +
                           " method=" + std::to_string(static_cast<int>(method));
  std::vector<std::int32_t> labels(static_cast<std::size_t>(batch.n_rows));
  medvlad::assign(batch, {sgemm, n_threads, method}, labels.data());
  for (std::size_t row = 0; row < labels.size(); ++row) {
    if (labels[row] == problem.nearest(static_cast<std::int64_t>(row))) continue;
    check(false, "label of row " + std::to_string(row) + ", " + name);
  }

  std::vector<float> residuals(static_cast<std::size_t>(batch.n_images * batch.k * batch.d), NAN);
  std::vector<std::int64_t> counts(static_cast<std::size_t>(batch.n_images * batch.k));
  medvlad::Output output{residuals.data()};
  output.counts = counts.data();
  medvlad::encode(batch, {sgemm, n_threads, method}, {1.0, false, false}, output);
  std::vector<double> expected(residuals.size());
  for (std::int64_t image = 0; image < batch.n_images; ++image) {
    for (std::int64_t row = problem.offsets[static_cast<std::size_t>(image)];
         row < problem.offsets[static_cast<std::size_t>(image) + 1]; ++row) {
      const std::int64_t cell = image * batch.k + labels[static_cast<std::size_t>(row)];
      --counts[static_cast<std::size_t>(cell)];
      for (std::int64_t j = 0; j < batch.d; ++j) {
        expected[problem.at(cell, j)] +=
            double{problem.x[problem.at(row, j)]} -
            double{problem.centers[problem.at(labels[static_cast<std::size_t>(row)], j)]};
      }
    }
  }
  for (const std::int64_t left : counts) check(left == 0, "counts, " + name);
  for (std::size_t i = 0; i < residuals.size(); ++i) {
    if (double{residuals[i]} == expected[i]) continue;
    check(false, "residual " + std::to_string(i) + ", " + name);
  }

  output = {residuals.data()};
  output.labels = labels.data();
  medvlad::encode(batch, {sgemm, n_threads, method}, {0.5, true, true}, output);
  for (std::int64_t image = 0; image < batch.n_images; ++image) {
    double squared = 0.0;
    for (std::int64_t i = 0; i < batch.k * batch.d; ++i) {
      const double value = residuals[static_cast<std::size_t>(image * batch.k * batch.d + i)];
      squared += value * value;
    }
    check(std::fabs(squared) < 1e-6 || std::fabs(squared - 1.0) < 1e-4, "norm, " + name);
  }
}

// Rows in several cells, with small integers as weights and scales, so that double precision is exact.
void test_weighted(const Problem& problem, std::int64_t per_row, int n_threads, unsigned seed) {
  const auto batch = problem.batch();
  const auto n = static_cast<std::size_t>(batch.n_rows), r = static_cast<std::size_t>(per_row);
  std::vector<std::int32_t> cells(n * r);
  std::vector<double> weights(n * r), scales(n * r);
  std::mt19937 random(seed);
  for (std::size_t row = 0; row < n; ++row) {
    const auto first = static_cast<std::int64_t>(random() % static_cast<unsigned>(batch.k));
    for (std::size_t j = 0; j < r; ++j) {
      cells[row * r + j] = static_cast<std::int32_t>((first + static_cast<std::int64_t>(j)) % batch.k);
      weights[row * r + j] = static_cast<double>(random() % 4);
      scales[row * r + j] = static_cast<double>(random() % 3);
    }
  }
  const std::size_t size = static_cast<std::size_t>(batch.n_images * batch.k * batch.d);
  std::vector<double> expected(size, 0.0);
  std::vector<double> masses(static_cast<std::size_t>(batch.n_images * batch.k), NAN),
      mass(masses.size(), 0.0);
  for (std::int64_t image = 0; image < batch.n_images; ++image) {
    for (std::int64_t row = batch.offsets[image]; row < batch.offsets[image + 1]; ++row) {
      for (std::size_t j = 0; j < r; ++j) {
        const std::size_t entry = static_cast<std::size_t>(row) * r + j;
        const std::int64_t cell = image * batch.k + cells[entry];
        mass[static_cast<std::size_t>(cell)] += weights[entry];
        for (std::int64_t l = 0; l < batch.d; ++l) {
          expected[problem.at(cell, l)] +=
              weights[entry] * scales[entry] *
              (double{problem.x[problem.at(row, l)]} - double{problem.centers[problem.at(cells[entry], l)]});
        }
      }
    }
  }
  std::vector<float> vectors(size, NAN);
  const medvlad::Memberships memberships{cells.data(), weights.data(), scales.data(), per_row};
  medvlad::encode_weighted(batch, memberships, n_threads, {1.0, false, false}, {vectors.data()},
                           masses.data());
  const std::string name = "weighted, r=" + std::to_string(per_row) + " k=" + std::to_string(batch.k);
  for (std::size_t i = 0; i < size; ++i) check(double{vectors[i]} == expected[i], name);
  check(masses == mass, name + ", masses");
  // With all normalisations, every number is finite and at most 1.
  medvlad::encode_weighted(batch, memberships, n_threads, {0.5, true, true, true}, {vectors.data()}, nullptr);
  for (const float value : vectors) check(std::isfinite(value) && std::fabs(value) <= 1.0001F, name);
}

// The limit of vlad.hpp: in addition to the output, 6 MiB for each thread and 12 bytes for each row of the
// largest image.
void test_memory(std::int64_t k, std::int64_t d, const std::vector<std::int64_t>& lengths, int n_threads) {
  Problem problem(lengths, k, d, 1);
  // Half of the rows have no zeros, so centres are packed in two ways.
  std::for_each(problem.x.begin() + static_cast<std::ptrdiff_t>(problem.x.size() / 2), problem.x.end(),
                [](float& one) { one += 1.0F; });
  const auto batch = problem.batch();
  std::vector<float> vectors(static_cast<std::size_t>(batch.n_images * k * d));
  const std::int64_t largest = *std::max_element(lengths.begin(), lengths.end());
  const std::int64_t before = allocated;
  peak = before;
  medvlad::encode(batch, {sgemm, n_threads, Method::automatic}, {}, {vectors.data()});
  const std::int64_t used = peak - before, allowed = n_threads * medvlad::kBytesPerThread + 12 * largest;
  const std::int64_t kept = allocated - before;
  check(used <= allowed, "memory of k=" + std::to_string(k) + ": " + std::to_string(used) +
                             " bytes, at most " + std::to_string(allowed));
  check(kept == 0, "memory given back, but for " + std::to_string(kept) + " bytes");
}

// Make each allocation fail in turn, first alone and then with all later ones. The call must throw and free
// all memory, or return the same bits.
template <class Work>
int test_no_memory(const std::vector<float>& out, const Work& work, const std::string& name) {
  work();
  // The copy is needed because work() writes to `out`.
  const std::vector<float> expected = out;  // NOLINT(performance-unnecessary-copy-initialization)
  int n_failed = 0;
  for (const bool all_after : {false, true}) {
    for (std::int64_t n = 0;; ++n) {
      const std::int64_t before = allocated;
      bool thrown = false;
      for_ever = all_after;
      failed = 0;
      times_left = n;
      try {
        work();
      } catch (const std::bad_alloc&) {
        thrown = true;
      }
      times_left = INT64_MAX;
      const std::int64_t kept = allocated - before;
      check(kept == 0, "memory given back after none was to be had, " + name);
      check(thrown || out == expected, "result in spite of no memory, " + name);
      if (failed == 0) break;
      ++n_failed;
    }
  }
  return n_failed;
}

int test_no_memory() {
  int n_failed = 0;
  for (const int n_threads : {1, 3}) {
    for (const Problem& problem :
         {Problem({0, 3, 49, 0, 140, 1, 0}, 33, 15, 1), Problem({5, 3000}, 20, 33, 2)}) {
      const auto batch = problem.batch();
      std::vector<float> out(static_cast<std::size_t>(batch.n_images * batch.k * batch.d));
      for (const Method method : {Method::automatic, Method::dense, Method::sparse}) {
        n_failed += test_no_memory(
            out, [&] { medvlad::encode(batch, {sgemm, n_threads, method}, {0.5, true, true}, {out.data()}); },
            "encode");
      }
      const std::vector<std::int32_t> cells(static_cast<std::size_t>(batch.n_rows), 1);
      const std::vector<double> weights(cells.size(), 0.5);
      n_failed += test_no_memory(
          out,
          [&] {
            medvlad::encode_weighted(batch, {cells.data(), weights.data(), nullptr, 1}, n_threads,
                                     {1.0, true, true}, {out.data()}, nullptr);
          },
          "weighted");
      const std::vector<std::int64_t> candidates{0, 1, 2, batch.n_rows - 1};
      std::vector<float> potentials(candidates.size());
      n_failed += test_no_memory(
          potentials,
          [&] {
            medvlad::Seeding seeding({batch.x, nullptr, batch.n_rows, batch.d}, n_threads);
            std::vector<double> closest(static_cast<std::size_t>(batch.n_rows), INFINITY);
            for (float& potential : potentials) {
              seeding.add_best(candidates.data(), 4, closest.data());
              potential = static_cast<float>(std::accumulate(closest.begin(), closest.end(), 0.0));
            }
          },
          "seeding");
    }
    const std::vector<float> kernel(9 * 3 * 20, 0.25F), bias(20, 0.5F), images(2 * 12 * 9 * 3, 0.75F);
    std::vector<float> maps(2 * 6 * 4 * 20);
    n_failed += test_no_memory(
        maps,
        [&] {
          const medvlad::ConvNet net(
              {{kernel.data(), bias.data(), 3, 20, true}, {nullptr, nullptr, 0, 0, false}}, 3);
          net.run(images.data(), 2, 12, 9, n_threads, maps.data());
        },
        "convolution");
  }
  return n_failed;
}

// Compare convolutions with sums in double precision, within a tolerance because the data are not integers.
void test_convolutions(const std::vector<std::int64_t>& widths, std::int64_t n, std::int64_t h,
                       std::int64_t w, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> value(-1.0F, 1.0F);
  const auto numbers = [&](std::int64_t size) {
    std::vector<float> all(static_cast<std::size_t>(size));
    for (float& one : all) one = value(random);
    return all;
  };
  std::vector<std::vector<float>> weights;
  std::vector<medvlad::Layer> layers;
  const std::vector<float> images = numbers(n * h * w * widths[0]);
  std::vector<double> maps(images.begin(), images.end());
  std::int64_t c = widths[0], rows = h, columns = w;
  for (std::size_t i = 1; i < widths.size(); ++i) {
    const bool is_pool = widths[i] == 0;
    const std::int64_t d = is_pool ? c : widths[i], by = is_pool ? 2 : 1;
    const std::int64_t new_rows = rows / by, new_columns = columns / by;
    std::vector<double> next(static_cast<std::size_t>(n * new_rows * new_columns * d));
    if (!is_pool) {
      weights.push_back(numbers(9 * c * d));
      weights.push_back(numbers(d));
      layers.push_back({weights[weights.size() - 2].data(), weights.back().data(), c, d, i % 2 == 1});
    } else {
      layers.push_back({nullptr, nullptr, 0, 0, false});
    }
    const auto at = [&](std::int64_t image, std::int64_t y, std::int64_t x, std::int64_t k) {
      return maps[static_cast<std::size_t>(((image * rows + y) * columns + x) * c + k)];
    };
    std::size_t to = 0;
    for (std::int64_t image = 0; image < n; ++image) {
      for (std::int64_t y = 0; y < new_rows; ++y) {
        for (std::int64_t x = 0; x < new_columns; ++x) {
          for (std::int64_t j = 0; j < d; ++j, ++to) {
            if (is_pool) {
              next[to] = std::max({at(image, 2 * y, 2 * x, j), at(image, 2 * y, 2 * x + 1, j),
                                   at(image, 2 * y + 1, 2 * x, j), at(image, 2 * y + 1, 2 * x + 1, j)});
              continue;
            }
            double sum = double{layers.back().bias[j]};
            for (std::int64_t tap = 0; tap < 9; ++tap) {
              const std::int64_t from_y = y + tap / 3 - 1, from_x = x + tap % 3 - 1;
              if (from_y < 0 || from_y >= rows || from_x < 0 || from_x >= columns) continue;
              for (std::int64_t k = 0; k < c; ++k) {
                sum += at(image, from_y, from_x, k) * double{layers.back().kernel[(tap * c + k) * d + j]};
              }
            }
            next[to] = layers.back().has_relu ? std::max(sum, 0.0) : sum;
          }
        }
      }
    }
    maps = next;
    c = d, rows = new_rows, columns = new_columns;
  }
  double largest = 0.0;
  for (const double one : maps) largest = std::max(largest, std::fabs(one));
  const medvlad::ConvNet net(layers, widths[0]);
  for (const int n_threads : {1, 3}) {
    std::vector<float> out(maps.size(), NAN);
    net.run(images.data(), n, h, w, n_threads, out.data());
    for (std::size_t i = 0; i < out.size(); ++i) {
      if (std::fabs(double{out[i]} - maps[i]) <= 2e-5 * largest) continue;
      check(false, "convolution to " + std::to_string(c) + ", number " + std::to_string(i));
    }
  }
}

}  // namespace

int main() {
  unsigned seed = 0;
  medvlad::test::check_trial();
  medvlad::test::check_fine();
  for (const Method method :
       {Method::automatic, Method::dense, Method::sparse, Method::bf16, Method::bf16x3}) {
    for (const std::int64_t k : {1, 16, 33, 64, 130}) {
      for (const std::int64_t d : {1, 15, 64, 70, 130}) {
        const Problem problem({0, 3, 49, 0, 140, 1, 0}, k, d, ++seed);
        for (const int n_threads : {1, 3}) test(problem, method, n_threads);
      }
    }
    // A large image among small ones, and vectors of more than 4 MiB, which are streamed.
    test(Problem({5, 3000, 5, 9000}, 20, 33, ++seed), method, 3);
    test(Problem(std::vector<std::int64_t>(300, 7), 70, 64, ++seed), method, 2);
  }
  // No more threads are started than there are tasks.
  test(Problem({5, 600, 5}, 4, 3, ++seed), Method::automatic, 1 << 30);
  for (const int n_threads : {1, 3}) {
    test_weighted(Problem({0, 3, 49, 0, 140, 1, 0}, 5, 13, ++seed), 1, n_threads, 7);
    test_weighted(Problem({0, 3, 49, 0, 140, 1, 0}, 33, 8, ++seed), 33, n_threads, 7);
    test_weighted(Problem({5, 3000, 5, 9000}, 20, 33, ++seed), 2, n_threads, 7);
    test_weighted(Problem(std::vector<std::int64_t>(300, 7), 70, 64, ++seed), 3, n_threads, 7);
  }
  for (const std::int64_t d : {1, 8, 9, 65}) {
    check(medvlad::test::steps_are_right(Problem({2600}, 1, d, ++seed).x, d, 3), "steps of seeding");
  }
  for (const std::int64_t n : {1, 16, 33, 270}) {
    for (const std::int64_t d : {1, 33, 1025}) check(medvlad::test::is_gram_right(n, d, 3), "Gram matrix");
  }
  for (const std::int64_t k : {1, 64, 256, 1024, 4096}) {
    for (const int n_threads : {1, 2, 4}) test_memory(k, 512, {7, 60, 130, 130, 80, 160}, n_threads);
  }
  for (const int n_threads : {1, 3}) test_memory(8, 4, {3, 300000}, n_threads);
  for (const std::int64_t side : {4, 5, 6, 11}) {
    test_convolutions({3, 5, 0, 17, 33}, 2, side, side + 1, ++seed);
    test_convolutions({20, 40, 36, 0}, 2, side + 3, side, ++seed);
    test_convolutions({1, 0, 2, 0, 3}, 1, 2 * side, side, ++seed);
  }
  test_convolutions({300, 70, 0}, 1, 9, 10, ++seed);
  std::printf("right; %d times without memory\n", test_no_memory());
}
