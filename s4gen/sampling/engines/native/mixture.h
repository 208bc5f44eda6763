// The arithmetic of mixtures of discretised logistics, which both forms do alike; see mixture.py.

#pragma once

#include <cstdint>

#include "format.h"
#include "vectors.h"

namespace {

// The vectors that are made of a pixel's components for one channel, of numbers for each component: log-weights of the
// values at both ends, and of those between, which have a share of a logistic only; weights; means; 1 / scales; shares.
enum MixturePart : int { ENDS, BETWEEN, WEIGHT, MEAN, INVERSE, SHARE };
static_assert(SHARE + 1 == MIXTURE_PARTS, "the room for a mixture");

constexpr float DEEPEST = -75.0f;      // e^-|x| is no smaller, so that products with weights are no denormal numbers
constexpr float FAR = 1.7587922e-25f;  // e^-57: smaller sums of probabilities are made from logarithms
constexpr float NARROWEST = 1e-7f;     // a value is at least this wide, in units of the scale
constexpr float LOWEST_SCALE = -7.0f, HIGHEST_SCALE = 2.0f;  // logarithms

// e^-|x|.
template <class V> inline V decay(V x) { return bounded_exponential(larger(splat<V>(DEEPEST), smaller(x, -x))); }

// A component at one channel. S(a) - S(b) = S(a) S(-b) share, with S the logistic function, for edges a and b of a value.
template <class V> struct Component {
  V mean, inverse, share;

  Component(const Op& pixel, V mean, V log_scale) : mean(mean), inverse(exponential(-log_scale)) {
    const V x = larger(splat<V>(NARROWEST), inverse * (2.0f / (pixel.levels - 1)));
    const V narrow =
        x * polynomial(x, -1.0f / 40320, 1.0f / 5040, -1.0f / 720, 1.0f / 120, -1.0f / 24, 1.0f / 6, -0.5f, 1.0f);
    share = x < 0.5f ? narrow : 1.0f - exponential(-x);
  }
  V at(V edge) const { return (edge - mean) * inverse; }
};

// log(S(a) S(-b)) of the edges below and above a value, at any distance.
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

// log p of values so far from all components that the sum of their probabilities has no digits, or is zero. get(part, k)
// is a number of component k, in each lane; `ends` is positive in those lanes whose value has no other beyond it.
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

// log p of values whose probabilities are p: from p where that has all its digits, else from far(), a vector as well.
template <class V, class Far> inline V log_probability(V p, bool near, Far far) {
  const V direct = fma(p, V{}, logarithm(larger(splat<V>(FAR), p)));  // what is not a number stays none
  if (near) return direct;
  return p < FAR ? far() : direct;
}

template <class V> inline bool any_below(V x, float limit) {
  bool any = false;
  for (int i = 0; i < width<V>; ++i) any |= x[i] < limit;
  return any;
}

// What the linear layer gave for a pixel -> what the channels need: see mixture.py. `part`: which of the vectors, of the
// log-weights, whose log-sum is given, means, log-scales and couplings; `base`: of a mean's channel, the prediction.
template <class V> inline V prepared(uint64_t part, uint64_t channels, V x, V log_sum, V base) {
  if (part == 0) return x - log_sum;
  if (part <= channels) return x + base;
  if (part <= 2 * channels) return larger(splat<V>(LOWEST_SCALE), smaller(splat<V>(HIGHEST_SCALE), x));
  return tanh_of(x);
}

// Makes the parts of a mixture for the channel that comes next, of one component in each lane, or of one lane's row:
// kept(part) is what was prepared, residual(c) how far an earlier channel is from its prediction, edges(c, upper) the
// edges of its value, between(c) 1, or 0 where that is an end. put(part, value): ENDS are not normalised yet, BETWEEN is the
// logarithm of the share.
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

// The rest of it, with the log-sum of the weights.
template <class V, class Get, class Put> inline void normalise(V log_sum, Get get, Put put) {
  const V weight = get(ENDS) - log_sum;
  put(ENDS, weight);
  put(WEIGHT, fma(get(MEAN), V{}, exponential(weight)));  // an infinite mean would hide where functions saturate
  put(BETWEEN, get(BETWEEN) + weight);
}

// Without filters a draw needs no probabilities: the value is the first one below whose upper edge there is more than u
// of the mixture. Of the upper half what lies above is looked at, so that small numbers keep their digits. Both forms ask
// at the same edges, those of a search by halves.
struct Target {
  float sign, sum;  // 1 and what must lie below the edge, or -1 and what must lie above it, times the sign

  explicit Target(double u) : sign(u < 0.5 ? 1.0f : -1.0f), sum(static_cast<float>(u < 0.5 ? u : u - 1)) {}
};

// What of the mixture lies below the edge of each lane; with the sign -1, what lies above it, times the sign.
template <class V, class Get> inline V beyond(int components, Get get, V edge, V sign) {
  V sum = {};
  for (int k = 0; k < components; ++k) {
    const V x = (edge - get(MEAN, k)) * get(INVERSE, k);
    sum = fma(get(WEIGHT, k), Sides<V>(x * sign).below, sum);
  }
  return sum * sign;
}

// The first power of W that all values fit into.
inline uint64_t span_of(uint64_t values) {
  uint64_t span = W;
  while (span < values) span *= W;
  return span;
}

}  // namespace
