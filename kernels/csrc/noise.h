// Gumbel noise that is a function of a row's key and a token; what it is: cold_kernels/noise.py.
#pragma once

#include "vector.h"

namespace cold {

// A row's two words, and how the noise is added: (score - best) / temperature + noise.
struct Heat {
  float best, temperature;
  uint32_t first, second;
};

// No noise is beyond these: they are that of the largest and the smallest uniform number, rounded
// outwards.
constexpr float kMostNoise = 16.64f, kLeastNoise = -2.82f;

COLD_INLINE Words mix(Words x) {  // lowbias32, github.com/skeeto/hash-prospector
  x = (x ^ x >> 16) * 0x7feb352du;
  x = (x ^ x >> 15) * 0x846ca68bu;
  return x ^ x >> 16;
}

// log(x) for normal x > 0, to a few units of the last place also near 1 (cephes, logf).
COLD_INLINE Floats log_of(Floats x) {
  const Words bits = bit_cast<Words>(x) - 0x3f3504f3u;  // of sqrt(1/2)
  const Floats exponent = __builtin_convertvector(bit_cast<Ints>(bits) >> 23, Floats);
  const Floats f = bit_cast<Floats>((bits & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
  Floats p = 7.0376836292e-2f * f - 1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f - 1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f - 1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f - 2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  const Floats square = f * f;
  const Floats tail = p * f * square - 2.12194440e-4f * exponent - 0.5f * square;
  return f + tail + 0.693359375f * exponent;
}

// Sixteen tokens' uniform numbers, times 2^24: odd.
COLD_INLINE Ints uniform(Words ids, const Heat& heat) {
  return bit_cast<Ints>(mix(mix(ids ^ heat.first) ^ heat.second) >> 8 | 1u);
}

// The noise of sixteen tokens.
COLD_INLINE Floats gumbel(Words ids, const Heat& heat) {
  const Floats u = __builtin_convertvector(uniform(ids, heat), Floats) * 0x1p-24f;
  return -log_of(-log_of(u));
}

// At least the noise, without its logarithms: -log(u) >= 1 - u, and log2(x) is at least what x's bits
// are in fixed point.
COLD_INLINE Floats at_least_gumbel(Words ids, const Heat& heat) {
  const Floats rest = __builtin_convertvector((1 << 24) - uniform(ids, heat), Floats) * 0x1p-24f;
  const Floats bits = __builtin_convertvector(bit_cast<Ints>(rest), Floats);
  return (127.0f - bits * 0x1p-23f) * 0.69314718f + 1e-3f;
}

// What a sampled row maximises. The best score may be infinite.
COLD_INLINE Floats perturbed(Floats score, Words ids, const Heat& heat) {
  const Floats below = (score - heat.best) / heat.temperature;
  return (score == heat.best ? Floats{} : below) + gumbel(ids, heat);
}

}  // namespace cold
