// One row's logits: their statistics in one pass, and the tokens near the best.
#pragma once

#include <cstdint>

#include "noise.h"
#include "vector.h"

namespace cold {

// Tokens whose maximum is remembered, so that those far from the row's best are not read again.
constexpr int64_t kBlock = 512;
constexpr float kNotANumber = std::numeric_limits<float>::quiet_NaN();

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

// n logits as floats.
void widen(const float* logits, int64_t n, float* out);
void widen(const BFloat16* logits, int64_t n, float* out);
void widen(const Float16* logits, int64_t n, float* out);

// sum(p * log(2 * p / (p + q))) + sum(q * log(2 * q / (p + q))) of n tokens, where p and q are the
// exponentials of two rows' logits less the logarithms of their sums.
float difference(const float* first, float first_log_sum, const float* second,
                 float second_log_sum, int64_t n);
float difference(const BFloat16* first, float first_log_sum, const BFloat16* second,
                 float second_log_sum, int64_t n);
float difference(const Float16* first, float first_log_sum, const Float16* second,
                 float second_log_sum, int64_t n);

// Keeps the best of what it is shown; of equal keys the leftmost token.
struct Best {
  int64_t token = -1;
  float key = -kInfinity, score = kNotANumber;
  void see(int64_t id, float score_, float key_) {
    if (token >= 0 && !(key_ > key || (key_ == key && id < token))) return;
    token = id, key = key_, score = score_;
  }
};

// Samples from n logits, of which heat.best is the highest and finite. Blocks in which no token can
// win are not read.
Best sample(const float* logits, int64_t n, const float* block_max, const Heat& heat);
Best sample(const BFloat16* logits, int64_t n, const float* block_max, const Heat& heat);
Best sample(const Float16* logits, int64_t n, const float* block_max, const Heat& heat);

// Samples from the tokens of n ids with these scores.
Best sample_among(const int32_t* ids, const float* scores, int64_t n, const Heat& heat);

}  // namespace cold
