// A team of threads.

#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace {

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

// A persistent team: run(job) calls job(thread) on all of them, the caller being thread 0.
class Team {
 public:
  explicit Team(int size) : size_(size) {
    for (int t = 1; t < size; ++t) threads_.emplace_back([this, t] { work(t); });
  }
  ~Team() {
    stop_ = true;
    wake();
    for (auto& thread : threads_) thread.join();
  }
  int size() const { return size_; }

  template <class Job> void run(Job&& job) {
    job_ = [](void* j, int thread) { (*static_cast<std::remove_reference_t<Job>*>(j))(thread); };
    argument_ = &job;
    busy_.store(size_ - 1, std::memory_order_relaxed);
    wake();
    job_(argument_, 0);
    wait([this] { return busy_.load(std::memory_order_acquire) == 0; });
  }

  // All threads of the team meet here.
  void barrier() {
    if (size_ == 1) return;
    const uint32_t phase = phase_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1, std::memory_order_release);
    } else {
      wait([&] { return phase_.load(std::memory_order_acquire) != phase; });
    }
  }

 private:
  const int size_;
  std::vector<std::thread> threads_;
  void (*job_)(void*, int) = nullptr;
  void* argument_ = nullptr;
  std::atomic<bool> stop_{false};
  alignas(64) std::atomic<uint64_t> epoch_{0};
  alignas(64) std::atomic<int> busy_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
  std::mutex mutex_;
  std::condition_variable asleep_;

  template <class Done> static void wait(Done done) {
    for (int spins = 0; !done(); ++spins) spins < 4096 ? relax() : std::this_thread::yield();
  }

  void wake() {
    { std::lock_guard<std::mutex> lock(mutex_); epoch_.fetch_add(1, std::memory_order_release); }
    asleep_.notify_all();
  }

  void work(int thread) {
    for (uint64_t seen = 0;;) {
      // Streaming asks for one step at a time: stay awake for a while.
      const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(200);
      while (epoch_.load(std::memory_order_acquire) == seen && std::chrono::steady_clock::now() < until) relax();
      {
        std::unique_lock<std::mutex> lock(mutex_);
        asleep_.wait(lock, [&] { return epoch_.load(std::memory_order_acquire) != seen; });
      }
      seen = epoch_.load(std::memory_order_acquire);
      if (stop_) return;
      job_(argument_, thread);
      busy_.fetch_sub(1, std::memory_order_release);
    }
  }
};

struct Range {
  uint64_t begin, end;
};
Range share(uint64_t n, int thread, int threads) {
  return {n * thread / threads, n * (thread + 1) / threads};
}

}  // namespace
