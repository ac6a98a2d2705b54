// A projection with adapters behind torch's dispatcher; contract: cold_kernels/ops.py.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "linear.h"
#include "share.h"
#include "tensors.h"

namespace cold {
namespace {

using Maybe = std::optional<Tensor>;

constexpr int64_t kBlockRows = 256;  // of x; they stay in the second-level cache
constexpr int64_t kGrain = 1 << 15;  // multiplications that are worth a thread

int64_t panels_of(int64_t columns) { return (columns + kLanes - 1) / kLanes; }

// Rows are divided evenly: seventeen as 6 + 6 + 5, not as 8 + 8 + 1.
int64_t rows_at_once(int64_t rows) {
  const int64_t tiles = (rows + kRows - 1) / kRows;
  return tiles ? (rows + tiles - 1) / tiles : 1;
}

// Calls f(first row, rows, first panel, panels) for all tiles of a product, in parallel over panels.
template <typename F>
void for_tiles(int64_t rows, int64_t panels, int64_t n, const F& f) {
  for (int64_t block = 0; block < rows; block += kBlockRows) {
    const int64_t end_row = std::min(rows, block + kBlockRows);
    const int64_t tile = rows_at_once(end_row - block);
    const int64_t groups = (panels + kPanels - 1) / kPanels;
    const int64_t grain = std::max<int64_t>(1, kGrain / (n * kColumns));
    share(groups, grain, [&](int64_t g) {
      for (int64_t row = block; row < end_row; row += tile)
        f(row, std::min(tile, end_row - row), g * kPanels, std::min(kPanels, panels - g * kPanels));
    });
  }
}

// The adapters of one segment of a projection.
struct Segment {
  const Tensor &a, &b;
  const float* scale;   // [L]
  const int32_t* rank;  // [L]
  int64_t ranks;        // K
  int64_t offset;       // of its K columns among the shrunk ones
  int64_t panels;       // of its columns of y
};

// One adapter of each token, with what strength it uses it, and the tokens behind it that share it.
struct Runs {
  Runs(const int32_t* index, const float* strengths, int64_t tokens, int64_t adapters)
      : adapter(index), strength(strengths), end(tokens) {
    for (int64_t t = tokens; t-- > 0;) {
      TORCH_CHECK(index[t] < adapters, "index: must be below ", adapters, ", got ", index[t]);
      end[t] = t + 1 < tokens && index[t] == index[t + 1] ? end[t + 1] : t + 1;
    }
  }
  // Calls f(adapter, first token, tokens) for the tokens from `begin` on that have adapters.
  template <typename F>
  void each(int64_t begin, int64_t stop, const F& f) const {
    for (int64_t t = begin, next; t < stop; t = next) {
      next = std::min(end[t], stop);
      if (adapter[t] >= 0) f(adapter[t], t, next - t);
    }
  }
  const int32_t* adapter;
  const float* strength;
  std::vector<int64_t> end;
};

template <typename T>
const T* data(const Tensor& x) {
  return static_cast<const T*>(x.const_data_ptr());
}

// out [T, width]: scale * strength * (a . x) of the tokens that have an adapter.
template <typename T>
void shrink_into(T* out, int64_t width, const Tensor& x, const std::vector<Segment>& segments,
                 const Runs& runs) {
  const int64_t tokens = x.size(0), n = x.size(1);
  struct Item {
    const Segment* segment;
    int64_t panel, adapter, token, tokens;
  };
  std::vector<Item> items;
  for (int64_t begin = 0; begin < tokens; begin += kRows)
    runs.each(begin, std::min(tokens, begin + kRows), [&](int64_t adapter, int64_t t, int64_t count) {
      for (const Segment& segment : segments)
        if (segment.rank[adapter] > 0)
          for (int64_t p = 0; p < segment.ranks / kLanes; ++p)
            items.push_back({&segment, p, adapter, t, count});
    });
  share(items.size(), std::max<int64_t>(1, kGrain / (n * kLanes)), [&](int64_t i) {
    const Item& item = items[i];
    const Segment& segment = *item.segment;
    alignas(64) float sums[kRows * kColumns] = {};
    const int64_t panel = item.adapter * segment.ranks / kLanes + item.panel;
    multiply(data<T>(x) + item.token * n, n, item.tokens, data<T>(segment.a) + panel * kLanes * n,
             n, 1, n, sums);
    for (int64_t t = 0; t < item.tokens; ++t) {
      float* of_token = sums + t * kColumns;
      const float factor = segment.scale[item.adapter] * runs.strength[item.token + t];
      for (int64_t c = 0; c < kLanes; ++c) of_token[c] *= factor;
      round_to(out + (item.token + t) * width + segment.offset + item.panel * kLanes, of_token,
               kLanes);
    }
  });
}

template <typename T>
void project_into(Tensor& y, const Tensor& x, const Tensor& weight, const T* bias,
                  const std::vector<Segment>& segments, const std::vector<Runs>& adapters) {
  const int64_t n = x.size(1), m = y.size(1);
  const int64_t width = segments.empty() ? 0 : segments.back().offset + segments.back().ranks;
  struct Shrunk {
    const Runs& runs;
    std::vector<T> rows;
  };
  std::vector<Shrunk> parts;
  for (const Runs& runs : adapters) {
    std::vector<T>& rows = parts.emplace_back(Shrunk{runs, std::vector<T>(x.size(0) * width)}).rows;
    shrink_into(rows.data(), width, x, segments, runs);
  }
  struct Place {
    const Segment* segment;
    int64_t panel;  // within the segment
  };
  std::vector<Place> places;
  for (const Segment& segment : segments)
    for (int64_t p = 0; p < segment.panels; ++p) places.push_back({&segment, p});

  const auto add_adapters = [&](int64_t row, int64_t rows, int64_t panel, float* sums) {
    const auto& [segment, place] = places[panel];
    for (const Shrunk& part : parts)
      part.runs.each(row, row + rows, [&](int64_t adapter, int64_t t, int64_t count) {
        if (segment->rank[adapter] > 0)
          multiply(part.rows.data() + t * width + segment->offset, width, count,
                   data<T>(segment->b) +
                       (adapter * segment->panels + place) * kLanes * segment->ranks,
                   segment->ranks, 1, segment->ranks, sums + (t - row) * kColumns);
      });
  };
  for_tiles(x.size(0), weight.size(0), n, [&](int64_t row, int64_t rows, int64_t panel, int64_t count) {
    alignas(64) float sums[kRows * kColumns] = {};
    multiply(data<T>(x) + row * n, n, rows, data<T>(weight) + panel * kLanes * n, n, count, n,
             sums);
    for (int64_t p = 0; p < count && !places.empty(); ++p)
      add_adapters(row, rows, panel + p, sums + p * kLanes);
    const int64_t columns = std::min(count * kLanes, m - panel * kLanes);
    for (int64_t r = 0; r < rows; ++r) {
      float* of_row = sums + r * kColumns;
      for (int64_t c = 0; bias && c < columns; ++c) of_row[c] += to_float(bias[panel * kLanes + c]);
      round_to(static_cast<T*>(y.data_ptr()) + (row + r) * m + panel * kLanes, of_row, columns);
    }
  });
}

void check_packed(const Tensor& matrix, const Tensor& x, int64_t rows, int64_t columns,
                  const char* name) {
  TORCH_CHECK(matrix.dim() == 4 && matrix.is_contiguous() && matrix.scalar_type() == x.scalar_type() &&
                  matrix.size(0) * kLanes == rows && matrix.numel() == rows * columns,
              name, ": must be [", rows, ", ", columns, "] of x's dtype, packed");
}

// Checks the adapters' shapes.
std::vector<Segment> segments_of(const Tensor& x, at::TensorList a, at::TensorList b,
                                 const Maybe& scale, const Maybe& rank, at::IntArrayRef widths) {
  std::vector<Segment> segments;
  if (a.empty()) return segments;
  const int64_t count = widths.size();
  TORCH_CHECK(scale && rank && a.size() == widths.size() && b.size() == widths.size(),
              "a, b, scale and rank must have a part for each of ", count, " segments");
  const int64_t adapters = scale->size(1);
  check_shape(*scale, at::kFloat, {count, adapters}, "scale");
  check_shape(*rank, at::kInt, {count, adapters}, "rank");
  TORCH_CHECK(scale->is_contiguous() && rank->is_contiguous(), "scale and rank must be contiguous");
  int64_t offset = 0;
  for (int64_t s = 0; s < count; ++s) {
    const int64_t panels = panels_of(widths[s]), ranks = a[s].size(0) * kLanes / adapters;
    check_packed(a[s], x, adapters * ranks, x.size(1), "a");
    check_packed(b[s], x, adapters * panels * kLanes, ranks, "b");
    segments.push_back({a[s], b[s], scale->const_data_ptr<float>() + s * adapters,
                        rank->const_data_ptr<int32_t>() + s * adapters, ranks, offset, panels});
    offset += ranks;
  }
  return segments;
}

Tensor project(const Tensor& x, const Tensor& weight, const Maybe& bias, at::TensorList a,
               at::TensorList b, const Maybe& scale, const Maybe& rank, const Tensor& index,
               const Tensor& strength, at::IntArrayRef widths) {
  int64_t m = 0;
  for (const int64_t width : widths) {
    TORCH_CHECK(widths.size() == 1 || width % kLanes == 0, "widths: several must be multiples of ",
                kLanes, ", got ", width);
    m += width;
  }
  check_packed(weight, x, panels_of(m) * kLanes, x.size(1), "weight");
  const int64_t tokens = x.size(0);
  check_shape(index, at::kInt, {index.size(0), tokens}, "index");
  check_shape(strength, at::kFloat, index.sizes(), "strength");
  if (bias) check_shape(*bias, x.scalar_type(), {m}, "bias");
  const Tensor input = x.contiguous(), indices = index.contiguous();
  const Tensor strengths = strength.contiguous();
  const std::vector<Segment> segments = segments_of(x, a, b, scale, rank, widths);
  std::vector<Runs> adapters;
  for (int64_t i = 0; i < indices.size(0) && !segments.empty(); ++i)
    adapters.emplace_back(row_of<int32_t>(indices, i), row_of<float>(strengths, i), tokens,
                          scale->size(1));
  Tensor y = at::empty({tokens, m}, x.options());
  dispatch(x, [&](auto element) {
    using T = decltype(element);
    project_into<T>(y, input, weight, bias ? data<T>(*bias) : nullptr, segments, adapters);
  });
  return y;
}

}  // namespace

TORCH_LIBRARY_IMPL(cold_native, CPU, library) { library.impl("project", project); }

}  // namespace cold
