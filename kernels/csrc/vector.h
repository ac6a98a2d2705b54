// Thirty-two numbers at a time, in the compiler's portable vector types: two AVX-512 registers, four
// of AVX2, eight of NEON. Everything here is inlined into the functions marked COLD_CLONES, which
// the compiler builds for several instruction sets and chooses from at load.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__x86_64__)
#define COLD_CLONES \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define COLD_CLONES
#endif
#define COLD_INLINE inline __attribute__((always_inline))

namespace cold {

using Floats = float __attribute__((vector_size(64)));
using Words = uint32_t __attribute__((vector_size(64)));
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

// Elements of memory at p, p + 1, ...; of 16-bit types the even ones are apart from the odd ones,
// which needs no shuffling. What is loaded, computed element by element and stored is in its place.
struct Pair {
  Floats first, second;
};
constexpr int64_t kWidth = 32;

template <typename To, typename From>
COLD_INLINE To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

template <typename Vector>
COLD_INLINE Vector load_as(const void* p) {
  Vector x;
  std::memcpy(&x, p, sizeof(x));
  return x;
}

COLD_INLINE Pair load(const float* p) { return {load_as<Floats>(p), load_as<Floats>(p + 16)}; }

COLD_INLINE void store(float* p, const Pair& x) { std::memcpy(p, &x, sizeof(x)); }

COLD_INLINE Pair load(const BFloat16* p) {
  const Words bits = load_as<Words>(p);
  return {bit_cast<Floats>(bits << 16), bit_cast<Floats>(bits & 0xffff0000u)};
}

// Rounds to the nearest bfloat16, ties to even; in the upper halves.
COLD_INLINE Words round_to_bfloat16(Floats x) {
  const Words bits = bit_cast<Words>(x);
  const Words rounded = bits + 0x7fff + ((bits >> 16) & 1);
  return ((bits & 0x7fffffffu) > 0x7f800000u ? bits | 0x400000u : rounded) & 0xffff0000u;
}

COLD_INLINE void store(BFloat16* p, const Pair& x) {
  const Words bits = round_to_bfloat16(x.first) >> 16 | round_to_bfloat16(x.second);
  std::memcpy(p, &bits, sizeof(bits));
}

// From the bits of a float16 in the lower halves.
COLD_INLINE Floats from_float16(Words bits) {
  const Words magnitude = (bits & 0x7fff) << 13;
  // Multiplying rebases the exponent and makes subnormal numbers normal.
  const Words finite = bit_cast<Words>(bit_cast<Floats>(magnitude) * 0x1p112f);
  const Words x = magnitude >= (0x7c00u << 13) ? magnitude | 0x7f800000u : finite;
  return bit_cast<Floats>(x | (bits & 0x8000) << 16);
}

COLD_INLINE Pair load(const Float16* p) {
  const Words bits = load_as<Words>(p);
  return {from_float16(bits & 0xffff), from_float16(bits >> 16)};
}

// Rounds to the nearest float16, ties to even; in the lower halves.
COLD_INLINE Words round_to_float16(Floats x) {
  const Words bits = bit_cast<Words>(x);
  const Words magnitude = bits & 0x7fffffffu;
  const Words normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  // Adding 0.5 leaves a subnormal result in the low bits, rounded by the addition itself.
  const Words small = bit_cast<Words>(bit_cast<Floats>(magnitude) + 0.5f) - (126u << 23);
  Words half = magnitude < (113u << 23) ? small : normal;
  half = magnitude >= 0x477ff000u ? 0x7c00u + Words{} : half;  // beyond the largest number
  half = magnitude > 0x7f800000u ? 0x7e00u + Words{} : half;   // NaN
  return (bits >> 16 & 0x8000) | half;
}

COLD_INLINE void store(Float16* p, const Pair& x) {
  const Words bits = round_to_float16(x.first) | round_to_float16(x.second) << 16;
  std::memcpy(p, &bits, sizeof(bits));
}

// The first n elements, of up to kWidth; the others are zero.
template <typename T>
COLD_INLINE Pair load_some(const T* p, int64_t n) {
  if (n >= kWidth) return load(p);
  T whole[kWidth] = {};
  std::memcpy(whole, p, n * sizeof(T));
  return load(whole);
}

template <typename T>
COLD_INLINE void store_some(T* p, const Pair& x, int64_t n) {
  if (n >= kWidth) return store(p, x);
  T whole[kWidth];
  store(whole, x);
  std::memcpy(p, whole, n * sizeof(T));
}

COLD_INLINE float to_float(float x) { return x; }
COLD_INLINE float to_float(BFloat16 x) { return bit_cast<float>(uint32_t{x.bits} << 16); }
COLD_INLINE float to_float(Float16 x) { return from_float16(x.bits + Words{})[0]; }

template <typename T>
COLD_INLINE T from_float(float x);
template <>
COLD_INLINE float from_float<float>(float x) {
  return x;
}
template <>
COLD_INLINE BFloat16 from_float<BFloat16>(float x) {
  const uint32_t bits = bit_cast<uint32_t>(x);
  const uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);
  return {static_cast<uint16_t>((x != x ? bits | 0x400000u : rounded) >> 16)};
}
template <>
COLD_INLINE Float16 from_float<Float16>(float x) {
  return {static_cast<uint16_t>(round_to_float16(x + Floats{})[0])};
}

