// Threads that are started once and run several parallel loops, one after another.
//
// parallel.hpp starts threads for each loop. For many short loops that would cost as much as the loops.
// Waiting threads sleep; they do not spin.
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

class ThreadTeam {
 public:
  // The calling thread is one of the n_threads. If the system has no more threads, the team is smaller.
  explicit ThreadTeam(int n_threads) {
    threads_.reserve(static_cast<std::size_t>(n_threads - 1));
    try {
      for (int worker = 1; worker < n_threads; ++worker) {
        threads_.emplace_back([this, worker] { wait_for_work(worker); });
      }
    } catch (const std::system_error&) {
    } catch (const std::bad_alloc&) {  // leaving now would destroy running threads and end the process
    }
  }

  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  ~ThreadTeam() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      finished_ = true;
    }
    begin_.notify_all();
    for (auto& thread : threads_) thread.join();
  }

  // Call work(task, worker) once for each task in [0, n_tasks). Tasks are handed out in order. `worker` is in
  // [0, n_threads), and one worker never runs two tasks at a time. Returns when all tasks are done. The first
  // exception is thrown again here.
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
    is_open_ = false;  // a thread that has not woken up yet finds no work
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
  // for_each writes these under the mutex, while no thread works.
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
