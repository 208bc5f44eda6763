// A team of threads that share the machine with others.

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

using Clock = std::chrono::steady_clock;

inline double elapsed(Clock::time_point since) { return std::chrono::duration<double>(Clock::now() - since).count(); }

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Threads wait here for something that another one brings about: awake for a while, as it mostly comes at once, then
// asleep, so that on a busy machine the one that is waited for gets the processor.
class Meeting {
 public:
  template <class Done> void wait(Done done, double awake) {
    if (comes(done)) return;
    for (const auto begin = Clock::now(); elapsed(begin) < awake;)
      if (comes(done)) return;
    std::unique_lock<std::mutex> lock(mutex_);
    sleepers_.fetch_add(1);
    while (!done()) asleep_.wait(lock);
    sleepers_.fetch_sub(1);
  }

  // To be called after what the others wait for has come about, by a store in the order that all threads agree on: so
  // either the sleeper has seen it, or it is counted here.
  void announce() {
    if (sleepers_.load() == 0) return;
    { std::lock_guard<std::mutex> lock(mutex_); }
    asleep_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable asleep_;
  std::atomic<int> sleepers_{0};

  // Whether it has come about after the time that reading a clock takes.
  template <class Done> static bool comes(Done done) {
    for (int spins = 0; spins < 32; ++spins) {
      if (done()) return true;
      relax();
    }
    return false;
  }
};

// A persistent team: run(n, job) calls job(thread) on its first n threads, the caller being thread 0.
class Team {
 public:
  explicit Team(int size) : size_(size) {
    for (int t = 1; t < size; ++t) threads_.emplace_back([this, t] { work(t); });
  }
  ~Team() {
    stop_ = true;
    begin(size_);
    for (auto& thread : threads_) thread.join();
  }
  int size() const { return size_; }

  template <class Job> void run(int n, Job&& job) {
    job_ = [](void* j, int thread) { (*static_cast<std::remove_reference_t<Job>*>(j))(thread); };
    argument_ = &job;
    active_ = n;
    busy_ = n - 1;
    if (n > 1) begin(n);
    job_(argument_, 0);
    if (n > 1) end_.wait([this] { return busy_.load() == 0; }, AWAKE);
  }

  // The threads of a run meet here.
  void barrier() {
    const int n = active_;
    if (n == 1) return;
    const uint32_t phase = phase_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == n - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1);
      inside_.announce();
    } else {
      inside_.wait([&] { return phase_.load() != phase; }, AWAKE);
    }
  }

 private:
  static constexpr double AWAKE = 20e-6, AWAKE_BETWEEN_RUNS = 200e-6;  // seconds; streaming asks for one step at a time

  const int size_;
  std::vector<std::thread> threads_;
  void (*job_)(void*, int) = nullptr;
  void* argument_ = nullptr;
  int active_ = 1;  // read by the threads of a run alone
  std::atomic<bool> stop_{false};
  alignas(64) std::atomic<uint64_t> run_{0};  // its number, and in the low bits of how many threads it is
  alignas(64) std::atomic<int> busy_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
  Meeting start_, inside_, end_;

  static constexpr uint64_t NEXT = 1 << 16;  // more than there are threads

  void begin(int n) {
    run_ = run_ / NEXT * NEXT + NEXT + n;
    start_.announce();
  }

  void work(int thread) {
    for (uint64_t seen = 0;;) {
      start_.wait([&] { return run_.load() != seen; }, AWAKE_BETWEEN_RUNS);
      seen = run_;
      if (stop_) return;
      if (thread >= static_cast<int>(seen % NEXT)) continue;
      job_(argument_, thread);
      if (busy_.fetch_sub(1) == 1) end_.announce();
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
