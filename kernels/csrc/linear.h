// Products of rows with a packed matrix.
//
// A matrix [M, N] is packed in panels of kLanes rows; within a panel, pairs of neighbouring elements
// of all rows follow one another. So the sums of a panel fill one register, its memory is read from
// front to back, and 16-bit pairs are where the processor's dot product wants them:
//   float:   [M / 16, N / 2, 2, 16]        16 bits: [M / 16, N / 2, 16, 2]
#pragma once

#include "tile.h"

namespace cold {

// sums[r * kColumns + c] += x[r] . w[c] for r < rows <= kRows, over the columns of panels <= kPanels;
// x[r] is at x + r * stride; the first n of the matrix's `depth` columns are used, n is even.
void multiply(const float* x, int64_t stride, int64_t rows, const float* w, int64_t depth,
              int64_t panels, int64_t n, float* sums);
void multiply(const BFloat16* x, int64_t stride, int64_t rows, const BFloat16* w, int64_t depth,
              int64_t panels, int64_t n, float* sums);
void multiply(const Float16* x, int64_t stride, int64_t rows, const Float16* w, int64_t depth,
              int64_t panels, int64_t n, float* sums);

// The same with the processor's bfloat16 dot product, where it has one.
bool has_bfloat16_dot();
void multiply_by_dot(const BFloat16* x, int64_t stride, int64_t rows, const BFloat16* w,
                     int64_t depth, int64_t panels, int64_t n, float* sums);

// Where a packed matrix of `depth` columns has an element.
template <typename T>
COLD_INLINE int64_t packed_at(int64_t row, int64_t column, int64_t depth) {
  const int64_t pair = row / kLanes * (depth / 2) + column / 2, lane = row % kLanes;
  return sizeof(T) == 2 ? (pair * kLanes + lane) * 2 + column % 2
                        : (pair * 2 + column % 2) * kLanes + lane;
}

// y[i] = sums[i] for i < n, rounded.
void round_to(float* y, const float* sums, int64_t n);
void round_to(BFloat16* y, const float* sums, int64_t n);
void round_to(Float16* y, const float* sums, int64_t n);

}  // namespace cold
