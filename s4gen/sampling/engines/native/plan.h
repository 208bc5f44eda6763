// The plan in memory: checked once, trusted afterwards.
//
// A plan may come from a damaged file or from somebody else, so nothing in it is believed: the constructor walks
// through the operations as a step would and keeps account of what each buffer holds (`content_`), which levels are
// open (`levels_`) and how much state there is (`state`). An operation that reads what no operation before it has
// written, or a tensor outside of the file, is refused with one line. The kernels then index without any check of their
// own. (The tests damage plans at random and run them under sanitizers.)

#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "format.h"
#include "vectors.h"

namespace {

struct Plan {
  Bytes memory;
  Header header;
  std::vector<Op> ops;
  uint64_t wide = 0;   // floats per row of the widest buffer, padded to whole blocks
  uint64_t state = 0;  // floats of state per row, with the heads padded to whole blocks
  const Op* pixel = nullptr;  // the operation PIXEL, for models of whole pixels; it is always the first one

  // Tensor number i of an operation; which one that is, pack.py says.
  template <class T = float> const T* tensor(const Op& op, int i) const {
    return reinterpret_cast<const T*>(memory.get() + op.at[i]);
  }

  Plan(const uint8_t* bytes, uint64_t n) {
    if (n < sizeof(Header)) reject("it is shorter than its header");
    std::memcpy(&header, bytes, sizeof header);
    if (std::memcmp(header.magic, "s4plan\0", 8) != 0 || header.version != 2) reject("this is not a plan of version 2");
    if (header.bytes != n) reject("its length is not what its header says");
    const uint64_t limit = (n - sizeof(Header)) / sizeof(Op);
    if (header.n_ops < 2 || header.n_ops > limit) reject("the number of operations is wrong");
    if (header.vocab < 1 || header.vocab > (1u << 24) || header.bos > (1u << 24)) reject("the vocabulary is wrong");
    ops.resize(header.n_ops);
    std::memcpy(ops.data(), bytes + sizeof(Header), ops.size() * sizeof(Op));
    memory = allocate(n);
    std::memcpy(memory.get(), bytes, n);
    if (ops[0].kind == PIXEL) pixel = &ops[0];
    for (size_t i = 0; i < ops.size(); ++i) check(i, n);
    if (ops.back().dst != LOGITS || content_[LOGITS] != header.vocab) reject("it does not end in the logits");
    if (!levels_.empty()) reject("a level does not end");
    if (pixel && !pixel->up) reject("its pixels have no head");
  }
  Plan(const Plan&) = delete;

  // Whether the same operations are due at both positions. Only rows for which this holds are computed together: then
  // whether a level is due, or a pixel lies at a border, is one branch for all of them, and no kernel needs a mask.
  bool together(uint64_t position, uint64_t other) const {
    for (const Op& op : ops)
      if (op.kind == DOWN && position % (op.every * op.period) != other % (op.every * op.period)) return false;
    return !pixel || position % image() == other % image();
  }
  // How many tokens an image has.
  uint64_t image() const { return uint64_t(pixel->height) * pixel->width * pixel->channels; }
  // How many states a state space layer has: one per column where it runs down the columns, else one.
  uint64_t lanes(const Op& op) const { return op.axis == COLUMN ? pixel->width : 1; }
  // Where the numbers begin that the head keeps of a pixel: behind the ring of tokens.
  uint64_t kept() const { return pixel->state + padded(pixel->in); }
  // How many vectors a mixture keeps of a pixel, each with a number per component: log-weights, C means, C log-scales
  // and C (C - 1) / 2 couplings. They stand behind the prediction.
  uint64_t parts() const {
    const uint64_t C = pixel->channels;
    return 1 + 2 * C + C * (C - 1) / 2;
  }

 private:
  // A level that is open: from KEEP, or DOWN, to ADD_KEPT. What stands between DOWN and UP runs when a window is full.
  struct Level {
    bool runs;
    uint64_t width, every, down, window, pending, kept;
    bool returned;  // whether the coarser level has written its output to what is pending
    std::array<uint64_t, N_PLACES> before;  // content_ at DOWN
  };
  std::vector<Level> levels_;
  std::array<uint64_t, N_PLACES> content_{};  // numbers in each buffer at this point of the walk; 0: nothing yet
  int n_levels_ = 0;
  bool predicts_ = false;           // whether NEIGHBOURS has kept a prediction for each channel
  const Op* components_ = nullptr;  // COMPONENTS, once it has been seen

