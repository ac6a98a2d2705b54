// Products of rows with the keys and values of a sequence, which lie in blocks of kLanes tokens.
//
// Within a block of one head, the keys are one panel of a packed matrix (linear.h), [16, D], and the
// values a packed matrix of their own, the other way round, [D, 16]: so both of attention's products
// are those of a linear layer, wherever the blocks are.
#pragma once

#include "tile.h"

namespace cold {

// The blocks of one sequence and head: the i-th one's number is table[i].
template <typename T>
struct Blocks {
  T* pool;  // of all sequences, of this head
  const int32_t* table;
  int64_t width;

  COLD_INLINE T* at(int64_t i) const { return pool + table[i] * (kLanes * width); }
};

// scores[r * stride + t] = x[r] . key t, of rows <= kRows with all tokens of the first `count` blocks;
// x[r] is at x + r * width, which is even.
void score(const float* x, int64_t rows, const Blocks<float>& keys, int64_t count, float* scores,
           int64_t stride);
void score(const BFloat16* x, int64_t rows, const Blocks<BFloat16>& keys, int64_t count,
           float* scores, int64_t stride);
void score(const Float16* x, int64_t rows, const Blocks<Float16>& keys, int64_t count,
           float* scores, int64_t stride);

// sums[r * width + c] = column c of the sum of shares[r * stride + t] * value t, of rows <= kRows over
// the first n tokens, n even.
void mix(const float* shares, int64_t stride, int64_t rows, const Blocks<float>& values, int64_t n,
         float* sums);
void mix(const BFloat16* shares, int64_t stride, int64_t rows, const Blocks<BFloat16>& values,
         int64_t n, float* sums);
void mix(const Float16* shares, int64_t stride, int64_t rows, const Blocks<Float16>& values,
         int64_t n, float* sums);

// The same with the processor's bfloat16 dot product, where it has one (linear.h).
void score_by_dot(const BFloat16* x, int64_t rows, const Blocks<BFloat16>& keys, int64_t count,
                  float* scores, int64_t stride);
void mix_by_dot(const BFloat16* shares, int64_t stride, int64_t rows,
                const Blocks<BFloat16>& values, int64_t n, float* sums);

}  // namespace cold
