// The native CPU ops of whole rows of scores; their contracts are in cold_kernels/choice_ops.py, and
// that of contrast_scores in cold_kernels/ops.py.
#include <ATen/ops/full.h>
#include <ATen/core/TensorAccessor.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>

#include "draw.h"
#include "selection.h"
#include "share.h"
#include "tensors.h"

namespace cold {
namespace {

// The scores of one contrasted row: few are above -inf.
template <typename T>
void score_valid(const T* expert, const T* base, int64_t n, float alpha, float beta,
                 float* scores) {
  std::vector<float> maxima((n + kBlock - 1) / kBlock);
  const float cutoff = examine(expert, n, maxima.data()).max + std::log(alpha);
  std::fill(scores, scores + n, -kInfinity);
  if (cutoff == -kInfinity) return;
  std::vector<int32_t> valid(n);
  valid.resize(find(expert, n, maxima.data(), cutoff, valid.data()));
  for (const int32_t id : valid)
    scores[id] = contrast(to_float(expert[id]), to_float(base[id]), beta);
}

Tensor contrast_scores(const Tensor& expert, const Tensor& base, const Tensor& mode,
                       const Tensor& alpha, const Tensor& beta) {
  check_shape(base, expert.scalar_type(), expert.sizes(), "base");
  const Settings settings(expert, mode, alpha, beta, alpha, std::nullopt);
  const Tensor e = in_rows(expert), a = in_rows(base);
  const int64_t rows = e.size(0), vocab = e.size(1);
  Tensor scores = at::empty({rows, vocab}, at::kFloat);
  dispatch(expert, [&](auto element) {
    using T = decltype(element);
    share(rows, 1, [&](int64_t row) {
      float* out = scores.data_ptr<float>() + row * vocab;
      if (settings.mode(row) == kCold)
        score_valid(row_of<T>(e, row), row_of<T>(a, row), vocab, settings.alpha(row),
                    settings.beta(row), out);
      else
        widen(row_of<T>(settings.mode(row) == kExpert ? e : a, row), vocab, out);
    });
  });
  return scores;
}

void penalise(Tensor scores, const Tensor& row, const Tensor& token, const Tensor& times,
              const Tensor& repetition, const Tensor& presence, const Tensor& frequency) {
  const int64_t rows = scores.size(0), vocab = scores.size(1), count = row.size(0);
  check_shape(scores, at::kFloat, {rows, vocab}, "scores");
  check_shape(row, at::kLong, {count}, "row");
  check_shape(token, at::kLong, {count}, "token");
  check_shape(times, at::kLong, {count}, "times");
  check_shape(repetition, at::kFloat, {rows}, "repetition");
  check_shape(presence, at::kFloat, {rows}, "presence");
  check_shape(frequency, at::kFloat, {rows}, "frequency");
  TORCH_CHECK(scores.stride(1) == 1, "scores: its rows must be contiguous");
  const auto at_rows = row.accessor<int64_t, 1>(), ids = token.accessor<int64_t, 1>(),
             n = times.accessor<int64_t, 1>();
  const auto factor = repetition.accessor<float, 1>(), once = presence.accessor<float, 1>(),
             each = frequency.accessor<float, 1>();
  for (int64_t i = 0; i < count; ++i) {
    const int64_t r = at_rows[i];
    TORCH_CHECK(r >= 0 && r < rows, "row: must be below ", rows, ", got ", r);
    TORCH_CHECK(ids[i] >= 0 && ids[i] < vocab, "token: must be below ", vocab, ", got ", ids[i]);
    float& score = scores.data_ptr<float>()[r * scores.stride(0) + ids[i]];
    score = score > 0 ? score / factor[r] : score * factor[r];
    score = score - n[i] * each[r] - (n[i] > 0 ? once[r] : 0);
  }
}

std::tuple<Tensor, Tensor> draw_tokens(const Tensor& scores, const Tensor& temperature,
                                       const Tensor& top_k, const Tensor& top_p,
                                       const Tensor& min_p, const Tensor& key, int64_t) {
  const int64_t rows = scores.size(0);
  check_shape(scores, at::kFloat, {rows, scores.size(1)}, "scores");
  check_shape(temperature, at::kFloat, {rows}, "temperature");
  check_shape(top_k, at::kInt, {rows}, "top_k");
  check_shape(top_p, at::kFloat, {rows}, "top_p");
  check_shape(min_p, at::kFloat, {rows}, "min_p");
  check_shape(key, at::kInt, {rows, 2}, "key");
  const Tensor whole = in_rows(scores), heat = temperature.contiguous(), k = top_k.contiguous(),
               p = top_p.contiguous(), least = min_p.contiguous(), words = key.contiguous();
  Tensor token = at::empty({rows}, at::kLong);
  share(rows, 1, [&](int64_t row) {
    const int32_t* own = words.const_data_ptr<int32_t>() + 2 * row;
    const Sampling sampling{heat.const_data_ptr<float>()[row],  p.const_data_ptr<float>()[row],
                            least.const_data_ptr<float>()[row], k.const_data_ptr<int32_t>()[row],
                            uint32_t(own[0]),                   uint32_t(own[1])};
    token.data_ptr<int64_t>()[row] = draw(row_of<float>(whole, row), whole.size(1), sampling);
  });
  return {token, at::full({rows}, true, at::kBool)};
}

Tensor log_probs(const Tensor& logits, const Tensor& token) {
  const int64_t rows = logits.size(0), vocab = logits.size(1), each = token.size(1);
  check_shape(token, at::kLong, {rows, each}, "token");
  const Tensor wanted = token.contiguous();
  const int64_t* ids = wanted.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < rows * each; ++i)
    TORCH_CHECK(ids[i] >= 0 && ids[i] < vocab, "token: must be below ", vocab, ", got ", ids[i]);
  Tensor found = at::empty({rows, each}, at::kFloat);
  dispatch(logits, [&](auto element) {
    Logits<decltype(element)> own(logits);
    share(rows * own.spans, 1, [&](int64_t item) { own.examine_span(item); });
    for (int64_t i = 0; i < rows * each; ++i)
      found.data_ptr<float>()[i] =
          to_float(own.row(i / each)[ids[i]]) - own.whole(i / each).log_sum_exp();
  });
  return found;
}

Tensor divergence(const Tensor& expert, const Tensor& base) {
  check_shape(base, expert.scalar_type(), expert.sizes(), "base");
  Tensor found = at::empty({expert.size(0)}, at::kFloat);
  dispatch(expert, [&](auto element) {
    Logits<decltype(element)> e(expert), a(base);
    examine_both(e, a);
    std::vector<float> nats(e.rows * e.spans);
    share(nats.size(), 1, [&](int64_t item) {
      const int64_t row = item / e.spans, start = item % e.spans * kSpan;
      nats[item] = difference(e.row(row) + start, e.whole(row).log_sum_exp(), a.row(row) + start,
                              a.whole(row).log_sum_exp(), std::min(kSpan, e.vocab - start));
    });
    for (int64_t row = 0; row < e.rows; ++row) {
      float sum = 0;
      for (int64_t span = 0; span < e.spans; ++span) sum += nats[row * e.spans + span];
      found.data_ptr<float>()[row] = std::clamp(sum / (2 * std::log(2.0f)), 0.0f, 1.0f);
    }
  });
  return found;
}

}  // namespace

TORCH_LIBRARY_IMPL(cold_native, CPU, library) {
  library.impl("contrast_scores", contrast_scores);
  library.impl("draw", draw_tokens);
  library.impl("penalise", penalise);
  library.impl("log_probs", log_probs);
  library.impl("divergence", divergence);
}

}  // namespace cold
