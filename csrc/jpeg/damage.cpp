#include "jpeg/damage.hpp"

#include <algorithm>
#include <array>
#include <exception>
#include <memory>
#include <vector>

#include "jpeg/bits.hpp"
#include "jpeg/blocks.hpp"
#include "jpeg/huffman.hpp"

namespace medvlad {
namespace {

using jpeg::Bits;
using jpeg::Codes;
using jpeg::Component;
using jpeg::Damage;
using jpeg::Interval;
using jpeg::kLast;
using jpeg::Local;
using jpeg::Quanta;
using jpeg::Scan;

constexpr int kSOF0 = 0xC0, kSOF1 = 0xC1, kSOF2 = 0xC2, kDHT = 0xC4, kRST0 = 0xD0, kRST7 = 0xD7, kSOI = 0xD8,
              kEOI = 0xD9, kSOS = 0xDA, kDQT = 0xDB, kDRI = 0xDD, kTEM = 0x01;
constexpr int kMostScans = 1000;

// The file is of a kind that is not checked.
struct NotChecked : std::exception {};

void check_progress(const Scan& scan) {
  const bool is_dc = scan.first == 0;
  if (scan.last > kLast || scan.first > scan.last || (is_dc && scan.last != 0) || scan.low > 13 ||
      (!is_dc && scan.components.size() != 1)) {
    throw Damage{"it has a scan of coefficients that do not exist"};
  }
  for (Component* one : scan.components) {
    if (!is_dc && one->bits_to_come[0] < 0) throw Damage{"its scans come in a wrong order"};
    for (int k = scan.first; k <= scan.last; ++k) {
      int& bits = one->bits_to_come[static_cast<std::size_t>(k)];
      if (scan.high != std::max(bits, 0)) throw Damage{"its scans come in a wrong order"};
      bits = scan.low;
    }
  }
}

// The decoder refuses a scan without its tables. A table may be missing if the scan does not use it.
void prepare_codes(const Scan& scan) {
  for (const Component* one : scan.components) {
    const bool needs_dc = scan.first == 0 && scan.high == 0, needs_ac = scan.last > 0;
    if ((needs_dc && one->dc_codes == nullptr) || (needs_ac && one->ac_codes == nullptr)) throw NotChecked{};
    if (!scan.progressive) one->ac_codes->find_jumps();
  }
}

class File {
 public:
  File(const std::uint8_t* data, std::size_t size) : data_(data), size_(size), interval_(data, size) {}

  void check() {
    if (size_ < 4 || data_[0] != 0xFF || data_[1] != kSOI) throw NotChecked{};
    at_ = 2;
    while (true) {
      const int marker = next_marker();
      if (marker == kEOI) break;
      if (marker == kTEM || marker == kSOI) continue;
      if (marker >= kRST0 && marker <= kRST7) throw Damage{"it has a restart marker too many"};
      read_segment(marker);
    }
    check_complete();
  }

 private:
  int next_marker() {
    const bool is_stray = at_ < size_ && data_[at_] != 0xFF;
    while (at_ < size_ && data_[at_] != 0xFF) ++at_;
    while (at_ < size_ && data_[at_] == 0xFF) ++at_;
    if (at_ >= size_) return kEOI;  // a missing end alone does no harm
    const int marker = data_[at_++];
    if (is_stray || marker == 0) throw Damage{"it has bytes between its parts that belong to none of them"};
    return marker;
  }

  void read_segment(int marker) {
    if (at_ + 2 > size_) throw NotChecked{};
    const std::size_t length = word(at_);
    if (length < 2 || at_ + length > size_) throw NotChecked{};  // the decoder refuses it
    const std::size_t begin = at_ + 2, end = at_ + length;
    at_ = end;
    switch (marker) {
      case kDQT:
        read_quantisation(begin, end);
        break;
      case kDHT:
        read_codes(begin, end);
        break;
      case kDRI:
        read_restarts(begin, end);
        break;
      case kSOS:
        read_scan(begin, end);
        break;
      case kSOF0:
      case kSOF1:
      case kSOF2:
        read_frame(begin, end, marker == kSOF2);
        break;
      default:
        // Other ways of coding. 0xC8 is reserved, 0xCC belongs to arithmetic coding.
        if (marker >= 0xC0 && marker <= 0xCF) throw NotChecked{};
    }
  }

