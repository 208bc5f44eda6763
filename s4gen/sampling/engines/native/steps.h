// What both forms do alike: where the rows of the embedding are, levels, one step of a recurrence, where the weights of
// a linear layer are.
//
// A function here is a template over the vector type, and over how numbers are read (`get`, `tap`, ..). The solo form
// hands in vectors of neighbouring features, the batch form vectors of rows, with weights that are the same in every
// lane. Since the order of operations stands here once, a row gets the same bits from both.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "plan.h"
#include "vectors.h"

namespace {

// What is fed to one row. The token and the label are checked by Session, so tables are read without further checks.
struct Input {
  int64_t token, position, label;
  int64_t since;  // the position at which its state came in
};

// The rows of the tables whose sum is the embedding; null where a model has no such table.
struct Sources {
  const float *value, *position, *label;
};

Sources sources(const Plan& plan, const Op& op, const Input& input) {
  const int64_t token = input.token, position = input.position, label = input.label;
  const uint64_t D = padded(op.out), at = op.period ? static_cast<uint64_t>(position) % op.period : 0;
  // A token at position t is fed before value t is drawn, so it is value t - 1 and belongs to the channel of that.
  const uint64_t channel = op.period ? (at + op.period - 1) % op.period % op.channels : 0;
  // A bos that is not a token of the vocabulary has a row of its own, the last.
  const bool extra = token >= static_cast<int64_t>(op.levels);
  const uint64_t index = extra ? uint64_t(op.channels) * op.levels : channel * op.levels + static_cast<uint64_t>(token);
  return {plan.tensor(op, 0) + index * D, op.period ? plan.tensor(op, 1) + at * D : nullptr,
          op.modes ? plan.tensor(op, 2) + static_cast<uint64_t>(label) * D : nullptr};
}

// The slot that the token which is fed takes in an operation's ring of tokens. Slots are counted from where the state
// came in: rows of a group may be whole images apart, but came in at once, so they all have the same slot.
inline uint64_t slot_now(const Op& op, const Input& input) {
  return static_cast<uint64_t>(input.position - input.since) % op.in;
}

// A token from a ring as a value below `levels`. Rings are floats that come from a state, which may be damaged: NaN
// counts as 0, everything else (bos, too) as the nearest value, so that no table is read outside of its bounds.
inline uint64_t value_of(const Op& op, float token) {
  const float highest = op.levels - 1;
  return static_cast<uint64_t>(token > 0 ? token < highest ? token : highest : 0);
}

// Calls to(i, amplitude) for the last tokens, the oldest first: those in the ring, read by kept(slot), and the one that
// is fed. Returns the slot of that one. Nothing is read from this slot, so another thread may write to it meanwhile.
template <class Kept, class To> uint64_t last_samples(const Plan& plan, const Op& op, const Input& input, Kept kept, To to) {
  const float* amplitude = plan.tensor(op, 0);
  const uint64_t n = op.in, slot = slot_now(op, input);
  for (uint64_t i = 0; i + 1 < n; ++i) to(i, amplitude[value_of(op, kept((slot + 1 + i) % n))]);
  to(n - 1, amplitude[value_of(op, static_cast<float>(input.token))]);
  return slot;
}

// DOWN, UP, KEEP and ADD_KEPT for the numbers x[begin..end) of `size`, with the level's state. Numbers are moved and
// added one by one, whatever they are numbers of, so the batch form calls it with M times the size.
void cross(const Op& op, uint64_t phase, float* x, float* state, uint64_t size, uint64_t begin, uint64_t end) {
  float* own = state + begin;
  x += begin;
  const uint64_t n = end - begin;
  if (op.kind == DOWN) {
    float *window = own + phase * size, *pending = own + (op.period + phase) * size, *kept = own + 2 * op.period * size;
    for (uint64_t i = 0; i < n; ++i) window[i] = x[i], kept[i] = x[i] + pending[i];
  } else if (op.kind == UP) {
    for (uint64_t i = 0; i < n; ++i) x[i] = own[i];
  } else if (op.kind == KEEP) {
    for (uint64_t i = 0; i < n; ++i) own[i] = x[i];
  } else {
    for (uint64_t i = 0; i < n; ++i) x[i] += own[i];
  }
}

// One step of a recurrence, for a register full of heads (solo, C = 1) or one head and C vectors of rows (batch):
//
//   s' = diag(a) s - sum_r p_r (q_r . s) + b u,   y = c . s' + skip u
//
// s, b and p are complex, one number per mode, and held as real and imaginary parts; c and q hold the factor 2 and the
// sign that make a real product of conjugate pairs (ssm/realform.py). get(n, i) is coefficient i of mode n: a, b, c,
// each real, then imaginary; low(r, n, i) likewise of p_r, q_r. The state `s` has two parts per mode, `stride` floats
// apart. u is replaced by y. States are far larger than weights at large batch, and each is touched once per step: the
// part that lies `ahead` floats further is fetched meanwhile.
template <class V, int C, class Get, class Low>
inline void ssm_step(int modes, int rank, Get get, Low low, float* s, int stride, V* u, V skip, uint64_t ahead) {
  constexpr int L = width<V>;
  V dot[MAX_RANK][C];  // q_r . s, before s changes
  for (int r = 0; r < rank; ++r) {
    V d[4][C] = {};  // four sums, of even and odd modes: one alone would wait for each of its additions
    auto add = [&](int n, V* re, V* im) __attribute__((always_inline)) {
      const V qr = low(r, n, 2), qi = low(r, n, 3);
      UNROLLED for (int c = 0; c < C; ++c) {
        re[c] = fma(qr, load<V>(s + 2 * n * stride + c * L), re[c]);
        im[c] = fma(qi, load<V>(s + (2 * n + 1) * stride + c * L), im[c]);
      }
    };
    int n = 0;
    for (; n + 1 < modes; n += 2) add(n, d[0], d[1]), add(n + 1, d[2], d[3]);
    if (n < modes) add(n, d[0], d[1]);
    UNROLLED for (int c = 0; c < C; ++c) dot[r][c] = (d[0][c] + d[1][c]) + (d[2][c] + d[3][c]);
  }
  V y[4][C] = {};
  auto advance = [&](int n, V* yr, V* yi) __attribute__((always_inline)) {
    float* at = s + 2 * n * stride;
    const V ar = get(n, 0), ai = get(n, 1), br = get(n, 2), bi = get(n, 3), cr = get(n, 4), ci = get(n, 5);
    UNROLLED for (int c = 0; c < C; ++c) {
      __builtin_prefetch(at + ahead + c * L, 1);
      __builtin_prefetch(at + ahead + stride + c * L, 1);
      const V re = load<V>(at + c * L), im = load<V>(at + stride + c * L);
      V nr = fma(ar, re, br * u[c]), ni = fma(ar, im, bi * u[c]);
      nr = fma(-ai, im, nr);
      ni = fma(ai, re, ni);
      for (int r = 0; r < rank; ++r) {
        nr = fma(-low(r, n, 0), dot[r][c], nr);
        ni = fma(-low(r, n, 1), dot[r][c], ni);
      }
      store(at + c * L, nr);
      store(at + stride + c * L, ni);
      yr[c] = fma(cr, nr, yr[c]);
      yi[c] = fma(ci, ni, yi[c]);
    }
  };
  int n = 0;
  for (; n + 1 < modes; n += 2) advance(n, y[0], y[1]), advance(n + 1, y[2], y[3]);
  if (n < modes) advance(n, y[0], y[1]);
  UNROLLED for (int c = 0; c < C; ++c) u[c] = fma(skip, u[c], (y[0][c] + y[1][c]) + (y[2][c] + y[3][c]));
}

// What a state space layer writes, from its output y and from what is there (q for GATE, the taps' sum for GELU_SUM).
template <class V> inline V of_ssm(const Op& op, V y, V there) {
  return op.epilogue == GELU ? gelu(y) : op.epilogue == GELU_SUM ? gelu(there + y) : op.epilogue == GATE ? there * y : y;
}

// The convolution of H3's keys: sum over i of tap(i) times the key of i inputs ago. `kept` holds the keys before this
// one, the oldest first, `stride` floats apart; they move up by one, and `key` becomes the last of them.
template <class V, class Tap> inline V shifted(int taps, Tap tap, float* kept, uint64_t stride, V key) {
  V sum = tap(0) * key;
  for (int i = 1; i < taps; ++i) {
    float* at = kept + (taps - 1 - i) * stride;
    const V older = load<V>(at);
    store(at, key);
    sum = fma(tap(i), older, sum);
    key = older;
  }
  return sum;
}

// The weights of a block of 16 outputs: the words of one input after another (see format.h).
struct Weights {
  const uint32_t* at;
  uint64_t stride;  // words from one input, or PER inputs that share a word, to the next
};

// The weights of the inputs from k on, for a block of 16 outputs. k is a multiple of DEPTH.
Weights weights_at(const Plan& plan, const Op& op, uint64_t k, uint64_t block) {
  const uint64_t blocks = padded(op.out) / W, first = block / GROUP * GROUP, per = PER_WORD[op.weights];
  // Words before it, in sixteens: whole parts of DEPTH inputs, whole groups of this part, and the blocks beside it.
  const uint64_t before = blocks * k / per + first * words(std::min<uint64_t>(DEPTH, op.in - k), per) + block % GROUP;
  return {plan.tensor<uint32_t>(op, 0) + before * W, std::min(GROUP, blocks - first) * W};
}

// log(sum(exp(l))) of `count` numbers, in 16 partial sums: number i belongs to sum i mod 16, as in the batch form.
float log_sum(const float* l, uint64_t count) {
  const float top = *std::max_element(l, l + count);
  Full sum[FULLS] = {};
  for (uint64_t i = 0; i < count; i += W) {
    const uint64_t n = std::min<uint64_t>(W, count - i);
    alignas(64) float block[W], share[W];
    std::memcpy(block, l + i, n * sizeof(float));
    std::fill(block + n, block + W, top);  // anything finite: what comes of it is set to zero below
    for (int p = 0; p < W; p += LANES) store(share + p, exponential(load<Full>(block + p) - top));
    std::fill(share + n, share + W, 0.0f);
    UNROLLED for (int p = 0; p < FULLS; ++p) sum[p] += load<Full>(share + p * LANES);
  }
  return top + std::log(folded(sum));
}

// The same for M rows, l[i][row] -> to[row], with vectors V of rows.
template <int M, class V> void batch_log_sum(const float* l, uint64_t count, float* to) {
  constexpr int L = width<V>;
  alignas(64) float part[W][M] = {}, top[M];
  std::copy_n(l, M, top);
  for (uint64_t i = 1; i < count; ++i)
    for (int m = 0; m < M; ++m) top[m] = std::max(top[m], l[i * M + m]);
  for (uint64_t i = 0; i < count; ++i)
    for (int m = 0; m < M; m += L)
      store(&part[i % W][m], load<V>(&part[i % W][m]) + exponential(load<V>(l + i * M + m) - load<V>(top + m)));
  for (int half = W / 2; half; half /= 2)
    for (int i = 0; i < half; ++i)
      for (int m = 0; m < M; ++m) part[i][m] += part[i + half][m];
  for (int m = 0; m < M; ++m) to[m] = top[m] + std::log(part[0][m]);
}

}  // namespace
