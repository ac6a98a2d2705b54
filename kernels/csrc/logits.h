// One row's logits: their statistics in one pass, and the tokens near the best.
#pragma once

#include <cstdint>

#include "vector.h"

namespace cold {

// Tokens whose maximum is remembered, so that those far from the row's best are not read again.
constexpr int64_t kBlock = 512;

// What one pass over a span of one row's logits finds.
struct Stats {
  float max = -kInfinity;
  float sum = 0;        // of exp(logit - max)
  bool broken = false;  // a NaN or +inf
  void merge(const Stats& other);
  float log_sum_exp() const;
};

// Statistics of n logits, and the maximum of each kBlock of them.
Stats examine(const float* logits, int64_t n, float* block_max);
Stats examine(const BFloat16* logits, int64_t n, float* block_max);
Stats examine(const Float16* logits, int64_t n, float* block_max);

// Appends the ids of the tokens whose logit reaches the cutoff; returns how many there are then.
// `found` has room for n. Blocks whose maximum is below the cutoff are not read.
int64_t find(const float* logits, int64_t n, const float* block_max, float cutoff, int32_t* found);
int64_t find(const BFloat16* logits, int64_t n, const float* block_max, float cutoff,
             int32_t* found);
int64_t find(const Float16* logits, int64_t n, const float* block_max, float cutoff,
             int32_t* found);

}  // namespace cold
