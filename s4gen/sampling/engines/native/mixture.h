// The arithmetic of mixtures of discretised logistics, which both forms do alike (PixelCNN++, arXiv 1701.05517,
// section 2.1; s4gen/models/mixture.py has the definition).
//
// With S the logistic function, a component gives a value between its lower edge and its upper edge the probability
// S(a) - S(b), where a and b are the upper and the lower edge in units of the component's scale. Far from the mean this
// is the difference of two nearly equal numbers, so it is computed as S(a) S(-b) share, with share = 1 - e^(b - a). The
// first and the last value have all of the tail, and no upper or lower edge: their share is 1.

#pragma once

#include <cstdint>

#include "format.h"
#include "vectors.h"

namespace {

// The vectors that are made of a pixel's components for one channel, each with a number per component. ENDS is the
// log-weight; BETWEEN is log-weight plus log-share, for all values but the first and the last. WEIGHT is exp(ENDS),
// INVERSE is 1 / scale.
enum MixturePart : int { ENDS, BETWEEN, WEIGHT, MEAN, INVERSE, SHARE };
static_assert(SHARE + 1 == MIXTURE_PARTS, "the room for a mixture");

constexpr float DEEPEST = -75.0f;      // e^-|x| is cut off here, so that its products with weights are not denormal
constexpr float FAR = 1.7587922e-25f;  // e^-57: probabilities below are made from logarithms instead
constexpr float NARROWEST = 1e-7f;     // a value is at least this wide, in units of the scale
constexpr float LOWEST_SCALE = -7.0f, HIGHEST_SCALE = 2.0f;  // logarithms

// e^-|x|.
template <class V> inline V decay(V x) { return bounded_exponential(larger(splat<V>(DEEPEST), smaller(x, -x))); }

// A component at one channel. The share of narrow values is a polynomial, because 1 - e^-x would lose its digits.
template <class V> struct Component {
  V mean, inverse, share;

  Component(const Op& pixel, V mean, V log_scale) : mean(mean), inverse(exponential(-log_scale)) {
    const V x = larger(splat<V>(NARROWEST), inverse * (2.0f / (pixel.levels - 1)));
    const V narrow =
        x * polynomial(x, -1.0f / 40320, 1.0f / 5040, -1.0f / 720, 1.0f / 120, -1.0f / 24, 1.0f / 6, -0.5f, 1.0f);
    share = x < 0.5f ? narrow : 1.0f - exponential(-x);
  }
  // An edge in units of the scale, from the mean.
  V at(V edge) const { return (edge - mean) * inverse; }
};

// log(S(above) S(-below)) for the edges of a value in units of the scale, exact at any distance from the mean.
template <class V> inline V log_sides(V below, V above) {
  return smaller(V{}, above) + smaller(V{}, -below) - logarithm((1.0f + decay(above)) * (1.0f + decay(below)));
}

// S(x) and S(-x).
template <class V> struct Sides {
  V below, above;

  explicit Sides(V x) {
    const V t = decay(x), r = 1.0f / (1.0f + t), tail = t * r;
    below = x < 0 ? tail : r;
    above = x < 0 ? r : tail;
  }
};

// log p of values that are so far from all components that the sum of probabilities has lost its digits, or is zero: a
// log-sum of exponents, in two passes. get(part, k) is a number of component k, in each lane. `ends` is positive in the
// lanes of the first and the last value.
template <class V, class Get> V far_log(int components, Get get, V lower, V upper, V ends) {
  V top = splat<V>(-3e38f), sum = {};
  auto exponent = [&](int k, V a, V b) {
    return (ends > 0 ? get(ENDS, k) : get(BETWEEN, k)) + smaller(V{}, a) + smaller(V{}, -b);
  };
  for (int pass = 0; pass < 2; ++pass)
    for (int k = 0; k < components; ++k) {
      const V mean = get(MEAN, k), inverse = get(INVERSE, k), a = (upper - mean) * inverse, b = (lower - mean) * inverse;
      if (pass == 0) top = larger(top, exponent(k, a, b));
      else sum += exponential(exponent(k, a, b) - top) / ((1.0f + decay(a)) * (1.0f + decay(b)));
    }
  return top + logarithm(sum);
}

// log p of values whose probabilities are p: from p itself where it has all its digits, else from far(), also a vector.
// `near` says that no lane is far, which saves the call.
template <class V, class Far> inline V log_probability(V p, bool near, Far far) {
  const V direct = fma(p, V{}, logarithm(larger(splat<V>(FAR), p)));  // adding p times 0 keeps NaN, and infinity, visible
  if (near) return direct;
  return p < FAR ? far() : direct;
}

// Whether a lane of x is below the limit.
template <class V> inline bool any_below(V x, float limit) {
  bool any = false;
  for (int i = 0; i < width<V>; ++i) any |= x[i] < limit;
  return any;
}

// Makes of an output x of the linear layer what the channels of the pixel need. `part` says which of the vectors it
// belongs to: log-weights (part 0, to be normalised with their log-sum), then C means, C log-scales and the couplings.
// `base` is the prediction for the channel of a mean.
template <class V> inline V prepared(uint64_t part, uint64_t channels, V x, V log_sum, V base) {
  if (part == 0) return x - log_sum;
  if (part <= channels) return x + base;
  if (part <= 2 * channels) return larger(splat<V>(LOWEST_SCALE), smaller(splat<V>(HIGHEST_SCALE), x));
  return tanh_of(x);
}

// Makes the parts of a mixture for the channel that comes next. The lanes are components in the solo form, rows in the
// batch form. kept(part) is what was `prepared`; of the earlier channels c, residual(c) is how far the value is from
// its prediction, edges(c, upper) are its edges, and between(c) is 1, or 0 for the first and the last value. The weight
// of a component is multiplied with the probability that it gave to the earlier channels (Bayes). What goes to
// put(part, value) is finished by `normalise`: here ENDS are not normalised, and BETWEEN is the log-share alone.
template <class V, class Kept, class Residual, class Edges, class Between, class Put>
inline void mix(const Op& pixel, uint64_t channel, Kept kept, Residual residual, Edges edges, Between between, Put put) {
  const uint64_t C = pixel.channels;
  V weight = kept(0);
  for (uint64_t c = 0; c <= channel; ++c) {
    V mean = kept(1 + c);
    for (uint64_t i = 0; i < c; ++i) mean = fma(kept(1 + 2 * C + c * (c - 1) / 2 + i), residual(i), mean);
    const Component<V> one(pixel, mean, kept(1 + C + c));
    if (c < channel) {
      const V sides = log_sides(one.at(edges(c, false)), one.at(edges(c, true)));
      weight += fma(between(c), logarithm(one.share), sides);
      continue;
    }
    put(MEAN, one.mean), put(INVERSE, one.inverse), put(SHARE, one.share), put(BETWEEN, logarithm(one.share));
  }
  put(ENDS, weight);
}

// Normalises the parts with the log-sum of the weights.
template <class V, class Get, class Put> inline void normalise(V log_sum, Get get, Put put) {
  const V weight = get(ENDS) - log_sum;
  put(ENDS, weight);
  // A mean that is not finite makes the weight NaN. Otherwise it would hide, as all functions of it saturate.
  put(WEIGHT, fma(get(MEAN), V{}, exponential(weight)));
  put(BETWEEN, get(BETWEEN) + weight);
}

// A draw without filters needs no probabilities: the value is the first one with more than u of the mixture below its
// upper edge, and a search by halves finds it. For u from 1/2 on the search looks at what lies above an edge instead,
// where small numbers keep their digits. Both forms ask at the same edges, so they draw the same value.
struct Target {
  float sign, sum;  // 1, and what must lie below the edge; or -1, and minus what must lie above it

  explicit Target(double u) : sign(u < 0.5 ? 1.0f : -1.0f), sum(static_cast<float>(u < 0.5 ? u : u - 1)) {}
};

// How much of the mixture lies below the edge of each lane; with the sign -1, minus how much lies above it.
template <class V, class Get> inline V beyond(int components, Get get, V edge, V sign) {
  V sum = {};
  for (int k = 0; k < components; ++k) {
    const V x = (edge - get(MEAN, k)) * get(INVERSE, k);
    sum = fma(get(WEIGHT, k), Sides<V>(x * sign).below, sum);
  }
  return sum * sign;
}

// The smallest power of W that is at least `values`: the search of the solo form divides a span by 16 in each turn.
inline uint64_t span_of(uint64_t values) {
  uint64_t span = W;
  while (span < values) span *= W;
  return span;
}

}  // namespace
