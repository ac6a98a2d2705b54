// The innermost loops of a product with a packed matrix, included by the files that build them for
// their instruction sets.
#pragma once

#include "vector.h"

namespace cold {

// Rows of x that share what is read of the matrix, and panels of it that share what is read of x: as
// many sums as the registers hold.
constexpr int64_t kRows = 8;
constexpr int64_t kPanels = 3;
constexpr int64_t kLanes = 16;                  // columns of a panel
constexpr int64_t kColumns = kPanels * kLanes;  // from one row of sums to the next

// Multiplies in float whatever the elements are.
template <typename T>
struct InFloat {
  using Weights = Pair;
  struct Inputs {
    float first, second;
  };
  static COLD_INLINE Weights weights(const T* p) { return load(p); }
  static COLD_INLINE Inputs inputs(const T* p) { return {to_float(p[0]), to_float(p[1])}; }
  static COLD_INLINE void add(Floats& sums, const Weights& w, const Inputs& x) {
    sums += w.first * x.first;
    sums += w.second * x.second;
  }
};

template <int kR, int kP, typename Format, typename T>
COLD_INLINE void multiply_tile(const T* x, int64_t stride, const T* w, int64_t depth, int64_t n,
                               float* sums) {
  Floats tile[kR][kP];
  for (int r = 0; r < kR; ++r)
    for (int p = 0; p < kP; ++p) tile[r][p] = load_as<Floats>(sums + r * kColumns + p * kLanes);
  for (int64_t i = 0; i < n; i += 2) {
    typename Format::Weights weights[kP];
    for (int p = 0; p < kP; ++p) {
      weights[p] = Format::weights(w + (p * depth + i) * kLanes);
      if (kR > 2) __builtin_prefetch(w + ((p + kP) * depth + i) * kLanes, 0, 2);
    }
    for (int r = 0; r < kR; ++r) {
      const typename Format::Inputs inputs = Format::inputs(x + r * stride + i);
      for (int p = 0; p < kP; ++p) Format::add(tile[r][p], weights[p], inputs);
    }
  }
  for (int r = 0; r < kR; ++r)
    for (int p = 0; p < kP; ++p)
      std::memcpy(sums + r * kColumns + p * kLanes, &tile[r][p], sizeof(Floats));
}

template <int kR, typename Format, typename T>
COLD_INLINE void multiply_panels(const T* x, int64_t stride, const T* w, int64_t depth,
                                 int64_t panels, int64_t n, float* sums) {
  if (panels == kPanels) return multiply_tile<kR, kPanels, Format>(x, stride, w, depth, n, sums);
  for (int64_t p = 0; p < panels; ++p)
    multiply_tile<kR, 1, Format>(x, stride, w + p * depth * kLanes, depth, n, sums + p * kLanes);
}

template <typename Format, typename T>
COLD_INLINE void multiply_any(const T* x, int64_t stride, int64_t rows, const T* w, int64_t depth,
                              int64_t panels, int64_t n, float* sums) {
  switch (rows) {
    case 1: return multiply_panels<1, Format>(x, stride, w, depth, panels, n, sums);
    case 2: return multiply_panels<2, Format>(x, stride, w, depth, panels, n, sums);
    case 3: return multiply_panels<3, Format>(x, stride, w, depth, panels, n, sums);
    case 4: return multiply_panels<4, Format>(x, stride, w, depth, panels, n, sums);
    case 5: return multiply_panels<5, Format>(x, stride, w, depth, panels, n, sums);
    case 6: return multiply_panels<6, Format>(x, stride, w, depth, panels, n, sums);
    case 7: return multiply_panels<7, Format>(x, stride, w, depth, panels, n, sums);
    default: return multiply_panels<8, Format>(x, stride, w, depth, panels, n, sums);
  }
}

}  // namespace cold
