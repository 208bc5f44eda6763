// The solo form of the operations that only models of whole pixels have. Each function works on one row.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "mixture.h"
#include "pixels.h"
#include "plan.h"
#include "steps.h"
#include "team.h"
#include "vectors.h"

namespace {

// x = the sum of table rows: for row and column, the nearest pixels' values, and the label.
void solo_where(const Plan& plan, const Op& op, const Spot& spot, int64_t label, const float* state, float* x,
                Range blocks) {
  const uint64_t D = padded(op.out);
  const Op& pixel = *plan.pixel;
  const float* tables[3 + NEAREST * MAX_CHANNELS] = {plan.tensor(op, 0) + spot.row * D, plan.tensor(op, 1) + spot.column * D};
  int n = 2;
  for_near_values(pixel, op, spot, [&](uint64_t table, uint64_t slot) {
    tables[n++] = plan.tensor(op, 2) + (table * pixel.levels + value_of(pixel, state[pixel.state + slot])) * D;
  });
  if (pixel.modes) tables[n++] = plan.tensor(op, 3) + static_cast<uint64_t>(label) * D;
  for (uint64_t i = blocks.begin * W; i < blocks.end * W; i += LANES) {
    Full sum = load<Full>(tables[0] + i);
    for (int t = 1; t < n; ++t) sum += load<Full>(tables[t] + i);
    store(x + i, sum);
  }
}

// h = the pixels around, each with a 1, or zeros outside of the image. Each thread fills its own h; the one with
// `predicts` writes the prediction to the state as well.
void solo_neighbours(const Plan& plan, const Op& op, const Spot& spot, float* state, float* h, bool predicts) {
  const Op& pixel = *plan.pixel;
  const float* ring = state + pixel.state;
  const Offset* offsets = plan.tensor<Offset>(op, 0);
  auto at = [&](Offset offset, uint64_t c) { return amplitude(pixel, ring[slot_of(pixel, spot, offset, c)]); };
  for (uint64_t i = 0; i < op.in; ++i) {
    const bool known = inside(pixel, spot, offsets[i]);
    for (uint64_t c = 0; c < pixel.channels; ++c) *h++ = known ? at(offsets[i], c) : 0.0f;
    *h++ = known;
  }
  for (uint64_t c = 0; predicts && c < pixel.channels; ++c)
    state[plan.kept() + c] = predicted(spot, at(LEFT, c), at(ABOVE, c), at(ABOVE_LEFT, c));
}

// g = the taps on the features around; h takes its place in the ring.
void solo_taps(const Plan& plan, const Op& op, const Spot& spot, const float* h, float* g, float* state, Range blocks) {
  const uint64_t D = padded(op.in);
  const auto slots = taps_at(*plan.pixel, spot);
  for (uint64_t i = blocks.begin * W; i < blocks.end * W; i += LANES) {
    float* ring = state + op.state + i;
    Full sum = {};
    for (int t = 0; t < NEAREST; ++t)
      if (slots[t] >= 0) sum = fma(load<Full>(plan.tensor(op, 0) + t * D + i), load<Full>(ring + slots[t] * D), sum);
    store(ring + spot.pixel * D, load<Full>(h + i));
    store(g + i, sum);
  }
}

// Prepares what the linear layer left in g for the channels of the pixel, and keeps it.
void solo_components(const Plan& plan, const Op& op, const float* g, float* state) {
  const uint64_t C = plan.pixel->channels, K = padded(op.modes);
  const float* base = state + op.state;
  float* kept = state + op.state + padded(C);
  const Full sum = splat<Full>(log_sum(g, op.modes));
  for (uint64_t part = 0; part < plan.parts(); ++part) {
    const Full prediction = splat<Full>(part >= 1 && part <= C ? base[part - 1] : 0.0f);
    for (uint64_t k = 0; k < K; k += LANES)
      store(kept + part * K + k, prepared(part, C, load_anywhere<Full>(g + part * op.modes + k), sum, prediction));
  }
}

// Makes the mixture for the next channel, made[part][component].
void solo_mix(const Plan& plan, const Op& op, const Spot& spot, const float* state, float* made) {
  const Op& pixel = *plan.pixel;
  const uint64_t K = padded(op.modes);
  const float *base = state + op.state, *kept = base + padded(pixel.channels), *edges = plan.tensor(op, 0);
  uint64_t known[MAX_CHANNELS] = {};
  float residual[MAX_CHANNELS] = {};
  for (uint64_t c = 0; c < spot.channel; ++c) {
    known[c] = value_of(pixel, state[pixel.state + slot_of(pixel, spot, c)]);
    residual[c] = amplitude(pixel, float(known[c])) - base[c];
  }
  for (uint64_t k = 0; k < K; k += LANES)
    mix<Full>(
        pixel, spot.channel, [&](uint64_t part) { return load<Full>(kept + part * K + k); },
        [&](uint64_t c) { return splat<Full>(residual[c]); },
        [&](uint64_t c, bool upper) { return splat<Full>(edges[known[c] + upper]); },
        [&](uint64_t c) { return splat<Full>(known[c] > 0 && known[c] + 1 < pixel.levels); },
        [&](int part, Full value) { store(made + part * K + k, value); });
  const Full sum = splat<Full>(log_sum(made + ENDS * K, op.modes));
  for (uint64_t k = 0; k < K; k += LANES)
    normalise(
        sum, [&](int part) { return load<Full>(made + part * K + k); },
        [&](int part, Full value) { store(made + part * K + k, value); });
}

// Returns the value drawn with u, or -1 if the mixture holds NaN. A vector looks at 16 edges of a span at once, of
// which the search by halves then needs four: with these it has found one of 16 parts, the span of the next turn.
float solo_drawn(const Plan& plan, const Op& op, const Spot& spot, const float* state, float* made, double u) {
  const uint64_t K = padded(op.modes);
  const float* edges = plan.tensor(op, 0);
  solo_mix(plan, op, spot, state, made);
  auto get = [&](int part, int k) { return splat<Full>(made[part * K + k]); };
  const Target target(u);
  uint64_t first = 0;
  for (uint64_t step = span_of(op.out) / W; step; step /= W) {
    alignas(64) float edge[W], sum[W];
    for (uint64_t i = 0; i < W; ++i) edge[i] = edges[std::min<uint64_t>(first + (i + 1) * step, op.out)];
    for (int p = 0; p < W; p += LANES)
      store(sum + p, beyond(op.modes, get, load<Full>(edge + p), splat<Full>(target.sign)));
    if (sum[0] != sum[0]) return -1;
    int part = 0;
    for (int half = W / 2; half; half /= 2)
      if (!(sum[part + half - 1] > target.sum)) part += half;
    first += part * step;
  }
  return std::min<uint64_t>(first, op.out - 1);
}

// Log-probabilities of the values of `blocks`. In `scratch` stand the mixture, which each thread makes for itself, then
// S(x) and S(-x) at the edges: one edge is the upper one of a value and the lower one of the next.
void solo_mixture(const Plan& plan, const Op& op, const Spot& spot, const float* state, float* scratch, float* logits,
                  Range blocks) {
  const uint64_t K = padded(op.modes), V = op.out, begin = blocks.begin * W, end = blocks.end * W;
  if (begin == end) return;
  const float* edges = plan.tensor(op, 0);
  float *made = scratch, *below = made + MIXTURE_PARTS * K, *above = below + padded(V) + 2 * W;
  solo_mix(plan, op, spot, state, made);
  for (uint64_t k = 0; k < op.modes; ++k) {
    const Full mean = splat<Full>(made[MEAN * K + k]), inverse = splat<Full>(made[INVERSE * K + k]);
    const Full weight = splat<Full>(made[WEIGHT * K + k] * made[SHARE * K + k]);
    for (uint64_t v = begin; v < (end < V ? end + LANES : end); v += LANES) {  // up to the first edge of the next block
      const Sides<Full> sides((load<Full>(edges + v) - mean) * inverse);
      store(below + v, sides.below);
      store(above + v, sides.above);
    }
    // The first and the last value have all of the tail: here the share is divided out of their product again.
    if (begin == 0) above[0] = 1.0f / made[SHARE * K + k];
    if (end >= V) below[V] = 1.0f / made[SHARE * K + k];
    for (uint64_t v = begin; v < end; v += LANES) {
      const Full sum = k ? load<Full>(logits + v) : Full{};
      store(logits + v, fma(load_anywhere<Full>(below + v + 1) * weight, load<Full>(above + v), sum));
    }
  }
  for (uint64_t v = V; v < end; ++v) logits[v] = 1;  // beyond the values: a probability that is not far
  Full least = splat<Full>(1.0f);
  for (uint64_t v = begin; v < end; v += LANES) least = smaller(least, load<Full>(logits + v));
  const bool near = !any_below(least, FAR);
  for (uint64_t v = begin; v < end; v += LANES)
    store(logits + v, log_probability(load<Full>(logits + v), near, [&] {
            Full ends = {};
            for (int i = 0; i < LANES; ++i) ends[i] = v + i == 0 || v + i + 1 == V;
            auto get = [&](int part, int k) { return splat<Full>(made[part * K + k]); };
            return far_log(op.modes, get, load<Full>(edges + v), load_anywhere<Full>(edges + v + 1), ends);
          }));
}

// h = g = what is kept of h, plus table rows for the channel and the values of the channels before. Fills all of h,
// which is this thread's own, but only `blocks` of g and of what is kept.
void solo_channel(const Plan& plan, const Op& op, const Spot& spot, float* state, float* h, float* g, Range blocks) {
  const Op& pixel = *plan.pixel;
  const uint64_t D = padded(op.in);
  float* kept = state + op.state;
  const float* tables[1 + MAX_CHANNELS] = {plan.tensor(op, 0) + spot.channel * D};
  int n = op.modes != 0;
  for (uint64_t c = 0; op.modes && c < spot.channel; ++c) {
    const float token = state[pixel.state + slot_of(pixel, spot, c)];
    tables[n++] = plan.tensor(op, 1) + (c * pixel.levels + value_of(pixel, token)) * D;
  }
  for (uint64_t i = 0; i < D; i += LANES) {
    const bool mine = i / W >= blocks.begin && i / W < blocks.end;
    Full sum = spot.begins ? load<Full>(h + i) : load<Full>(kept + i);
    if (mine && spot.begins) store(kept + i, sum);
    for (int t = 0; t < n; ++t) sum += load<Full>(tables[t] + i);
    store(h + i, sum);
    if (mine) store(g + i, sum);
  }
}

}  // namespace
