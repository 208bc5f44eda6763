// A session: rows under way, their state, and the loop of steps and draws.
//
// A row is one sequence that is being drawn. Each has an Input (token, position, label) and `plan.state` floats of
// state. A session is made for one form. Solo: the state of a row is contiguous, and all threads work on a few rows at
// a time, step by step. Batch: the states of M rows are interleaved, and a thread takes a group through all of its
// steps before it takes the next one, so that the group's state stays in its cache and no thread waits.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "batch.h"
#include "draw.h"
#include "pace.h"
#include "plan.h"
#include "solo.h"
#include "team.h"
#include "vectors.h"

namespace {

class Session {
 public:
  // lanes: rows per group of the batch form, 8, 16 or 32; 0: the solo form.
  Session(std::shared_ptr<const Plan> plan, uint64_t rows, int lanes, int threads)
      : plan_(std::move(plan)), rows_(rows), lanes_(lanes), team_(std::max(1, threads)),
        pace_(team_.size()), input_(padded_rows(), Input{plan_->header.bos, 0, 0, 0}), state_(product({plan_->state, padded_rows()})) {
    const uint64_t wide = plan_->wide, M = lanes ? lanes : SOLO;
    for (int t = 0; t < team_.size(); ++t) {
      scratch_.emplace_back(5 * M * wide + W * DEPTH + wide);
      draws_.emplace_back(plan_->header.vocab);
    }
  }

  // Copies the state of one operation in or out, in the layout of layers.py: float32 (rows, outer, inner), which is
  //   SSM                 (lanes heads, 2 modes), real parts before imaginary ones
  //   DOWN                (2 stride, width), the window before what is pending
  //   SHIFT               (taps - 1, heads), the oldest first
  //   PIXEL, SAMPLES      (ring - 1, 1), the last tokens, the oldest first
  //   TAPS                (ring, width), the oldest first
  //   COMPONENTS, CHANNEL (1, kept); of a mixture all numbers of a component side by side, then the prediction
  // Rings are counted from the position at which a state comes in, so set the positions first.
  void exchange(size_t layer, float* canonical, bool inward) {
    const Op& op = stateful(layer);
    const uint64_t size = outer(op) * inner(op), M = lanes_ ? lanes_ : 1;
    // Numbers per turn, for all rows of a group. States are large and rows lie far apart in `canonical`, so it is
    // not walked through one number of each row at a time.
    constexpr uint64_t BLOCK = 64;
    uint64_t at[BLOCK];
    for (uint64_t row = 0; row < rows_; row += M)
      for (uint64_t first = 0; first < size; first += BLOCK) {
        const uint64_t n = std::min(BLOCK, size - first);
        for (uint64_t i = 0; i < n; ++i) at[i] = number(op, row, (first + i) / inner(op), (first + i) % inner(op)) * M;
        for (uint64_t m = 0; m < std::min(M, rows_ - row); ++m) {
          float *ours = state_.at((row * plan_->state) + op.state * M + m), *theirs = canonical + (row + m) * size + first;
          for (uint64_t i = 0; inward && i < n; ++i) ours[at[i]] = theirs[i];
          for (uint64_t i = 0; !inward && i < n; ++i) theirs[i] = ours[at[i]];
        }
      }
  }
  void exchange_places(int64_t* positions, bool inward) {
    for (uint64_t r = 0; inward && r < rows_; ++r)
      if (const uint64_t begin = lanes_ ? r / lanes_ * lanes_ : r; !plan_->together(positions[r], positions[begin]))
        throw std::invalid_argument("rows of one group stand at different positions of a window or an image");
    for (uint64_t r = 0; r < rows_; ++r)
      if (inward) input_[r].position = input_[r].since = positions[r];
      else positions[r] = input_[r].position;
  }
  void set_labels(const int64_t* labels) {
    for (uint64_t r = 0; r < rows_; ++r)
      if (const uint32_t classes = plan_->ops.front().modes; labels[r] < 0 || labels[r] >= classes)
        throw std::invalid_argument("label " + std::to_string(labels[r]) + " is none of the " + std::to_string(classes) +
                                    " classes");
    for (uint64_t r = 0; r < rows_; ++r) input_[r].label = labels[r];
  }

