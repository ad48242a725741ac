#include "convnet.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "processor.hpp"
#include "thread_team.hpp"
#include "winograd_points.hpp"

namespace medvlad {

namespace {

// By tiles: number of output channels computed at a time.
constexpr std::int64_t kColumns = 64;
// By tiles: minimum number of tiles for one reading of U. With fewer, the layer is computed by points.
constexpr std::int64_t kFewestTiles = 36;
// A first convolution with fewer input channels than this is computed directly.
constexpr std::int64_t kFewChannels = 16;
// Number of tasks for each thread: enough that no thread waits long for the last one.
constexpr std::int64_t kTasksPerThread = 6;

std::int64_t rounded_up(std::int64_t value, std::int64_t to) { return (value + to - 1) / to * to; }
std::int64_t quotient_up(std::int64_t value, std::int64_t by) { return (value + by - 1) / by; }

// Distance between the numbers of two points. kLane keeps it from being a multiple of a cache's stride.
std::int64_t point_stride(std::int64_t tiles, std::int64_t channels) { return tiles * channels + kLane; }

// U = G g G^T of n kernels whose taps are `step` numbers apart. Number p of kernel i goes to to[p * n + i].
void transform_kernels(const float* taps, std::int64_t step, std::int64_t n, double* to) {
  const double a = kPointA, b = kPointB;
  const double at_a = 2.0 * a * a * (a * a - b * b), at_b = 2.0 * b * b * (b * b - a * a);
  const double g[6][3] = {{1.0 / (a * a * b * b), 0.0, 0.0},     {1.0 / at_a, a / at_a, a * a / at_a},
                          {1.0 / at_a, -a / at_a, a * a / at_a}, {1.0 / at_b, b / at_b, b * b / at_b},
                          {1.0 / at_b, -b / at_b, b * b / at_b}, {0.0, 0.0, 1.0}};
  std::fill_n(to, kPoints * n, 0.0);
  for (int p = 0; p < 6; ++p) {
    for (int q = 0; q < 6; ++q) {
      double* sums = to + (6 * p + q) * n;
      for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 3; ++j) {
          const double factor = g[p][i] * g[q][j];
          const float* tap = taps + (3 * i + j) * step;
          if (factor == 0.0) continue;
          for (std::int64_t k = 0; k < n; ++k) sums[k] += factor * double{tap[k]};
        }
      }
    }
  }
}

}  // namespace

struct ConvNet::Step {
  enum class Kind { direct, winograd, pool };
  Kind kind = Kind::pool;
  std::int64_t n_in = 0, n_out = 0;  // channels; n_out is rounded up to a multiple of kLane
  bool is_pooled = false;
  float floor = 0.0F;
  std::int64_t n_panels = 0;
  LargeBuffer<float> weights;  // direct: (panels, 9 * n_in, width); winograd: (36, panels, n_in, width)
  LargeBuffer<float> bias;     // padded with zeros to whole panels
};

struct ConvNet::Workspace {
  LargeBuffer<float> maps[2], v, m;
};

