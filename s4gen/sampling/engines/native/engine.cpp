// The native engine of s4gen: a whole generation loop (steps, filters, draws, feedback) over a plan, on a CPU.
//
// A *plan* is a converted model as one block of bytes: a header, a flat list of operations, and their tensors (pack.py
// writes it from s4gen/sampling/plan.py). One step of the model walks once through the list. An *operation* (`Op`)
// names what it does, the buffer that it reads, the buffer that it writes, its sizes and its tensors. There are four
// buffers: x, the residual stream; h and g, scratch; and the logits. What outlives a step is *state*: the states of
// recurrences, rings of past tokens and keys, windows of coarser levels. A *row* is one sequence that is being drawn,
// and each row has a state.
//
// Every kernel exists in two forms:
//   solo   1, 2 or 4 rows at a time. Vectors run over features, and a team of threads shares every operation. A step
//          reads each weight once, which is the limit at small batch.
//   batch  groups of 8, 16 or 32 rows. Vectors run over the rows ("batch innermost"), and each thread has groups of
//          its own.
// Both make the same sums in the same order: sums over inputs go through one accumulator per output, other sums through
// 16, and either every product is a fused multiply-add or none is. So a sequence comes out bitwise the same however
// sequences are batched. (The library is compiled with -ffp-contract=off, or else the compiler would fuse products in
// one form and not in the other.)
//
// Rows are taken together only where the same operations are due for all of them: at the same position of every window
// of a multi-scale model, and of the image in a model of whole pixels. One branch then skips a level that is not due.
//
// Read the headers in this order:
//   format.h   the bytes of a plan, and the order in which weights are packed
//   vectors.h  vectors of float32 for every width of register; exp, log, GELU; aligned memory
//   plan.h     the plan in memory, and the checks after which it is trusted
//   steps.h    what both forms share: embedding, levels, one step of a recurrence, where weights lie
//   team.h     threads, and how they meet
//   solo.h     the solo form; begin with its last function, solo_step
//   batch.h    the batch form; begin with its last function, Batch::step
//   draw.h     filters, and the draw of a token
//   pace.h     how many threads share a step
//   session.h  rows under way: their state, and the loop of steps and draws
// Models of whole pixels have headers of their own, to be read last: pixels.h and mixture.h for both forms, then
// solo_pixels.h and batch_pixels.h. This file has the entry points at its end; build.py calls them through ctypes.
//
// It is C++17 for GCC or Clang (vector extensions), and needs only the standard library and POSIX madvise.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <new>
#include <stdexcept>
#include <utility>
#include <vector>

#include "batch.h"
#include "plan.h"
#include "session.h"
#include "solo.h"
#include "team.h"
#include "vectors.h"

namespace {

// ------------------------------------------------------------------------------------- what this machine can do at most

// Measures bytes per second: threads read a buffer of `bytes` again and again, each its share. The best pass counts.
double read_bandwidth(uint64_t bytes, int threads, double seconds) {
  Team team(threads);
  const uint64_t n = std::max<uint64_t>(bytes / sizeof(float) / (4 * W) * (4 * W), 4 * W * threads);
  Floats buffer(n);
  std::vector<float> sink(threads);
  double best = 0;
  const auto start = Clock::now();
  do {
    const auto pass = Clock::now();
    team.run(threads, [&](int thread) {
      const Range mine = share(n / (4 * W), thread, threads);
      Full sum[4 * FULLS] = {};  // many sums: one would wait for its additions, not for the memory
      for (uint64_t i = mine.begin; i < mine.end; ++i)
        UNROLLED for (int j = 0; j < 4 * FULLS; ++j) sum[j] += load<Full>(buffer.at(i * 4 * W + j * LANES));
      for (int j = FULLS; j < 4 * FULLS; ++j) sum[j % FULLS] += sum[j];
      sink[thread] = folded(sum);
    });
    best = std::max(best, n * sizeof(float) / elapsed(pass));
  } while (elapsed(start) < seconds);
  return sink[0] == 0 ? best : 0;  // always `best`; but since the sum is looked at, the compiler cannot drop the loop
}

// Measures floating-point operations per second of the batch form's own product, on data in the nearest cache. The best
// pass counts.
double product_rate(int threads, double seconds) {
  constexpr int M = 32, K = 128, REPEATS = 64;
  Team team(threads);
  std::vector<Floats> data;
  for (int t = 0; t < threads; ++t) data.emplace_back(K * W + K * M + W * M);
  double best = 0;
  const auto start = Clock::now();
  do {
    const auto pass = Clock::now();
    team.run(threads, [&](int thread) {
      float* p = data[thread].at();
      const uint32_t* weights = reinterpret_cast<const uint32_t*>(p);
      for (int i = 0; i < REPEATS; ++i) Batch<M>::sums(p, W, K, p + K * W, p + K * W + K * M, true, weights, W);
    });
    best = std::max(best, 2.0 * K * W * M * REPEATS * threads / elapsed(pass));
  } while (elapsed(start) < seconds);
  return best;
}

struct Engine {
  std::shared_ptr<const Plan> plan;
};

// Runs the body of an entry point. Exceptions must not reach C: they become one line in `error`, and the result -1.
template <class Body> int guarded(char* error, uint64_t size, Body body) {
  try {
    body();
    return 0;
  } catch (const std::bad_alloc&) {
    std::snprintf(error, size, "there is not enough memory");
  } catch (const std::exception& problem) {
    std::snprintf(error, size, "%s", problem.what());
  }
  return -1;
}

}  // namespace