  // Checks one operation of a plan of n bytes, and takes account of what it writes and keeps.
  void check(size_t number, uint64_t n) {
    Op& op = ops[number];
    const bool first = number == 0;
    if (op.kind >= N_KINDS || op.src >= N_PLACES || op.dst >= N_PLACES || op.epilogue >= N_EPILOGUES ||
        op.weights >= N_PRECISIONS || op.axis >= N_AXES)
      reject("an operation has a kind, buffer, epilogue, weight type or axis that does not exist");
    if (first != (op.kind == EMBED || op.kind == PIXEL)) reject("the embedding must be the first operation, and no other");
    if (!pixel && (op.kind > PIXEL || op.dst == KEPT || op.axis != RASTER)) reject("it has no pixels");
    if (op.in < 1 || op.in > (1u << 24) || op.out < 1 || op.out > (1u << 24)) reject("a width is out of range");
    const uint64_t in = padded(op.in), out = padded(op.out), read = reads_qkv(op) ? 3 * in : op.in;
    if (reads(op) && content_[op.src] != read) reject("an operation reads what is not there");
    wide = std::max({wide, in, out});
    switch (op.kind) {
      case EMBED:
        if (op.dst != X || op.channels < 1 || op.levels < 1) reject("the embedding is wrong");
        if (header.vocab > op.levels) reject("the embedding does not know all tokens");
        tensor_at(op, 0, product({product({op.channels, op.levels}) + (header.bos >= op.levels), out, 4}), n);
        if (op.period) tensor_at(op, 1, product({op.period, out, 4}), n);
        if (op.modes) tensor_at(op, 2, product({op.modes, out, 4}), n);  // labels
        break;
      case NORM:
        if (op.src != X || (op.dst != H && op.dst != X) || op.in != op.out || !(op.eps >= 0)) reject("a norm is wrong");
        tensor_at(op, 0, out * 4, n), tensor_at(op, 1, out * 4, n);
        if (op.modes) tensor_at(op, 2, 4, n);  // a number that is added after the mean was taken away
        break;
      case SSM:
        if ((op.epilogue == GATE ? op.src != G : op.src != H && op.src != X) || op.dst != G || op.in != op.out || op.modes > (1u << 16) ||
            op.rank > MAX_RANK || (op.epilogue > GELU && op.epilogue != GATE && op.epilogue != GELU_SUM))
          reject("a state space layer is wrong");
        if (op.epilogue == GELU_SUM && content_[G] != op.in) reject("a state space layer adds to what is not there");
        tensor_at(op, 0, product({in, op.modes, 6, 4}), n), tensor_at(op, 1, in * 4, n);
        if (op.rank) tensor_at(op, 2, product({in, op.modes, op.rank, 4, 4}), n);
        op.state = state;
        state += product({lanes(op), in, op.modes, 2});
        break;
      case SHIFT:
        if (op.src != G || op.dst != G || op.in != op.out || op.period < 2 || op.period > MAX_TAPS)
          reject("a shift is wrong");
        tensor_at(op, 0, product({op.period, in, 4}), n);
        op.state = state;
        state += product({op.period - 1, in});
        return;
      case SAMPLES:
        if (pixel || op.dst != H || op.in != op.out || op.levels != header.vocab + 1 || op.levels <= header.bos)
          reject("the last samples are read wrongly");
        tensor_at(op, 0, product({op.levels, 4}), n);
        op.state = state;
        state += in;
        break;
      case CLUSTERS: {
        if (op.src != LOGITS || op.dst != LOGITS || op.modes > MAX_CLUSTERS) reject("the clusters are wrong");
        tensor_at(op, 0, (op.modes + 1) * sizeof(Part), n);
        const Part* parts = tensor<Part>(op, 0);
        uint64_t end = 0;  // of the tokens so far. Each part moves down to there, and so must not begin before it.
        for (uint32_t i = 0; i <= op.modes; ++i) {
          const Part part = parts[i];
          if (part.at > op.in || part.count > op.in - part.at || part.at < end || part.count <= (i ? 0 : op.modes))
            reject("a cluster lies outside of the logits");
          end += part.count - (i ? 0 : op.modes);
        }
        if (end != op.out || parts[0].at) reject("the clusters are not the vocabulary");
        break;
      }
      case DOWN:
      case UP:
      case KEEP:
      case ADD_KEPT:
        if (op.src != X || op.dst != X || op.in != op.out) reject("a level is wrong");
        if (pixel) reject("pixels have no levels");
        return level(op, number);
      case PIXEL:
      case WHERE:
      case NEIGHBOURS:
      case TAPS:
        return of_pixels(op, n);
      case COMPONENTS:
      case MIXTURE:
      case CHANNEL:
        return head(op, number, n);
      default: {
        if (op.epilogue == GATE || op.epilogue == GELU_SUM) reject("a linear layer has no gate or sum of its own");
        const bool adds = op.epilogue >= ADD, down = op.src == WINDOW, up = op.dst == PENDING;
        const uint32_t sum = op.epilogue == ADD_GELU ? G : X;
        const uint64_t result = op.epilogue == GLU_ADD ? op.out / 2 : op.out;
        if (down || up) {
          if (op.epilogue != STORE || (down ? op.dst != X : op.src != X)) reject("a level is joined wrongly");
          if (levels_.empty() || !levels_.back().runs) reject("a level is joined where there is none");
          Level& around = levels_.back();
          if (up && op.out != ops[around.down].period * padded(around.width)) reject("a level returns another width");
          around.returned |= up;
          op.state = down ? around.window : around.pending;
        } else if ((op.src != H && op.src != G && op.src != X) || (adds ? op.dst != sum : op.dst != G && op.dst != LOGITS) ||
                   op.src == op.dst) {
          reject("a linear layer reads or writes the wrong buffer");
        }
        if (op.epilogue == GLU_ADD && op.out % (2 * W)) reject("a gated layer is not packed in pairs");
        if (adds && padded(content_[sum]) != padded(result)) reject("a layer adds another width than there is");
        tensor_at(op, 0, product({out, words(op.in, PER_WORD[op.weights]), 4}), n), tensor_at(op, 1, out * 4, n);
        if (op.weights == INT8) tensor_at(op, 2, out * 4, n);
        if (op.offset && (op.dst != LOGITS || op.offset % W || op.offset > (1u << 25))) reject("an offset is wrong");
        if (adds) return;
        if (op.dst == LOGITS) {
          content_[LOGITS] = std::max(content_[LOGITS], uint64_t(op.offset) + op.out);
          wide = std::max(wide, op.offset + out);
          return;
        }
      }
    }
    content_[op.dst] = op.out;
  }

