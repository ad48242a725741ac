// A value that is made when it is first needed, by the first of several threads that asks for it.
//
// std::call_once is not used: in older versions of glibc it hangs after a function that throws.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>

namespace medvlad {

template <class T>
class Lazy {
 public:
  // `make` returns a std::unique_ptr<const T>. If it throws, the next caller tries again.
  template <class Make>
  const T& get(const Make& make) const {
    if (const T* made = made_.load(std::memory_order_acquire)) return *made;
    const std::lock_guard<std::mutex> lock(mutex_);
    if (value_ == nullptr) {
      value_ = make();
      made_.store(value_.get(), std::memory_order_release);
    }
    return *value_;
  }

 private:
  mutable std::mutex mutex_;
  mutable std::unique_ptr<const T> value_;
  mutable std::atomic<const T*> made_{nullptr};
};

}  // namespace medvlad
