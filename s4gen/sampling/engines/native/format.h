// The bytes of a plan, as pack.py writes them.

#pragma once

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>

#include "vectors.h"

namespace {

enum Kind : uint32_t {
  EMBED, NORM, SSM, LINEAR, CLUSTERS, SHIFT, SAMPLES, DOWN, UP, KEEP, ADD_KEPT,
  PIXEL, WHERE, NEIGHBOURS, TAPS, COMPONENTS, MIXTURE, CHANNEL, N_KINDS
};
// Residual stream, private scratch, shared scratch, output; the rest is state: of the level around the operation, or of
// the pixel under way.
enum Place : uint32_t { X, H, G, LOGITS, WINDOW, PENDING, KEPT, N_PLACES };
// GATE: of a state space layer that runs on v and is multiplied with q, the shared scratch being q, k, v. GELU_SUM: the
// function of the sum of what is there and what comes; ADD_GELU: the function of what comes is added.
enum Epilogue : uint32_t { STORE, GELU, ADD, GLU_ADD, GATE, GELU_SUM, ADD_GELU, N_EPILOGUES };
enum Axis : uint32_t { RASTER, ROW, COLUMN, N_AXES };
enum Precision : uint32_t { FP32, BF16, INT8, N_PRECISIONS };
constexpr uint64_t PER_WORD[N_PRECISIONS] = {1, 2, 4};  // weights of one output in 32 bits
constexpr int MAX_RANK = 4, TENSORS = 4, MAX_CLUSTERS = 16, MAX_LEVELS = 16, MAX_TAPS = 64;
constexpr int MAX_CHANNELS = 16, MIXTURE_PARTS = 6;
constexpr int NEAREST = 4;  // pixels: left, above left, above, above right

struct Header {
  char magic[8];
  uint32_t version, n_ops, vocab, bos;
  uint64_t bytes;
  uint32_t reserved[8];
};
static_assert(sizeof(Header) == 64, "the layout of plans");

struct Op {
  uint32_t kind, src, dst, epilogue, in, out, modes, rank, weights, channels, levels, period;
  float eps;
  uint32_t offset, height, width;  // of PIXEL the image's
  uint64_t at[TENSORS];            // byte offsets
  // Set on reading:
  uint64_t state;  // floats of state per padded row before what this operation reads or writes there
  uint64_t every;  // of DOWN: steps from one input of its level to the next
  uint64_t up;     // of DOWN: the matching UP; of PIXEL: the head
  uint32_t axis, reserved;
};
static_assert(sizeof(Op) == 128, "the layout of plans");

[[noreturn]] void reject(const std::string& why) { throw std::invalid_argument("malformed plan: " + why); }

uint64_t product(std::initializer_list<uint64_t> factors) {
  uint64_t p = 1;
  for (uint64_t f : factors)
    if (__builtin_mul_overflow(p, f, &p)) reject("a size overflows");
  return p;
}

uint64_t padded(uint64_t n) { return (n + W - 1) / W * W; }
uint64_t words(uint64_t n, uint64_t per) { return (n + per - 1) / per; }

// Weights are packed [in / DEPTH][out / 64][word][4][16], in the order in which they are read: DEPTH inputs and a block of
// 16 outputs fit the nearest cache together with the inputs of 32 rows. The last group of 4 blocks may have fewer.
constexpr uint64_t DEPTH = 128, GROUP = 4;

// Of DOWN: where in its window stands the input that comes after `position` tokens.
uint64_t phase_of(const Op& op, int64_t position) { return static_cast<uint64_t>(position) / op.every % op.period; }

// Of the logits: where a part of the vocabulary lies. The first has the clusters' own logits behind its tokens'.
struct Part {
  uint64_t at, count;
};

// Offsets of a pixel from another one.
struct Offset {
  int32_t rows, columns;
};

// Whether it reads q, k and v, each filling its last block.
bool reads_qkv(const Op& op) { return op.kind == SHIFT || (op.kind == SSM && op.epilogue == GATE); }

}  // namespace
