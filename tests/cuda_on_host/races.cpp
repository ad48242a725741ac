// Every kernel once on small awkward shapes, its threads real ones: for ThreadSanitizer, which ends the
// program where two of them touch shared memory without a barrier between. Prints "right" where the labels
// are, too.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <random>
#include <vector>

#define KERNEL(name) \
  extern "C" void launch_##name(unsigned grid_x, unsigned grid_y, int threads, void** arguments)
KERNEL(assign_tensor_cores_float32);
KERNEL(assign_float32_units_float32);
KERNEL(decide_float32);
KERNEL(encode_images_float32);
KERNEL(cell_norms_float32);
KERNEL(write_cells_float32);
KERNEL(squared_distances);
KERNEL(candidate_distances);
KERNEL(run_sums);

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

void label(Launch assign, bool tensor_cores, int k) {
  constexpr int kRows = 70, kDepth = 20, kPaddedDepth = 32;
  const int across = k <= 64 ? 1 : 2, padded = (k + 64 * across - 1) / (64 * across) * 64 * across;
  std::mt19937 random(1);
  std::uniform_int_distribution<int> small(0, 2);
  std::vector<float> x(kRows * kDepth), centers(static_cast<std::size_t>(k * kDepth));
  for (float& value : x) value = static_cast<float>(small(random));
  for (float& value : centers) value = static_cast<float>(small(random));
  std::vector<float> rounded(static_cast<std::size_t>(padded * kPaddedDepth)),
      half(static_cast<std::size_t>(padded));
  std::vector<double> half_norms(static_cast<std::size_t>(k));
  float largest = 0.0F;
  for (int c = 0; c < padded; ++c) {
    double squares = 0.0;
    for (int j = 0; j < kDepth && c < k; ++j) {
      const float value = centers[static_cast<std::size_t>(c * kDepth + j)];
      rounded[static_cast<std::size_t>(c * kPaddedDepth + j)] = value;
      squares += double{value} * double{value};
    }
    half[static_cast<std::size_t>(c)] =
        c < k ? static_cast<float>(squares / 2) : std::numeric_limits<float>::infinity();
    if (c < k) half_norms[static_cast<std::size_t>(c)] = squares / 2;
    largest = std::max(largest, static_cast<float>(std::sqrt(squares)));
  }
  std::vector<int> labels(kRows);
  std::vector<unsigned long long> candidates(static_cast<std::size_t>(kRows * padded / 64));
  int unbounded = 0;
  const float gamma = tensor_cores ? 1e-5F : 1e-6F;
  run(assign, static_cast<unsigned>((kRows * across + 127) / 128), 1, 128, x.data(),
      static_cast<long long>(kRows), kDepth, rounded.data(), half.data(), k, padded, kPaddedDepth, across,
      largest, 0.0F, largest * largest, gamma, labels.data(), candidates.data(), &unbounded);
  run(launch_decide_float32, 1, 1, 128, x.data(), static_cast<long long>(kRows), kDepth, centers.data(),
      half_norms.data(), static_cast<double>(largest), candidates.data(), padded / 64, labels.data());
  for (int row = 0; row < kRows; ++row) {
    int best = 0;
    double most = -1e300;
    for (int c = 0; c < k; ++c) {
      double score = -half_norms[static_cast<std::size_t>(c)];
      for (int j = 0; j < kDepth; ++j) {
        score += double{x[static_cast<std::size_t>(row * kDepth + j)]} *
                 double{centers[static_cast<std::size_t>(c * kDepth + j)]};
      }
      if (score > most) {
        most = score;
        best = c;
      }
    }
    check(labels[static_cast<std::size_t>(row)] == best, "a label");
  }
  check(unbounded == 0, "the bound");
}

void encode() {
  constexpr int kCells = 11, kDepth = 150, kImages = 4;
  const long long offsets[kImages + 1] = {0, 0, 5, 145, 146};
  std::vector<float> x(146 * kDepth, 1.0F), centers(kCells * kDepth), vectors(kImages * kCells * kDepth);
  std::vector<int> labels(146);
  for (std::size_t row = 0; row < labels.size(); ++row) labels[row] = static_cast<int>(row % 10);
  std::vector<double> norms(kImages * kCells * 2);
  std::vector<long long> counts(kImages * kCells);
  const auto both = [&](Launch launch, unsigned grid_x, unsigned grid_y) {
    run(launch, grid_x, grid_y, 256, x.data(), static_cast<const long long*>(offsets), labels.data(),
        centers.data(), kCells, kDepth, 0.5, 1, 1, norms.data(), vectors.data(), counts.data());
  };
  for (const bool images : {true, false}) {
    if (images) {
      both(launch_encode_images_float32, kImages, 1);
    } else {
      both(launch_cell_norms_float32, 3, kImages);
      both(launch_write_cells_float32, 3, kImages);
    }
    // All numbers of the third image's ten filled cells are the same.
    const float expected = 1.0F / std::sqrt(10.0F * kDepth);
    check(std::fabs(vectors[2 * kCells * kDepth] - expected) < 1e-7F, "a number of a vector");
    check(counts[2 * kCells] == 14 && counts[kCells - 1] == 0, "a count");
  }
}

void kmeans() {
  constexpr int kRows = 40, kDepth = 13, kCandidates = 3, kMany = 1030;
  std::vector<float> x(kRows * kDepth, 2.0F), centers(kDepth, 1.0F);
  std::vector<int> labels(kRows);
  std::vector<double> distances(kRows), closest(kRows, 100.0), norms(kRows, 4.0 * kDepth);
  std::vector<double> all(kCandidates * kRows), many(kCandidates * kMany, 1.0), sums(kCandidates * 2);
  const long long candidates[kCandidates] = {0, 5, 39};
  run(launch_squared_distances, (kRows + 31) / 32, 1, 256, x.data(), static_cast<long long>(kRows), kDepth,
      centers.data(), labels.data(), distances.data());
  check(distances[kRows - 1] == kDepth, "a distance");
  run(launch_candidate_distances, (kRows + 31) / 32, 1, 256, x.data(), static_cast<long long>(kRows), kDepth,
      norms.data(), static_cast<const long long*>(candidates), kCandidates, closest.data(), all.data());
  for (const double distance : all) check(distance == 0.0, "a candidate's distance");
  run(launch_run_sums, 1, 1, 256, many.data(), static_cast<long long>(kMany), kCandidates, sums.data());
  check(sums[0] == 1024.0 && sums[1] == 6.0, "a sum");
}

}  // namespace

int main() {
  label(launch_assign_tensor_cores_float32, true, 70);
  label(launch_assign_float32_units_float32, false, 7);
  encode();
  kmeans();
  if (failures == 0) std::puts("right");
  return failures != 0;
}