  // Feeds `first`, draws, feeds what was drawn, and so on: `steps` draws per row, from u (rows, steps) into out of the
  // same shape. Without `filters` it makes one step and writes its logits (rows, vocab). Returns false if logits were
  // not finite.
  bool run(const int64_t* first, const double* u, uint64_t steps, const Filters* filters, int64_t* out, float* logits) {
    for (uint64_t r = 0; r < rows_; ++r) {
      if (first[r] != plan_->header.bos && (first[r] < 0 || first[r] >= plan_->header.vocab))
        throw std::invalid_argument("token " + std::to_string(first[r]) + " is outside of the vocabulary of " +
                                    std::to_string(plan_->header.vocab));
    }
    for (uint64_t r = 0; r < rows_; ++r) input_[r].token = first[r];
    failed_ = false;
    next_ = 0;
    const Work work{u, steps, filters, out, logits, plan_->ops.back().kind == MIXTURE && filters && filters->keep_all()};
    if (lanes_ == 0) {
      solo(work);
      return !failed_;
    }
    team_.run(team_.size(), [&](int thread) {
      switch (lanes_) {
        case 8: return batch<8>(work, thread);
        case 16: return batch<16>(work, thread);
        default: return batch<32>(work, thread);
      }
    });
    return !failed_;
  }

  uint64_t rows() const { return rows_; }

  // Whether an operation has state that lasts from step to step.
  static bool lasts(const Op& op) {
    return (op.kind == SSM && op.modes) || op.kind == SHIFT || op.kind == SAMPLES || op.kind == DOWN || op.kind == PIXEL || op.kind == TAPS ||
           op.kind == COMPONENTS || op.kind == CHANNEL;
  }
  // Operation number `layer` of those with a state that lasts; `outer` and `inner` are its shape, without the rows.
  const Op& stateful(size_t layer) const {
    for (const Op& op : plan_->ops)
      if (lasts(op) && layer-- == 0) return op;
    throw std::invalid_argument("the plan has fewer layers with a state");
  }
  uint64_t outer(const Op& op) const {
    switch (op.kind) {
      case SSM: return plan_->lanes(op) * op.in;
      case SHIFT: return op.period - 1;
      case DOWN: return 2 * uint64_t(op.period);
      case PIXEL:
      case SAMPLES: return op.in - 1;
      case TAPS: return plan_->pixel->width + uint64_t(1);
      default: return 1;
    }
  }
  uint64_t inner(const Op& op) const {
    if (op.kind == COMPONENTS) return plan_->parts() * op.modes + plan_->pixel->channels;
    return op.kind == SSM ? 2 * uint64_t(op.modes) : op.kind == PIXEL || op.kind == SAMPLES ? 1 : op.in;
  }

 private:
  struct Work {
    const double* u;
    uint64_t steps;
    const Filters* filters;
    int64_t* out;
    float* logits;
    bool quick;  // steps draw by themselves: the head is a mixture and no filter needs its probabilities

    Uniforms uniforms(uint64_t row, uint64_t step) const {
      return quick ? Uniforms{u + row * steps + step, steps} : Uniforms{};
    }
  };

  std::shared_ptr<const Plan> plan_;
  uint64_t rows_;
  int lanes_;
  Team team_;
  Pace pace_;
  std::vector<Input> input_;
  Floats state_;
  std::vector<Floats> scratch_;
  std::vector<Draw> draws_;
  std::atomic<bool> failed_{false};
  std::atomic<uint64_t> next_{0};  // the next group that no thread has taken yet

  uint64_t padded_rows() const { return lanes_ ? (rows_ + lanes_ - 1) / lanes_ * lanes_ : rows_; }

