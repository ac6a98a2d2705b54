// Attention over blocks of keys and values behind torch's dispatcher; contract:
// cold_kernels/layer_ops.py.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "blocks.h"
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
  Blocks<T> keys, values;
  int64_t group, width, start, length;
  const float *cosine, *sine;  // [C, width / 2]
  float scale;

  void attend() const {
    for (int64_t t = 0; t < length; ++t) store(t);
    const int64_t room = rounded_up(start + length, kLanes), most = std::min(kRows, length * group);
    std::vector<T> queries(most * width), shares(most * room);
    std::vector<float> scores(most * room), sums(most * width);
    for (int64_t first = 0; first < length * group; first += kRows) {
      const int64_t rows = std::min(kRows, length * group - first);
      const int64_t seen = start + (first + rows - 1) / group + 1;  // by the last of them
      for (int64_t r = 0; r < rows; ++r)
        turn(queries.data() + r * width, query, first + r);
      score(queries.data(), rows, keys, rounded_up(seen, kLanes) / kLanes, scores.data(), room);
      for (int64_t r = 0; r < rows; ++r) {
        float* of_row = scores.data() + r * room;
        const int64_t own = start + (first + r) / group + 1;
        softmax(of_row, own, scale);
        std::fill(of_row + own, of_row + rounded_up(seen, 2), 0.0f);
        round_to(shares.data() + r * room, of_row, rounded_up(seen, 2));
      }
      mix(shares.data(), room, rows, values, rounded_up(seen, 2), sums.data());
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t t = (first + r) / group, head = (first + r) % group;
        round_to(out + t * out_stride + head * width, sums.data() + r * width, width);
      }
    }
  }

  // Puts a token's key, turned, and value into their block.
  void store(int64_t t) const {
    const int64_t at = start + t, block = at / kLanes, lane = at % kLanes, half = width / 2;
    std::vector<T> turned(width);
    rotate(turned.data(), key + t * stride, cosine + at * half, sine + at * half, half);
    T *of_keys = keys.at(block), *of_values = values.at(block);
    for (int64_t d = 0; d < width; ++d) {
      of_keys[packed_at<T>(lane, d, width)] = turned[d];
      of_values[packed_at<T>(d, lane, kLanes)] = value[t * stride + d];
      // Products read values in pairs; the other of this one may be of an earlier sequence.
      if (lane % 2 == 0) of_values[packed_at<T>(d, lane + 1, kLanes)] = T{};
    }
  }

  // The query of a token and head, by the number row = token * group + head.
  void turn(T* to, const T* query, int64_t row) const {
    const int64_t t = row / group, half = width / 2, angle = (start + t) * half;
    rotate(to, query + t * stride + row % group * width, cosine + angle, sine + angle, half);
  }
};

// Where each row's tokens begin; checks that they and their blocks are there.
std::vector<int64_t> first_tokens(const Tensor& rows, const Tensor& blocks, int64_t tokens,
                                  int64_t pool, int64_t context) {
  const int32_t *row = rows.const_data_ptr<int32_t>(), *block = blocks.const_data_ptr<int32_t>();
  std::vector<int64_t> first(rows.size(0));
  int64_t token = 0;
  for (int64_t r = 0; r < rows.size(0); ++r, row += 3) {
    const int64_t begin = row[0], start = row[1], length = row[2];
    first[r] = token;
    token += length;
    TORCH_CHECK(std::min({begin, start, length}) >= 0 && start + length <= context &&
                    token <= tokens &&
                    begin + rounded_up(start + length, kLanes) / kLanes <= blocks.size(0),
                "rows: row ", r, " is beyond the blocks, the angles or the tokens");
  }
  TORCH_CHECK(std::all_of(block, block + blocks.size(0),
                          [=](int32_t number) { return 0 <= number && number < pool; }),
              "blocks: must be at least 0 and below ", pool);
  return first;
}

Tensor attend(const Tensor& qkv, const Tensor& cosine, const Tensor& sine, Tensor keys,
              Tensor values, const Tensor& rows, const Tensor& blocks, double scale) {
  const int64_t tokens = qkv.size(0), heads = keys.size(0), pool = keys.size(1);
  const int64_t width = keys.size(3), group = qkv.size(1) / (heads * width) - 2, count = rows.size(0);
  const int64_t context = cosine.size(0), of_head = pool * kLanes * width;
  check_shape(keys, qkv.scalar_type(), {heads, pool, kLanes, width}, "keys");
  check_shape(values, keys.scalar_type(), keys.sizes(), "values");
  check_shape(rows, at::kInt, {count, 3}, "rows");
  check_shape(blocks, at::kInt, {blocks.size(0)}, "blocks");
  check_shape(cosine, at::kFloat, {context, width / 2}, "cosine");
  check_shape(sine, at::kFloat, {context, width / 2}, "sine");
  TORCH_CHECK(width % kLanes == 0, "keys: D must be a multiple of ", kLanes, ", got ", width);
  TORCH_CHECK(qkv.is_contiguous() && keys.is_contiguous() && values.is_contiguous() &&
                  rows.is_contiguous() && blocks.is_contiguous() && cosine.is_contiguous() &&
                  sine.is_contiguous() && qkv.size(1) == (group + 2) * heads * width,
              "all tensors must be contiguous and fit one another");
  Tensor out = at::empty({tokens, heads * group * width}, qkv.options());
  const std::vector<int64_t> first = first_tokens(rows, blocks, tokens, pool, context);
  const int32_t *row = rows.const_data_ptr<int32_t>(), *block = blocks.const_data_ptr<int32_t>();
  dispatch(qkv, [&](auto element) {
    using T = decltype(element);
    share(count * heads, 1, [&](int64_t item) {
      const int64_t r = item / heads, h = item % heads;
      const int32_t* table = block + row[3 * r];
      const T* x = static_cast<const T*>(qkv.const_data_ptr()) + first[r] * qkv.size(1);
      Head<T>{.query = x + h * group * width,
              .key = x + (heads * group + h) * width,
              .value = x + (heads * (group + 1) + h) * width,
              .stride = qkv.size(1),
              .out = static_cast<T*>(out.data_ptr()) + first[r] * out.size(1) + h * group * width,
              .out_stride = out.size(1),
              .keys = {static_cast<T*>(keys.data_ptr()) + h * of_head, table, width},
              .values = {static_cast<T*>(values.data_ptr()) + h * of_head, table, width},
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
