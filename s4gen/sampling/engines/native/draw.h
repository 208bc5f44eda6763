// Filters, and the draw of one token from its logits: the same rules, in float64, as filters.py and randomness.py.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace {

// The fields of FilterSettings (config/filters.py) that are native, in their order; each is 8 bytes, its default lets all tokens pass.
struct Filters {
  double temperature = 1;
  int64_t top_k = 0;
  double top_p = 1;
  double min_p = 0;

  bool keep_all() const { return temperature == 1 && top_p >= 1 && min_p <= 0 && top_k <= 0; }
};

// One random number per row, for a step whose mixture draws a value without making logits. Where `first` is null, the
// step makes logits.
struct Uniforms {
  const double* first = nullptr;
  uint64_t stride = 0;  // from the number of one row to that of the next
};

// Draws a token for one row with the random number u from [0, 1): the first one whose cumulative probability is above
// u. Returns -1 if a logit is not finite. Two things hold before, between and behind all filters, and a new filter must
// keep them: the likeliest token is kept, so there is always one to return, and its logit is 0, so every other logit is
// at most 0. A filter that removes the likeliest token belongs before `best` is found.
class Draw {
 public:
  explicit Draw(uint64_t vocab) : logit_(vocab), mass_(vocab), order_(vocab) {}

  int64_t operator()(const float* logits, const Filters& f, double u) {
    const int64_t V = static_cast<int64_t>(logit_.size());
    int64_t best = 0;
    bool finite = true;
    for (int64_t i = 0; i < V; ++i) {
      finite &= std::isfinite(logits[i]);
      logit_[i] = logits[i];
      if (logits[i] > logits[best]) best = i;
    }
    if (!finite) return -1;
    if (f.temperature == 0) return best;
    const double top = logit_[best];
    for (double& l : logit_) l = (l - top) / f.temperature;  // at most 0, as `weigh` wants them
    if (f.top_k > 0 && f.top_k < V) keep_top_k(f.top_k);
    if (f.top_p < 1) keep_top_p(f.top_p);
    if (f.min_p > 0) {  // the likeliest token has logit 0, so a share of its probability is an absolute bound
      const double least = std::log(f.min_p);
      for (double& l : logit_) l = l < least ? REMOVED : l;
    }
    double total = 0;
    weigh();
    for (double& m : mass_) m = total += m;
    const double threshold = u * total;
    for (int64_t i = 0; i < V; ++i)
      if (mass_[i] > threshold && logit_[i] > REMOVED) return i;
    return best;  // u so close to 1 that rounding left no token above it
  }

 private:
  static constexpr double REMOVED = -std::numeric_limits<double>::infinity();
  std::vector<double> logit_, mass_;
  std::vector<int32_t> order_;

  // mass = exp(logit), relative error 1e-15; logits are at most 0. Compilers turn this loop into vectors. For a large
  // vocabulary, calling std::exp for one number after another would take as long as the model itself.
  void weigh() {
    const double magic = 6755399441055744.0;  // 1.5 2^52: adding it rounds to an integer
    for (size_t i = 0; i < mass_.size(); ++i) {
      const double x = logit_[i] < -700 ? -700 : logit_[i], shifted = x * 1.4426950408889634 + magic, k = shifted - magic;
      const double r = x - k * 0.6931471803691238 - k * 1.9082149292705877e-10;
      double p = 1.0 / 479001600;
      p = p * r + 1.0 / 39916800, p = p * r + 1.0 / 3628800, p = p * r + 1.0 / 362880, p = p * r + 1.0 / 40320;
      p = p * r + 1.0 / 5040, p = p * r + 1.0 / 720, p = p * r + 1.0 / 120, p = p * r + 1.0 / 24;
      p = p * r + 1.0 / 6, p = p * r + 0.5, p = p * r + 1.0, p = p * r + 1.0;
      uint64_t bits;
      std::memcpy(&bits, &shifted, sizeof bits);
      bits = (bits << 52) + 0x3ff0000000000000u;  // 2^k
      double scale;
      std::memcpy(&scale, &bits, sizeof scale);
      mass_[i] = logit_[i] < -700 ? 0.0 : p * scale;
    }
  }

  // The order of tokens: the more probable first, and of equal ones the lower.
  auto before() const {
    return [this](int32_t a, int32_t b) { return logit_[a] != logit_[b] ? logit_[a] > logit_[b] : a < b; };
  }

  void number() {
    for (size_t i = 0; i < order_.size(); ++i) order_[i] = static_cast<int32_t>(i);
  }

  void keep_top_k(int64_t k) {
    number();
    std::nth_element(order_.begin(), order_.begin() + (k - 1), order_.end(), before());
    for (size_t i = k; i < order_.size(); ++i) logit_[order_[i]] = REMOVED;
  }

  void keep_top_p(double p) {
    number();
    double total = 0;
    weigh();
    for (double m : mass_) total += m;
    // Sort only as far as the mass needs: most of a large vocabulary is rarely wanted.
    double mass = 0;
    size_t kept = 0, sorted = 0;
    while (kept < order_.size() && (kept == 0 || mass < p * total)) {
      if (kept == sorted) {
        sorted = std::min(order_.size(), std::max<size_t>(64, 4 * sorted));
        std::partial_sort(order_.begin() + kept, order_.begin() + sorted, order_.end(), before());
      }
      mass += mass_[order_[kept++]];
    }
    for (size_t i = kept; i < order_.size(); ++i) logit_[order_[i]] = REMOVED;
  }
};

}  // namespace