  // Where the canonical number (i, j) stands in an operation's state; the same for all rows of a group.
  uint64_t number(const Op& op, uint64_t row, uint64_t i, uint64_t j) const {
    const uint64_t N = op.modes, D = padded(op.in);
    if (op.kind == SSM) {
      const uint64_t lane = i / op.in * D * 2 * N, head = i % op.in;
      return lane + (lanes_ ? (head * N + j % N) * 2 + j / N : ((head / W * N + j % N) * 2 + j / N) * W + head % W);
    }
    if (op.kind == PIXEL || op.kind == SAMPLES) return (slot_now(op, input_[row]) + 1 + i) % op.in;
    if (op.kind == TAPS) return (spot_of(*plan_->pixel, input_[row]).pixel + i) % outer(op) * D + j;
    if (op.kind == COMPONENTS) {
      const uint64_t parts = plan_->parts(), all = parts * N, behind = padded(plan_->pixel->channels);
      return j < all ? behind + j % parts * padded(N) + j / parts : j - all;
    }
    return i * D + j;
  }

  // The end of a step of one row: hands out its logits, or draws its token.
  void finish(const Work& work, uint64_t row, uint64_t step, const float* logits, int thread) {
    ++input_[row].position;
    if (!work.filters) {
      std::memcpy(work.logits + row * plan_->header.vocab, logits, plan_->header.vocab * sizeof(float));
      return;
    }
    const double u = work.u[row * work.steps + step];
    const int64_t drawn = work.quick ? static_cast<int64_t>(*logits) : draws_[thread](logits, *work.filters, u);
    if (drawn < 0) failed_ = true;
    work.out[row * work.steps + step] = input_[row].token = std::max<int64_t>(drawn, 0);
  }

  // The steps in parts, between which the number of threads may change.
  void solo(const Work& work) {
    for (uint64_t step = 0, n; step < work.steps; step += n) {
      n = std::min<uint64_t>(work.steps - step, pace_.steps());
      const auto begin = Clock::now();
      team_.run(pace_.threads(), [&](int thread) { solo(work, step, step + n, thread, pace_.threads()); });
      pace_.took(elapsed(begin), n);
    }
  }
  void solo(const Work& work, uint64_t first, uint64_t last, int thread, int threads) {
    const uint64_t wide = plan_->wide, n = SOLO * wide;
    float *mine = scratch_[thread].at(), *shared = scratch_[0].at();
    SoloBuffers buffers{shared, mine + n, shared + 2 * n, shared + 3 * n, mine + 4 * n, wide, {}};
    for (uint64_t step = first; step < last; ++step)
      for (uint64_t row = 0, n; row < rows_; row += n) {
        for (n = 1; n < SOLO && row + n < rows_ && plan_->together(input_[row].position, input_[row + n].position);) ++n;
        n = n == 3 ? 2 : n;  // the kernels are made for 1, 2 and 4 rows
        for (uint64_t r = 0; r < n; ++r) buffers.state[r] = state_.at((row + r) * plan_->state);
        const Uniforms u = work.uniforms(row, step);
        if (n == 1) solo_step<1>(*plan_, buffers, &input_[row], u, thread, threads, team_);
        else if (n == 2) solo_step<2>(*plan_, buffers, &input_[row], u, thread, threads, team_);
        else solo_step<4>(*plan_, buffers, &input_[row], u, thread, threads, team_);
        for (uint64_t r = thread; r < n; r += threads) finish(work, row + r, step, buffers.at(LOGITS, r), thread);
        team_.barrier();
      }
  }

  template <int M> void batch(const Work& work, int thread) {
    const uint64_t vocab = plan_->header.vocab, n = M * plan_->wide;
    float* p = scratch_[thread].at();
    const Batch<M> buffers{p, p + n, p + 2 * n, p + 3 * n, p + 4 * n, p + 5 * n};
    float* one = p + 5 * n + W * DEPTH;  // the logits of one row
    for (uint64_t group; (group = next_++) * M < rows_;) {
      const uint64_t row = group * M, live = std::min<uint64_t>(M, rows_ - row);
      for (uint64_t step = 0; step < work.steps; ++step) {
        buffers.step(*plan_, state_.at(row * plan_->state), &input_[row], work.uniforms(row, step), live);
        for (uint64_t m = 0; m < live; ++m) {
          for (uint64_t i = 0; i < (work.quick ? 1 : vocab); ++i) one[i] = buffers.logits[i * M + m];
          finish(work, row + m, step, one, thread);
        }
      }
    }
  }
};

}  // namespace
