#include "linear.h"

namespace cold {
namespace {

template <typename T>
COLD_INLINE void round_any(T* y, const float* sums, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = from_float<T>(sums[i]);
}

}  // namespace

#define COLD_DEFINE(T)                                                                         \
  COLD_CLONES static void multiply_in_float(const T* x, int64_t stride, int64_t rows,         \
                                            const T* w, int64_t depth, int64_t panels,        \
                                            int64_t n, float* sums) {                         \
    multiply_any<InFloat<T>>(x, stride, rows, w, depth, panels, n, sums);                             \
  }                                                                                            \
  COLD_CLONES void round_to(T* y, const float* sums, int64_t n) { round_any(y, sums, n); }
COLD_DEFINE(float)
COLD_DEFINE(BFloat16)
COLD_DEFINE(Float16)
#undef COLD_DEFINE

void multiply(const float* x, int64_t stride, int64_t rows, const float* w, int64_t depth,
              int64_t panels, int64_t n, float* sums) {
  multiply_in_float(x, stride, rows, w, depth, panels, n, sums);
}

void multiply(const Float16* x, int64_t stride, int64_t rows, const Float16* w, int64_t depth,
              int64_t panels, int64_t n, float* sums) {
  multiply_in_float(x, stride, rows, w, depth, panels, n, sums);
}

void multiply(const BFloat16* x, int64_t stride, int64_t rows, const BFloat16* w, int64_t depth,
              int64_t panels, int64_t n, float* sums) {
  static const bool by_dot = has_bfloat16_dot();
  if (by_dot) return multiply_by_dot(x, stride, rows, w, depth, panels, n, sums);
  multiply_in_float(x, stride, rows, w, depth, panels, n, sums);
}

}  // namespace cold