  void read_quantisation(std::size_t begin, std::size_t end) {
    while (begin < end) {
      const int kind = data_[begin] >> 4, table = data_[begin] & 15;
      const std::size_t n = kind == 0 ? 64 : 128;
      if (table > 3 || kind > 1 || begin + 1 + n > end) throw NotChecked{};
      for (std::size_t k = 0; k < 64; ++k) {
        quanta_[table].steps[k] =
            kind == 0 ? data_[begin + 1 + k] : static_cast<std::int64_t>(word(begin + 1 + 2 * k));
      }
      quanta_[table].find_largest();
      begin += 1 + n;
    }
  }

  void read_codes(std::size_t begin, std::size_t end) {
    while (begin < end) {
      if (begin + 17 > end) throw NotChecked{};
      const int kind = data_[begin] >> 4, table = data_[begin] & 15;
      std::size_t n = 0;
      for (std::size_t i = 1; i <= 16; ++i) n += data_[begin + i];
      if (kind > 1 || table > 3 || n > 256 || begin + 17 + n > end) throw NotChecked{};
      codes_[kind][table] = std::make_unique<Codes>(data_ + begin + 1, data_ + begin + 17);
      begin += 17 + n;
    }
  }

  void read_restarts(std::size_t begin, std::size_t end) {
    if (begin + 2 > end) throw NotChecked{};
    restarts_ = static_cast<std::int64_t>(word(begin));
  }

  void read_frame(std::size_t begin, std::size_t end, bool progressive) {
    if (!components_.empty() || begin + 6 > end) throw NotChecked{};
    progressive_ = progressive;
    const std::int64_t height = static_cast<std::int64_t>(word(begin + 1));
    const std::int64_t width = static_cast<std::int64_t>(word(begin + 3));
    const std::size_t n = data_[begin + 5];
    if (data_[begin] != 8 || height == 0 || width == 0 || n < 1 || n > 4 || begin + 6 + 3 * n > end) {
      throw NotChecked{};
    }
    int largest_h = 1, largest_v = 1;
    components_.resize(n);
    for (std::size_t i = 0; i < n; ++i) {
      const std::uint8_t* described = data_ + begin + 6 + 3 * i;
      Component& one = components_[i];
      one.id = described[0], one.h = described[1] >> 4, one.v = described[1] & 15, one.table = described[2];
      if (one.h < 1 || one.h > 4 || one.v < 1 || one.v > 4 || one.table > 3) throw NotChecked{};
      largest_h = std::max(largest_h, one.h), largest_v = std::max(largest_v, one.v);
    }
    const auto parts = [](std::int64_t whole, std::int64_t part) { return (whole + part - 1) / part; };
    mcu_columns_ = parts(width, 8 * largest_h), mcu_rows_ = parts(height, 8 * largest_v);
    for (Component& one : components_) {
      one.columns = parts(parts(width * one.h, largest_h), 8);
      one.rows = parts(parts(height * one.v, largest_v), 8);
      one.stride = mcu_columns_ * one.h;
      one.bits_to_come.fill(-1);
      if (progressive) one.nonzero.resize(static_cast<std::size_t>(one.stride * mcu_rows_ * one.v));
    }
  }

  void read_scan(std::size_t begin, std::size_t end) {
    const std::size_t n = begin < end ? data_[begin] : 0;
    if (components_.empty() || n < 1 || n > 4 || begin + 1 + 2 * n + 3 > end) throw NotChecked{};
    if (++n_scans_ > kMostScans) throw Damage{"it has more scans than any program writes"};
    Scan scan;
    for (std::size_t i = 0; i < n; ++i) {
      const std::uint8_t* described = data_ + begin + 1 + 2 * i;
      const auto found = std::find_if(components_.begin(), components_.end(),
                                      [&](const Component& one) { return one.id == described[0]; });
      if (found == components_.end() || (described[1] >> 4) > 3 || (described[1] & 15) > 3)
        throw NotChecked{};
      found->dc_codes = codes_[0][described[1] >> 4].get();
      found->ac_codes = codes_[1][described[1] & 15].get();
      scan.components.push_back(&*found);
    }
    if (progressive_) {
      const std::uint8_t* parameters = data_ + begin + 1 + 2 * n;
      scan.progressive = true;
      scan.first = parameters[0], scan.last = parameters[1];
      scan.high = parameters[2] >> 4, scan.low = parameters[2] & 15;
      check_progress(scan);
    }
    prepare_codes(scan);
    for (Component* one : scan.components) one->seen = one->seen || scan.first == 0;
    read_blocks(scan);
  }

