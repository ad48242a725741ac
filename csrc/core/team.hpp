// Threads that share out one piece of work after another: what parallel.hpp does, for work of many short
// steps, where starting threads for each would cost as much as the step. Nobody spins.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace medvlad {

class Team {
 public:
  // The calling thread is one of them. Where there are no more threads to be had, there are fewer.
  explicit Team(int n_threads) {
    threads_.reserve(static_cast<std::size_t>(n_threads - 1));
    try {
      for (int worker = 1; worker < n_threads; ++worker) {
        threads_.emplace_back([this, worker] { wait_for_work(worker); });
      }
    } catch (const std::system_error&) {
    } catch (const std::bad_alloc&) {  // thrown on, it would end the process: threads are running
    }
  }

  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  ~Team() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      finished_ = true;
    }
    begin_.notify_all();
    for (auto& thread : threads_) thread.join();
  }

  // Calls work(task, worker) once for each task in [0, n_tasks), tasks handed out in order; worker is in
  // [0, n_threads) and never runs two tasks at a time. All is done on return, or the first exception is
  // thrown again.
  template <class Work>
  void for_each(std::int64_t n_tasks, const Work& work) {
    if (n_tasks <= 0) return;
    if (threads_.empty() || n_tasks == 1) {
      for (std::int64_t task = 0; task < n_tasks; ++task) work(task, 0);
      return;
    }
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      call_ = [](const void* of, std::int64_t task, int worker) {
        (*static_cast<const Work*>(of))(task, worker);
      };
      work_ = &work;
      n_tasks_ = n_tasks;
      next_ = 0;
      is_open_ = true;
      ++round_;
    }
    begin_.notify_all();
    take_tasks(0);
    std::unique_lock<std::mutex> lock(mutex_);
    is_open_ = false;  // who has not woken up by now need not
    end_.wait(lock, [this] { return active_ == 0; });
    if (failure_) {
      const std::exception_ptr failure = failure_;
      failure_ = nullptr;
      std::rethrow_exception(failure);
    }
  }

 private:
  void wait_for_work(int worker) {
    std::uint64_t seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      begin_.wait(lock, [&] { return finished_ || (is_open_ && round_ != seen); });
      if (finished_) return;
      seen = round_;
      ++active_;
      lock.unlock();
      take_tasks(worker);
      lock.lock();
      if (--active_ == 0) end_.notify_one();
    }
  }

  void take_tasks(int worker) {
    try {
      for (std::int64_t task = next_++; task < n_tasks_; task = next_++) call_(work_, task, worker);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
      next_ = n_tasks_;
    }
  }

  std::mutex mutex_;
  std::condition_variable begin_, end_;
  std::vector<std::thread> threads_;
  // Written by for_each under the mutex while nobody works.
  void (*call_)(const void* work, std::int64_t task, int worker) = nullptr;
  const void* work_ = nullptr;
  std::int64_t n_tasks_ = 0;
  std::atomic<std::int64_t> next_{0};
  std::uint64_t round_ = 0;
  int active_ = 0;
  bool is_open_ = false, finished_ = false;
  std::exception_ptr failure_;
};

}  // namespace medvlad
