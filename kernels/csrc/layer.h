// What a decoder layer does between its matrices, a row at a time.
#pragma once

#include <cstdint>

#include "vector.h"

namespace cold {

// hidden += delta, unless that is null; out = hidden / rms(hidden) * weight.
void add_and_norm(float* out, float* hidden, const float* delta, const float* weight, int64_t n,
                  float epsilon);
void add_and_norm(BFloat16* out, BFloat16* hidden, const BFloat16* delta, const BFloat16* weight,
                  int64_t n, float epsilon);
void add_and_norm(Float16* out, Float16* hidden, const Float16* delta, const Float16* weight,
                  int64_t n, float epsilon);

// out = gate * sigmoid(gate) * up
void silu_and_multiply(float* out, const float* gate, const float* up, int64_t n);
void silu_and_multiply(BFloat16* out, const BFloat16* gate, const BFloat16* up, int64_t n);
void silu_and_multiply(Float16* out, const Float16* gate, const Float16* up, int64_t n);

// Turns the pairs (x[i], x[half + i]) by the angles whose cosine and sine are given, rounded once.
void rotate(float* out, const float* x, const float* cosine, const float* sine, int64_t half);
void rotate(BFloat16* out, const BFloat16* x, const float* cosine, const float* sine, int64_t half);
void rotate(Float16* out, const Float16* x, const float* cosine, const float* sine, int64_t half);

// scores = softmax(scale * scores); there is room for n rounded up to 16.
void softmax(float* scores, int64_t n, float scale);

}  // namespace cold
