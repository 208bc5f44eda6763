// The batch form of the operations that only models of whole pixels have, for M rows at the same position of their
// images. solo_pixels.h says what each of them does.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "mixture.h"
#include "pixels.h"
#include "plan.h"
#include "steps.h"
#include "vectors.h"

namespace {

// V is a vector of rows, and C of them make M rows.
template <int M, class V> struct PixelBatch {
  static constexpr int L = width<V>, C = M / L;

  const Plan& plan;
  const Op& pixel;
  const Spot& spot;
  float* state;  // the group's, [number][row]

  PixelBatch(const Plan& plan, const Spot& spot, float* state)
      : plan(plan), pixel(*plan.pixel), spot(spot), state(state) {}

  const float* ring(uint64_t slot) const { return state + (pixel.state + slot) * M; }

  // The value of row m in a slot of the ring.
  uint64_t value(uint64_t slot, int m) const { return value_of(pixel, ring(slot)[m]); }

  void where(const Op& op, const Input* input, float* x) const {
    const uint64_t D = padded(op.out);
    const float *row = plan.tensor(op, 0) + spot.row * D, *column = plan.tensor(op, 1) + spot.column * D;
    for (uint64_t i = 0; i < op.out; ++i) std::fill_n(x + i * M, M, row[i] + column[i]);
    for_near_values(pixel, op, spot, [&](uint64_t number, uint64_t slot) {
      for (int m = 0; m < M; ++m) {
        const float* table = plan.tensor(op, 2) + (number * pixel.levels + value(slot, m)) * D;
        for (uint64_t i = 0; i < op.out; ++i) x[i * M + m] += table[i];
      }
    });
    for (int m = 0; pixel.modes && m < M; ++m) {
      const float* table = plan.tensor(op, 3) + static_cast<uint64_t>(input[m].label) * D;
      for (uint64_t i = 0; i < op.out; ++i) x[i * M + m] += table[i];
    }
  }

  void neighbours(const Op& op, float* h) const {
    const Offset* offsets = plan.tensor<Offset>(op, 0);
    auto at = [&](Offset offset, uint64_t c, int m) {
      return amplitude(pixel, load<V>(ring(slot_of(pixel, spot, offset, c)) + m));
    };
    for (uint64_t i = 0; i < op.in; ++i) {
      const bool known = inside(pixel, spot, offsets[i]);
      for (uint64_t c = 0; c < pixel.channels; ++c, h += M)
        for (int m = 0; m < M; m += L) store(h + m, known ? at(offsets[i], c, m) : V{});
      std::fill_n(h, M, known), h += M;
    }
    for (uint64_t c = 0; op.modes && c < pixel.channels; ++c)
      for (int m = 0; m < M; m += L)
        store(state + (plan.kept() + c) * M + m,
              predicted(spot, at(LEFT, c, m), at(ABOVE, c, m), at(ABOVE_LEFT, c, m)));
  }

  void taps(const Op& op, const float* h, float* g) const {
    const uint64_t D = padded(op.in);
    const auto slots = taps_at(pixel, spot);
    for (uint64_t i = 0; i < op.in; ++i) {
      float* ring = state + (op.state + i) * M;
      for (int m = 0; m < M; m += L) {
        V sum = {};
        for (int t = 0; t < NEAREST; ++t)
          if (slots[t] >= 0) sum = fma(splat<V>(plan.tensor(op, 0)[t * D + i]), load<V>(ring + slots[t] * D * M + m), sum);
        store(ring + spot.pixel * D * M + m, load<V>(h + i * M + m));
        store(g + i * M + m, sum);
      }
    }
  }

  void components(const Op& op, const float* g) const {
    const uint64_t channels = pixel.channels, K = padded(op.modes);
    const float* base = state + op.state * M;
    float* kept = state + (op.state + padded(channels)) * M;
    alignas(64) float sum[M];
    batch_log_sum<M, V>(g, op.modes, sum);
    for (uint64_t part = 0; part < plan.parts(); ++part)
      for (uint64_t k = 0; k < op.modes; ++k)
        for (int m = 0; m < M; m += L) {
          const V x = load<V>(g + (part * op.modes + k) * M + m);
          const V prediction = part >= 1 && part <= channels ? load<V>(base + (part - 1) * M + m) : V{};
          store(kept + (part * K + k) * M + m, prepared(part, channels, x, load<V>(sum + m), prediction));
        }
  }

  // Makes the mixture for the next channel, made[part][component][row].
  void mix(const Op& op, float* made) const {
    const uint64_t K = padded(op.modes);
    const float *base = state + op.state * M, *kept = base + padded(pixel.channels) * M, *edges = plan.tensor(op, 0);
    alignas(64) float residual[MAX_CHANNELS][M], lower[MAX_CHANNELS][M], upper[MAX_CHANNELS][M], between[MAX_CHANNELS][M];
    for (uint64_t c = 0; c < spot.channel; ++c)
      for (int m = 0; m < M; ++m) {
        const uint64_t known = value(slot_of(pixel, spot, c), m);
        residual[c][m] = amplitude(pixel, float(known)) - base[c * M + m];
        lower[c][m] = edges[known], upper[c][m] = edges[known + 1];
        between[c][m] = known > 0 && known + 1 < pixel.levels;
      }
    for (uint64_t k = 0; k < op.modes; ++k)
      for (int m = 0; m < M; m += L)
        ::mix<V>(
            pixel, spot.channel, [&](uint64_t part) { return load<V>(kept + (part * K + k) * M + m); },
            [&](uint64_t c) { return load<V>(&residual[c][m]); },
            [&](uint64_t c, bool up) { return load<V>(up ? &upper[c][m] : &lower[c][m]); },
            [&](uint64_t c) { return load<V>(&between[c][m]); },
            [&](int part, V value) { store(made + (part * K + k) * M + m, value); });
    alignas(64) float sum[M];
    batch_log_sum<M, V>(made + ENDS * K * M, op.modes, sum);
    for (uint64_t k = 0; k < op.modes; ++k)
      for (int m = 0; m < M; m += L)
        normalise(
            load<V>(sum + m), [&](int part) { return load<V>(made + (part * K + k) * M + m); },
            [&](int part, V value) { store(made + (part * K + k) * M + m, value); });
  }

  void mixture(const Op& op, float* made, float* logits) const {
    const uint64_t K = padded(op.modes), values = op.out;
    const float* edges = plan.tensor(op, 0);
    mix(op, made);
    auto get = [&](int part, int k, int c) { return load<V>(made + (part * K + k) * M + c * L); };
    for (uint64_t k = 0; k < op.modes; ++k) {
      V mean[C], inverse[C], weight[C], above[C];
      for (int c = 0; c < C; ++c) {
        mean[c] = get(MEAN, k, c), inverse[c] = get(INVERSE, k, c), weight[c] = get(WEIGHT, k, c) * get(SHARE, k, c);
        above[c] = 1.0f / get(SHARE, k, c);
      }
      auto add = [&](uint64_t v, int c, V below) {
        float* at = logits + v * M + c * L;
        store(at, fma(below * weight[c], above[c], k ? load<V>(at) : V{}));
      };
      for (uint64_t v = 0; v + 1 < values; ++v)
        UNROLLED for (int c = 0; c < C; ++c) {
          const Sides<V> sides((splat<V>(edges[v + 1]) - mean[c]) * inverse[c]);
          add(v, c, sides.below);
          above[c] = sides.above;
        }
      for (int c = 0; c < C; ++c) add(values - 1, c, 1.0f / get(SHARE, k, c));
    }
    V least[C];
    for (int c = 0; c < C; ++c) least[c] = splat<V>(1.0f);
    for (uint64_t v = 0; v < values; ++v)
      for (int c = 0; c < C; ++c) least[c] = smaller(least[c], load<V>(logits + v * M + c * L));
    for (int c = 0; c < C; ++c) {
      const bool near = !any_below(least[c], FAR);
      for (uint64_t v = 0; v < values; ++v) {
        float* at = logits + v * M + c * L;
        store(at, log_probability(load<V>(at), near, [&] {
                const V ends = splat<V>(v == 0 || v + 1 == values);
                auto of = [&](int part, int k) { return get(part, k, c); };
                return far_log(op.modes, of, splat<V>(edges[v]), splat<V>(edges[v + 1]), ends);
              }));
      }
    }
  }

  // values[row] = the value drawn with u[row stride], or -1 where a mixture holds NaN; rows beyond `live` use 0.
  void drawn(const Op& op, float* made, const double* u, uint64_t stride, int live, float* values) const {
    const uint64_t K = padded(op.modes);
    const float* edges = plan.tensor(op, 0);
    mix(op, made);
    alignas(64) float sign[M], target[M], edge[M], sum[M];
    uint64_t first[M] = {};
    for (int m = 0; m < M; ++m) {
      const Target own(m < live ? u[m * stride] : 0);
      sign[m] = own.sign, target[m] = own.sum;
    }
    for (uint64_t step = span_of(op.out) / 2; step; step /= 2) {
      for (int m = 0; m < M; ++m) edge[m] = edges[std::min<uint64_t>(first[m] + step, op.out)];
      for (int m = 0; m < M; m += L) {
        auto get = [&](int part, int k) { return load<V>(made + (part * K + k) * M + m); };
        store(sum + m, beyond(op.modes, get, load<V>(edge + m), load<V>(sign + m)));
      }
      for (int m = 0; m < M; ++m) first[m] += sum[m] > target[m] ? 0 : step;
    }
    for (int m = 0; m < M; ++m) values[m] = sum[m] == sum[m] ? std::min<uint64_t>(first[m], op.out - 1) : -1;
  }

  void channel(const Op& op, float* h, float* g) const {
    const uint64_t D = padded(op.in), n = uint64_t(op.in) * M;
    float* kept = state + op.state * M;
    if (spot.begins) std::copy_n(h, n, kept);
    std::copy_n(kept, n, h);
    if (op.modes) {
      const float* table = plan.tensor(op, 0) + spot.channel * D;
      for (uint64_t i = 0; i < op.in; ++i)
        for (int m = 0; m < M; ++m) h[i * M + m] += table[i];
      for (uint64_t c = 0; c < spot.channel; ++c)
        for (int m = 0; m < M; ++m) {
          const float* known = plan.tensor(op, 1) + (c * pixel.levels + value(slot_of(pixel, spot, c), m)) * D;
          for (uint64_t i = 0; i < op.in; ++i) h[i * M + m] += known[i];
        }
    }
    std::copy_n(h, n, g);
  }
};

}  // namespace
