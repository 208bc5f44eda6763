// The batch form: groups of M rows, and vectors run over the rows.
//
// Buffers are [feature][row] ("batch innermost"), and so is the state of a group: [number][row]. A weight is one number
// for all rows and is copied into all lanes. So nothing is ever moved between lanes, and odd widths need no special
// care. Each thread has groups of its own and never waits for another. The M rows stand at the same position of every
// window and image (Plan::together), so the first row's position decides which operations are due.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "batch_pixels.h"
#include "draw.h"
#include "plan.h"
#include "steps.h"
#include "vectors.h"

namespace {

template <int M> struct Batch {
  static constexpr int L = std::min(M, LANES), C = M / L;  // rows in a vector, and vectors that make M rows
  using V = typename VectorOf<L>::type;
  // A product makes the sums of TILE outputs for MANY vectors of rows at once: as many as the registers hold.
  static constexpr int MANY = std::min(C, LANES < 8 && REGISTERS == 32 ? 4 : 2);
  static constexpr int TILE = std::min(W, SUMS / MANY);
  // A recurrence takes FEW vectors of rows at once.
  static constexpr int FEW = REGISTERS == 32 ? std::min(C, 2) : 1;

  // [feature][row]; `out` holds the sums of a linear layer. panel: a block of narrow weights as float32, [input][16].
  float *x, *h, *g, *logits, *out, *panel;

  float* at(const Op& op, uint32_t position, float* state) const {
    return position == X ? x : position == H ? h : position == G ? g : position == LOGITS ? logits : state + op.state * M;
  }

  static void embed(const Plan& plan, const Op& op, float* x, const Input* input) {
    for (int m = 0; m < M; ++m) {
      const Sources from = sources(plan, op, input[m]);
      for (uint64_t i = 0; i < op.out; ++i) x[i * M + m] = from.value[i];
      for (const float* more : {from.position, from.label})
        for (uint64_t i = 0; more && i < op.out; ++i) x[i * M + m] += more[i];
    }
  }

  // Layer norm. Sums are made in 16 parts, feature i in part i % W, as the solo form's vectors make them.
  static void norm(const Plan& plan, const Op& op, const float* x, float* h) {
    const float *gamma = plan.tensor(op, 0), *beta = plan.tensor(op, 1);
    const float shift = op.modes ? *plan.tensor(op, 2) : 0.0f;
    alignas(64) float part[W][M] = {}, mean[M], scale[M];
    auto fold = [&](float* to) {  // the sum of the parts into to[row]; the parts are zero again afterwards
      for (int half = W / 2; half; half /= 2)
        for (int i = 0; i < half; ++i)
          for (int m = 0; m < M; ++m) part[i][m] += part[i + half][m];
      std::memcpy(to, part[0], sizeof part[0]);
      std::memset(part, 0, sizeof part);
    };
    for (uint64_t i = 0; i < op.in; ++i)
      for (int m = 0; m < M; m += L) store(&part[i % W][m], load<V>(&part[i % W][m]) + load<V>(x + i * M + m));
    fold(mean);
    for (int m = 0; m < M; ++m) mean[m] /= op.in;
    for (uint64_t i = 0; i < op.in; ++i)
      for (int m = 0; m < M; m += L) {
        const V d = load<V>(x + i * M + m) - load<V>(mean + m);
        store(&part[i % W][m], fma(d, d, load<V>(&part[i % W][m])));
      }
    fold(scale);
    for (int m = 0; m < M; ++m) scale[m] = 1.0f / std::sqrt(scale[m] / op.in + op.eps);
    for (uint64_t i = 0; i < op.in; ++i)
      for (int m = 0; m < M; m += L) {
        const V d = ((load<V>(x + i * M + m) - load<V>(mean + m)) + splat<V>(shift)) * load<V>(scale + m);
        store(h + i * M + m, fma(d, splat<V>(gamma[i]), splat<V>(beta[i])));
      }
  }

  static void shift(const Plan& plan, const Op& op, float* g, float* state) {
    const uint64_t D = padded(op.in);
    for (uint64_t i = 0; i < op.in; ++i) {
      const float* taps = plan.tensor(op, 0) + i;
      auto tap = [&](int n) __attribute__((always_inline)) { return splat<V>(taps[n * D]); };
      float *kept = state + (op.state + i) * M, *k = g + (D + i) * M, *v = g + (2 * D + i) * M;
      for (int m = 0; m < M; m += L)
        store(v + m, shifted<V>(op.period, tap, kept + m, D * M, load<V>(k + m)) * load<V>(v + m));
    }
  }

  // One step of all heads. `lane` is the state to use, [head][mode][re, im][row]: a layer along columns has one for
  // each column.
  template <int RANK> void ssm(const Plan& plan, const Op& op, float* state, float* lane) const {
    const float* u = at(op, op.src, state) + (reads_qkv(op) ? 2 * padded(op.in) * M : 0);  // behind q and k
    const int modes = op.modes, rank = RANK < 0 ? static_cast<int>(op.rank) : RANK;
    for (uint64_t head = 0; head < op.in; ++head) {
      const float* c = plan.tensor(op, 0) + head / W * modes * 6 * W + head % W;
      const float* l = rank ? plan.tensor(op, 2) + head / W * modes * rank * 4 * W + head % W : nullptr;
      auto get = [&](int n, int i) __attribute__((always_inline)) { return splat<V>(c[(n * 6 + i) * W]); };
      auto low = [&](int r, int n, int i) __attribute__((always_inline)) {
        return splat<V>(l[((n * rank + r) * 4 + i) * W]);
      };
      const V skip = splat<V>(plan.tensor(op, 1)[head]);
      for (int m = 0; m < M; m += FEW * L) {
        const uint64_t at = head * M + m;
        V y[FEW];
        UNROLLED for (int c = 0; c < FEW; ++c) y[c] = load<V>(u + at + c * L);
        ssm_step<V, FEW>(modes, rank, get, low, lane + head * modes * 2 * M + m, M, y, skip, uint64_t(modes) * 2 * M);
        UNROLLED for (int c = 0; c < FEW; ++c) store(g + at + c * L, of_ssm(op, y[c], load<V>(g + at + c * L)));
      }
    }
  }

  // Sums of 16 outputs over K inputs, from weights w[K][16] whose inputs are `stride` floats apart. The `first` part of
  // the inputs writes to[16][M], later parts add to it. Meanwhile the next block of weights, at `next` and
  // `next_stride` words per input, comes into the cache: a share of it in each pass, not all of it at once.
  static void sums(const float* w, uint64_t stride, uint64_t K, const float* x, float* to, bool first,
                   const uint32_t* next, uint64_t next_stride) {
    constexpr int PASSES = W / TILE * (C / MANY);
    int pass = 0;
    for (int o = 0; o < W; o += TILE)
      for (int m = 0; m < M; m += MANY * L, ++pass) {
        V acc[TILE][MANY];
        UNROLLED for (int i = 0; i < TILE; ++i)
          UNROLLED for (int c = 0; c < MANY; ++c) acc[i][c] = first ? V{} : load<V>(to + (o + i) * M + m + c * L);
        for (uint64_t k = 0; k < K; ++k) {
          if (k % PASSES == 0) __builtin_prefetch(next + (pass * K + k) / PASSES * next_stride);
          V row[MANY];
          UNROLLED for (int c = 0; c < MANY; ++c) row[c] = load<V>(x + k * M + m + c * L);
          UNROLLED for (int i = 0; i < TILE; ++i) {
            const V weight = splat<V>(w[k * stride + o + i]);
            UNROLLED for (int c = 0; c < MANY; ++c) acc[i][c] = fma(weight, row[c], acc[i][c]);
          }
        }
        UNROLLED for (int i = 0; i < TILE; ++i)
          UNROLLED for (int c = 0; c < MANY; ++c) store(to + (o + i) * M + m + c * L, acc[i][c]);
      }
  }

  // Writes the weights of 16 outputs for K inputs to the panel as float32, once for all rows. PER need not divide K:
  // the weights that fill the last word are zeros.
  template <int PER> void widen(Weights w, uint64_t K) const {
    for (uint64_t k = 0; k < K; k += PER)
      UNROLLED for (int j = 0; j < PER; ++j)
        for (int p = 0; p < W; p += LANES)
          store(panel + (k + j) * W + p, weight_of<Full, PER>(w.at + k / PER * w.stride + p, j));
  }

  // A linear layer. A block of weights, DEPTH inputs for 16 outputs, is used for all rows while it is in the nearest
  // cache; the sums of all outputs wait in `out` for the next DEPTH inputs.
  template <int PER> void linear(const Plan& plan, const Op& op, float* state) const {
    const uint64_t K = op.in, blocks = padded(op.out) / W;
    const float *bias = plan.tensor(op, 1), *scale = op.weights == INT8 ? plan.tensor(op, 2) : nullptr;
    const float* from = at(op, op.src, state);
    float* y = at(op, op.dst, state) + uint64_t(op.offset) * M;
    for (uint64_t k = 0; k < K; k += DEPTH)
      for (uint64_t b = 0; b < blocks; ++b) {
        const uint64_t n = std::min(DEPTH, K - k);
        const Weights w = weights_at(plan, op, k, b);
        if (PER > 1) widen<PER>(w, n);
        const float* floats = PER > 1 ? panel : reinterpret_cast<const float*>(w.at);
        const bool more = b + 1 < blocks || k + DEPTH < op.in;
        const Weights next = !more ? w : b + 1 < blocks ? weights_at(plan, op, k, b + 1) : weights_at(plan, op, k + DEPTH, 0);
        sums(floats, PER > 1 ? W : w.stride, n, from + k * M, out + b * W * M, k == 0, next.at, next.stride / PER);
      }
    for (uint64_t b = 0; b < blocks; ++b) {
      for (int o = 0; o < W; ++o)
        for (int m = 0; m < M; m += L) {
          V v = load<V>(out + (b * W + o) * M + m);
          if (scale) v *= splat<V>(scale[b * W + o]);
          v += splat<V>(bias[b * W + o]);
          float* to = y + ((op.epilogue == GLU_ADD ? b / 2 : b) * W + o) * M + m;
          if (op.epilogue == STORE) store(to, v);
          else if (op.epilogue == GELU) store(to, gelu(v));
          else if (op.epilogue == ADD) store(to, load<V>(to) + v);
          else if (op.epilogue == ADD_GELU) store(to, load<V>(to) + gelu(v));
          else if (b % 2 == 0) store(out + (b * W + o) * M + m, v);  // values wait for their gates, the next block
          else store(to, fma(load<V>(out + ((b - 1) * W + o) * M + m), sigmoid(v), load<V>(to)));
        }
    }
  }

  static void samples(const Plan& plan, const Op& op, float* state, const Input* input, float* h) {
    for (int m = 0; m < M; ++m) {
      float* ring = state + op.state * M + m;
      const uint64_t slot = last_samples(
          plan, op, input[m], [&](uint64_t at) { return ring[at * M]; }, [&](uint64_t i, float x) { h[i * M + m] = x; });
      ring[slot * M] = input[m].token;
    }
  }

  // An adaptive softmax: logits of the parts become log-probabilities of the tokens, in place (see solo_clusters).
  static void clusters(const Plan& plan, const Op& op, float* logits) {
    const Part* parts = plan.tensor<Part>(op, 0);
    uint64_t end = parts[0].count - op.modes;
    alignas(64) float head[M], tail[M], cluster[MAX_CLUSTERS][M];
    batch_log_sum<M, V>(logits, parts[0].count, head);
    std::copy_n(logits + end * M, op.modes * M, cluster[0]);
    for (uint64_t i = 0; i < end; ++i)
      for (int m = 0; m < M; ++m) logits[i * M + m] -= head[m];
    for (uint32_t c = 1; c <= op.modes; ++c) {
      const float* from = logits + parts[c].at * M;
      batch_log_sum<M, V>(from, parts[c].count, tail);
      for (int m = 0; m < M; ++m) tail[m] = (cluster[c - 1][m] - head[m]) - tail[m];
      for (uint64_t i = 0; i < parts[c].count; ++i)
        for (int m = 0; m < M; ++m) logits[(end + i) * M + m] = from[i * M + m] + tail[m];
      end += parts[c].count;
    }
  }

  void ssm(const Plan& plan, const Op& op, float* state, const Spot& spot) const {
    float* lane = state + op.state * M;
    if (op.axis != RASTER) lane += lane_at(op, spot) * M;
    if (begins_anew(op, spot)) std::fill_n(lane, 2 * op.modes * padded(op.in) * M, 0.0f);
    if (op.rank == 0) ssm<0>(plan, op, state, lane);
    else if (op.rank == 1) ssm<1>(plan, op, state, lane);
    else ssm<-1>(plan, op, state, lane);
  }

  // One operation of those that only models of whole pixels have.
  void of_pixels(const Plan& plan, const Op& op, float* state, const Spot& spot, const Input* input, Uniforms u,
                 int live) const {
    const PixelBatch<M, V> pixels(plan, spot, state);
    if (op.kind == WHERE) pixels.where(op, input, x);
    else if (op.kind == NEIGHBOURS) pixels.neighbours(op, h);
    else if (op.kind == TAPS) pixels.taps(op, h, g);
    else if (op.kind == COMPONENTS) pixels.components(op, g);
    else if (op.kind == CHANNEL) pixels.channel(op, h, g);
    else if (u.first) pixels.drawn(op, out, u.first, u.stride, live, logits);
    else pixels.mixture(op, out, logits);
  }

  // One step of the group: the walk through the operations. With `u`, a mixture draws for the first `live` rows, and
  // its tokens stand in the place of the first logits; the rows beyond only fill the vectors.
  void step(const Plan& plan, float* state, const Input* input, Uniforms u, int live) const {
    const Spot spot = plan.pixel ? spot_of(*plan.pixel, input[0]) : Spot{};
    for (size_t i = 0; i < plan.ops.size(); ++i) {
      const Op& op = plan.ops[i];
      if (op.kind == EMBED) embed(plan, op, x, input);
      else if (op.kind == NORM) norm(plan, op, x, op.dst == X ? x : h);
      else if (op.kind == SSM) ssm(plan, op, state, spot);
      else if (op.kind == SHIFT) shift(plan, op, g, state);
      else if (op.kind == CLUSTERS) clusters(plan, op, logits);
      else if (op.kind == SAMPLES) samples(plan, op, state, input, h);
      else if (op.kind == PIXEL) {
        for (int m = 0; m < M; ++m) state[(op.state + spot.token) * M + m] = input[m].token;
        if (!spot.begins) i = op.up - 1;  // go on with the head
      } else if (op.kind > PIXEL) {
        of_pixels(plan, op, state, spot, input, u, live);
      } else if (op.kind >= DOWN) {
        const uint64_t phase = op.kind == DOWN ? phase_of(op, input[0].position) : 0;
        cross(op, phase, x, state + op.state * M, padded(op.in) * M, 0, uint64_t(op.in) * M);
        if (op.kind == DOWN && phase + 1 < op.period) i = op.up - 1;  // the window is not full: go on with UP
      } else if (op.weights == FP32) linear<1>(plan, op, state);
      else if (op.weights == BF16) linear<2>(plan, op, state);
      else linear<4>(plan, op, state);
    }
  }
};

}  // namespace
