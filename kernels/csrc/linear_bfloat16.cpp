// The kernels for which the compiler has no portable vector type: x86's bfloat16 dot product.
#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <limits>

// Before the headers of ours, whose inlined functions must be built for it too.
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")

#include "block_tile.h"
#include "linear.h"

namespace cold {
namespace {

struct ByDot {
  using Weights = __m512bh;
  using Inputs = __m512bh;
  static COLD_INLINE Weights weights(const BFloat16* p) { return load_as<__m512bh>(p); }
  static COLD_INLINE Inputs inputs(const BFloat16* p) {
    return bit_cast<__m512bh>(load_as<uint32_t>(p) + Words{});
  }
  static COLD_INLINE void add(Floats& sums, const Weights& w, const Inputs& x) {
    sums = _mm512_dpbf16_ps(sums, w, x);
  }
};

}  // namespace

bool has_bfloat16_dot() { return __builtin_cpu_supports("avx512bf16"); }

void multiply_by_dot(const BFloat16* x, int64_t stride, int64_t rows, const BFloat16* w,
                     int64_t depth, int64_t panels, int64_t n, float* sums) {
  multiply_any<ByDot>(x, stride, rows, w, depth, panels, n, sums);
}

void score_by_dot(const BFloat16* x, int64_t rows, const Blocks<BFloat16>& keys, int64_t count,
                  float* scores, int64_t stride) {
  score_any<ByDot>(x, rows, keys, count, scores, stride);
}

void mix_by_dot(const BFloat16* shares, int64_t stride, int64_t rows,
                const Blocks<BFloat16>& values, int64_t n, float* sums) {
  mix_any<ByDot>(shares, stride, rows, values, n, sums);
}

}  // namespace cold

#else

#include "blocks.h"
#include "linear.h"

namespace cold {

bool has_bfloat16_dot() { return false; }
void multiply_by_dot(const BFloat16*, int64_t, int64_t, const BFloat16*, int64_t, int64_t, int64_t,
                     float*) {}
void score_by_dot(const BFloat16*, int64_t, const Blocks<BFloat16>&, int64_t, float*, int64_t) {}
void mix_by_dot(const BFloat16*, int64_t, int64_t, const Blocks<BFloat16>&, int64_t, float*) {}

}  // namespace cold

#endif
