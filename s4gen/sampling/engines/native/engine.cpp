// The native engine of s4gen: a whole generation loop (steps, filters, draw, feedback) over a plan, on a CPU.
//
// A plan (see pack.py) is a list of operations with packed weights. Two forms of every kernel compute the same sums in
// the same order, so a sequence comes out bitwise the same however sequences are batched:
//   solo   1, 2 or 4 rows at a time, vectors run over features; a team of threads shares every operation. Each weight is
//          read once per step, which is the limit at small batch.
//   batch  M rows at a time, vectors run over the rows ("batch innermost"); each thread has groups of its own.
// Sums over inputs go in order through one accumulator per output; every product is a fused multiply-add, or none is.
// Rows taken together stand at the same place of every window, so that the coarser levels are due for all or for none.
// C++17, GCC or Clang (vector extensions), no other library than the standard one and POSIX madvise.

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>
#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

// ---------------------------------------------------------------------------------------------- vectors and functions

// Accumulators in an array become registers only where every index is known: such loops must be unrolled.
#define UNROLLED _Pragma("GCC unroll 16")

constexpr int W = 16;  // features or rows in one vector; the compiler splits it where registers are shorter
typedef float v16 __attribute__((vector_size(64)));
typedef float v8 __attribute__((vector_size(32)));

template <class V> constexpr int width = sizeof(V) / sizeof(float);
template <class V> struct IntegersOf;
template <> struct IntegersOf<v16> { typedef int32_t type __attribute__((vector_size(64))); };
template <> struct IntegersOf<v8> { typedef int32_t type __attribute__((vector_size(32))); };

template <class V, class T> inline V load(const T* p) {  // aligned
  V r;
  std::memcpy(&r, __builtin_assume_aligned(p, sizeof(V)), sizeof r);
  return r;
}
template <class V> inline void store(float* p, V x) { std::memcpy(__builtin_assume_aligned(p, sizeof(V)), &x, sizeof x); }
template <class V> inline V splat(float x) {
  V r;
  for (int i = 0; i < width<V>; ++i) r[i] = x;
  return r;
}

