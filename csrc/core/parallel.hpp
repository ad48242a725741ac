// A parallel loop on std::thread. There is no thread pool and no global state, so it is safe after fork.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace medvlad {

// Call work(task, worker) once for each task in [0, n_tasks). Tasks are handed out in order. `worker` is in
// [0, n_threads), and one worker never runs two tasks at a time. The first exception is thrown again here.
template <class Work>
void parallel_for(std::int64_t n_tasks, int n_threads, Work&& work) {
  const int n_workers = static_cast<int>(std::min<std::int64_t>(n_threads, n_tasks));
  if (n_workers <= 1) {
    for (std::int64_t task = 0; task < n_tasks; ++task) work(task, 0);
    return;
  }
  std::atomic<std::int64_t> next{0};
  std::exception_ptr failure;
  std::mutex failure_mutex;
  auto run = [&](int worker) {
    try {
      for (std::int64_t task = next++; task < n_tasks; task = next++) work(task, worker);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(failure_mutex);
      if (!failure) failure = std::current_exception();
      next = n_tasks;
    }
  };
  // Joins in every case: destroying a std::thread that is still joinable ends the process.
  struct Threads {
    std::vector<std::thread> all;
    ~Threads() {
      for (auto& thread : all) thread.join();
    }
  };
  {
    Threads threads;
    threads.all.reserve(static_cast<std::size_t>(n_workers - 1));
    try {
      for (int worker = 1; worker < n_workers; ++worker) threads.all.emplace_back(run, worker);
    } catch (const std::system_error&) {
      // The system has no more threads. Those that have started, and this one, do the work.
    } catch (const std::bad_alloc&) {
    }
    run(0);
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace medvlad
