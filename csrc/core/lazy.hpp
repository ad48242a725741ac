// A value that is made when it is first needed, by the first of several threads that asks for it.
#pragma once

#include <memory>
#include <mutex>

namespace medvlad {

template <class T>
class Lazy {
 public:
  // `make` returns a std::unique_ptr<const T>. If it throws, the next caller tries again.
  template <class Make>
  const T& get(const Make& make) const {
    std::call_once(once_, [&] { value_ = make(); });
    return *value_;
  }

 private:
  mutable std::once_flag once_;
  mutable std::unique_ptr<const T> value_;
};

}  // namespace medvlad