ConvNet::ConvNet(const std::vector<Layer>& layers, std::int64_t n_channels)
    : n_channels_(n_channels), n_out_(n_channels) {
  const std::int64_t width = conv_kernels().panel_width();
  for (const Layer& layer : layers) {
    if (layer.kernel == nullptr) {
      if (!steps_.empty() && steps_.back().kind == Step::Kind::winograd && !steps_.back().is_pooled) {
        steps_.back().is_pooled = true;
      } else {
        steps_.emplace_back();
      }
      continue;
    }
    if (layer.n_in != n_out_) throw std::invalid_argument("layers do not follow on each other");
    n_out_ = layer.n_out;
    const bool is_direct = steps_.empty() && layer.n_in < kFewChannels;
    Step& step = steps_.emplace_back();
    step.kind = is_direct ? Step::Kind::direct : Step::Kind::winograd;
    step.n_in = layer.n_in;
    step.n_out = rounded_up(layer.n_out, kLane);
    step.floor = layer.has_relu ? 0.0F : -std::numeric_limits<float>::infinity();
    step.n_panels = quotient_up(step.n_out, width);
    step.bias.reserve(step.n_panels * width);
    std::fill_n(step.bias.data(), step.n_panels * width, 0.0F);
    std::copy_n(layer.bias, layer.n_out, step.bias.data());
    const std::int64_t points = is_direct ? 9 : kPoints;
    const std::int64_t size = points * step.n_panels * layer.n_in * width;
    step.weights.reserve(size);
    float* to = step.weights.data();
    if (step.n_panels * width != layer.n_out) std::fill_n(to, size, 0.0F);
    std::vector<double> transformed(static_cast<std::size_t>(kPoints * width));
    for (std::int64_t panel = 0; panel < step.n_panels; ++panel) {
      const std::int64_t columns = std::min(width, layer.n_out - panel * width);
      for (std::int64_t k = 0; k < layer.n_in; ++k) {
        const float* taps = layer.kernel + k * layer.n_out + panel * width;
        const std::int64_t tap = layer.n_in * layer.n_out;
        if (is_direct) {
          for (std::int64_t p = 0; p < 9; ++p) {
            std::copy_n(taps + p * tap, columns, to + ((panel * 9 + p) * layer.n_in + k) * width);
          }
          continue;
        }
        transform_kernels(taps, tap, columns, transformed.data());
        for (std::int64_t p = 0; p < kPoints; ++p) {
          float* row = to + ((p * step.n_panels + panel) * layer.n_in + k) * width;
          for (std::int64_t j = 0; j < columns; ++j) {
            row[j] = static_cast<float>(transformed[static_cast<std::size_t>(p * columns + j)]);
          }
        }
      }
    }
  }
}

ConvNet::~ConvNet() = default;

Maps ConvNet::shape_of_output(std::int64_t n, std::int64_t h, std::int64_t w) const {
  for (const Step& step : steps_) {
    if (step.kind == Step::Kind::pool || step.is_pooled) h /= 2, w /= 2;
  }
  return {nullptr, n, h, w, n_out_};
}

// One call of ConvNet::run: its threads, buffers and kernels.
class ConvNet::NetworkRun {
 public:
  NetworkRun(Workspace& workspace, int n_threads)
      : workspace_(workspace), team_(n_threads), n_threads_(n_threads), l2_(second_level_cache()) {}

  void convolve(const Step& step, const Maps& from, const Maps& to) {
    const std::int64_t width = kernels_.panel_width();
    // V and a part of M may take 0.65 of the second-level cache.
    const std::int64_t columns = std::min(rounded_up(kColumns, width), step.n_panels * width);
    const std::int64_t bytes = kPoints * static_cast<std::int64_t>(sizeof(float));
    const std::int64_t fitting = l2_ * 13 / 20 / (bytes * (from.c + columns));
    if (fitting >= kFewestTiles) {
      by_tiles(step, from, to, fitting, columns);
    } else {
      by_points(step, from, to);
    }
  }

  void convolve_directly(const Step& step, const float* images, const Maps& to) {
    const Direct direct{images, step.n_in, step.weights.data()};
    const Epilogue epilogue{step.bias.data(), step.floor, false};
    const std::int64_t rows = to.n * to.h, band = rounded_up(direct_band(to.w, step.n_in), kLane);
    workspace_.v.reserve(n_threads_ * band);
    share(rows, 1, [&](std::int64_t first, std::int64_t last, int worker) {
      kernels_.direct(direct, epilogue, to, first, last, workspace_.v.data() + worker * band);
    });
  }

  void pool(const Maps& from, const Maps& to) {
    share(to.n * to.h, 1,
          [&](std::int64_t first, std::int64_t last, int) { kernels_.pool(from, to, first, last); });
  }

