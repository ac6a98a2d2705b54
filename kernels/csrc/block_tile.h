// The innermost loops of products with blocks, included by the files that build them for their
// instruction sets. A sum is added up in the order of tile.h, whatever blocks it goes through.
#pragma once

#include <algorithm>

#include "blocks.h"

namespace cold {

// How many blocks ahead of its use one is asked for: where it is, the processor does not foresee.
constexpr int64_t kAhead = 8;

template <int kR, int kP, typename Format, typename T>
COLD_INLINE void score_tile(const T* x, const Blocks<T>& keys, int64_t first, int64_t count,
                            float* scores, int64_t stride) {
  const T *panels[kP], *next[kP];
  for (int p = 0; p < kP; ++p) {
    panels[p] = keys.at(first + p);
    next[p] = keys.at(std::min(first + kAhead + p, count - 1));
  }
  Floats tile[kR][kP] = {};
  for (int64_t i = 0; i < keys.width; i += 2) {
    typename Format::Weights weights[kP];
    for (int p = 0; p < kP; ++p) {
      weights[p] = Format::weights(panels[p] + i * kLanes);
      __builtin_prefetch(next[p] + i * kLanes, 0, 2);
    }
    for (int r = 0; r < kR; ++r) {
      const typename Format::Inputs inputs = Format::inputs(x + r * keys.width + i);
      for (int p = 0; p < kP; ++p) Format::add(tile[r][p], weights[p], inputs);
    }
  }
  for (int r = 0; r < kR; ++r)
    for (int p = 0; p < kP; ++p)
      std::memcpy(scores + r * stride + (first + p) * kLanes, &tile[r][p], sizeof(Floats));
}

template <int kR, typename Format, typename T>
COLD_INLINE void score_blocks(const T* x, const Blocks<T>& keys, int64_t count, float* scores,
                              int64_t stride) {
  int64_t first = 0;
  for (; first + kPanels <= count; first += kPanels)
    score_tile<kR, kPanels, Format>(x, keys, first, count, scores, stride);
  for (; first < count; ++first)
    score_tile<kR, 1, Format>(x, keys, first, count, scores, stride);
}

// The sums of kP panels of the values' columns, through all blocks: they stay in the registers.
template <int kR, int kP, typename Format, typename T>
COLD_INLINE void mix_tile(const T* shares, int64_t stride, const Blocks<T>& values, int64_t panel,
                          int64_t n, float* sums) {
  const int64_t last = (n - 1) / kLanes;
  Floats tile[kR][kP] = {};
  for (int64_t block = 0; block <= last; ++block) {
    const T* w = values.at(block) + panel * kLanes * kLanes;
    const T* next = values.at(std::min(block + kAhead, last)) + panel * kLanes * kLanes;
    const T* x = shares + block * kLanes;
    const int64_t tokens = std::min(kLanes, n - block * kLanes);
    for (int64_t i = 0; i < tokens; i += 2) {
      typename Format::Weights weights[kP];
      for (int p = 0; p < kP; ++p) {
        weights[p] = Format::weights(w + (p * kLanes + i) * kLanes);
        __builtin_prefetch(next + (p * kLanes + i) * kLanes, 0, 2);
      }
      for (int r = 0; r < kR; ++r) {
        const typename Format::Inputs inputs = Format::inputs(x + r * stride + i);
        for (int p = 0; p < kP; ++p) Format::add(tile[r][p], weights[p], inputs);
      }
    }
  }
  for (int r = 0; r < kR; ++r)
    for (int p = 0; p < kP; ++p)
      std::memcpy(sums + r * values.width + (panel + p) * kLanes, &tile[r][p], sizeof(Floats));
}

template <int kR, typename Format, typename T>
COLD_INLINE void mix_blocks(const T* shares, int64_t stride, const Blocks<T>& values, int64_t n,
                            float* sums) {
  const int64_t panels = values.width / kLanes;
  int64_t panel = 0;
  for (; panel + kPanels <= panels; panel += kPanels)
    mix_tile<kR, kPanels, Format>(shares, stride, values, panel, n, sums);
  for (; panel < panels; ++panel)
    mix_tile<kR, 1, Format>(shares, stride, values, panel, n, sums);
}

template <typename Format, typename T>
COLD_INLINE void score_any(const T* x, int64_t rows, const Blocks<T>& keys, int64_t count,
                           float* scores, int64_t stride) {
  switch (rows) {
    case 1: return score_blocks<1, Format>(x, keys, count, scores, stride);
    case 2: return score_blocks<2, Format>(x, keys, count, scores, stride);
    case 3: return score_blocks<3, Format>(x, keys, count, scores, stride);
    case 4: return score_blocks<4, Format>(x, keys, count, scores, stride);
    case 5: return score_blocks<5, Format>(x, keys, count, scores, stride);
    case 6: return score_blocks<6, Format>(x, keys, count, scores, stride);
    case 7: return score_blocks<7, Format>(x, keys, count, scores, stride);
    default: return score_blocks<8, Format>(x, keys, count, scores, stride);
  }
}

template <typename Format, typename T>
COLD_INLINE void mix_any(const T* shares, int64_t stride, int64_t rows, const Blocks<T>& values,
                         int64_t n, float* sums) {
  switch (rows) {
    case 1: return mix_blocks<1, Format>(shares, stride, values, n, sums);
    case 2: return mix_blocks<2, Format>(shares, stride, values, n, sums);
    case 3: return mix_blocks<3, Format>(shares, stride, values, n, sums);
    case 4: return mix_blocks<4, Format>(shares, stride, values, n, sums);
    case 5: return mix_blocks<5, Format>(shares, stride, values, n, sums);
    case 6: return mix_blocks<6, Format>(shares, stride, values, n, sums);
    case 7: return mix_blocks<7, Format>(shares, stride, values, n, sums);
    default: return mix_blocks<8, Format>(shares, stride, values, n, sums);
  }
}

}  // namespace cold