// a b + c. Compilers mostly turn the loop into one instruction; without hardware for it, nothing is fused anywhere.
template <class V> inline V fma(V a, V b, V c) {
#if defined(__FMA__) || defined(__AVX512F__) || defined(__ARM_FEATURE_FMA)
  V r;
  for (int i = 0; i < width<V>; ++i) r[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return r;
#else
  return a * b + c;
#endif
}

// Where x86 intrinsics say the same, nothing is left to the compiler's mood (GCC 12 tears long loops of these apart).
#if defined(__FMA__)
template <> inline v8 splat<v8>(float x) { return (v8)_mm256_set1_ps(x); }
template <> inline v8 fma(v8 a, v8 b, v8 c) { return (v8)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
#endif
#if defined(__AVX512F__)
template <> inline v16 splat<v16>(float x) { return (v16)_mm512_set1_ps(x); }
template <> inline v16 fma(v16 a, v16 b, v16 c) { return (v16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
#endif

// c0 x^n + .. + cn.
template <class V, class... Rest> inline V polynomial(V x, float c0, Rest... rest) {
  V p = splat<V>(c0);
  ((p = fma(p, x, splat<V>(rest))), ...);
  return p;
}

// exp(x): 2^k e^r with |r| <= ln 2 / 2 and a Taylor polynomial in r; relative error 2e-7. Saturates beyond +-87.
template <class V> inline V exponential(V x) {
  using I = typename IntegersOf<V>::type;
  const V limit = splat<V>(87.0f), magic = splat<V>(12582912.0f);  // 1.5 2^23: adding it rounds to an integer
  x = x < limit ? x : limit;
  x = x > -limit ? x : -limit;
  const V shifted = fma(x, splat<V>(1.44269504088896341f), magic);
  const V k = shifted - magic;
  V r = fma(k, splat<V>(-0.693145751953125f), x);
  r = fma(k, splat<V>(-1.428606765330187e-6f), r);
  const V p = polynomial(r, 1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f);
  I bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits << 23) + 0x3f800000;  // the low bits of `shifted` are k; the magic's own bits leave at the top
  V scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return p * scale;
}

template <class V> inline V sigmoid(V x) { return splat<V>(1.0f) / (splat<V>(1.0f) + exponential(-x)); }

// x Phi(x); erf by Abramowitz and Stegun 7.1.26, absolute error 1.5e-7.
template <class V> inline V gelu(V x) {
  const V z = x * splat<V>(0.70710678118654752f);
  const V a = z < 0 ? -z : z;
  const V t = splat<V>(1.0f) / fma(splat<V>(0.3275911f), a, splat<V>(1.0f));
  const V p = polynomial(t, 1.061405429f, -1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f);
  const V tail = p * t * exponential(-(a * a));  // 1 - erf(a)
  const V half = splat<V>(0.5f) * tail;
  return x * (z < 0 ? half : splat<V>(1.0f) - half);
}

// Weight j of the PER weights that each of 16 words holds: a float32, two bfloat16 or four int8, the first one lowest.
template <int PER> inline v16 weight_of(const uint32_t* words, int j) {
  typedef uint32_t u32 __attribute__((vector_size(64)));
  typedef int32_t i32 __attribute__((vector_size(64)));
  u32 word = load<u32>(words);
  v16 r;
  if (PER == 4) {
    i32 value;
    word <<= 24 - 8 * j;
    std::memcpy(&value, &word, sizeof value);
    return __builtin_convertvector(value >> 24, v16);
  }
  if (PER == 2) word = j ? word & 0xffff0000u : word << 16;  // bfloat16 is the upper half of a float32
  std::memcpy(&r, &word, sizeof r);
  return r;
}

// The sum of 16 partial sums, in the order that both forms use.
inline float folded(const float* p) {
  float s[W];
  std::memcpy(s, p, sizeof s);
  for (int half = W / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) s[i] += s[i + half];
  return s[0];
}

// Zeroed memory, aligned for vectors; large blocks in huge pages where the system has them.
struct Free { void operator()(void* p) const { std::free(p); } };
using Bytes = std::unique_ptr<uint8_t[], Free>;

Bytes allocate(uint64_t bytes) {
  const uint64_t huge = 1 << 21, alignment = bytes >= huge ? huge : 64;
  bytes = (std::max<uint64_t>(bytes, 1) + alignment - 1) / alignment * alignment;
  void* p = std::aligned_alloc(alignment, bytes);
  if (!p) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
  if (alignment == huge) madvise(p, bytes, MADV_HUGEPAGE);
#endif
  std::memset(p, 0, bytes);
  return Bytes(static_cast<uint8_t*>(p));
}

struct Floats {
  Bytes memory;
  explicit Floats(uint64_t n = 0) : memory(allocate(n * sizeof(float))) {}
  float* at(uint64_t i = 0) const { return reinterpret_cast<float*>(memory.get()) + i; }
};

// ------------------------------------------------------------------------------------------------------------ the plan

enum Kind : uint32_t { EMBED, NORM, SSM, LINEAR, CLUSTERS, SHIFT, DOWN, UP, KEEP, ADD_KEPT, N_KINDS };
// Residual stream, private scratch, shared scratch, output; the rest is state, of the level around the operation.
enum Place : uint32_t { X, H, G, LOGITS, WINDOW, PENDING, N_PLACES };
// GATE: of a state space layer that runs on v and is multiplied with q, the shared scratch being q, k, v.
enum Epilogue : uint32_t { STORE, GELU, ADD, GLU_ADD, GATE, N_EPILOGUES };
enum Precision : uint32_t { FP32, BF16, INT8, N_PRECISIONS };
constexpr uint64_t PER_WORD[N_PRECISIONS] = {1, 2, 4};  // weights of one output in 32 bits
constexpr int MAX_RANK = 4, TENSORS = 4, MAX_CLUSTERS = 16, MAX_LEVELS = 16, MAX_TAPS = 64;

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
  uint32_t offset, reserved[2];
  uint64_t at[TENSORS];  // byte offsets
  // Set on reading:
  uint64_t state;  // floats of state per padded row before what this operation reads or writes there
  uint64_t every;  // of DOWN: steps from one input of its level to the next
  uint64_t up;     // of DOWN: the matching UP
  uint64_t reserved_too;
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

// Of DOWN: where in its window stands the input that comes after `place` tokens.
uint64_t phase_of(const Op& op, int64_t place) { return static_cast<uint64_t>(place) / op.every % op.period; }

// Of the logits: where a part of the vocabulary lies. The first has the clusters' own logits behind its tokens'.
struct Part {
  uint64_t at, count;
};

// Whether it reads q, k and v, each filling its last block.
bool reads_qkv(const Op& op) { return op.kind == SHIFT || (op.kind == SSM && op.epilogue == GATE); }

struct Plan {
  Bytes memory;
  Header header;
  std::vector<Op> ops;
  uint64_t wide = 0;   // floats of the widest buffer, padded
  uint64_t state = 0;  // floats of state per row, heads padded

  template <class T = float> const T* tensor(const Op& op, int i) const {
    return reinterpret_cast<const T*>(memory.get() + op.at[i]);
  }

  Plan(const uint8_t* bytes, uint64_t n) {
    if (n < sizeof(Header)) reject("it is shorter than its header");
    std::memcpy(&header, bytes, sizeof header);
    if (std::memcmp(header.magic, "s4plan\0", 8) != 0 || header.version != 1) reject("this is not a plan of version 1");
    if (header.bytes != n) reject("its length is not what its header says");
    const uint64_t limit = (n - sizeof(Header)) / sizeof(Op);
    if (header.n_ops < 2 || header.n_ops > limit) reject("the number of operations is wrong");
    if (header.vocab < 1 || header.vocab > (1u << 24) || header.bos > (1u << 24)) reject("the vocabulary is wrong");
    ops.resize(header.n_ops);
    std::memcpy(ops.data(), bytes + sizeof(Header), ops.size() * sizeof(Op));
    memory = allocate(n);
    std::memcpy(memory.get(), bytes, n);
    for (size_t i = 0; i < ops.size(); ++i) check(i, n);
    if (ops.back().dst != LOGITS || content_[LOGITS] != header.vocab) reject("it does not end in the logits");
    if (!levels_.empty()) reject("a level does not end");
  }

  // Whether the same operations are due in both places.
  bool together(uint64_t place, uint64_t other) const {
    for (const Op& op : ops)
      if (op.kind == DOWN && place % (op.every * op.period) != other % (op.every * op.period)) return false;
    return true;
  }

 private:
  // From KEEP, or from DOWN, whose level runs up to UP, to ADD_KEPT.
  struct Level {
    bool runs;
    uint64_t width, every, down, window, pending, kept;
    bool returned;  // something pending has been written
    std::array<uint64_t, N_PLACES> before;  // contents at DOWN
  };
  std::vector<Level> levels_;
  std::array<uint64_t, N_PLACES> content_{};  // numbers in each buffer as the operations go by; 0: nothing yet
  int n_levels_ = 0;

  void check(size_t number, uint64_t n) {
    Op& op = ops[number];
    const bool first = number == 0;
    if (op.kind >= N_KINDS || op.src >= N_PLACES || op.dst >= N_PLACES || op.epilogue >= N_EPILOGUES ||
        op.weights >= N_PRECISIONS)
      reject("an operation has a kind, buffer, epilogue or weight type that does not exist");
    if (first != (op.kind == EMBED)) reject("the embedding must be the first operation, and no other");
    if (op.in < 1 || op.in > (1u << 24) || op.out < 1 || op.out > (1u << 24)) reject("a width is out of range");
    const uint64_t in = padded(op.in), out = padded(op.out), read = reads_qkv(op) ? 3 * in : op.in;
    if (op.kind != EMBED && op.kind != UP && content_[op.src] != read) reject("an operation reads what is not there");
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
        if (op.src != X || op.dst != H || op.in != op.out || !(op.eps > 0)) reject("a norm is wrong");
        tensor_at(op, 0, out * 4, n), tensor_at(op, 1, out * 4, n);
        break;
      case SSM:
        if (op.src != (op.epilogue == GATE ? G : H) || op.dst != G || op.in != op.out || op.modes < 1 ||
            op.modes > (1u << 16) || op.rank > MAX_RANK || (op.epilogue > GELU && op.epilogue != GATE))
          reject("a state space layer is wrong");
        tensor_at(op, 0, product({in, op.modes, 6, 4}), n), tensor_at(op, 1, in * 4, n);
        if (op.rank) tensor_at(op, 2, product({in, op.modes, op.rank, 4, 4}), n);
        op.state = state;
        state += product({in, op.modes, 2});
        break;
      case SHIFT:
        if (op.src != G || op.dst != G || op.in != op.out || op.period < 2 || op.period > MAX_TAPS)
          reject("a shift is wrong");
        tensor_at(op, 0, product({op.period, in, 4}), n);
        op.state = state;
        state += product({op.period - 1, in});
        return;
      case CLUSTERS: {
        if (op.src != LOGITS || op.dst != LOGITS || op.modes > MAX_CLUSTERS) reject("the clusters are wrong");
        tensor_at(op, 0, (op.modes + 1) * sizeof(Part), n);
        const Part* parts = tensor<Part>(op, 0);
        uint64_t end = 0;  // of the tokens so far: each part is moved down to there
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
        return level(op, number);
      default: {
        if (op.epilogue == GATE) reject("a linear layer has no gate of its own");
        const bool adds = op.epilogue >= ADD, down = op.src == WINDOW, up = op.dst == PENDING;
        const uint64_t result = op.epilogue == GLU_ADD ? op.out / 2 : op.out;
        if (down || up) {
          if (op.epilogue != STORE || (down ? op.dst != X : op.src != X)) reject("a level is joined wrongly");
          if (levels_.empty() || !levels_.back().runs) reject("a level is joined where there is none");
          Level& around = levels_.back();
          if (up && op.out != ops[around.down].period * padded(around.width)) reject("a level returns another width");
          around.returned |= up;
          op.state = down ? around.window : around.pending;
        } else if ((op.src != H && op.src != G) || (adds ? op.dst != X : op.dst != G && op.dst != LOGITS) ||
                   op.src == op.dst) {
          reject("a linear layer reads or writes the wrong buffer");
        }
        if (op.epilogue == GLU_ADD && op.out % (2 * W)) reject("a gated layer is not packed in pairs");
        if (adds && padded(content_[X]) != padded(result)) reject("a layer adds another width than there is");
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

  void level(Op& op, size_t number) {
    if (op.kind == KEEP || op.kind == DOWN) {
      if (++n_levels_ > MAX_LEVELS) reject("it has too many levels");
      uint64_t every = 1, size = padded(op.in), places = 0;
      for (const Level& around : levels_)
        if (around.runs) every = around.every * ops[around.down].period;
      if (op.kind == DOWN) {
        if (op.period < 2 || op.period > (1u << 16)) reject("a stride is out of range");
        if (product({every, op.period}) > (uint64_t(1) << 48)) reject("its strides are out of range");
        places = op.period;
        op.every = every;
      }
      op.state = state;
      state += product({size, 2 * places + 1});
      levels_.push_back({op.kind == DOWN, op.in, every, number, op.state, op.state + places * size,
                         op.state + 2 * places * size, false, content_});
      content_[WINDOW] = places * size;
      return;
    }
    if (levels_.empty() || op.in != levels_.back().width) reject("a level ends that has not begun");
    Level& ends = levels_.back();
    if (ends.runs != (op.kind == UP) || (ends.runs && !ends.returned)) reject("a level ends in the wrong way");
    op.state = ends.kept;
    if (op.kind == ADD_KEPT) return levels_.pop_back();
    ends.runs = false;
    ops[ends.down].up = number;
    content_ = ends.before;  // the level may not have run, and where it has, it has left other things in h and g
    content_[H] = content_[G] = 0;
  }

  void tensor_at(const Op& op, int i, uint64_t bytes, uint64_t n) {
    const uint64_t first = sizeof(Header) + ops.size() * sizeof(Op);
    if (op.at[i] % 64 || op.at[i] < first || op.at[i] > n || bytes > n - op.at[i])
      reject("a tensor lies outside of it or is not aligned");
    used_ += bytes;
    if (used_ > n) reject("its tensors overlap");  // each bounds the memory that its operation needs
  }
  uint64_t used_ = 0;
};

// ------------------------------------------------------------------------------------------------- filters and the draw

struct Filters {
  double temperature, top_p, min_p;
  int64_t top_k;
};

// The filters of filters.py and the draw of randomness.py for one row; -1: the logits are not finite.
class Draw {
 public:
  explicit Draw(uint64_t vocab) : logit_(vocab), mass_(vocab), order_(vocab) {}

  int64_t operator()(const float* logits, const Filters& f, double u) {
    const int64_t V = static_cast<int64_t>(logit_.size());
    int64_t best = 0;
    bool finite = true;
    for (int64_t i = 0; i < V; ++i) {
      finite &= std::isfinite(logits[i]);
      logit_[i] = logits[i];
      if (logits[i] > logits[best]) best = i;
    }
    if (!finite) return -1;
    if (f.temperature == 0) return best;
    const double top = logit_[best];
    for (double& l : logit_) l = (l - top) / f.temperature;  // divided by 1: the logits themselves
    if (f.top_k > 0 && f.top_k < V) keep_top_k(f.top_k);
    if (f.top_p < 1) keep_top_p(f.top_p);
    if (f.min_p > 0) {
      const double least = std::log(f.min_p);
      for (double& l : logit_) l = l < least ? REMOVED : l;
    }
    double total = 0;
    weigh();
    for (double& m : mass_) m = total += m;
    const double threshold = u * total;
    for (int64_t i = 0; i < V; ++i)
      if (mass_[i] > threshold && logit_[i] > REMOVED) return i;
    return best;
  }

 private:
  static constexpr double REMOVED = -std::numeric_limits<double>::infinity();
  std::vector<double> logit_, mass_;
  std::vector<int32_t> order_;

  // mass = exp(logit), relative error 1e-15; logits are at most 0. A loop that compilers turn into vectors: of a large
  // vocabulary, one exponential after another would take as long as the model.
  void weigh() {
    const double magic = 6755399441055744.0;  // 1.5 2^52: adding it rounds to an integer
    for (size_t i = 0; i < mass_.size(); ++i) {
      const double x = logit_[i] < -700 ? -700 : logit_[i], shifted = x * 1.4426950408889634 + magic, k = shifted - magic;
      const double r = x - k * 0.6931471803691238 - k * 1.9082149292705877e-10;
      double p = 1.0 / 479001600;
      p = p * r + 1.0 / 39916800, p = p * r + 1.0 / 3628800, p = p * r + 1.0 / 362880, p = p * r + 1.0 / 40320;
      p = p * r + 1.0 / 5040, p = p * r + 1.0 / 720, p = p * r + 1.0 / 120, p = p * r + 1.0 / 24;
      p = p * r + 1.0 / 6, p = p * r + 0.5, p = p * r + 1.0, p = p * r + 1.0;
      uint64_t bits;
      std::memcpy(&bits, &shifted, sizeof bits);
      bits = (bits << 52) + 0x3ff0000000000000u;  // 2^k
      double scale;
      std::memcpy(&scale, &bits, sizeof scale);
      mass_[i] = logit_[i] < -700 ? 0.0 : p * scale;
    }
  }

  // More probable first; ties to the lower token.
  auto before() const {
    return [this](int32_t a, int32_t b) { return logit_[a] != logit_[b] ? logit_[a] > logit_[b] : a < b; };
  }

  void number() {
    for (size_t i = 0; i < order_.size(); ++i) order_[i] = static_cast<int32_t>(i);
  }

  void keep_top_k(int64_t k) {
    number();
    std::nth_element(order_.begin(), order_.begin() + (k - 1), order_.end(), before());
    for (size_t i = k; i < order_.size(); ++i) logit_[order_[i]] = REMOVED;
  }

  void keep_top_p(double p) {
    number();
    double total = 0;
    weigh();
    for (double m : mass_) total += m;
    // Sorted only as far as the mass needs: all of a large vocabulary is rarely wanted.
    double mass = 0;
    size_t kept = 0, sorted = 0;
    while (kept < order_.size() && (kept == 0 || mass < p * total)) {
      if (kept == sorted) {
        sorted = std::min(order_.size(), std::max<size_t>(64, 4 * sorted));
        std::partial_sort(order_.begin() + kept, order_.begin() + sorted, order_.end(), before());
      }
      mass += mass_[order_[kept++]];
    }
    for (size_t i = kept; i < order_.size(); ++i) logit_[order_[i]] = REMOVED;
  }
};

// ------------------------------------------------------------------------------------------------------------- threads

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

// A persistent team: run(job) calls job(thread) on all of them, the caller being thread 0.
class Team {
 public:
  explicit Team(int size) : size_(size) {
    for (int t = 1; t < size; ++t) threads_.emplace_back([this, t] { work(t); });
  }
  ~Team() {
    stop_ = true;
    wake();
    for (auto& thread : threads_) thread.join();
  }
  int size() const { return size_; }

  template <class Job> void run(Job&& job) {
    job_ = [](void* j, int thread) { (*static_cast<std::remove_reference_t<Job>*>(j))(thread); };
    argument_ = &job;
    busy_.store(size_ - 1, std::memory_order_relaxed);
    wake();
    job_(argument_, 0);
    wait([this] { return busy_.load(std::memory_order_acquire) == 0; });
  }

  // All threads of the team meet here.
  void barrier() {
    const uint32_t phase = phase_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1, std::memory_order_release);
    } else {
      wait([&] { return phase_.load(std::memory_order_acquire) != phase; });
    }
  }

 private:
  const int size_;
  std::vector<std::thread> threads_;
  void (*job_)(void*, int) = nullptr;
  void* argument_ = nullptr;
  std::atomic<bool> stop_{false};
  alignas(64) std::atomic<uint64_t> epoch_{0};
  alignas(64) std::atomic<int> busy_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
  std::mutex mutex_;
  std::condition_variable asleep_;

  template <class Done> static void wait(Done done) {
    for (int spins = 0; !done(); ++spins) spins < 4096 ? relax() : std::this_thread::yield();
  }

  void wake() {
    { std::lock_guard<std::mutex> lock(mutex_); epoch_.fetch_add(1, std::memory_order_release); }
    asleep_.notify_all();
  }

  void work(int thread) {
    for (uint64_t seen = 0;;) {
      // Streaming asks for one step at a time: stay awake for a while.
      const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(200);
      while (epoch_.load(std::memory_order_acquire) == seen && std::chrono::steady_clock::now() < until) relax();
      {
        std::unique_lock<std::mutex> lock(mutex_);
        asleep_.wait(lock, [&] { return epoch_.load(std::memory_order_acquire) != seen; });
      }
      seen = epoch_.load(std::memory_order_acquire);
      if (stop_) return;
      job_(argument_, thread);
      busy_.fetch_sub(1, std::memory_order_release);
    }
  }
};

struct Range {
  uint64_t begin, end;
};
Range share(uint64_t n, int thread, int threads) {
  return {n * thread / threads, n * (thread + 1) / threads};
}

// -------------------------------------------------------------------------------------------------------- the embedding

struct Input {  // of one row
  int64_t token, place, label;
};

struct Sources {
  const float *value, *place, *label;
};

Sources sources(const Plan& plan, const Op& op, const Input& input) {
  const auto [token, place, label] = input;
  const uint64_t D = padded(op.out), at = op.period ? static_cast<uint64_t>(place) % op.period : 0;
  const uint64_t channel = op.period ? (at + op.period - 1) % op.period % op.channels : 0;
  // A bos that is none of the tokens has a row of its own, the last.
  const bool extra = token >= static_cast<int64_t>(op.levels);
  const uint64_t index = extra ? uint64_t(op.channels) * op.levels : channel * op.levels + static_cast<uint64_t>(token);
  return {plan.tensor(op, 0) + index * D, op.period ? plan.tensor(op, 1) + at * D : nullptr,
          op.modes ? plan.tensor(op, 2) + static_cast<uint64_t>(label) * D : nullptr};
}

// ---------------------------------------------------------------------------------------------------------- the levels

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

// ---------------------------------------------------------------------------------------------------------------- solo

constexpr int SOLO = 4;  // rows at a time, at most

struct SoloBuffers {  // [row][width]
  float *x, *h, *g, *logits, *out;  // h, and out, a layer's sums, are each thread's own
  uint64_t wide;
  float* state[SOLO];  // of each row
  float* at(uint32_t place, int row) const {
    return (place == X ? x : place == H ? h : place == G ? g : logits) + row * wide;
  }
  float* at(const Op& op, uint32_t place, int row) const { return place < WINDOW ? at(place, row) : state[row] + op.state; }
};

void solo_norm(const Plan& plan, const Op& op, const float* x, float* h) {
  const uint64_t D = padded(op.in), full = op.in / W * W;
  const float *gamma = plan.tensor(op, 0), *beta = plan.tensor(op, 1);
  v16 sum = {};
  for (uint64_t i = 0; i < full; i += W) sum += load<v16>(x + i);
  for (uint64_t i = full; i < op.in; ++i) sum[i - full] += x[i];
  const float mean = folded(reinterpret_cast<const float*>(&sum)) / op.in;
  v16 square = {};
  for (uint64_t i = 0; i < full; i += W) {
    const v16 d = load<v16>(x + i) - mean;
    square = fma(d, d, square);
  }
  if (full < op.in) {
    v16 d = {};
    for (uint64_t i = full; i < op.in; ++i) d[i - full] = x[i] - mean;
    square = fma(d, d, square);
  }
  const float scale = 1.0f / std::sqrt(folded(reinterpret_cast<const float*>(&square)) / op.in + op.eps);
  for (uint64_t i = 0; i < D; i += W)
    store(h + i, fma((load<v16>(x + i) - mean) * scale, load<v16>(gamma + i), load<v16>(beta + i)));
}

// One step of 16 heads (solo, C = 1) or of one head for C vectors of rows (batch): the same sums. get(n, i) is
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

void solo_shift(const Plan& plan, const Op& op, float* g, float* state, Range blocks) {
  const uint64_t D = padded(op.in);
  for (uint64_t i = blocks.begin * W; i < blocks.end * W; i += W) {
    const float* taps = plan.tensor(op, 0) + i;
    auto tap = [&](int n) __attribute__((always_inline)) { return load<v16>(taps + n * D); };
    float* v = g + 2 * D + i;
    store(v, shifted<v16>(op.period, tap, state + op.state + i, D, load<v16>(g + D + i)) * load<v16>(v));
  }
}

void solo_ssm(const Plan& plan, const Op& op, const float* u, float* g, float* state, Range blocks) {
  const int modes = op.modes, rank = op.rank;
  for (uint64_t b = blocks.begin; b < blocks.end; ++b) {
    const float* c = plan.tensor(op, 0) + b * modes * 6 * W;
    const float* l = rank ? plan.tensor(op, 2) + b * modes * rank * 4 * W : nullptr;
    auto get = [&](int n, int i) __attribute__((always_inline)) { return load<v16>(c + (n * 6 + i) * W); };
    auto low = [&](int r, int n, int i) __attribute__((always_inline)) {
      return load<v16>(l + ((n * rank + r) * 4 + i) * W);
    };
    float* s = state + op.state + b * modes * 2 * W;
    const uint64_t ahead = uint64_t(modes) * 2 * W;
    const v16 skip = load<v16>(plan.tensor(op, 1) + b * W);
    v16 y = load<v16>(u + b * W);
    if (rank == 0) ssm_step<v16, 1>(modes, 0, get, low, s, W, &y, skip, ahead);
    else if (rank == 1) ssm_step<v16, 1>(modes, 1, get, low, s, W, &y, skip, ahead);
    else ssm_step<v16, 1>(modes, rank, get, low, s, W, &y, skip, ahead);
    float* to = g + b * W;
    store(to, op.epilogue == GELU ? gelu(y) : op.epilogue == GATE ? load<v16>(to) * y : y);
  }
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

// Adds the inputs from k on, DEPTH at most, to the sums of B blocks of 16 outputs for R rows: each weight is loaded once.
template <int R, int B, int PER>
void solo_blocks(const Plan& plan, const Op& op, const SoloBuffers& buffers, uint64_t k0, uint64_t block) {
  const Weights w = weights_at(plan, op, k0, block);
  const uint64_t K = std::min<uint64_t>(DEPTH, op.in - k0);
  const float* x[R];
  float* out = buffers.out + block * W;
  v16 acc[B][R];
  UNROLLED for (int r = 0; r < R; ++r) {
    x[r] = buffers.at(op, op.src, r) + k0;
    UNROLLED for (int b = 0; b < B; ++b) acc[b][r] = k0 ? load<v16>(out + r * buffers.wide + b * W) : v16{};
  }
  auto add = [&](uint64_t k, int j) __attribute__((always_inline)) {
    UNROLLED for (int b = 0; b < B; ++b) {
      const v16 weight = weight_of<PER>(w.at + k / PER * w.stride + b * W, j);
      UNROLLED for (int r = 0; r < R; ++r) acc[b][r] = fma(weight, splat<v16>(x[r][k + j]), acc[b][r]);
    }
  };
  uint64_t k = 0;
  for (; k + PER <= K; k += PER)
    UNROLLED for (int j = 0; j < PER; ++j) add(k, j);
  for (int j = 0; k + j < K; ++j) add(k, j);
  UNROLLED for (int r = 0; r < R; ++r)
    UNROLLED for (int b = 0; b < B; ++b) store(out + r * buffers.wide + b * W, acc[b][r]);
}

// What becomes of the sums from `begin` to `end`.
void solo_epilogue(const Plan& plan, const Op& op, float* out, float* y, uint64_t begin, uint64_t end) {
  const float *bias = plan.tensor(op, 1), *scale = op.weights == INT8 ? plan.tensor(op, 2) : nullptr;
  for (uint64_t o = begin; o < end; o += W) {
    v16 v = load<v16>(out + o);
    if (scale) v *= load<v16>(scale + o);
    store(out + o, v + load<v16>(bias + o));
  }
  if (op.epilogue == GLU_ADD) {
    for (uint64_t o = begin; o < end; o += 2 * W) {
      float* to = y + o / 2;
      store(to, fma(load<v16>(out + o), sigmoid(load<v16>(out + o + W)), load<v16>(to)));
    }
  } else if (op.epilogue == GELU) {
    for (uint64_t o = begin; o < end; o += W) store(y + o, gelu(load<v16>(out + o)));
  } else {
    for (uint64_t o = begin; o < end; o += W)
      store(y + o, op.epilogue == ADD ? load<v16>(y + o) + load<v16>(out + o) : load<v16>(out + o));
  }
}

template <int R, int PER>
void solo_linear(const Plan& plan, const Op& op, const SoloBuffers& buffers, int thread, int threads) {
  const uint64_t unit = op.epilogue == GLU_ADD ? 2 : 1;  // a value and its gate stay together
  const Range mine = share(padded(op.out) / W / unit, thread, threads);
  const uint64_t begin = mine.begin * unit, end = mine.end * unit;
  for (uint64_t k = 0; k < op.in; k += DEPTH)
    for (uint64_t block = begin; block < end;) {
      const uint64_t n = std::min(GROUP - block % GROUP, end - block);  // no further than its group of blocks
      if (n == 4) solo_blocks<R, 4, PER>(plan, op, buffers, k, block), block += 4;
      else if (n >= 2) solo_blocks<R, 2, PER>(plan, op, buffers, k, block), block += 2;
      else solo_blocks<R, 1, PER>(plan, op, buffers, k, block), block += 1;
    }
  for (int r = 0; r < R; ++r)
    solo_epilogue(plan, op, buffers.out + r * buffers.wide, buffers.at(op, op.dst, r) + op.offset, begin * W, end * W);
}

// log(sum(exp(l))) of `count` numbers, in 16 partial sums.
float log_sum(const float* l, uint64_t count) {
  const float top = *std::max_element(l, l + count);
  v16 sum = {};
  for (uint64_t i = 0; i < count; i += W) {
    v16 part = splat<v16>(-std::numeric_limits<float>::infinity());
    std::memcpy(&part, l + i, std::min<uint64_t>(W, count - i) * sizeof(float));
    part = exponential(part - top);
    for (uint64_t j = count - i; j < W; ++j) part[j] = 0;
    sum += part;
  }
  return top + std::log(folded(reinterpret_cast<const float*>(&sum)));
}

// Logits of the parts -> log-probabilities of the tokens, one after another.
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

template <int R>
void solo_step(const Plan& plan, const SoloBuffers& buffers, const Input* input, int thread, Team& team) {
  const int threads = team.size();
  for (size_t i = 0; i < plan.ops.size(); ++i) {
    const Op& op = plan.ops[i];
    if (op.kind == NORM) {  // cheap, so everybody has a copy of its own
      for (int r = 0; r < R; ++r) solo_norm(plan, op, buffers.at(X, r), buffers.at(H, r));
      continue;
    }
    if (op.kind == EMBED) {
      const Range mine = share(padded(op.out) / W, thread, threads);
      for (int r = 0; r < R; ++r) {
        const Sources from = sources(plan, op, input[r]);
        for (uint64_t i = mine.begin * W; i < mine.end * W; i += W) {
          v16 x = load<v16>(from.value + i);
          if (from.place) x += load<v16>(from.place + i);
          if (from.label) x += load<v16>(from.label + i);
          store(buffers.at(X, r) + i, x);
        }
      }
    } else if (op.kind == SSM) {
      const Range mine = share(padded(op.in) / W, thread, threads);
      const uint64_t skipped = reads_qkv(op) ? 2 * padded(op.in) : 0;  // q and k
      for (int r = 0; r < R; ++r)
        solo_ssm(plan, op, buffers.at(op.src, r) + skipped, buffers.at(G, r), buffers.state[r], mine);
    } else if (op.kind == SHIFT) {
      const Range mine = share(padded(op.in) / W, thread, threads);
      for (int r = 0; r < R; ++r) solo_shift(plan, op, buffers.at(G, r), buffers.state[r], mine);
    } else if (op.kind == CLUSTERS) {
      for (int r = thread; r < R; r += threads) solo_clusters(plan, op, buffers.at(LOGITS, r));
    } else if (op.kind >= DOWN) {
      const uint64_t size = padded(op.in), phase = op.kind == DOWN ? phase_of(op, input[0].place) : 0;
      const Range mine = share(size / W, thread, threads);
      for (int r = 0; r < R; ++r)
        cross(op, phase, buffers.at(X, r), buffers.state[r] + op.state, size, mine.begin * W, mine.end * W);
      if (op.kind == DOWN && phase + 1 < op.period) i = op.up - 1;
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

// --------------------------------------------------------------------------------------------------------------- batch

template <int M> struct Batch {
  static constexpr int C = M >= W ? M / W : 1;  // vectors of rows
  using V = std::conditional_t<M >= W, v16, v8>;
  static constexpr int L = M / C;                  // rows in a vector
  static constexpr int TILE = C == 1 ? 16 : 8 / (C / 2);  // outputs at a time: 16 accumulators

  float *x, *h, *g, *logits, *out, *panel;  // [feature][row]; out: sums; panel: weights as float32

  float* at(const Op& op, uint32_t place, float* state) const {
    return place == X ? x : place == H ? h : place == G ? g : place == LOGITS ? logits : state + op.state * M;
  }

  static void embed(const Plan& plan, const Op& op, float* x, const Input* input) {
    for (int m = 0; m < M; ++m) {
      const Sources from = sources(plan, op, input[m]);
      for (uint64_t i = 0; i < op.out; ++i) x[i * M + m] = from.value[i];
      for (const float* more : {from.place, from.label})
        for (uint64_t i = 0; more && i < op.out; ++i) x[i * M + m] += more[i];
    }
  }

  static void norm(const Plan& plan, const Op& op, const float* x, float* h) {
    const float *gamma = plan.tensor(op, 0), *beta = plan.tensor(op, 1);
    alignas(64) float part[W][M] = {}, mean[M], scale[M];
    auto fold = [&](float* to) {
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
        const V d = (load<V>(x + i * M + m) - load<V>(mean + m)) * load<V>(scale + m);
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

  template <int RANK> void ssm(const Plan& plan, const Op& op, float* state) const {
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
      float* s = state + op.state * M + head * modes * 2 * M;
      V y[C];
      UNROLLED for (int c = 0; c < C; ++c) y[c] = load<V>(u + head * M + c * L);
      ssm_step<V, C>(modes, rank, get, low, s, M, y, skip, uint64_t(modes) * 2 * M);
      UNROLLED for (int c = 0; c < C; ++c) {
        float* to = g + head * M + c * L;
        store(to, op.epilogue == GELU ? gelu(y[c]) : op.epilogue == GATE ? load<V>(to) * y[c] : y[c]);
      }
    }
  }

  // Sums of 16 outputs over K inputs, written to to[16][M] or added to it; weights w[K][16], `stride` floats apart.
  // Meanwhile the next weights are fetched: `next`, so many words for each input.
  static void sums(const float* w, uint64_t stride, uint64_t K, const float* x, float* to, bool first,
                   const uint32_t* next, uint64_t next_stride) {
    for (int o = 0; o < W; o += TILE) {
      V acc[TILE][C];
      UNROLLED for (int i = 0; i < TILE; ++i)
        UNROLLED for (int c = 0; c < C; ++c) acc[i][c] = first ? V{} : load<V>(to + (o + i) * M + c * L);
      for (uint64_t k = 0; k < K; ++k) {
        if (o == 0) __builtin_prefetch(next + k * next_stride);
        V row[C];
        UNROLLED for (int c = 0; c < C; ++c) row[c] = load<V>(x + k * M + c * L);
        UNROLLED for (int i = 0; i < TILE; ++i) {
          const V weight = splat<V>(w[k * stride + o + i]);
          UNROLLED for (int c = 0; c < C; ++c) acc[i][c] = fma(weight, row[c], acc[i][c]);
        }
      }
      UNROLLED for (int i = 0; i < TILE; ++i)
        UNROLLED for (int c = 0; c < C; ++c) store(to + (o + i) * M + c * L, acc[i][c]);
    }
  }

  // K weights of 16 outputs as float32 in the panel; those beyond K that fill a word are zeros.
  template <int PER> void widen(Weights w, uint64_t K) const {
    for (uint64_t k = 0; k < K; k += PER)
      UNROLLED for (int j = 0; j < PER; ++j) store(panel + (k + j) * W, weight_of<PER>(w.at + k / PER * w.stride, j));
  }

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
          else if (b % 2 == 0) store(out + (b * W + o) * M + m, v);
          else store(to, fma(load<V>(out + ((b - 1) * W + o) * M + m), sigmoid(v), load<V>(to)));
        }
    }
  }

  static void log_sum(const float* l, uint64_t count, float* to) {
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

  static void clusters(const Plan& plan, const Op& op, float* logits) {
    const Part* parts = plan.tensor<Part>(op, 0);
    uint64_t end = parts[0].count - op.modes;
    alignas(64) float head[M], tail[M], cluster[MAX_CLUSTERS][M];
    log_sum(logits, parts[0].count, head);
    std::copy_n(logits + end * M, op.modes * M, cluster[0]);
    for (uint64_t i = 0; i < end; ++i)
      for (int m = 0; m < M; ++m) logits[i * M + m] -= head[m];
    for (uint32_t c = 1; c <= op.modes; ++c) {
      const float* from = logits + parts[c].at * M;
      log_sum(from, parts[c].count, tail);
      for (int m = 0; m < M; ++m) tail[m] = (cluster[c - 1][m] - head[m]) - tail[m];
      for (uint64_t i = 0; i < parts[c].count; ++i)
        for (int m = 0; m < M; ++m) logits[(end + i) * M + m] = from[i * M + m] + tail[m];
      end += parts[c].count;
    }
  }

  void step(const Plan& plan, float* state, const Input* input) const {
    for (size_t i = 0; i < plan.ops.size(); ++i) {
      const Op& op = plan.ops[i];
      if (op.kind == EMBED) embed(plan, op, x, input);
      else if (op.kind == NORM) norm(plan, op, x, h);
      else if (op.kind == SSM && op.rank == 0) ssm<0>(plan, op, state);
      else if (op.kind == SSM && op.rank == 1) ssm<1>(plan, op, state);
      else if (op.kind == SSM) ssm<-1>(plan, op, state);
      else if (op.kind == SHIFT) shift(plan, op, g, state);
      else if (op.kind == CLUSTERS) clusters(plan, op, logits);
      else if (op.kind >= DOWN) {
        const uint64_t phase = op.kind == DOWN ? phase_of(op, input[0].place) : 0;
        cross(op, phase, x, state + op.state * M, padded(op.in) * M, 0, uint64_t(op.in) * M);
        if (op.kind == DOWN && phase + 1 < op.period) i = op.up - 1;
      } else if (op.weights == FP32) linear<1>(plan, op, state);
      else if (op.weights == BF16) linear<2>(plan, op, state);
      else linear<4>(plan, op, state);
    }
  }
};

// ------------------------------------------------------------------------------------------------------------- sessions

class Session {
 public:
  // lanes 0: solo; else rows per group of the batch form.
  Session(std::shared_ptr<const Plan> plan, uint64_t rows, int lanes, int threads)
      : plan_(std::move(plan)), rows_(rows), lanes_(lanes), team_(std::max(1, threads)),
        input_(padded_rows(), Input{plan_->header.bos, 0, 0}), state_(product({plan_->state, padded_rows()})) {
    const uint64_t wide = plan_->wide, M = lanes ? lanes : SOLO;
    for (int t = 0; t < team_.size(); ++t) {
      scratch_.emplace_back(5 * M * wide + W * DEPTH + wide);
      draws_.emplace_back(plan_->header.vocab);
    }
  }

  // Canonical state of one operation, float32. SSM: (rows, heads, 2 modes), real parts before imaginary ones. DOWN: (rows,
  // 2 stride, width), the window before what is pending. SHIFT: (rows, taps - 1, heads), oldest first.
  void exchange(size_t layer, float* canonical, bool inward) {
    const Op& op = stateful(layer);
    for (uint64_t row = 0; row < rows_; ++row)
      for (uint64_t i = 0; i < outer(op); ++i)
        for (uint64_t j = 0; j < inner(op); ++j) {
          float &ours = *cell(op, row, i, j), &theirs = canonical[(row * outer(op) + i) * inner(op) + j];
          (inward ? ours : theirs) = inward ? theirs : ours;
        }
  }
  void exchange_places(int64_t* places, bool inward) {
    for (uint64_t r = 0; inward && r < rows_; ++r)
      if (const uint64_t begin = lanes_ ? r / lanes_ * lanes_ : r; !plan_->together(places[r], places[begin]))
        throw std::invalid_argument("rows of one group stand at different places of a window");
    for (uint64_t r = 0; r < rows_; ++r) (inward ? input_[r].place : places[r]) = inward ? places[r] : input_[r].place;
  }
  void set_labels(const int64_t* labels) {
    for (uint64_t r = 0; r < rows_; ++r)
      if (const uint32_t classes = plan_->ops.front().modes; labels[r] < 0 || labels[r] >= classes)
        throw std::invalid_argument("label " + std::to_string(labels[r]) + " is none of the " + std::to_string(classes) +
                                    " classes");
    for (uint64_t r = 0; r < rows_; ++r) input_[r].label = labels[r];
  }

  // Feed `first`, draw, feed what was drawn, ..: `steps` draws per row, out (rows, steps), uniforms (rows, steps).
  // Without `filters` one step whose logits go to `logits` (rows, vocab). Returns false for logits that are not finite.
  bool run(const int64_t* first, const double* u, uint64_t steps, const Filters* filters, int64_t* out, float* logits) {
    for (uint64_t r = 0; r < rows_; ++r) {
      if (first[r] != plan_->header.bos && (first[r] < 0 || first[r] >= plan_->header.vocab))
        throw std::invalid_argument("token " + std::to_string(first[r]) + " is outside of the vocabulary of " +
                                    std::to_string(plan_->header.vocab));
    }
    for (uint64_t r = 0; r < rows_; ++r) input_[r].token = first[r];
    failed_ = false;
    next_ = 0;
    const Work work{u, steps, filters, out, logits};
    team_.run([&](int thread) {
      switch (lanes_) {
        case 0: return solo(work, thread);
        case 8: return batch<8>(work, thread);
        case 16: return batch<16>(work, thread);
        default: return batch<32>(work, thread);
      }
    });
    return !failed_;
  }

  uint64_t rows() const { return rows_; }

  static bool lasts(const Op& op) { return op.kind == SSM || op.kind == SHIFT || op.kind == DOWN; }
  // The operations with a state that lasts, in their order; `outer` and `inner`: its shape, without the rows.
  const Op& stateful(size_t layer) const {
    for (const Op& op : plan_->ops)
      if (lasts(op) && layer-- == 0) return op;
    throw std::invalid_argument("the plan has fewer layers with a state");
  }
  static uint64_t outer(const Op& op) {
    return op.kind == SSM ? op.in : op.kind == SHIFT ? op.period - 1 : 2 * uint64_t(op.period);
  }
  static uint64_t inner(const Op& op) { return op.kind == SSM ? 2 * uint64_t(op.modes) : op.in; }

 private:
  struct Work {
    const double* u;
    uint64_t steps;
    const Filters* filters;
    int64_t* out;
    float* logits;
  };

  std::shared_ptr<const Plan> plan_;
  uint64_t rows_;
  int lanes_;
  Team team_;
  std::vector<Input> input_;
  Floats state_;
  std::vector<Floats> scratch_;
  std::vector<Draw> draws_;
  std::atomic<bool> failed_{false};
  std::atomic<uint64_t> next_{0};

  uint64_t padded_rows() const { return lanes_ ? (rows_ + lanes_ - 1) / lanes_ * lanes_ : rows_; }

  float* cell(const Op& op, uint64_t row, uint64_t i, uint64_t j) const {
    const uint64_t N = op.modes, M = lanes_ ? lanes_ : 1, group = row / M;
    const uint64_t number = op.kind != SSM ? i * padded(op.in) + j
                            : lanes_       ? (i * N + j % N) * 2 + j / N
                                           : ((i / W * N + j % N) * 2 + j / N) * W + i % W;
    return state_.at((group * plan_->state + op.state + number) * M + row % M);
  }

  void finish(const Work& work, uint64_t row, uint64_t step, const float* logits, int thread) {
    ++input_[row].place;
    if (!work.filters) {
      std::memcpy(work.logits + row * plan_->header.vocab, logits, plan_->header.vocab * sizeof(float));
      return;
    }
    const int64_t drawn = draws_[thread](logits, *work.filters, work.u[row * work.steps + step]);
    if (drawn < 0) failed_ = true;
    work.out[row * work.steps + step] = input_[row].token = std::max<int64_t>(drawn, 0);
  }

  void solo(const Work& work, int thread) {
    const uint64_t wide = plan_->wide, n = SOLO * wide;
    float *mine = scratch_[thread].at(), *shared = scratch_[0].at();
    SoloBuffers buffers{shared, mine + n, shared + 2 * n, shared + 3 * n, mine + 4 * n, wide, {}};
    for (uint64_t step = 0; step < work.steps; ++step)
      for (uint64_t row = 0, n; row < rows_; row += n) {
        for (n = 1; n < SOLO && row + n < rows_ && plan_->together(input_[row].place, input_[row + n].place);) ++n;
        n = n == 3 ? 2 : n;
        for (uint64_t r = 0; r < n; ++r) buffers.state[r] = state_.at((row + r) * plan_->state);
        if (n == 1) solo_step<1>(*plan_, buffers, &input_[row], thread, team_);
        else if (n == 2) solo_step<2>(*plan_, buffers, &input_[row], thread, team_);
        else solo_step<4>(*plan_, buffers, &input_[row], thread, team_);
        for (uint64_t r = thread; r < n; r += team_.size()) finish(work, row + r, step, buffers.at(LOGITS, r), thread);
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
        buffers.step(*plan_, state_.at(row * plan_->state), &input_[row]);
        for (uint64_t m = 0; m < live; ++m) {
          for (uint64_t i = 0; i < vocab; ++i) one[i] = buffers.logits[i * M + m];
          finish(work, row + m, step, one, thread);
        }
      }
    }
  }
};

// ------------------------------------------------------------------------------------- what this machine can do at most

double elapsed(std::chrono::steady_clock::time_point since) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count();
}

// Bytes per second of reading `bytes` again and again, each thread its share; the best of several passes.
double read_bandwidth(uint64_t bytes, int threads, double seconds) {
  Team team(threads);
  const uint64_t n = std::max<uint64_t>(bytes / sizeof(float) / (4 * W) * (4 * W), 4 * W * threads);
  Floats buffer(n);
  std::vector<float> sink(threads);
  double best = 0;
  const auto start = std::chrono::steady_clock::now();
  do {
    const auto pass = std::chrono::steady_clock::now();
    team.run([&](int thread) {
      const Range mine = share(n / (4 * W), thread, threads);
      v16 a = {}, b = {}, c = {}, d = {};
      for (uint64_t i = mine.begin; i < mine.end; ++i) {
        const float* p = buffer.at(i * 4 * W);
        a += load<v16>(p), b += load<v16>(p + W), c += load<v16>(p + 2 * W), d += load<v16>(p + 3 * W);
      }
      const v16 sum = (a + b) + (c + d);
      sink[thread] = folded(reinterpret_cast<const float*>(&sum));
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
  const auto start = std::chrono::steady_clock::now();
  do {
    const auto pass = std::chrono::steady_clock::now();
    team.run([&](int thread) {
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

int s4_places(Session* session, int64_t* places, int32_t inward, char* error, uint64_t size) {
  return guarded(error, size, [&] { session->exchange_places(places, inward != 0); });
}

int s4_labels(Session* session, const int64_t* labels, char* error, uint64_t size) {
  return guarded(error, size, [&] { session->set_labels(labels); });
}

int s4_advance(Session* session, const int64_t* token, const double* u, uint64_t steps, double temperature, int64_t top_k,
               double top_p, double min_p, int64_t* out, char* error, uint64_t size) {
  return guarded(error, size, [&] {
    const Filters filters{temperature, top_p, min_p, top_k};
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