// The entry points. Those with `error` (`size` bytes) return 0, or -1 with one line in it. Tensors are contiguous.
//   s4_open, s4_close       an engine from a plan, which is copied; sessions keep it alive after it is closed
//   s4_begin, s4_end        a session of `rows` rows: `lanes` 8, 16 or 32 for the batch form, 0 for the solo form
//   s4_places, s4_labels    positions (rows) in or out; labels (rows) in. Positions come before states
//   s4_state                the state of one operation in or out, see Session::exchange
//   s4_advance, s4_feed     steps that draw tokens; one step that gives logits. See Session::run
//   s4_read_bandwidth, s4_product_rate   what this machine can do at most
extern "C" {

int s4_open(const uint8_t* plan, uint64_t bytes, Engine** engine, char* error, uint64_t size) {
  return guarded(error, size, [&] { *engine = new Engine{std::make_shared<const Plan>(plan, bytes)}; });
}

void s4_close(Engine* engine) { delete engine; }

int s4_begin(Engine* engine, uint64_t rows, int32_t lanes, int32_t threads, Session** session, char* error, uint64_t size) {
  return guarded(error, size, [&] {
    if (rows < 1 || rows > (1u << 24)) throw std::invalid_argument("the number of rows must be at least 1");
    if (lanes != 0 && lanes != 8 && lanes != 16 && lanes != 32)
      throw std::invalid_argument("lanes must be 0, 8, 16 or 32");
    if (threads < 1 || threads > 1024) throw std::invalid_argument("the number of threads must be from 1 to 1024");
    *session = new Session(engine->plan, rows, lanes, threads);
  });
}

void s4_end(Session* session) { delete session; }

int s4_state(Session* session, uint64_t layer, float* canonical, int32_t inward, char* error, uint64_t size) {
  return guarded(error, size, [&] { session->exchange(layer, canonical, inward != 0); });
}

int s4_places(Session* session, int64_t* positions, int32_t inward, char* error, uint64_t size) {
  return guarded(error, size, [&] { session->exchange_places(positions, inward != 0); });
}

int s4_labels(Session* session, const int64_t* labels, char* error, uint64_t size) {
  return guarded(error, size, [&] { session->set_labels(labels); });
}

int s4_advance(Session* session, const int64_t* token, const double* u, uint64_t steps, const void* packed,
               uint64_t packed_bytes, int64_t* out, char* error, uint64_t size) {
  return guarded(error, size, [&] {
    Filters filters;
    if (packed_bytes != sizeof filters) throw std::invalid_argument("the filters are not those that the engine knows");
    std::memcpy(&filters, packed, sizeof filters);
    if (!session->run(token, u, steps, &filters, out, nullptr))
      throw std::runtime_error("the model's output is not a finite number; its training must have diverged");
  });
}

int s4_feed(Session* session, const int64_t* token, float* logits, char* error, uint64_t size) {
  return guarded(error, size, [&] { session->run(token, nullptr, 1, nullptr, nullptr, logits); });
}

double s4_read_bandwidth(uint64_t bytes, int32_t threads, double seconds) {
  return read_bandwidth(bytes, std::max(1, threads), seconds);
}

double s4_product_rate(int32_t threads, double seconds) { return product_rate(std::max(1, threads), seconds); }

}  // extern "C"