  // Whether an operation reads a buffer that one before it must have filled. The others read tokens or state.
  static bool reads(const Op& op) {
    return op.kind != EMBED && op.kind != SAMPLES && op.kind != UP && op.kind != PIXEL && op.kind != WHERE && op.kind != NEIGHBOURS &&
           op.kind != MIXTURE;
  }
  // PIXEL, WHERE, NEIGHBOURS and TAPS.
  void of_pixels(Op& op, uint64_t n) {
    const uint64_t in = padded(op.in), out = padded(op.out);
    if (op.kind == PIXEL) {
      if (op.dst != KEPT || op.channels < 1 || op.channels > MAX_CHANNELS || op.levels < 2 || op.height < 1 ||
          op.width < 1 || op.height > (1u << 16) || op.width > (1u << 16) || op.levels != header.vocab)
        reject("its pixels are wrong");
      // The ring must reach back to the pixel above left, which is width + 1 pixels ago: predictions read it.
      if (op.period <= op.width || op.in != product({op.period, op.channels})) reject("too few pixels are known");
      op.state = state;
      state += in + out;
    } else if (op.kind == WHERE) {
      if (op.dst != X || op.in != op.out) reject("the position is read wrongly");
      tensor_at(op, 0, product({pixel->height, out, 4}), n), tensor_at(op, 1, product({pixel->width, out, 4}), n);
      if (const uint64_t values = product({pixel->channels, pixel->levels}); op.modes % values || op.modes / values > NEAREST)
        reject("the values of a pixel are wrong");
      tensor_at(op, 2, product({op.modes, out, 4}), n), tensor_at(op, 3, product({pixel->modes, out, 4}), n);
      content_[X] = op.out;
    } else if (op.kind == NEIGHBOURS) {
      if (op.dst != H || op.out != product({op.in, pixel->channels + 1})) reject("the neighbours are wrong");
      tensor_at(op, 0, product({op.in, sizeof(Offset)}), n);
      for (const Offset* o = tensor<Offset>(op, 0); o < tensor<Offset>(op, 0) + op.in; ++o)
        if (const int64_t back = -(int64_t(o->rows) * pixel->width + o->columns); back < 1 || back > pixel->period)
          reject("a neighbour is not known");
      if (op.modes && pixel->out < padded(pixel->channels)) reject("there is no room for a prediction");
      predicts_ |= op.modes != 0;
      content_[H] = op.out;
    } else {
      if (op.src != H || op.dst != G || op.in != op.out) reject("taps are wrong");
      tensor_at(op, 0, product({NEAREST, in, 4}), n);
      op.state = state;
      state += product({pixel->width + uint64_t(1), in});
      content_[G] = op.out;
    }
  }

