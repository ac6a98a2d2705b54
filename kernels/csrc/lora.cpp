#include "lora.h"

#include <algorithm>

namespace cold {
namespace {

COLD_INLINE void add_product(Pair& sums, const Pair& x, const Pair& w) {
  sums.first += x.first * w.first;
  sums.second += x.second * w.second;
}

// The products of kTokens tokens with kRanks rows of a.
template <int kTokens, int kRanks, typename T>
COLD_INLINE void shrink_tile(const T* const* x, const T* a, int64_t n, float* const* h, int64_t k) {
  Pair sums[kTokens][kRanks] = {};
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth)
    for (int r = 0; r < kRanks; ++r) {
      const Pair row = load(a + r * n + i);
      for (int t = 0; t < kTokens; ++t) add_product(sums[t][r], load(x[t] + i), row);
    }
  if (i < n)
    for (int r = 0; r < kRanks; ++r) {
      const Pair row = load_some(a + r * n + i, n - i);
      for (int t = 0; t < kTokens; ++t) add_product(sums[t][r], load_some(x[t] + i, n - i), row);
    }
  for (int t = 0; t < kTokens; ++t)
    for (int r = 0; r < kRanks; ++r) h[t][k + r] = sum(sums[t][r].first + sums[t][r].second);
}

template <int kTokens, int kRanks, typename T>
COLD_INLINE void shrink_ranks(const T* const* x, const T* a, int64_t ranks, int64_t n,
                              float* const* h) {
  int64_t k = 0;
  for (; k + kRanks <= ranks; k += kRanks) shrink_tile<kTokens, kRanks>(x, a + k * n, n, h, k);
  for (; k < ranks; ++k) shrink_tile<kTokens, 1>(x, a + k * n, n, h, k);
}

template <typename T>
COLD_INLINE void shrink_any(const T* const* x, int64_t tokens, const T* a, int64_t ranks, int64_t n,
                            float* const* h) {
  // As many sums as the registers hold.
  switch (tokens) {
    case 1: return shrink_ranks<1, 4>(x, a, ranks, n, h);
    case 2: return shrink_ranks<2, 4>(x, a, ranks, n, h);
    case 3: return shrink_ranks<3, 2>(x, a, ranks, n, h);
    default: return shrink_ranks<4, 2>(x, a, ranks, n, h);
  }
}

template <int kTokens>
COLD_INLINE void add_rank(Pair* sums, const Pair& row, const float* const* h, int64_t k) {
  for (int t = 0; t < kTokens; ++t) {
    sums[t].first += h[t][k] * row.first;
    sums[t].second += h[t][k] * row.second;
  }
}

COLD_INLINE Pair add_scaled(const Pair& y, float scale, const Pair& sums) {
  return {y.first + scale * sums.first, y.second + scale * sums.second};
}

template <int kTokens, typename T>
COLD_INLINE void expand_tile(T* const* y, const T* b, int64_t ranks, int64_t stride, int64_t n,
                             const float* scale, const float* const* h) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    Pair sums[kTokens] = {};
    for (int64_t k = 0; k < ranks; ++k) add_rank<kTokens>(sums, load(b + k * stride + i), h, k);
    for (int t = 0; t < kTokens; ++t)
      store(y[t] + i, add_scaled(load(y[t] + i), scale[t], sums[t]));
  }
  if (i < n) {
    Pair sums[kTokens] = {};
    for (int64_t k = 0; k < ranks; ++k)
      add_rank<kTokens>(sums, load_some(b + k * stride + i, n - i), h, k);
    for (int t = 0; t < kTokens; ++t)
      store_some(y[t] + i, add_scaled(load_some(y[t] + i, n - i), scale[t], sums[t]), n - i);
  }
}

template <typename T>
COLD_INLINE void expand_any(T* const* y, int64_t tokens, const T* b, int64_t ranks, int64_t stride,
                            int64_t n, const float* scale, const float* const* h) {
  switch (tokens) {
    case 1: return expand_tile<1>(y, b, ranks, stride, n, scale, h);
    case 2: return expand_tile<2>(y, b, ranks, stride, n, scale, h);
    case 3: return expand_tile<3>(y, b, ranks, stride, n, scale, h);
    default: return expand_tile<4>(y, b, ranks, stride, n, scale, h);
  }
}

}  // namespace

#define COLD_DEFINE(T)                                                                            \
  COLD_CLONES void shrink(const T* const* x, int64_t tokens, const T* a, int64_t ranks,           \
                          int64_t n, float* const* h) {                                           \
    shrink_any(x, tokens, a, ranks, n, h);                                                        \
  }                                                                                               \
  COLD_CLONES void expand(T* const* y, int64_t tokens, const T* b, int64_t ranks, int64_t stride, \
                          int64_t n, const float* scale, const float* const* h) {                 \
    expand_any(y, tokens, b, ranks, stride, n, scale, h);                                         \
  }
COLD_DEFINE(float)
COLD_DEFINE(BFloat16)
COLD_DEFINE(Float16)
#undef COLD_DEFINE

}  // namespace cold
