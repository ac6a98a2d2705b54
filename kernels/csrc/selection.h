// From logits to a choice, row by row.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

#include "logits.h"
#include "tensors.h"

namespace cold {

using Selection = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

enum Mode : int32_t { kCold = 0, kExpert = 1, kBase = 2 };

// Logits that one thread examines at a time: they stay in the second-level cache.
constexpr int64_t kSpan = 64 * kBlock;

// The rows' settings, one value each.
struct Settings {
  Settings(const Tensor& expert, const Tensor& mode, const Tensor& alpha, const Tensor& beta,
           const Tensor& temperature, const std::optional<Tensor>& key)
      : mode_(mode.contiguous()),
        alpha_(alpha.contiguous()),
        beta_(beta.contiguous()),
        temperature_(temperature.contiguous()),
        key_(key ? key->contiguous() : Tensor()) {
    const int64_t rows = expert.size(0);
    check_shape(mode_, at::kInt, {rows}, "mode");
    check_shape(alpha_, at::kFloat, {rows}, "alpha");
    check_shape(beta_, at::kFloat, {rows}, "beta");
    check_shape(temperature_, at::kFloat, {rows}, "temperature");
    if (key) check_shape(key_, at::kInt, {rows, 2}, "key");
  }
  int32_t mode(int64_t row) const { return mode_.const_data_ptr<int32_t>()[row]; }
  float alpha(int64_t row) const { return alpha_.const_data_ptr<float>()[row]; }
  float beta(int64_t row) const { return beta_.const_data_ptr<float>()[row]; }
  float temperature(int64_t row) const { return temperature_.const_data_ptr<float>()[row]; }
  // Whether the row takes a sample, in place of the best score.
  bool samples(int64_t row) const { return key_.defined() && temperature(row) > 0; }
  Heat heat(int64_t row, float best) const {
    const auto* words = reinterpret_cast<const uint32_t*>(key_.const_data_ptr<int32_t>()) + 2 * row;
    return {best, temperature(row), words[0], words[1]};
  }

 private:
  Tensor mode_, alpha_, beta_, temperature_, key_;
};

// Statistics of the rows of one model's logits, those that are read.
template <typename T>
struct Logits {
  explicit Logits(const Tensor& logits)
      : rows(logits.size(0)),
        vocab(logits.size(1)),
        blocks((vocab + kBlock - 1) / kBlock),
        spans((vocab + kSpan - 1) / kSpan),
        tensor(in_rows(logits)),
        block_max(rows * blocks),
        stats(rows * spans),
        read(rows, true) {}
  Logits(const Tensor& logits, const Settings& settings, int32_t unread) : Logits(logits) {
    for (int64_t row = 0; row < rows; ++row) read[row] = settings.mode(row) != unread;
  }
  const T* row(int64_t r) const { return row_of<T>(tensor, r); }
  const float* maxima(int64_t r) const { return block_max.data() + r * blocks; }

  void examine_span(int64_t item) {
    const int64_t r = item / spans, start = item % spans * kSpan;
    if (!read[r]) return;
    stats[item] = examine(row(r) + start, std::min(kSpan, vocab - start),
                          block_max.data() + r * blocks + start / kBlock);
  }
  Stats whole(int64_t r) const {
    Stats all;
    for (int64_t s = 0; s < spans; ++s) all.merge(stats[r * spans + s]);
    return all;
  }
  // The leftmost token with this logit, which there is.
  int64_t leftmost(int64_t r, float logit) const {
    const float* block = std::find(maxima(r), maxima(r) + blocks, logit);
    const T* p = row(r) + (block - maxima(r)) * kBlock;
    while (to_float(*p) != logit) ++p;
    return p - row(r);
  }

  int64_t rows, vocab, blocks, spans;
  Tensor tensor;
  std::vector<float> block_max;
  std::vector<Stats> stats;
  std::vector<char> read;
};

// Examines all the logits, with the threads sharing rows, models and spans alike.
template <typename T>
void examine_both(Logits<T>& expert, Logits<T>& base) {
  const int64_t items = expert.rows * expert.spans;
  at::parallel_for(0, 2 * items, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      i < items ? expert.examine_span(i) : base.examine_span(i - items);
  });
}

// One row's part of a selection.
struct Choice {
  int64_t token = -1, expert_token = -1;
  float score = kNotANumber, expert_log_prob = kNotANumber, base_log_prob = kNotANumber;
  int32_t valid_count = 0;
};

