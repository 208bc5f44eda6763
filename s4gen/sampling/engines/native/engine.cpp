// The native engine of s4gen: a whole generation loop (steps, filters, draw, feedback) over a plan, on a CPU.
//
// A plan (see pack.py) is a list of operations with packed weights. Two forms of every kernel compute the same sums in
// the same order, so a sequence comes out bitwise the same however sequences are batched:
//   solo   1, 2 or 4 rows at a time, vectors run over features; a team of threads shares every operation. Each weight is
//          read once per step, which is the limit at small batch.
//   batch  M rows at a time, vectors run over the rows ("batch innermost"); each thread has groups of its own.
// Sums over inputs go in order through one accumulator per output; every product is a fused multiply-add, or none is.
// Rows taken together stand at the same position of every window, so that the coarser levels are due for all or for none.
// C++17, GCC or Clang (vector extensions), no other library than the standard one and POSIX madvise.

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

// Bytes per second of reading `bytes` again and again, each thread its share; the best of several passes.
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
      Full sum[4 * FULLS] = {};
      for (uint64_t i = mine.begin; i < mine.end; ++i)
        UNROLLED for (int j = 0; j < 4 * FULLS; ++j) sum[j] += load<Full>(buffer.at(i * 4 * W + j * LANES));
      for (int j = FULLS; j < 4 * FULLS; ++j) sum[j % FULLS] += sum[j];
      sink[thread] = folded(sum);
    });
    best = std::max(best, n * sizeof(float) / elapsed(pass));
  } while (elapsed(start) < seconds);
  return sink[0] == 0 ? best : 0;  // of zeros: the sum is read, so the loop is not left out
}

// Floating-point operations per second of the batch form's own product on data in the nearest cache; the best pass.
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

// Every entry point returns 0, or -1 with one line in `error`.
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
