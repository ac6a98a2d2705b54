#include "layer.h"

#include <cmath>

namespace cold {
namespace {

template <typename T>
COLD_INLINE void add_and_norm_any(T* out, T* hidden, const T* delta, const T* weight, int64_t n,
                                  float epsilon) {
  Pair squares = {};
  for (int64_t i = 0; i < n; i += kWidth) {
    const int64_t left = n - i;
    Pair x = load_some(hidden + i, left);
    if (delta) {
      const Pair d = load_some(delta + i, left);
      store_some(hidden + i, Pair{x.first + d.first, x.second + d.second}, left);
      x = load_some(hidden + i, left);
    }
    squares.first += x.first * x.first;
    squares.second += x.second * x.second;
  }
  const float factor = 1.0f / std::sqrt(sum(squares.first + squares.second) / n + epsilon);
  for (int64_t i = 0; i < n; i += kWidth) {
    const Pair x = load_some(hidden + i, n - i), w = load_some(weight + i, n - i);
    store_some(out + i, Pair{x.first * factor * w.first, x.second * factor * w.second}, n - i);
  }
}

// The exponential's argument is kept where it neither overflows nor matters.
COLD_INLINE Floats silu(Floats x) {
  constexpr float kFar = 80;
  const Floats minus = x < -kFar ? Floats{} + kFar : (x > kFar ? Floats{} - kFar : -x);
  return x / (1.0f + exp_below<false>(minus, exponent_bias(0)));
}

template <typename T>
COLD_INLINE void silu_any(T* out, const T* gate, const T* up, int64_t n) {
  for (int64_t i = 0; i < n; i += kWidth) {
    const Pair g = load_some(gate + i, n - i), u = load_some(up + i, n - i);
    store_some(out + i, Pair{silu(g.first) * u.first, silu(g.second) * u.second}, n - i);
  }
}

template <typename T>
COLD_INLINE void rotate_any(T* out, const T* x, const float* cosine, const float* sine,
                            int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    const float a = to_float(x[i]), b = to_float(x[half + i]);
    out[i] = from_float<T>(a * cosine[i] - b * sine[i]);
    out[half + i] = from_float<T>(b * cosine[i] + a * sine[i]);
  }
}

}  // namespace

#define COLD_DEFINE(T)                                                                            \
  COLD_CLONES void add_and_norm(T* out, T* hidden, const T* delta, const T* weight, int64_t n,    \
                                float epsilon) {                                                  \
    add_and_norm_any(out, hidden, delta, weight, n, epsilon);                                     \
  }                                                                                               \
  COLD_CLONES void silu_and_multiply(T* out, const T* gate, const T* up, int64_t n) {             \
    silu_any(out, gate, up, n);                                                                   \
  }                                                                                               \
  COLD_CLONES void rotate(T* out, const T* x, const float* cosine, const float* sine,             \
                          int64_t half) {                                                         \
    rotate_any(out, x, cosine, sine, half);                                                       \
  }
COLD_DEFINE(float)
COLD_DEFINE(BFloat16)
COLD_DEFINE(Float16)
#undef COLD_DEFINE

COLD_CLONES void softmax(float* scores, int64_t n, float scale) {
  const int64_t padded = (n + 15) / 16 * 16;
  for (int64_t i = n; i < padded; ++i) scores[i] = -kInfinity;
  Floats highest = Floats{} - kInfinity;
  for (int64_t i = 0; i < padded; i += 16) {
    const Floats x = load_as<Floats>(scores + i);
    highest = x > highest ? x : highest;
  }
  const float bias = exponent_bias(scale * max(highest));
  Floats total = {};
  for (int64_t i = 0; i < padded; i += 16) {
    const Floats power = exp_below<false>(load_as<Floats>(scores + i) * scale, bias);
    total += power;
    std::memcpy(scores + i, &power, sizeof(power));
  }
  const float factor = 1 / sum(total);
  for (int64_t i = 0; i < padded; i += 16) {
    const Floats share = load_as<Floats>(scores + i) * factor;
    std::memcpy(scores + i, &share, sizeof(share));
  }
}

}  // namespace cold
