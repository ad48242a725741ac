// Uninitialised memory of many megabytes, in large pages if the operating system provides them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace medvlad {

template <class T>
class LargeBuffer {
 public:
  // Make room for `size` numbers. If the buffer grows, its contents are lost.
  void reserve(std::int64_t size) {
    if (size <= size_) return;
    data_.reset();
    size_ = 0;
    const std::size_t bytes = (static_cast<std::size_t>(size) * sizeof(T) + kPage - 1) / kPage * kPage;
    data_.reset(static_cast<T*>(::operator new(bytes, std::align_val_t{kPage})));
#if defined(__linux__)
    // A request only. If the system refuses it, the program is slower but still right.
    if (bytes >= kLargePage) madvise(data_.get(), bytes, MADV_HUGEPAGE);
#endif
    size_ = size;
  }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }

 private:
  static constexpr std::size_t kPage = 4096, kLargePage = std::size_t{2} << 20;
  struct Free {
    void operator()(T* memory) const { ::operator delete(memory, std::align_val_t{kPage}); }
  };
  std::unique_ptr<T, Free> data_;
  std::int64_t size_ = 0;
};

}  // namespace medvlad
