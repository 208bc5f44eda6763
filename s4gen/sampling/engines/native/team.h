// A team of threads, for steps of some ten microseconds, and on a machine that does other work, too.
//
// In the solo form the threads meet after every operation, dozens of times per step, so a meeting must be short and
// threads that wait spin. But where others use the processor, spinning threads take it from the very thread that they
// wait for. So whoever waits spins for a short while only, and then sleeps.

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

// A place where threads wait for something that another one brings about: awake at first, since mostly it comes at
// once, then asleep. `wait` takes the condition and how many seconds to stay awake.
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

  // Call this after the store that makes the condition true. That store and the one that counts sleepers are
  // sequentially consistent, so all threads agree on their order: either the sleeper sees the condition, or it is
  // counted here and woken.
  void announce() {
    if (sleepers_.load() == 0) return;
    // Who has looked at the condition but does not sleep yet still holds the lock; without this it would miss the call.
    { std::lock_guard<std::mutex> lock(mutex_); }
    asleep_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable asleep_;
  std::atomic<int> sleepers_{0};

  // Whether the condition comes true within 32 looks, which take about as long as reading the clock once.
  template <class Done> static bool comes(Done done) {
    for (int spins = 0; spins < 32; ++spins) {
      if (done()) return true;
      relax();
    }
    return false;
  }
};

// Threads that stay. run(n, job) calls job(thread) on the first n of them, of which the caller is number 0, and returns
// when all are done.
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
    // A function pointer and the address of the job, whatever its type is: nothing is allocated.
    job_ = [](void* j, int thread) { (*static_cast<std::remove_reference_t<Job>*>(j))(thread); };
    argument_ = &job;
    active_ = n;
    busy_ = n - 1;
    if (n > 1) begin(n);
    job_(argument_, 0);
    if (n > 1) end_.wait([this] { return busy_.load() == 0; }, AWAKE);
  }

  // The threads of a run meet here: what each wrote before it, all can read afterwards. The last one to arrive begins a
  // new phase and so lets the others go; it sets the count back first, as they may be here again at once.
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
  // Seconds. Between runs threads stay awake longer: who streams asks for one step at a time, at short intervals.
  static constexpr double AWAKE = 20e-6, AWAKE_BETWEEN_RUNS = 200e-6;

  const int size_;
  std::vector<std::thread> threads_;
  void (*job_)(void*, int) = nullptr;
  void* argument_ = nullptr;
  int active_ = 1;  // threads of this run; only these read it, as the others may still be asleep from an earlier one
  std::atomic<bool> stop_{false};
  // Each counter has a cache line of its own, so that writing to one does not disturb who watches another.
  alignas(64) std::atomic<uint64_t> run_{0};  // the run's number times NEXT, plus how many threads it has
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

// The part [begin, end) of n things that falls to a thread.
struct Range {
  uint64_t begin, end;
};
Range share(uint64_t n, int thread, int threads) {
  return {n * thread / threads, n * (thread + 1) / threads};
}

}  // namespace
