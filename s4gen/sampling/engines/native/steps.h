// What both forms do alike: where the embedding's rows are, levels, one step of a
// recurrence, where the weights of a linear layer are.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "plan.h"
#include "vectors.h"

namespace {

struct Input {  // of one row
  int64_t token, position, label;
  int64_t since;  // the position where its state came in
};

struct Sources {
  const float *value, *position, *label;
};

Sources sources(const Plan& plan, const Op& op, const Input& input) {
  const int64_t token = input.token, position = input.position, label = input.label;
  const uint64_t D = padded(op.out), at = op.period ? static_cast<uint64_t>(position) % op.period : 0;
  const uint64_t channel = op.period ? (at + op.period - 1) % op.period % op.channels : 0;
  // A bos that is none of the tokens has a row of its own, the last.
  const bool extra = token >= static_cast<int64_t>(op.levels);
  const uint64_t index = extra ? uint64_t(op.channels) * op.levels : channel * op.levels + static_cast<uint64_t>(token);
  return {plan.tensor(op, 0) + index * D, op.period ? plan.tensor(op, 1) + at * D : nullptr,
          op.modes ? plan.tensor(op, 2) + static_cast<uint64_t>(label) * D : nullptr};
}

// Of an operation with a ring of tokens: the slot of the one that is fed. Rings begin where the state came in.
inline uint64_t slot_now(const Op& op, const Input& input) {
  return static_cast<uint64_t>(input.position - input.since) % op.in;
}

// A token from its ring as a value; bos beyond the levels, and what a damaged state holds, as the nearest one.
inline uint64_t value_of(const Op& op, float token) {
  const float highest = op.levels - 1;
  return static_cast<uint64_t>(token > 0 ? token < highest ? token : highest : 0);
}

// The amplitudes of the last tokens, oldest first, to(i, ..): of those in the ring kept(slot), and of the one that is fed,
// whose slot is returned. In that slot nothing is read, so it may be written meanwhile.
template <class Kept, class To> uint64_t last_samples(const Plan& plan, const Op& op, const Input& input, Kept kept, To to) {
  const float* amplitude = plan.tensor(op, 0);
  const uint64_t n = op.in, slot = slot_now(op, input);
  for (uint64_t i = 0; i + 1 < n; ++i) to(i, amplitude[value_of(op, kept((slot + 1 + i) % n))]);
  to(n - 1, amplitude[value_of(op, static_cast<float>(input.token))]);
  return slot;
}

// What DOWN, UP, KEEP and ADD_KEPT do with the numbers x[begin..end) of `size` and their level's state; nothing is mixed,
// so that both forms do it alike.
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

// One step of a register full of heads (solo, C = 1) or of one head for C vectors of rows (batch): the same sums. get(n, i) is
// coefficient i of mode n, low(r, n, i) that of the low-rank part; `s` holds 2 parts of each mode, `stride` floats
// apart; u is replaced by y. `ahead`: the state that comes next is fetched meanwhile.
template <class V, int C, class Get, class Low>
inline void ssm_step(int modes, int rank, Get get, Low low, float* s, int stride, V* u, V skip, uint64_t ahead) {
  constexpr int L = width<V>;
  V dot[MAX_RANK][C];
  for (int r = 0; r < rank; ++r) {
    V d[4][C] = {};
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

// What a state space layer makes of its output y, and of what is there.
template <class V> inline V of_ssm(const Op& op, V y, V there) {
  return op.epilogue == GELU ? gelu(y) : op.epilogue == GELU_SUM ? gelu(there + y) : op.epilogue == GATE ? there * y : y;
}

// What the last keys and the present one, weighed by their taps, add up to. `kept` are the keys before, oldest first,
// `stride` floats apart; the present one takes its place there. tap(i) belongs to the key of i inputs ago.
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

struct Weights {
  const uint32_t* at;
  uint64_t stride;  // from one word of an output to its next
};

// The weights of the inputs from k on, a multiple of DEPTH, for a block of 16 outputs.
Weights weights_at(const Plan& plan, const Op& op, uint64_t k, uint64_t block) {
  const uint64_t blocks = padded(op.out) / W, first = block / GROUP * GROUP, per = PER_WORD[op.weights];
  const uint64_t before = blocks * k / per + first * words(std::min<uint64_t>(DEPTH, op.in - k), per) + block % GROUP;
  return {plan.tensor<uint32_t>(op, 0) + before * W, std::min(GROUP, blocks - first) * W};
}

// log(sum(exp(l))) of `count` numbers, in 16 partial sums.
float log_sum(const float* l, uint64_t count) {
  const float top = *std::max_element(l, l + count);
  Full sum[FULLS] = {};
  for (uint64_t i = 0; i < count; i += W) {
    const uint64_t n = std::min<uint64_t>(W, count - i);
    alignas(64) float block[W], share[W];
    std::memcpy(block, l + i, n * sizeof(float));
    std::fill(block + n, block + W, top);  // left out below
    for (int p = 0; p < W; p += LANES) store(share + p, exponential(load<Full>(block + p) - top));
    std::fill(share + n, share + W, 0.0f);
    UNROLLED for (int p = 0; p < FULLS; ++p) sum[p] += load<Full>(share + p * LANES);
  }
  return top + std::log(folded(sum));
}

// The same of M rows, V being a vector of them: l[i][row] -> to[row].
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
