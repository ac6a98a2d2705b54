#include "blocks.h"

#include "block_tile.h"
#include "linear.h"

namespace cold {

#define COLD_DEFINE(T)                                                                       \
  COLD_CLONES static void score_in_float(const T* x, int64_t rows, const Blocks<T>& keys,    \
                                         int64_t count, float* scores, int64_t stride) {     \
    score_any<InFloat<T>>(x, rows, keys, count, scores, stride);                             \
  }                                                                                          \
  COLD_CLONES static void mix_in_float(const T* shares, int64_t stride, int64_t rows,        \
                                       const Blocks<T>& values, int64_t n, float* sums) {    \
    mix_any<InFloat<T>>(shares, stride, rows, values, n, sums);                              \
  }
COLD_DEFINE(float)
COLD_DEFINE(BFloat16)
COLD_DEFINE(Float16)
#undef COLD_DEFINE

void score(const float* x, int64_t rows, const Blocks<float>& keys, int64_t count, float* scores,
           int64_t stride) {
  score_in_float(x, rows, keys, count, scores, stride);
}

void score(const Float16* x, int64_t rows, const Blocks<Float16>& keys, int64_t count,
           float* scores, int64_t stride) {
  score_in_float(x, rows, keys, count, scores, stride);
}

void score(const BFloat16* x, int64_t rows, const Blocks<BFloat16>& keys, int64_t count,
           float* scores, int64_t stride) {
  static const bool by_dot = has_bfloat16_dot();
  if (by_dot) return score_by_dot(x, rows, keys, count, scores, stride);
  score_in_float(x, rows, keys, count, scores, stride);
}

void mix(const float* shares, int64_t stride, int64_t rows, const Blocks<float>& values, int64_t n,
         float* sums) {
  mix_in_float(shares, stride, rows, values, n, sums);
}

void mix(const Float16* shares, int64_t stride, int64_t rows, const Blocks<Float16>& values,
         int64_t n, float* sums) {
  mix_in_float(shares, stride, rows, values, n, sums);
}

void mix(const BFloat16* shares, int64_t stride, int64_t rows, const Blocks<BFloat16>& values,
         int64_t n, float* sums) {
  static const bool by_dot = has_bfloat16_dot();
  if (by_dot) return mix_by_dot(shares, stride, rows, values, n, sums);
  mix_in_float(shares, stride, rows, values, n, sums);
}

}  // namespace cold
