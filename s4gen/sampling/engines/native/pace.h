// How many threads share a step: as many as make it fastest, on a machine that may have other work as well.

#pragma once

#include <algorithm>

namespace {

// Steps are timed in bursts. Now and then a burst is run by half as many threads, or twice as many, and if that was clearly
// faster, they go on with it. Small models are fastest with one thread, and so are most where others use the processor: a
// step then waits for the last of its threads again and again.
class Pace {
 public:
  explicit Pace(int most) : most_(most), settled_(most), now_(most) {}

  int threads() const { return now_; }

  // Steps to take before the next call of `took`: few in a trial, so that it can end early.
  int steps() const { return now_ == settled_ ? 16 : 2; }

  // So many more steps of `threads()` have taken so long.
  void took(double seconds, double steps) {
    if (most_ == 1) return;
    seconds_ += seconds, steps_ += steps;
    const double each = seconds_ / steps_;
    const bool hopeless = now_ != settled_ && seconds_ > GLANCE && each > HOPELESS * usual_;
    if (seconds_ < BURST && !hopeless) return;
    seconds_ = steps_ = 0;
    if (now_ == settled_) {
      usual_ = usual_ > 0 ? usual_ + (each - usual_) / 4 : each;
      if (--left_ <= 0) now_ = other();
      return;
    }
    if (each < CLEARLY * usual_) {
      settled_ = now_, usual_ = each, between_ = 1;
    } else {
      between_ = std::min(4 * between_, MOST_BETWEEN);
    }
    left_ = between_;
    now_ = settled_;
  }

 private:
  static constexpr double BURST = 5e-3, GLANCE = 5e-4;        // seconds
  static constexpr double CLEARLY = 0.95, HOPELESS = 1.2;     // shares of the usual time
  static constexpr int MOST_BETWEEN = 64;                // bursts from one trial to the next

  int most_, settled_, now_, left_ = 1, between_ = 1;
  double usual_ = 0, seconds_ = 0, steps_ = 0;  // usual_: seconds of a step with as many threads as are settled
  bool more_ = false;

  // Fewer and more in turn, where there are both.
  int other() {
    more_ = settled_ == 1 || (settled_ < most_ && !more_);
    return more_ ? std::min(2 * settled_, most_) : settled_ / 2;
  }
};

}  // namespace