  void read_blocks(Scan& scan) {
    interval_.load(at_);
    Bits bits(interval_);
    try {
      read_intervals(scan, bits);
    } catch (const Damage&) {
      if (bits.has_ended()) throw Damage{"its data ends too early"};  // what followed were no data
      throw;
    }
    at_ = interval_.end();
  }

  void read_intervals(Scan& scan, Bits& shared) {
    Local bits(shared);
    const bool interleaved = scan.components.size() > 1;
    const Component& only = *scan.components[0];
    const std::int64_t columns = interleaved ? mcu_columns_ : only.columns;
    const std::int64_t rows = interleaved ? mcu_rows_ : only.rows;
    start_interval(scan);
    std::int64_t left = restarts_ > 0 ? restarts_ : rows * columns;  // MCUs before the next restart marker
    int restart = 0;
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t column = 0; column < columns; ++column, --left) {
        if (left == 0) {
          end_interval(scan, bits);
          interval_.load(after_restart(interval_.end(), restart));
          bits.restart(interval_);
          restart = (restart + 1) & 7;
          start_interval(scan);
          left = restarts_;
        }
        if (interleaved) {
          read_mcu(scan, row, column, bits);
        } else {
          read_block(scan, *scan.components[0], quanta_, row * only.stride + column, bits);
        }
      }
    }
    end_interval(scan, bits);
  }

  void read_mcu(Scan& scan, std::int64_t row, std::int64_t column, Bits& bits) const {
    for (Component* one : scan.components) {
      for (int y = 0; y < one->v; ++y) {
        for (int x = 0; x < one->h; ++x) {
          read_block(scan, *one, quanta_, (row * one->v + y) * one->stride + column * one->h + x, bits);
        }
      }
    }
  }

  static void start_interval(Scan& scan) {
    for (Component* one : scan.components) one->dc = 0;
    scan.end_of_bands = 0;
  }

  static void end_interval(const Scan& scan, Bits& bits) {
    if (scan.end_of_bands != 0) throw Damage{"it ends more blocks than there are"};
    bits.finish();
  }

  std::size_t after_restart(std::size_t at, int number) const {
    while (at + 1 < size_ && data_[at] == 0xFF && data_[at + 1] == 0xFF) ++at;
    if (at + 1 >= size_ || data_[at] != 0xFF || data_[at + 1] != kRST0 + number) {
      throw Damage{"a restart marker is not in its place"};
    }
    return at + 2;
  }

  void check_complete() const {
    for (const Component& one : components_) {
      if (!one.seen) throw Damage{"a colour channel is missing"};
    }
  }

  std::size_t word(std::size_t at) const {
    return (static_cast<std::size_t>(data_[at]) << 8) | data_[at + 1];
  }

  const std::uint8_t* data_;
  std::size_t size_, at_ = 0;
  Interval interval_;
  bool progressive_ = false;
  int n_scans_ = 0;
  std::int64_t restarts_ = 0, mcu_columns_ = 0, mcu_rows_ = 0;
  Quanta quanta_[4];
  std::unique_ptr<Codes> codes_[2][4];  // of DC and of AC coefficients
  std::vector<Component> components_;
};

}  // namespace

std::string jpeg_damage(const std::uint8_t* data, std::size_t size) {
  try {
    File(data, size).check();
  } catch (const Damage& damage) {
    return damage.what();
  } catch (const NotChecked&) {
    return {};
  }
  return {};
}

}  // namespace medvlad