  // Copy rows of `from_c` numbers to rows of `to_c` numbers. Longer rows are cut, shorter rows padded with
  // zeros.
  void copy(const float* from, std::int64_t from_c, float* to, std::int64_t to_c, std::int64_t rows) {
    const std::int64_t both = std::min(from_c, to_c);
    share(rows, 64, [&](std::int64_t first, std::int64_t last, int) {
      for (std::int64_t row = first; row < last; ++row) {
        std::copy_n(from + row * from_c, both, to + row * to_c);
        std::fill_n(to + row * to_c + both, to_c - both, 0.0F);
      }
    });
  }

 private:
  // Call work(first, last, worker) for parts of [0, size). Every part but the last is a multiple of `unit`.
  template <class Work>
  void share(std::int64_t size, std::int64_t unit, const Work& work) {
    const std::int64_t units = quotient_up(size, unit);
    const std::int64_t tasks = std::min(units, n_threads_ * kTasksPerThread);
    team_.for_each(tasks, [&](std::int64_t task, int worker) {
      const std::int64_t first = task * units / tasks * unit, last = (task + 1) * units / tasks * unit;
      work(first, std::min(last, size), worker);
    });
  }

  void by_tiles(const Step& step, const Maps& from, const Maps& to, std::int64_t most, std::int64_t columns) {
    const Tiling tiling{from.n, from.h, from.w};
    const std::int64_t width = kernels_.panel_width(), strip = kernels_.tile_rows();
    const std::int64_t fair = rounded_up(quotient_up(tiling.size(), n_threads_ * kTasksPerThread), strip);
    const std::int64_t tiles = std::max(strip, std::min(most / strip * strip, fair));
    const std::int64_t v_point = point_stride(tiles, from.c), m_point = point_stride(tiles, columns);
    workspace_.v.reserve(n_threads_ * kPoints * v_point);
    workspace_.m.reserve(n_threads_ * kPoints * m_point);
    const Epilogue epilogue{step.bias.data(), step.floor, step.is_pooled};
    const std::int64_t panel_size = step.n_in * width, panels = columns / width;
    team_.for_each(quotient_up(tiling.size(), tiles), [&](std::int64_t task, int worker) {
      const std::int64_t first = task * tiles, last = std::min(tiling.size(), first + tiles);
      const Spectrum v{workspace_.v.data() + worker * kPoints * v_point, v_point, from.c, first, last};
      const Spectrum m{workspace_.m.data() + worker * kPoints * m_point, m_point, columns, first, last};
      kernels_.transform_input(from, v);
      for (std::int64_t panel = 0; panel < step.n_panels; panel += panels) {
        const std::int64_t end = std::min(step.n_panels, panel + panels);
        for (std::int64_t p = 0; p < kPoints; ++p) {
          for (std::int64_t i = panel; i < end; ++i) {
            // No prefetch: the weights are in the second-level cache, or the processor prefetches them
            // itself.
            const float* weights = step.weights.data() + (p * step.n_panels + i) * panel_size;
            kernels_.multiply({v.data + p * v_point, last - first, from.c, step.n_in, weights,
                               m.data + p * m_point + (i - panel) * width, columns, nullptr, nullptr, 0});
          }
        }
        const std::int64_t channel = panel * width, n_channels = std::min(columns, step.n_out - channel);
        kernels_.transform_output(m, tiling, epilogue, to, channel, n_channels);
      }
    });
  }

