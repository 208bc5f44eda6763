// Vectors of float32, functions of them, and the memory that they live in.
//
// Every kernel is written once, for a vector type V of 4, 8 or 16 float32 (GCC's and Clang's vector extensions, so +
// and * work on them). `Full` is the one that fills a register of the target. The layout in memory does not depend on
// it: it is always made of blocks of W = 16 numbers, which is one AVX-512 register, two of AVX2, or four of SSE or
// NEON. So a packed plan is the same file for every processor, and so is the order in which partial sums are added.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace {

// An array of accumulators is kept in registers only if every index is a constant, so loops over it must be unrolled.
#define UNROLLED _Pragma("GCC unroll 16")

constexpr int W = 16;  // numbers in one block of the layout, the same on every machine

// What the target's registers hold: how many float32 each, and how many of them there are.
#if defined(__AVX512F__)
constexpr int LANES = 16, REGISTERS = 32;
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int LANES = 8, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int LANES = 4, REGISTERS = 32;
#else
constexpr int LANES = 4, REGISTERS = 16;
#endif
constexpr int SUMS = REGISTERS / 2;  // registers that may hold sums: the others hold what is multiplied

template <int N> struct VectorOf;  // of N float32
template <> struct VectorOf<4> {
  typedef float type __attribute__((vector_size(16)));
  typedef int32_t integers __attribute__((vector_size(16)));
  typedef uint32_t words __attribute__((vector_size(16)));
};
template <> struct VectorOf<8> {
  typedef float type __attribute__((vector_size(32)));
  typedef int32_t integers __attribute__((vector_size(32)));
  typedef uint32_t words __attribute__((vector_size(32)));
};
template <> struct VectorOf<16> {
  typedef float type __attribute__((vector_size(64)));
  typedef int32_t integers __attribute__((vector_size(64)));
  typedef uint32_t words __attribute__((vector_size(64)));
};
using Full = VectorOf<LANES>::type;  // fills a register
constexpr int FULLS = W / LANES;     // so many of them make a block

template <class V> constexpr int width = sizeof(V) / sizeof(float);
template <class V> using IntegersOf = typename VectorOf<width<V>>::integers;

// load and store want an address that is a multiple of the vector's size; load_anywhere takes any.
template <class V, class T> inline V load(const T* p) {
  V r;
  std::memcpy(&r, __builtin_assume_aligned(p, sizeof(V)), sizeof r);
  return r;
}
template <class V> inline V load_anywhere(const float* p) {
  V r;
  std::memcpy(&r, p, sizeof r);
  return r;
}
template <class V> inline void store(float* p, V x) { std::memcpy(__builtin_assume_aligned(p, sizeof(V)), &x, sizeof x); }
template <class V> inline V splat(float x) {
  V r;
  for (int i = 0; i < width<V>; ++i) r[i] = x;
  return r;
}