  // COMPONENTS, and the two heads, MIXTURE and CHANNEL. A step that begins no pixel leaps to the head.
  void head(Op& op, size_t number, uint64_t n) {
    op.state = kept();
    if (op.kind == COMPONENTS) {
      if (op.src != G || op.dst != KEPT || !op.modes || op.modes > (1u << 16) || op.in != op.out ||
          op.in != product({parts(), op.modes}) || !predicts_ || components_ ||
          pixel->out != padded(pixel->channels) + product({parts(), padded(op.modes)}))
        reject("the components of a mixture are wrong");
      wide = std::max(wide, padded(op.in) + W);  // vectors loaded from the last numbers read past them
      components_ = &op;
      return;
    }
    if (pixel->up) reject("its pixels have more than one head");
    ops[0].up = number;
    content_[X] = content_[H] = content_[G] = 0;  // a step that leapt here finds the numbers of an earlier one
    if (op.kind == MIXTURE) {
      if (op.dst != LOGITS || !components_ || op.modes != components_->modes || op.out != pixel->levels)
        reject("a mixture is wrong");
      tensor_at(op, 0, product({op.out + uint64_t(W) + 1, 4}), n);
      // Scratch for the mixture's parts, and for both sides of all edges; see solo_mixture.
      wide = std::max(wide, MIXTURE_PARTS * padded(op.modes) + 2 * padded(op.out) + 4 * W);
      content_[LOGITS] = op.out;
      return;
    }
    if (op.src != H || op.dst != G || op.in != op.out || padded(op.in) != pixel->out)
      reject("the head of a channel is wrong");
    if (op.modes != (pixel->channels - uint64_t(1)) * pixel->levels) reject("the values of a channel are wrong");
    if (op.modes) tensor_at(op, 0, product({pixel->channels, padded(op.out), 4}), n);
    if (op.modes) tensor_at(op, 1, product({op.modes, padded(op.out), 4}), n);
    content_[H] = content_[G] = op.out;
  }

  // KEEP and DOWN open a level, UP and ADD_KEPT end it. The state of a level is its window, `period` inputs; then what
  // is pending, as many outputs of the coarser level; then what is kept.
  void level(Op& op, size_t number) {
    if (op.kind == KEEP || op.kind == DOWN) {
      if (++n_levels_ > MAX_LEVELS) reject("it has too many levels");
      uint64_t every = 1, size = padded(op.in), positions = 0;
      for (const Level& around : levels_)
        if (around.runs) every = around.every * ops[around.down].period;
      if (op.kind == DOWN) {
        if (op.period < 2 || op.period > (1u << 16)) reject("a stride is out of range");
        if (product({every, op.period}) > (uint64_t(1) << 48)) reject("its strides are out of range");
        positions = op.period;
        op.every = every;
      }
      op.state = state;
      state += product({size, 2 * positions + 1});
      levels_.push_back({op.kind == DOWN, op.in, every, number, op.state, op.state + positions * size,
                         op.state + 2 * positions * size, false, content_});
      content_[WINDOW] = positions * size;
      return;
    }
    if (levels_.empty() || op.in != levels_.back().width) reject("a level ends that has not begun");
    Level& ends = levels_.back();
    if (ends.runs != (op.kind == UP) || (ends.runs && !ends.returned)) reject("a level ends in the wrong way");
    op.state = ends.kept;
    if (op.kind == ADD_KEPT) return levels_.pop_back();
    ends.runs = false;
    ops[ends.down].up = number;
    // The level may not have run, so x is as it was at DOWN. If it has run, h and g hold something else now.
    content_ = ends.before;
    content_[H] = content_[G] = 0;
  }

  // Tensor i of the operation must lie in the plan of n bytes, behind the records. All tensors together must not be
  // longer than the plan, so that a small file cannot make operations claim huge buffers that share the same bytes.
  void tensor_at(const Op& op, int i, uint64_t bytes, uint64_t n) {
    const uint64_t first = sizeof(Header) + ops.size() * sizeof(Op);
    if (op.at[i] % 64 || op.at[i] < first || op.at[i] > n || bytes > n - op.at[i])
      reject("a tensor lies outside of it or is not aligned");
    used_ += bytes;
    if (used_ > n) reject("its tensors overlap");
  }
  uint64_t used_ = 0;
};

}  // namespace
