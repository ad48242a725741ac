// Uninitialised memory on a cache line: what is written before it is read need not be zeroed first.
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

  // Room for `size` numbers; what was in a smaller buffer is lost.
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
