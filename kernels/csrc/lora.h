// Products with a few rows of a matrix: what LoRA is made of.
#pragma once

#include <cstdint>

#include "vector.h"

namespace cold {

// Tokens of one adapter that share what is read of its matrices.
constexpr int64_t kTile = 4;

// h[t][k] = x[t] . a[k] for t < tokens <= kTile and k < ranks; a is [ranks, n], h[t] has a float for
// every rank.
void shrink(const float* const* x, int64_t tokens, const float* a, int64_t ranks, int64_t n,
            float* const* h);
void shrink(const BFloat16* const* x, int64_t tokens, const BFloat16* a, int64_t ranks, int64_t n,
            float* const* h);
void shrink(const Float16* const* x, int64_t tokens, const Float16* a, int64_t ranks, int64_t n,
            float* const* h);

// y[t][i] += scale[t] * sum_k h[t][k] * b[k * stride + i] for i < n, rounded once.
void expand(float* const* y, int64_t tokens, const float* b, int64_t ranks, int64_t stride,
            int64_t n, const float* scale, const float* const* h);
void expand(BFloat16* const* y, int64_t tokens, const BFloat16* b, int64_t ranks, int64_t stride,
            int64_t n, const float* scale, const float* const* h);
void expand(Float16* const* y, int64_t tokens, const Float16* b, int64_t ranks, int64_t stride,
            int64_t n, const float* scale, const float* const* h);

}  // namespace cold
