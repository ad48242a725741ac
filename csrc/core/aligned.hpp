// Uninitialised memory, aligned to a cache line. It saves the zeroing of std::vector for buffers that are
// written before they are read.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

namespace medvlad {

inline constexpr std::size_t kCacheLine = 64;

template <class T>
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(std::size_t size) { reserve(size); }

  // Make room for `size` numbers. If the buffer grows, its contents are lost.
  void reserve(std::size_t size) {
    if (size <= size_) return;
    data_.reset();
    size_ = 0;
    data_.reset(static_cast<T*>(::operator new(size * sizeof(T), std::align_val_t{kCacheLine})));
    size_ = size;
  }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  std::size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(T* memory) const { ::operator delete(memory, std::align_val_t{kCacheLine}); }
  };
  std::unique_ptr<T, Free> data_;
  std::size_t size_ = 0;
};

}  // namespace medvlad