// a b + c, rounded once. Compilers mostly turn the loop into one instruction. Where the hardware has none, a call of
// the C library for each number would be very slow, so there nothing is fused anywhere: both forms still round alike.
template <class V> inline V fma(V a, V b, V c) {
#if defined(__FMA__) || defined(__AVX512F__) || defined(__ARM_FEATURE_FMA)
  V r;
  for (int i = 0; i < width<V>; ++i) r[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return r;
#else
  return a * b + c;
#endif
}

// Intrinsics for the usual widths: GCC 12 takes long loops of the generic functions above apart into single numbers.
#if defined(__AVX2__) && defined(__FMA__)
using Eight = VectorOf<8>::type;
template <> inline Eight splat<Eight>(float x) { return (Eight)_mm256_set1_ps(x); }
template <> inline Eight fma(Eight a, Eight b, Eight c) {
  return (Eight)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
#endif
#if defined(__AVX512F__)
template <> inline Full splat<Full>(float x) { return (Full)_mm512_set1_ps(x); }
template <> inline Full fma(Full a, Full b, Full c) { return (Full)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
#elif defined(__aarch64__)
template <> inline Full splat<Full>(float x) { return (Full)vdupq_n_f32(x); }
template <> inline Full fma(Full a, Full b, Full c) {
  return (Full)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
#elif defined(__SSE2__) && !defined(__AVX2__)
template <> inline Full splat<Full>(float x) { return (Full)_mm_set1_ps(x); }
#endif

// The polynomial c0 x^n + .. + cn by Horner's rule.
template <class V, class... Rest> inline V polynomial(V x, float c0, Rest... rest) {
  V p = splat<V>(c0);
  ((p = fma(p, x, splat<V>(rest))), ...);
  return p;
}

// exp(x) for x from -87 to 87: 2^k e^r with |r| <= ln 2 / 2, and a Taylor polynomial for e^r. Relative error 2e-7.
template <class V> inline V bounded_exponential(V x) {
  using I = IntegersOf<V>;
  const V magic = splat<V>(12582912.0f);  // 1.5 2^23: adding it rounds to an integer
  const V shifted = fma(x, splat<V>(1.44269504088896341f), magic);
  const V k = shifted - magic;
  // r = x - k ln 2, with ln 2 in two parts: k times the first one is exact, so that r keeps its digits.
  V r = fma(k, splat<V>(-0.693145751953125f), x);
  r = fma(k, splat<V>(-1.428606765330187e-6f), r);
  const V p = polynomial(r, 1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f);
  I bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  // 2^k: the low bits of `shifted` are k and move to the exponent; the bits of the magic number leave at the top.
  bits = (bits << 23) + 0x3f800000;
  V scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return p * scale;
}

// If b is NaN, so is the result. Callers therefore pass the limit as a and the value as b: a clamp must not hide a NaN.
template <class V> inline V smaller(V a, V b) { return a < b ? a : b; }
template <class V> inline V larger(V a, V b) { return a > b ? a : b; }

// exp(x); x beyond +-87 counts as +-87, so nothing overflows or becomes denormal.
template <class V> inline V exponential(V x) {
  return bounded_exponential(larger(splat<V>(-87.0f), smaller(splat<V>(87.0f), x)));
}

// log(x) for positive x that are not denormal: the exponent, and a polynomial (that of Cephes' logf) for the rest. The
// error is 1e-7 times the larger one of 1 and |log(x)|.
template <class V> inline V logarithm(V x) {
  using I = IntegersOf<V>;
  I bits;
  std::memcpy(&bits, &x, sizeof bits);
  const I exponent = (bits - 0x3f3504f3) >> 23;  // chosen so that the rest lies between sqrt(1/2) and sqrt(2)
  bits -= exponent << 23;
  V rest;
  std::memcpy(&rest, &bits, sizeof rest);
  const V k = __builtin_convertvector(exponent, V), r = rest - 1.0f, square = r * r;
  V y = polynomial(r, 7.0376836292e-2f, -1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f,
                   -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f);
  y = fma(k, splat<V>(-2.12194440e-4f), y * r * square);
  y = fma(splat<V>(-0.5f), square, y);
  return fma(k, splat<V>(0.693359375f), r + y);
}

// tanh(x) from e^(-2 |x|), which cannot overflow.
template <class V> inline V tanh_of(V x) {
  const V t = exponential((x < 0 ? x : -x) * 2.0f), y = (1.0f - t) / (1.0f + t);
  return x < 0 ? -y : y;
}

template <class V> inline V sigmoid(V x) { return splat<V>(1.0f) / (splat<V>(1.0f) + exponential(-x)); }

// gelu(x) = x Phi(x), with erf by Abramowitz and Stegun 7.1.26, absolute error 1.5e-7.
template <class V> inline V gelu(V x) {
  const V z = x * splat<V>(0.70710678118654752f);
  const V a = z < 0 ? -z : z;
  const V t = splat<V>(1.0f) / fma(splat<V>(0.3275911f), a, splat<V>(1.0f));
  const V p = polynomial(t, 1.061405429f, -1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f);
  const V tail = p * t * exponential(-(a * a));  // 1 - erf(a)
  const V half = splat<V>(0.5f) * tail;
  return x * (z < 0 ? half : splat<V>(1.0f) - half);
}

// Weight j of each word. A word of 32 bits holds PER weights of one output, for PER inputs in a row, the first one in
// the lowest bits: one float32, two bfloat16 or four int8.
template <class V, int PER> inline V weight_of(const uint32_t* words, int j) {
  using I = IntegersOf<V>;
  auto word = load<typename VectorOf<width<V>>::words>(words);
  V r;
  if (PER == 4) {
    I value;
    word <<= 24 - 8 * j;  // the byte goes to the top, so that the shift below extends its sign
    std::memcpy(&value, &word, sizeof value);
    return __builtin_convertvector(value >> 24, V);
  }
  if (PER == 2) word = j ? word & 0xffff0000u : word << 16;  // bfloat16 is the upper half of a float32
  std::memcpy(&r, &word, sizeof r);
  return r;
}

// The sum of 16 partial sums, by halves. The batch form adds its own in the same order, so both get the same bits.
inline float folded(const Full* p) {
  float s[W];
  std::memcpy(s, p, sizeof s);
  for (int half = W / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) s[i] += s[i + half];
  return s[0];
}

// Zeroed memory, aligned for vectors. Large blocks ask for huge pages where the system has them: a step reads all
// weights from end to end, and small pages would mean one more address to translate every 4 KiB.
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

}  // namespace
