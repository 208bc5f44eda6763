// The bytes of a plan, as pack.py writes them: one Header, then `n_ops` records Op, then the tensors, each at a
// multiple of 64 bytes. Both records have a fixed size and are copied as they are, so the numbers of every enum below
// are part of the format: pack.py holds the same ones.

#pragma once

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>

#include "vectors.h"

namespace {

// What an operation does; s4gen/sampling/plan.py has a line of formula for each. The order counts: DOWN to ADD_KEPT
// are the levels of a multi-scale model, and from PIXEL on stand the operations of models of whole pixels.
enum Kind : uint32_t {
  EMBED, NORM, SSM, LINEAR, CLUSTERS, SHIFT, SAMPLES, DOWN, UP, KEEP, ADD_KEPT,
  PIXEL, WHERE, NEIGHBOURS, TAPS, COMPONENTS, MIXTURE, CHANNEL, N_KINDS
};
// The buffers that operations read and write. X is the residual stream, H and G are scratch, LOGITS is the output:
// these four last for one step. (In the solo form each thread has an H of its own, and the other three are shared.) The
// rest is state: WINDOW and PENDING belong to the level around the operation, KEPT to the pixel under way.
enum Place : uint32_t { X, H, G, LOGITS, WINDOW, PENDING, KEPT, N_PLACES };
// What becomes of a result y on its way into the buffer, which holds `there`:
//   STORE y                    GELU gelu(y)                      ADD there + y
//   GLU_ADD there + value sigmoid(gate), for y in pairs of a block of values and the block of their gates
//   GATE q y, for a state space layer that runs on v, where G holds q, k and v one after another (H3)
//   GELU_SUM gelu(there + y)   ADD_GELU there + gelu(y)
enum Epilogue : uint32_t { STORE, GELU, ADD, GLU_ADD, GATE, GELU_SUM, ADD_GELU, N_EPILOGUES };
// Along which line of an image a recurrence runs; RASTER is the plain sequence.
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

// One operation. `in` and `out` are numbers per row, without the zeros that fill the last block. Other fields mean
// something for some kinds only:
//   modes     SSM: complex modes per head; EMBED, PIXEL: classes; NORM: whether there is a shift; CLUSTERS: how many;
//             WHERE, CHANNEL: rows of the table of values; NEIGHBOURS: whether it predicts; COMPONENTS, MIXTURE:
//             components
//   rank      SSM: rank of the correction to the diagonal
//   weights   LINEAR: a Precision
//   channels  EMBED, PIXEL: values per pixel
//   levels    EMBED, PIXEL, SAMPLES: values that a token can have
//   period    EMBED: positions in the table; SHIFT: taps; DOWN: stride; PIXEL: pixels that its ring holds
//   offset    LINEAR: where in the logits its outputs begin
struct Op {
  uint32_t kind, src, dst, epilogue, in, out, modes, rank, weights, channels, levels, period;
  float eps;
  uint32_t offset, height, width;  // height and width: of the image, for PIXEL
  uint64_t at[TENSORS];            // byte offsets of its tensors from the start of the plan
  // The file holds zeros here; Plan sets them while it checks:
  uint64_t state;  // where its state begins: floats of a row's state that stand before it
  uint64_t every;  // DOWN: steps of the model from one input of the level around it to the next
  uint64_t up;     // where to go on when the part below is not due. DOWN: the matching UP; PIXEL: the head
  uint32_t axis, reserved;  // axis: an Axis, for SSM; this is in the file
};
static_assert(sizeof(Op) == 128, "the layout of plans");

[[noreturn]] void reject(const std::string& why) { throw std::invalid_argument("malformed plan: " + why); }

uint64_t product(std::initializer_list<uint64_t> factors) {
  uint64_t p = 1;
  for (uint64_t f : factors)
    if (__builtin_mul_overflow(p, f, &p)) reject("a size overflows");
  return p;
}

// n numbers fill so many places of whole blocks; `words`: n weights fill so many words.
uint64_t padded(uint64_t n) { return (n + W - 1) / W * W; }
uint64_t words(uint64_t n, uint64_t per) { return (n + per - 1) / per; }

// The weights of a linear layer are packed [in / DEPTH][out / 64][word][4][16], in the order in which they are read:
// DEPTH inputs and a block of 16 outputs fit the nearest cache together with the inputs of 32 rows. GROUP blocks lie
// side by side, because the solo form sums up to 64 outputs at once; the last group may have fewer.
constexpr uint64_t DEPTH = 128, GROUP = 4;

// The slot of DOWN's window that its input takes at this position; a window is full after the slot period - 1.
uint64_t phase_of(const Op& op, int64_t position) { return static_cast<uint64_t>(position) / op.every % op.period; }

// Where a part of an adaptive softmax's vocabulary lies in the logits. The first part holds the most frequent tokens,
// and behind them one logit for each of the other parts, the clusters.
struct Part {
  uint64_t at, count;
};

// How far a pixel is from another one; what lies before it in the raster has negative rows, or columns.
struct Offset {
  int32_t rows, columns;
};

// Whether an operation reads three vectors q, k and v, one after another, each padded to whole blocks (H3).
bool reads_qkv(const Op& op) { return op.kind == SHIFT || (op.kind == SSM && op.epilogue == GATE); }

}  // namespace
