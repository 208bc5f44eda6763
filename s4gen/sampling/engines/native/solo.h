// The solo form: 1, 2 or 4 rows at a time, vectors run over features, and a team of threads shares every operation.
//
// Buffers are [row][width], so features are contiguous; the state of a recurrence is [heads / 16][mode][re, im][16]. Of
// most operations each thread takes a range of blocks of 16 features, does them for all rows, and meets the others
// (`team.barrier()`). Reading the weights is what takes the time, so a weight in a register is used for all rows before
// the next one is loaded.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "draw.h"
#include "plan.h"
#include "solo_pixels.h"
#include "steps.h"
#include "team.h"
#include "vectors.h"

namespace {

constexpr int SOLO = 4;  // rows at a time, at most: their sums have to fit into the registers

struct SoloBuffers {  // [row][width]
  float *x, *h, *g, *logits, *out;  // h and out (the sums of a linear layer) are each thread's own, the others shared
  uint64_t wide;
  float* state[SOLO];  // where the state of each row begins
  float* at(uint32_t position, int row) const {
    return (position == X ? x : position == H ? h : position == G ? g : logits) + row * wide;
  }
  float* at(const Op& op, uint32_t position, int row) const { return position < WINDOW ? at(position, row) : state[row] + op.state; }
};

// Folds n numbers x into 16 partial sums by sum = of(x, sum), then these into one. The numbers that fill no whole block
// go in one by one, since what stands behind them in the buffer is not zero.
template <class Of> inline float summed(const float* from, uint64_t n, Of of) {
  Full sum[FULLS] = {};
  const uint64_t full = n / W * W;
  for (uint64_t i = 0; i < full; i += W)
    UNROLLED for (int p = 0; p < FULLS; ++p) sum[p] = of(load<Full>(from + i + p * LANES), sum[p]);
  alignas(64) float partial[W];
  std::memcpy(partial, sum, sizeof partial);
  for (uint64_t i = full; i < n; ++i) partial[i - full] = of(splat<Full>(from[i]), splat<Full>(partial[i - full]))[0];
  std::memcpy(sum, partial, sizeof partial);
  return folded(sum);
}

void solo_norm(const Plan& plan, const Op& op, const float* x, float* h) {
  const float *gamma = plan.tensor(op, 0), *beta = plan.tensor(op, 1);
  const float mean = summed(x, op.in, [](Full v, Full sum) { return sum + v; }) / op.in;
  const float square = summed(x, op.in, [&](Full v, Full sum) { return fma(v - mean, v - mean, sum); });
  const float scale = 1.0f / std::sqrt(square / op.in + op.eps), shift = op.modes ? *plan.tensor(op, 2) : 0.0f;
  for (uint64_t i = 0; i < padded(op.in); i += LANES)
    store(h + i, fma(((load<Full>(x + i) - mean) + shift) * scale, load<Full>(gamma + i), load<Full>(beta + i)));
}

// v *= the convolution of k, for g = q, k, v; the keys that are kept lie [tap][head].
void solo_shift(const Plan& plan, const Op& op, float* g, float* state, Range blocks) {
  const uint64_t D = padded(op.in);
  for (uint64_t i = blocks.begin * W; i < blocks.end * W; i += LANES) {
    const float* taps = plan.tensor(op, 0) + i;
    auto tap = [&](int n) __attribute__((always_inline)) { return load<Full>(taps + n * D); };
    float* v = g + 2 * D + i;
    store(v, shifted<Full>(op.period, tap, state + op.state + i, D, load<Full>(g + D + i)) * load<Full>(v));
  }
}

// One step of the recurrences of the heads in `blocks`, from u into g.
void solo_ssm(const Plan& plan, const Op& op, const float* u, float* g, float* lane, Range blocks) {
  const int modes = op.modes, rank = op.rank;
  const uint64_t ahead = uint64_t(modes) * 2 * W;
  for (uint64_t i = blocks.begin * W; i < blocks.end * W; i += LANES) {
    const uint64_t b = i / W, part = i % W;  // heads from `part` on of block b fill a register
    const float* c = plan.tensor(op, 0) + b * modes * 6 * W + part;
    const float* l = rank ? plan.tensor(op, 2) + b * modes * rank * 4 * W + part : nullptr;
    auto get = [&](int n, int j) __attribute__((always_inline)) { return load<Full>(c + (n * 6 + j) * W); };
    auto low = [&](int r, int n, int j) __attribute__((always_inline)) {
      return load<Full>(l + ((n * rank + r) * 4 + j) * W);
    };
    float* s = lane + b * ahead + part;
    const Full skip = load<Full>(plan.tensor(op, 1) + i);
    Full y = load<Full>(u + i);
    // A rank that is a constant lets the compiler unroll, or drop, the loops over it.
    if (rank == 0) ssm_step<Full, 1>(modes, 0, get, low, s, W, &y, skip, ahead);
    else if (rank == 1) ssm_step<Full, 1>(modes, 1, get, low, s, W, &y, skip, ahead);
    else ssm_step<Full, 1>(modes, rank, get, low, s, W, &y, skip, ahead);
    store(g + i, of_ssm(op, y, load<Full>(g + i)));
  }
}

// Adds DEPTH inputs at most, from k0 on, to the sums of N outputs from `first` on, for R rows: each weight is loaded
// once. If N is less than the 64 outputs that lie side by side, reading leaps over the others. Processors do not
// foresee such leaps, so the weights of `next`, the group of blocks that is read after this one, are fetched meanwhile,
// as many as are read here.
template <int R, int N, int PER>
void solo_outputs(const Plan& plan, const Op& op, const SoloBuffers& buffers, uint64_t k0, uint64_t first,
                  const uint32_t* next) {
  constexpr int B = N / LANES;
  const Weights w = weights_at(plan, op, k0, first / W);
  const uint32_t* words = w.at + first % W;
  const uint64_t K = std::min<uint64_t>(DEPTH, op.in - k0);
  const float* x[R];
  float* out = buffers.out + first;
  Full acc[B][R];
  UNROLLED for (int r = 0; r < R; ++r) {
    x[r] = buffers.at(op, op.src, r) + k0;
    UNROLLED for (int b = 0; b < B; ++b) acc[b][r] = k0 ? load<Full>(out + r * buffers.wide + b * LANES) : Full{};
  }
  next += first % (GROUP * W);
  auto add = [&](uint64_t k, int j) __attribute__((always_inline)) {
    if (N < GROUP * W && j == 0)
      UNROLLED for (int line = 0; line < N; line += W) __builtin_prefetch(next + k / PER * w.stride + line);
    UNROLLED for (int b = 0; b < B; ++b) {
      const Full weight = weight_of<Full, PER>(words + k / PER * w.stride + b * LANES, j);
      UNROLLED for (int r = 0; r < R; ++r) acc[b][r] = fma(weight, splat<Full>(x[r][k + j]), acc[b][r]);
    }
  };
  uint64_t k = 0;
  for (; k + PER <= K; k += PER)
    UNROLLED for (int j = 0; j < PER; ++j) add(k, j);
  for (int j = 0; k + j < K; ++j) add(k, j);
  UNROLLED for (int r = 0; r < R; ++r)
    UNROLLED for (int b = 0; b < B; ++b) store(out + r * buffers.wide + b * LANES, acc[b][r]);
}

// Scales the sums of the outputs [begin, end), adds the bias, and writes them to y as the epilogue says.
void solo_epilogue(const Plan& plan, const Op& op, float* out, float* y, uint64_t begin, uint64_t end) {
  const float *bias = plan.tensor(op, 1), *scale = op.weights == INT8 ? plan.tensor(op, 2) : nullptr;
  for (uint64_t o = begin; o < end; o += LANES) {
    Full v = load<Full>(out + o);
    if (scale) v *= load<Full>(scale + o);
    store(out + o, v + load<Full>(bias + o));
  }
  if (op.epilogue == GLU_ADD) {
    // Blocks of values and of their gates take turns, so after each block of values one is skipped.
    for (uint64_t o = begin; o < end; o += o % W + LANES < W ? LANES : LANES + W) {
      float* to = y + o / (2 * W) * W + o % W;
      store(to, fma(load<Full>(out + o), sigmoid(load<Full>(out + o + W)), load<Full>(to)));
    }
  } else if (op.epilogue == GELU) {
    for (uint64_t o = begin; o < end; o += LANES) store(y + o, gelu(load<Full>(out + o)));
  } else if (op.epilogue == ADD_GELU) {
    for (uint64_t o = begin; o < end; o += LANES) store(y + o, load<Full>(y + o) + gelu(load<Full>(out + o)));
  } else {
    for (uint64_t o = begin; o < end; o += LANES)
      store(y + o, op.epilogue == ADD ? load<Full>(y + o) + load<Full>(out + o) : load<Full>(out + o));
  }
}

// A linear layer of R rows; this thread makes a range of the outputs.
template <int R, int PER>
void solo_linear(const Plan& plan, const Op& op, const SoloBuffers& buffers, int thread, int threads) {
  constexpr int MOST = std::min<int>(GROUP * W, SUMS / R * LANES);  // outputs whose sums fit into the registers
  const uint64_t unit = op.epilogue == GLU_ADD ? 2 : 1;  // a value and its gate stay together
  const Range mine = share(padded(op.out) / W / unit, thread, threads);
  const uint64_t begin = mine.begin * unit * W, end = mine.end * unit * W;
  for (uint64_t k = 0; k < op.in; k += DEPTH)
    for (uint64_t o = begin; o < end;) {
      const uint64_t n = std::min(GROUP * W - o % (GROUP * W), end - o), after = o - o % (GROUP * W) + GROUP * W;
      // n does not go beyond the group of blocks; `next` is the group behind it, of these inputs or of the next ones.
      const uint32_t* next = after < end        ? weights_at(plan, op, k, after / W).at
                             : k + DEPTH < op.in ? weights_at(plan, op, k + DEPTH, begin / W).at
                                                 : plan.tensor<uint32_t>(op, 0);
      if (MOST >= 4 * W && n >= 4 * W) solo_outputs<R, std::min(MOST, 4 * W), PER>(plan, op, buffers, k, o, next), o += 4 * W;
      else if (MOST >= 2 * W && n >= 2 * W) solo_outputs<R, std::min(MOST, 2 * W), PER>(plan, op, buffers, k, o, next), o += 2 * W;
      else solo_outputs<R, std::min(MOST, W), PER>(plan, op, buffers, k, o, next), o += std::min(MOST, W);
    }
  for (int r = 0; r < R; ++r)
    solo_epilogue(plan, op, buffers.out + r * buffers.wide, buffers.at(op, op.dst, r) + op.offset, begin, end);
}

// An adaptive softmax: the logits of the parts become log-probabilities of the tokens, in place. log p of a token in a
// cluster is that of the cluster plus that of the token inside it. Parts move towards the front, as the clusters' own
// logits drop out.
void solo_clusters(const Plan& plan, const Op& op, float* logits) {
  const Part* parts = plan.tensor<Part>(op, 0);
  uint64_t end = parts[0].count - op.modes;
  const float head = log_sum(logits, parts[0].count);
  float cluster[MAX_CLUSTERS];
  std::copy_n(logits + end, op.modes, cluster);
  for (uint64_t i = 0; i < end; ++i) logits[i] -= head;
  for (uint32_t c = 1; c <= op.modes; ++c) {
    const float *from = logits + parts[c].at, shift = (cluster[c - 1] - head) - log_sum(from, parts[c].count);
    for (uint64_t i = 0; i < parts[c].count; ++i) logits[end + i] = from[i] + shift;
    end += parts[c].count;
  }
}

// One operation of those that only models of whole pixels have. Where all threads write the same or one row is little
// work, the rows are shared instead (r % threads).
template <int R>
void solo_pixels(const Plan& plan, const Op& op, const SoloBuffers& buffers, const Spot* spots, const Input* input,
                 Uniforms u, int thread, int threads) {
  const Range mine = share(padded(op.out) / W, thread, threads);
  for (int r = 0; r < R; ++r) {
    float *x = buffers.at(X, r), *h = buffers.at(H, r), *g = buffers.at(G, r), *state = buffers.state[r];
    if (op.kind == WHERE) solo_where(plan, op, spots[r], input[r].label, state, x, mine);
    else if (op.kind == NEIGHBOURS) solo_neighbours(plan, op, spots[r], state, h, op.modes && r % threads == thread);
    else if (op.kind == TAPS) solo_taps(plan, op, spots[r], h, g, state, mine);
    else if (op.kind == CHANNEL) solo_channel(plan, op, spots[r], state, h, g, mine);
    else if (op.kind == MIXTURE && !u.first)
      solo_mixture(plan, op, spots[r], state, buffers.out, buffers.at(LOGITS, r), mine);
    else if (r % threads != thread) continue;
    else if (op.kind == COMPONENTS) solo_components(plan, op, g, state);
    else *buffers.at(LOGITS, r) = solo_drawn(plan, op, spots[r], state, buffers.out, u.first[r * u.stride]);
  }
}

// One step of R rows: the walk through the operations, by every thread of the team. With `u`, a mixture draws by
// itself, and its token stands in the place of the first logit.
template <int R>
void solo_step(const Plan& plan, const SoloBuffers& buffers, const Input* input, Uniforms u, int thread, int threads,
               Team& team) {
  Spot spots[R];
  for (int r = 0; plan.pixel && r < R; ++r) spots[r] = spot_of(*plan.pixel, input[r]);
  for (size_t i = 0; i < plan.ops.size(); ++i) {
    const Op& op = plan.ops[i];
    if (op.kind == NORM && op.dst == X) {  // x is shared, and after a norm into h others may still read it as it was
      team.barrier();
      for (int r = thread; r < R; r += threads) solo_norm(plan, op, buffers.at(X, r), buffers.at(X, r));
      team.barrier();
      continue;
    }
    if (op.kind == NORM) {  // cheap: each thread makes all of it in its own h, and nobody has to wait
      for (int r = 0; r < R; ++r) solo_norm(plan, op, buffers.at(X, r), buffers.at(H, r));
      continue;
    }
    if (op.kind == EMBED) {
      const Range mine = share(padded(op.out) / W, thread, threads);
      for (int r = 0; r < R; ++r) {
        const Sources from = sources(plan, op, input[r]);
        for (uint64_t i = mine.begin * W; i < mine.end * W; i += LANES) {
          Full x = load<Full>(from.value + i);
          if (from.position) x += load<Full>(from.position + i);
          if (from.label) x += load<Full>(from.label + i);
          store(buffers.at(X, r) + i, x);
        }
      }
    } else if (op.kind == SSM) {
      const Range mine = share(padded(op.in) / W, thread, threads);
      const uint64_t skipped = reads_qkv(op) ? 2 * padded(op.in) : 0;  // q and k
      for (int r = 0; r < R; ++r) {
        float* lane = buffers.state[r] + op.state;
        if (op.axis != RASTER) {
          lane += lane_at(op, spots[r]);
          const uint64_t block = 2 * uint64_t(op.modes) * W;
          if (begins_anew(op, spots[r])) std::fill(lane + mine.begin * block, lane + mine.end * block, 0.0f);
        }
        solo_ssm(plan, op, buffers.at(op.src, r) + skipped, buffers.at(G, r), lane, mine);
      }
    } else if (op.kind == SHIFT) {
      const Range mine = share(padded(op.in) / W, thread, threads);
      for (int r = 0; r < R; ++r) solo_shift(plan, op, buffers.at(G, r), buffers.state[r], mine);
    } else if (op.kind == SAMPLES) {
      for (int r = 0; r < R; ++r) {  // each thread makes all of its own h; one of them writes to the ring
        float *ring = buffers.state[r] + op.state, *h = buffers.at(H, r);
        const uint64_t slot = last_samples(
            plan, op, input[r], [&](uint64_t at) { return ring[at]; }, [&](uint64_t i, float x) { h[i] = x; });
        if (r % threads == thread) ring[slot] = input[r].token;
      }
    } else if (op.kind == CLUSTERS) {
      for (int r = thread; r < R; r += threads) solo_clusters(plan, op, buffers.at(LOGITS, r));
    } else if (op.kind == PIXEL) {
      for (int r = thread; r < R; r += threads) buffers.state[r][op.state + spots[r].token] = input[r].token;
      if (!spots[0].begins) i = op.up - 1;  // go on with the head
    } else if (op.kind > PIXEL) {
      solo_pixels<R>(plan, op, buffers, spots, input, u, thread, threads);
    } else if (op.kind >= DOWN) {
      const uint64_t size = padded(op.in), phase = op.kind == DOWN ? phase_of(op, input[0].position) : 0;
      const Range mine = share(size / W, thread, threads);
      for (int r = 0; r < R; ++r)
        cross(op, phase, buffers.at(X, r), buffers.state[r] + op.state, size, mine.begin * W, mine.end * W);
      if (op.kind == DOWN && phase + 1 < op.period) i = op.up - 1;  // the window is not full: go on with UP
    } else if (op.weights == FP32) {
      solo_linear<R, 1>(plan, op, buffers, thread, threads);
    } else if (op.weights == BF16) {
      solo_linear<R, 2>(plan, op, buffers, thread, threads);
    } else {
      solo_linear<R, 4>(plan, op, buffers, thread, threads);
    }
    team.barrier();
  }
}

}  // namespace
