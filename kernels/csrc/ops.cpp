// The native CPU ops behind torch's dispatcher; their contracts are in cold_kernels/ops.py.
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "lora.h"
#include "selection.h"
#include "tensors.h"

namespace cold {
namespace {

// Multiplications that are worth a thread.
constexpr int64_t kGrain = 1 << 15;

Selection contrast_select(const Tensor& expert, const Tensor& base, const Tensor& mode,
                          const Tensor& alpha, const Tensor& beta, const Tensor& temperature,
                          const std::optional<Tensor>& key) {
  check_shape(base, expert.scalar_type(), expert.sizes(), "base");
  const Settings settings(expert, mode, alpha, beta, temperature, key);
  Chosen chosen(expert.size(0));
  dispatch(expert, [&](auto element) {
    using T = decltype(element);
    Logits<T> e(expert, settings, kBase), a(base, settings, kExpert);
    examine_both(e, a);
    at::parallel_for(0, e.rows, 4, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        chosen.set(row, settings.mode(row) == kBase ? choose_base(a, row, settings)
                                                    : choose(e, a, row, settings));
    });
  });
  return chosen.selection();
}

// Up to kTile tokens of one adapter.
struct Tile {
  int64_t adapter, count = 0, tokens[kTile];
};

std::vector<Tile> tiles_of(const int32_t* index, int64_t tokens, const int32_t* rank,
                           int64_t adapters) {
  std::vector<Tile> tiles;
  std::vector<int64_t> open(adapters, -1);  // the tile of each adapter that has room
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t adapter = index[t];
    TORCH_CHECK(adapter < adapters, "index: must be below ", adapters, ", got ", adapter);
    if (adapter < 0 || rank[adapter] == 0) continue;
    if (open[adapter] < 0 || tiles[open[adapter]].count == kTile) {
      open[adapter] = tiles.size();
      tiles.push_back({adapter});
    }
    Tile& tile = tiles[open[adapter]];
    tile.tokens[tile.count++] = t;
  }
  return tiles;
}

// Divides n into chunks of a multiple of kWidth, enough of them to keep the threads busy.
int64_t chunk_of(int64_t n, int64_t tiles) {
  const int64_t wanted = std::max<int64_t>(1, 2 * at::get_num_threads() / tiles);
  return std::max(4 * kWidth, (n / wanted + kWidth - 1) / kWidth * kWidth);
}

template <typename T>
void apply(const std::vector<Tile>& tiles, Tensor& y, const Tensor& x, const Tensor& a,
           const Tensor& b, const float* scale, const int32_t* rank, const float* strength) {
  const int64_t n = x.size(1), m = y.size(1), ranks = a.size(1), count = tiles.size();
  std::vector<float> shrunk(count * kTile * ranks);
  const auto rows = [&](const Tile& tile, const Tensor& of, auto** out) {
    for (int64_t t = 0; t < tile.count; ++t)
      out[t] = static_cast<T*>(of.data_ptr()) + tile.tokens[t] * of.stride(0);
  };
  const auto shrunk_rows = [&](int64_t i, float** out) {
    for (int64_t t = 0; t < kTile; ++t) out[t] = shrunk.data() + (i * kTile + t) * ranks;
  };
  const int64_t chunk = chunk_of(m, count), chunks = (m + chunk - 1) / chunk;
  const int64_t rank_chunk = count < at::get_num_threads() ? 8 : ranks;
  const int64_t rank_chunks = (ranks + rank_chunk - 1) / rank_chunk;
  at::parallel_for(
      0, count * rank_chunks, std::max<int64_t>(1, kGrain / (n * rank_chunk)),
      [&](int64_t begin, int64_t end) {
        for (int64_t item = begin; item < end; ++item) {
          const int64_t i = item / rank_chunks, k = item % rank_chunks * rank_chunk;
          const Tile& tile = tiles[i];
          const int64_t here = std::min<int64_t>(rank_chunk, rank[tile.adapter] - k);
          if (here <= 0) continue;
          const T* inputs[kTile];
          float* outputs[kTile];
          rows(tile, x, inputs);
          shrunk_rows(i, outputs);
          for (float*& output : outputs) output += k;
          shrink(inputs, tile.count, row_of<T>(a, tile.adapter) + k * n, here, n, outputs);
        }
      });
  at::parallel_for(
      0, count * chunks, std::max<int64_t>(1, kGrain / (ranks * chunk)),
      [&](int64_t begin, int64_t end) {
        for (int64_t item = begin; item < end; ++item) {
          const int64_t i = item / chunks, start = item % chunks * chunk;
          const Tile& tile = tiles[i];
          T* outputs[kTile];
          float* inputs[kTile];
          float factors[kTile];
          for (int64_t t = 0; t < tile.count; ++t)
            factors[t] = scale[tile.adapter] * strength[tile.tokens[t]];
          rows(tile, y, outputs);
          shrunk_rows(i, inputs);
          for (T*& output : outputs) output += start;
          expand(outputs, tile.count, row_of<T>(b, tile.adapter) + start, rank[tile.adapter], m,
                 std::min(chunk, m - start), factors, inputs);
        }
      });
}

void lora_apply(Tensor y, const Tensor& x, const Tensor& a, const Tensor& b, const Tensor& scale,
                const Tensor& rank, const Tensor& index, const Tensor& strength) {
  const int64_t tokens = x.size(0), adapters = a.size(0), ranks = a.size(1);
  check_shape(y, x.scalar_type(), {tokens, y.size(1)}, "y");
  check_shape(a, x.scalar_type(), {adapters, ranks, x.size(1)}, "a");
  check_shape(b, x.scalar_type(), {adapters, ranks, y.size(1)}, "b");
  check_shape(scale, at::kFloat, {adapters}, "scale");
  check_shape(rank, at::kInt, {adapters}, "rank");
  check_shape(index, at::kInt, {index.size(0), tokens}, "index");
  check_shape(strength, at::kFloat, index.sizes(), "strength");
  TORCH_CHECK(y.stride(1) == 1, "y: its rows must be contiguous");
  TORCH_CHECK(a.is_contiguous() && b.is_contiguous(), "a and b must be contiguous");
  const Tensor input = in_rows(x);
  const Tensor indices = index.contiguous(), strengths = strength.contiguous();
  const int32_t* ranks_of = rank.const_data_ptr<int32_t>();
  for (int64_t i = 0; i < indices.size(0); ++i) {
    const std::vector<Tile> tiles = tiles_of(row_of<int32_t>(indices, i), tokens, ranks_of, adapters);
    if (tiles.empty()) continue;
    dispatch(x, [&](auto element) {
      apply<decltype(element)>(tiles, y, input, a, b, scale.const_data_ptr<float>(), ranks_of,
                               row_of<float>(strengths, i));
    });
  }
}

}  // namespace

TORCH_LIBRARY_IMPL(cold_native, CPU, library) {
  library.impl("contrast_select", contrast_select);
  library.impl("lora_apply", lora_apply);
}

}  // namespace cold
