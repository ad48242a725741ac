// Run every kernel once on small awkward shapes with real threads, for ThreadSanitizer. It ends the program
// if two threads touch shared memory without a barrier in between. The program prints "right" if the results
// are.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <random>
#include <vector>

#define KERNEL(name) \
  extern "C" void launch_##name(unsigned grid_x, unsigned grid_y, int threads, void** arguments)
KERNEL(assign_tensor_cores);
KERNEL(assign_float32_units);
KERNEL(decide);
KERNEL(encode_images_tensor_cores);
KERNEL(encode_images_float32_units);
KERNEL(cell_norms);
KERNEL(write_cells);
KERNEL(squared_distances);
KERNEL(candidate_distances);
KERNEL(run_sums);
KERNEL(weighted_sums);
KERNEL(normalise_cells);
KERNEL(write_weighted);
KERNEL(center_distances);

namespace {

using Launch = void (*)(unsigned, unsigned, int, void**);

template <class... Arguments>
void run(Launch launch, unsigned grid_x, unsigned grid_y, int threads, Arguments... arguments) {
  void* pointers[] = {&arguments...};
  launch(grid_x, grid_y, threads, pointers);
}

int failures = 0;

void check(bool right, const char* what) {
  if (!right) {
    std::printf("wrong: %s\n", what);
    ++failures;
  }
}

// Compute labels, then vectors in both ways: one block per image, and one warp per cell.
void encode(Launch assign, Launch images, bool tensor_cores, int k) {
  constexpr int kRows = 70, kDepth = 20, kPaddedDepth = 32, kImages = 4;
  const int across = k <= 64 ? 1 : 2, padded = (k + 64 * across - 1) / (64 * across) * 64 * across;
  const auto n = [](auto number) { return static_cast<std::size_t>(number); };
  std::mt19937 random(1);
  std::uniform_int_distribution<int> small(0, 2);
  std::vector<float> x(kRows * kDepth), centers(n(k * kDepth));
  for (float& value : x) value = static_cast<float>(small(random));
  for (float& value : centers) value = static_cast<float>(small(random));
  std::vector<float> rounded(n(padded * kPaddedDepth)),
      half(n(padded), std::numeric_limits<float>::infinity());
  std::vector<double> half_norms(n(k));
  double squares = 0.0;
  for (int c = 0; c < k; ++c) {
    for (int j = 0; j < kDepth; ++j) {
      const float value = centers[n(c * kDepth + j)];
      rounded[n(c * kPaddedDepth + j)] = value;
      half_norms[n(c)] += 0.5 * double{value} * double{value};
    }
    half[n(c)] = static_cast<float>(half_norms[n(c)]);
    squares = std::max(squares, 2 * half_norms[n(c)]);
  }
  const double largest = std::sqrt(squares);
  const auto most = static_cast<float>(1.0001 * largest);
  const float gamma = tensor_cores ? 1e-5F : 1e-6F;
  std::vector<int> labels(kRows), expected(kRows), again(kRows);
  std::vector<unsigned long long> candidates(n(kRows * padded / 64));
  int unbounded = 0;
  const long long rows = kRows;
  run(assign, static_cast<unsigned>((kRows * across + 127) / 128), 1, 128, x.data(), rows, kDepth,
      rounded.data(), half.data(), k, padded, kPaddedDepth, across, most, 0.0F, most * most, gamma,
      labels.data(), candidates.data(), &unbounded);
  run(launch_decide, 1, 1, 128, x.data(), rows, kDepth, centers.data(), half_norms.data(), largest,
      candidates.data(), padded / 64, labels.data());
  for (int row = 0; row < kRows; ++row) {
    double best = -1e300;
    for (int c = 0; c < k; ++c) {
      double score = -half_norms[n(c)];
      for (int j = 0; j < kDepth; ++j) {
        score += double{x[n(row * kDepth + j)]} * double{centers[n(c * kDepth + j)]};
      }
      if (score > best) {
        best = score;
        expected[n(row)] = c;
      }
    }
  }
  check(labels == expected, "labels");
  check(unbounded == 0, "the bound");

  const long long offsets[kImages + 1] = {0, 0, 5, 69, 70};
  const std::vector<float> zeros(n(kImages * k * kDepth));
  std::vector<float> vectors(zeros), others(zeros);
  std::vector<double> norms(n(2 * kImages * k));
  std::vector<long long> counts(n(kImages * k)), other_counts(counts);
  const long long* const begin = offsets;
  const auto cells = [&](Launch launch) {
    run(launch, static_cast<unsigned>((k + 7) / 8), kImages, 256, x.data(), begin, labels.data(),
        centers.data(), k, kDepth, 0.5, 1, 1, norms.data(), vectors.data(), counts.data());
  };
  cells(launch_cell_norms);
  cells(launch_write_cells);
  run(images, kImages, 1, 128, x.data(), begin, again.data(), centers.data(), k, kDepth, 0.5, 1, 1,
      norms.data(), others.data(), other_counts.data(), rounded.data(), half.data(), k, padded, kPaddedDepth,
      across, most, 0.0F, most * most, gamma, half_norms.data(), largest, candidates.data(), &unbounded);
  check(again == expected, "labels in images");
  check(counts == other_counts, "counts");
  check(vectors == others, "vectors");
  double total = 0.0;
  for (const float value : vectors) total += double{value} * double{value};
  check(std::fabs(total - 3.0) < 1e-6, "the norm of three images");
}

void kmeans() {
  constexpr int kRows = 40, kDepth = 13, kCandidates = 3, kMany = 1030;
  std::vector<float> x(kRows * kDepth, 2.0F), centers(kDepth, 1.0F);
  std::vector<int> labels(kRows);
  std::vector<double> distances(kRows), closest(kRows, 100.0), norms(kRows, 4.0 * kDepth);
  std::vector<double> all(kCandidates * kRows), many(kCandidates * kMany, 1.0), sums(kCandidates * 2);
  const long long candidates[kCandidates] = {0, 5, 39};
  run(launch_squared_distances, (kRows + 31) / 32, 1, 256, x.data(), static_cast<long long>(kRows), 1, kDepth,
      centers.data(), labels.data(), distances.data());
  check(distances[kRows - 1] == kDepth, "a distance");
  run(launch_candidate_distances, (kRows + 31) / 32, 1, 256, x.data(), static_cast<long long>(kRows), kDepth,
      norms.data(), static_cast<const long long*>(candidates), kCandidates, closest.data(), all.data());
  for (const double distance : all) check(distance == 0.0, "a candidate's distance");
  run(launch_run_sums, 1, 1, 256, many.data(), static_cast<long long>(kMany), kCandidates, sums.data());
  check(sums[0] == 1024.0 && sums[1] == 6.0, "a sum");
}

// Four of five rows are in the first cell, with weight 1, and all in the second, with weight -2. All rows are
// 2, and the centres are 1 and 0.
void weighted() {
  constexpr int kRows = 150, kDepth = 140, kCells = 2, kImages = 2;
  std::vector<float> x(kRows * kDepth, 2.0F), centers(kCells * kDepth, 0.0F),
      vectors(kImages * kCells * kDepth);
  for (int j = 0; j < kDepth; ++j) centers[static_cast<std::size_t>(j)] = 1.0F;
  std::vector<int> cells(kRows * kCells);
  std::vector<double> weights(kRows * kCells), scales(kRows * kCells, 0.5), sums(kImages * kCells * kDepth);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    cells[i] = static_cast<int>(i % 2);
    weights[i] = i % 2 != 0 ? -2.0 : (i % 10 == 4 ? 0.0 : 1.0);
  }
  std::vector<double> masses(kImages * kCells), reaches(masses), norms(masses), factors(masses);
  const long long offsets[kImages + 1] = {0, 140, 150};
  const long long* const begin = offsets;
  run(launch_weighted_sums, 1, kImages, 256, x.data(), begin, cells.data(), weights.data(), scales.data(),
      kCells, centers.data(), kCells, kDepth, sums.data(), masses.data(), reaches.data());
  check(sums[0] == 56.0 && sums[kDepth] == -280.0, "weighted sums");
  check(masses[0] == 112.0 && masses[3] == -20.0 && reaches[3] == 10.0, "masses");
  run(launch_normalise_cells, 1, kImages, 256, centers.data(), kCells, kDepth, masses.data(), reaches.data(),
      0.5, 1, 1, sums.data(), norms.data(), factors.data());
  run(launch_write_weighted, 1, kImages, 256, sums.data(), norms.data(), factors.data(), kCells, kDepth, 1,
      vectors.data());
  double total = 0.0;
  for (const float value : vectors) total += double{value} * double{value};
  check(std::fabs(total - 2.0) < 1e-6, "the norm of two images");
  std::vector<double> distances(kRows * kCells);
  run(launch_center_distances, (kRows + 31) / 32, 1, 256, x.data(), static_cast<long long>(kRows), kDepth,
      centers.data(), kCells, distances.data());
  check(distances[298] == kDepth && distances[299] == 4 * kDepth, "distances to centres");
}

}  // namespace

// With an argument, only the first part runs.
int main(int argc, char**) {
  encode(launch_assign_tensor_cores, launch_encode_images_tensor_cores, true, 70);
  if (argc == 1) {
    encode(launch_assign_float32_units, launch_encode_images_float32_units, false, 7);
    kmeans();
    weighted();
  }
  if (failures == 0) std::puts("right");
  return failures != 0;
}
