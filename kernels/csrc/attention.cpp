// Attention over cache slots behind torch's dispatcher; contract: cold_kernels/ops.py.
//
// A slot's keys and values of one head are packed matrices (linear.h), keys [C, D] and values, the
// other way round, [D, C]: so both of attention's products are those of a linear layer.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "layer.h"
#include "linear.h"
#include "share.h"
#include "tensors.h"

namespace cold {
namespace {

int64_t rounded_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// One sequence's new tokens, of one key head and the query heads that share it.
template <typename T>
struct Head {
  const T *query, *key, *value;  // of the first token
  int64_t stride;                // from token to token
  T* out;
  int64_t out_stride;
  T *keys, *values;  // of the slot
  int64_t context, group, width, start, length;
  const float *cosine, *sine;  // [C, width / 2]
  float scale;

  void attend() const {
    for (int64_t t = 0; t < length; ++t) store(t);
    const int64_t room = rounded_up(start + length, kLanes);
    std::vector<T> queries(kRows * width), shares(kRows * room);
    std::vector<float> scores(kRows * room);
    for (int64_t first = 0; first < length * group; first += kRows) {
      const int64_t rows = std::min(kRows, length * group - first);
      const int64_t seen = start + (first + rows - 1) / group + 1;  // by the last of them
      for (int64_t r = 0; r < rows; ++r)
        turn(queries.data() + r * width, query, first + r);
      score(queries.data(), rows, seen, room, scores.data());
      for (int64_t r = 0; r < rows; ++r) {
        float* of_row = scores.data() + r * room;
        const int64_t own = start + (first + r) / group + 1;
        softmax(of_row, own, scale);
        std::fill(of_row + own, of_row + rounded_up(seen, 2), 0.0f);
        round_to(shares.data() + r * room, of_row, rounded_up(seen, 2));
      }
      mix(shares.data(), first, rows, seen, room);
    }
  }

  // Puts a token's key, turned, and value into the slot.
  void store(int64_t t) const {
    const int64_t at = start + t, half = width / 2;
    std::vector<T> turned(width);
    rotate(turned.data(), key + t * stride, cosine + at * half, sine + at * half, half);
    for (int64_t d = 0; d < width; ++d) {
      keys[packed_at<T>(at, d, width)] = turned[d];
      values[packed_at<T>(d, at, context)] = value[t * stride + d];
      // Products read values in pairs; the other of this one may be of an earlier sequence.
      if (at % 2 == 0) values[packed_at<T>(d, at + 1, context)] = T{};
    }
  }

  // The query of a token and head, by the number row = token * group + head.
  void turn(T* to, const T* query, int64_t row) const {
    const int64_t t = row / group, half = width / 2, angle = (start + t) * half;
    rotate(to, query + t * stride + row % group * width, cosine + angle, sine + angle, half);
  }

  void score(const T* queries, int64_t rows, int64_t seen, int64_t room, float* scores) const {
    const int64_t panels = rounded_up(seen, kLanes) / kLanes;
    for (int64_t p = 0; p < panels; p += kPanels) {
      const int64_t count = std::min(kPanels, panels - p);
      alignas(64) float sums[kRows * kColumns] = {};
      multiply(queries, width, rows, keys + p * kLanes * width, width, count, width, sums);
      for (int64_t r = 0; r < rows; ++r)
        std::copy_n(sums + r * kColumns, count * kLanes, scores + r * room + p * kLanes);
    }
  }

  void mix(const T* shares, int64_t first, int64_t rows, int64_t seen, int64_t room) const {
    const int64_t panels = width / kLanes;
    for (int64_t p = 0; p < panels; p += kPanels) {
      const int64_t count = std::min(kPanels, panels - p);
      alignas(64) float sums[kRows * kColumns] = {};
      multiply(shares, room, rows, values + p * kLanes * context, context, count,
               rounded_up(seen, 2), sums);
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t t = (first + r) / group, head = (first + r) % group;
        round_to(out + t * out_stride + head * width + p * kLanes, sums + r * kColumns,
                 count * kLanes);
      }
    }
  }
};

Tensor attend(const Tensor& qkv, const Tensor& cosine, const Tensor& sine, Tensor keys,
              Tensor values, const Tensor& rows, double scale) {
  const int64_t tokens = qkv.size(0), heads = keys.size(1), context = keys.size(2);
  const int64_t width = keys.size(3), group = qkv.size(1) / (heads * width) - 2, count = rows.size(0);
  check_shape(values, keys.scalar_type(), keys.sizes(), "values");
  check_shape(rows, at::kInt, {count, 3}, "rows");
  check_shape(cosine, at::kFloat, {context, width / 2}, "cosine");
  check_shape(sine, at::kFloat, {context, width / 2}, "sine");
  TORCH_CHECK(width % kLanes == 0 && context % kLanes == 0,
              "keys: C and D must be multiples of ", kLanes, ", got ", context, " and ", width);
  TORCH_CHECK(qkv.is_contiguous() && keys.is_contiguous() && values.is_contiguous() &&
                  rows.is_contiguous() && qkv.size(1) == (group + 2) * heads * width,
              "qkv, keys, values and rows must be contiguous and fit one another");
  Tensor out = at::empty({tokens, heads * group * width}, qkv.options());
  const int32_t* row = rows.const_data_ptr<int32_t>();
  std::vector<int64_t> first(count);  // where each row's tokens are
  for (int64_t r = 0, token = 0; r < count; token += row[3 * r++ + 2]) {
    first[r] = token;
    TORCH_CHECK(row[3 * r] < keys.size(0) && row[3 * r + 1] + row[3 * r + 2] <= context &&
                    token + row[3 * r + 2] <= tokens,
                "rows: row ", r, " is beyond the slots, the context or the tokens");
  }
  dispatch(qkv, [&](auto element) {
    using T = decltype(element);
    share(count * heads, 1, [&](int64_t item) {
      const int64_t r = item / heads, h = item % heads;
      const int64_t slot = (row[3 * r] * heads + h) * context * width;
      const T* x = static_cast<const T*>(qkv.const_data_ptr()) + first[r] * qkv.size(1);
      Head<T>{.query = x + h * group * width,
              .key = x + (heads * group + h) * width,
              .value = x + (heads * (group + 1) + h) * width,
              .stride = qkv.size(1),
              .out = static_cast<T*>(out.data_ptr()) + first[r] * out.size(1) + h * group * width,
              .out_stride = out.size(1),
              .keys = static_cast<T*>(keys.data_ptr()) + slot,
              .values = static_cast<T*>(values.data_ptr()) + slot,
              .context = context,
              .group = group,
              .width = width,
              .start = row[3 * r + 1],
              .length = row[3 * r + 2],
              .cosine = cosine.const_data_ptr<float>(),
              .sine = sine.const_data_ptr<float>(),
              .scale = static_cast<float>(scale)}
          .attend();
    });
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(cold_native, CPU, library) { library.impl("attend", attend); }

}  // namespace cold
