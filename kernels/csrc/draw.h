// One row's scores: what its filters leave, and a token drawn from that.
#pragma once

#include <cstdint>

namespace cold {

// How a token is drawn from scores; cold_kernels/choice_ops.py says what each does.
struct Sampling {
  float temperature, top_p, min_p;
  int32_t top_k;
  uint32_t first, second;  // the noise's key
};

// The token; -1 if no score is above -inf.
int64_t draw(const float* scores, int64_t n, const Sampling& sampling);

}  // namespace cold