COLD_INLINE float sum(Floats x) {
  using Eight = float __attribute__((vector_size(32)));
  using Four = float __attribute__((vector_size(16)));
  const Eight eight = __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7) +
                      __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
  const Four four = __builtin_shufflevector(eight, eight, 0, 1, 2, 3) +
                    __builtin_shufflevector(eight, eight, 4, 5, 6, 7);
  return (four[0] + four[2]) + (four[1] + four[3]);
}

COLD_INLINE float max(Floats x) {
  const auto higher = [](auto a, auto b) { return a > b ? a : b; };
  const auto eight = higher(__builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7),
                            __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15));
  const auto four = higher(__builtin_shufflevector(eight, eight, 0, 1, 2, 3),
                           __builtin_shufflevector(eight, eight, 4, 5, 6, 7));
  return higher(higher(four[0], four[2]), higher(four[1], four[3]));
}

using Ints = int32_t __attribute__((vector_size(64)));

// The logarithm's base change and the exponent's place in a float's bits, in one factor.
constexpr float kExponentUnit = 0x1p23f;
constexpr float kLog2E = 1.44269504f;

// exp(x - max), for x <= max + 87; `bias` is exponent_bias(max). With t = (x - max) / log(2), the
// bits of a float of exponent floor(t) and mantissa t - floor(t) are t itself in fixed point; what
// is left is 2^(t - floor(t)), a polynomial on [1, 2). Its error is below 3e-6; with `kShort` below
// 8e-5, a hundredth of what rounding a logit to 16 bits does.
template <bool kShort>
COLD_INLINE Floats exp_below(Floats x, float bias) {
  Ints bits = __builtin_convertvector(x * (kLog2E * kExponentUnit) + bias, Ints);
  bits = bits > 0 ? bits : Ints{};  // exp is 0 where the exponent would be out of range
  const Floats power = bit_cast<Floats>(bits & 0x7f800000);
  const Floats u = bit_cast<Floats>((bits & 0x007fffff) | 0x3f800000);
  Floats p;
  if constexpr (kShort) {
    p = 7.80245195e-02f * u - 8.00638000e-03f;
    p = p * u + 4.77772724e-01f;
    p = p * u + 4.52134358e-01f;
  } else {
    p = 1.35341676e-02f * u - 2.12520634e-03f;
    p = p * u + 1.66613367e-01f;
    p = p * u + 3.12016052e-01f;
    p = p * u + 5.09964214e-01f;
  }
  return power * p;
}

COLD_INLINE float exponent_bias(float max) { return (127.0f - max * kLog2E) * kExponentUnit; }

}  // namespace cold
