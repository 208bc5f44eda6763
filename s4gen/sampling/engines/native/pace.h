// How many threads share a step of the solo form: as many as make it fastest, on a machine that may do other work, too.

#pragma once

#include <algorithm>

namespace {

// Steps are timed in bursts. Now and then a burst is a trial with half as many threads, or twice as many, and if that
// is clearly faster, the next bursts keep the number. Small models are fastest with one thread. So are most models
// where others use the processor, since every meeting of the threads then waits for the one that was put aside.
class Pace {
 public:
  explicit Pace(int most) : most_(most), settled_(most), now_(most) {}

  int threads() const { return now_; }

  // How many steps to take before the next call of `took`: few in a trial, so that a bad one can end early.
  int steps() const { return now_ == settled_ ? 16 : 2; }

  // Says how long the last steps, with `threads()` threads, have taken.
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
      between_ = std::min(4 * between_, MOST_BETWEEN);  // nothing gained: wait longer before the next trial
    }
    left_ = between_;
    now_ = settled_;
  }

 private:
  static constexpr double BURST = 5e-3, GLANCE = 5e-4;        // seconds: of a burst; before a trial may be given up
  static constexpr double CLEARLY = 0.95, HOPELESS = 1.2;     // of the usual time: taken over below it; given up above
  static constexpr int MOST_BETWEEN = 64;                // bursts from one trial to the next

  int most_, settled_, now_, left_ = 1, between_ = 1;
  double usual_ = 0, seconds_ = 0, steps_ = 0;  // usual_: seconds of a step with as many threads as are settled
  bool more_ = false;

  // The number to try next: fewer and more in turn, where both are possible.
  int other() {
    more_ = settled_ == 1 || (settled_ < most_ && !more_);
    return more_ ? std::min(2 * settled_, most_) : settled_ / 2;
  }
};

}  // namespace