// e + beta * (e - a), with the product rounded before the sum as everywhere else: a fused
// multiply-add would break ties differently.
inline float contrast(float e, float a, float beta) {
  if (beta == 0) return e;
  volatile float product = beta * (e - a);
  return e + product;
}

// Chooses among all tokens of one model.
template <typename T>
Best choose_alone(const Logits<T>& logits, int64_t row, const Settings& settings) {
  const float best = logits.whole(row).max;
  if (settings.samples(row))
    return sample(logits.row(row), logits.vocab, logits.maxima(row), settings.heat(row, best));
  Best choice;
  choice.see(logits.leftmost(row, best), best, best);
  return choice;
}

// Chooses among the valid tokens.
template <typename T>
Best choose_contrasted(const T* expert, const T* base, const std::vector<int32_t>& valid,
                       int64_t row, const Settings& settings) {
  std::vector<float> scores(valid.size());
  for (size_t i = 0; i < valid.size(); ++i)
    scores[i] = contrast(to_float(expert[valid[i]]), to_float(base[valid[i]]), settings.beta(row));
  const auto best = std::max_element(scores.begin(), scores.end());
  if (settings.samples(row))
    return sample_among(valid.data(), scores.data(), valid.size(), settings.heat(row, *best));
  Best choice;
  choice.see(valid[best - scores.begin()], *best, *best);
  return choice;
}

// The ids of one row's valid set.
template <typename T>
std::vector<int32_t> valid_set(const Logits<T>& expert, int64_t row, float alpha) {
  thread_local std::vector<int32_t> found;
  found.resize(expert.vocab);
  const float cutoff = expert.whole(row).max + std::log(alpha);
  const int64_t count =
      find(expert.row(row), expert.vocab, expert.maxima(row), cutoff, found.data());
  return {found.begin(), found.begin() + count};
}

inline bool usable(const Stats& stats) { return !stats.broken && stats.max > -kInfinity; }

// The choice of a row that reads the expert.
template <typename T>
Choice choose(const Logits<T>& expert, const Logits<T>& base, int64_t row,
              const Settings& settings) {
  Choice choice;
  const Stats stats = expert.whole(row);
  if (!usable(stats)) return choice;
  const std::vector<int32_t> valid = valid_set(expert, row, settings.alpha(row));
  choice.valid_count = valid.size();
  choice.expert_token = expert.leftmost(row, stats.max);
  Best best;
  if (settings.mode(row) == kExpert) {
    best = choose_alone(expert, row, settings);
  } else {
    const Stats of_base = base.whole(row);
    if (!usable(of_base)) return Choice();
    best = choose_contrasted(expert.row(row), base.row(row), valid, row, settings);
    choice.base_log_prob = to_float(base.row(row)[best.token]) - of_base.log_sum_exp();
  }
  choice.token = best.token;
  choice.score = best.score;
  choice.expert_log_prob = to_float(expert.row(row)[best.token]) - stats.log_sum_exp();
  return choice;
}

template <typename T>
Choice choose_base(const Logits<T>& base, int64_t row, const Settings& settings) {
  Choice choice;
  const Stats stats = base.whole(row);
  if (!usable(stats)) return choice;
  const Best best = choose_alone(base, row, settings);
  choice.token = best.token;
  choice.score = best.score;
  choice.base_log_prob = best.score - stats.log_sum_exp();
  choice.valid_count = base.vocab;
  return choice;
}

// The outputs, filled row by row.
struct Chosen {
  explicit Chosen(int64_t rows)
      : token(at::empty({rows}, at::kLong)),
        score(at::empty({rows}, at::kFloat)),
        expert_log_prob(at::empty({rows}, at::kFloat)),
        base_log_prob(at::empty({rows}, at::kFloat)),
        valid_count(at::empty({rows}, at::kInt)),
        expert_token(at::empty({rows}, at::kLong)) {}
  void set(int64_t row, const Choice& choice) {
    token.data_ptr<int64_t>()[row] = choice.token;
    score.data_ptr<float>()[row] = choice.score;
    expert_log_prob.data_ptr<float>()[row] = choice.expert_log_prob;
    base_log_prob.data_ptr<float>()[row] = choice.base_log_prob;
    valid_count.data_ptr<int32_t>()[row] = choice.valid_count;
    expert_token.data_ptr<int64_t>()[row] = choice.expert_token;
  }
  Selection selection() const {
    return {token, score, expert_log_prob, base_log_prob, valid_count, expert_token};
  }
  Tensor token, score, expert_log_prob, base_log_prob, valid_count, expert_token;
};

}  // namespace cold