  void by_points(const Step& step, const Maps& from, const Maps& to) {
    const Tiling tiling{from.n, from.h, from.w};
    const std::int64_t width = kernels_.panel_width(), strip = kernels_.tile_rows();
    const std::int64_t m_row = step.n_panels * width, panel_size = step.n_in * width;
    const std::int64_t most = std::max<std::int64_t>(48, l2_ * 2 / 5 / (4 * from.c)) / strip * strip;
    const std::int64_t n_parts = quotient_up(tiling.size(), most);
    const std::int64_t tiles = quotient_up(tiling.size(), n_parts);
    const std::int64_t v_point = point_stride(tiles, from.c), m_point = point_stride(tiles, m_row);
    workspace_.v.reserve(kPoints * v_point);
    workspace_.m.reserve(kPoints * m_point);
    const Epilogue epilogue{step.bias.data(), step.floor, step.is_pooled};
    for (std::int64_t part = 0; part < n_parts; ++part) {
      const std::int64_t begin = part * tiles, end = std::min(tiling.size(), begin + tiles);
      share(end - begin, 1, [&](std::int64_t first, std::int64_t last, int) {
        float* v = workspace_.v.data() + first * from.c;
        kernels_.transform_input(from, {v, v_point, from.c, begin + first, begin + last});
      });
      const std::int64_t all = kPoints * step.n_panels;
      const std::int64_t slice = (end - begin) * from.c / step.n_panels;
      share(all, 1, [&](std::int64_t first, std::int64_t last, int) {
        for (std::int64_t i = first; i < last; ++i) {
          const std::int64_t p = i / step.n_panels, panel = i % step.n_panels;
          const float* weights = step.weights.data() + i * panel_size;
          const float* v = workspace_.v.data() + p * v_point;
          const float* next = v + (p + 1 < kPoints ? v_point + panel * slice : 0);
          kernels_.multiply({v, end - begin, from.c, step.n_in, weights,
                             workspace_.m.data() + p * m_point + panel * width, m_row,
                             i + 1 < all ? weights + panel_size : weights, next, slice});
        }
      });
      share(end - begin, 1, [&](std::int64_t first, std::int64_t last, int) {
        float* m = workspace_.m.data() + first * m_row;
        kernels_.transform_output({m, m_point, m_row, begin + first, begin + last}, tiling, epilogue, to, 0,
                                  step.n_out);
      });
    }
  }

  const ConvKernels& kernels_ = conv_kernels();
  Workspace& workspace_;
  ThreadTeam team_;
  std::int64_t n_threads_, l2_;
};

void ConvNet::run(const float* images, std::int64_t n, std::int64_t h, std::int64_t w, int n_threads,
                  float* out) const {
  const Maps result = shape_of_output(n, h, w);
  if (n == 0 || result.h == 0 || result.w == 0) return;
  std::unique_ptr<Workspace> workspace;
  {
    // try_to_lock, because in a process forked while another thread held the mutex it stays locked for ever.
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (lock) workspace = std::move(spare_);
  }
  if (workspace == nullptr) workspace = std::make_unique<Workspace>();
  {
    NetworkRun run(*workspace, n_threads);
    std::size_t next = 0;
    const auto room = [&](std::int64_t rows, std::int64_t columns, std::int64_t c) {
      LargeBuffer<float>& maps = workspace->maps[next++ % 2];
      maps.reserve(n * rows * columns * c);
      return Maps{maps.data(), n, rows, columns, c};
    };
    // const_cast is safe: no kernel writes to its input.
    Maps now{const_cast<float*>(images), n, h, w, n_channels_};
    for (std::size_t i = 0; i < steps_.size(); ++i) {
      const Step& step = steps_[i];
      const bool is_direct = step.kind == Step::Kind::direct;
      if (!is_direct && now.c % kLane != 0) {
        const Maps padded = room(h, w, rounded_up(now.c, kLane));
        run.copy(now.data, now.c, padded.data, padded.c, n * h * w);
        now = padded;
      }
      const std::int64_t by = step.is_pooled || step.kind == Step::Kind::pool ? 2 : 1;
      const std::int64_t c = step.kind == Step::Kind::pool ? now.c : step.n_out;
      Maps to{out, n, now.h / by, now.w / by, c};
      if (i + 1 < steps_.size() || c != n_out_) to = room(to.h, to.w, c);
      if (is_direct) {
        run.convolve_directly(step, now.data, to);
      } else if (step.kind == Step::Kind::winograd) {
        run.convolve(step, now, to);
      } else {
        run.pool(now, to);
      }
      now = to;
    }
    if (now.data != out) run.copy(now.data, now.c, out, n_out_, n * now.h * now.w);
  }
  const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
  if (lock) spare_ = std::move(workspace);
}

}  // namespace medvlad
