// The native CPU ops behind torch's dispatcher; their contracts are in cold_kernels/ops.py.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>
#include <vector>

#include "logits.h"
#include "lora.h"

namespace cold {
namespace {

using at::Tensor;
using Selection = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

enum Mode : int32_t { kCold = 0, kExpert = 1, kBase = 2 };

constexpr float kNotANumber = std::numeric_limits<float>::quiet_NaN();
// Logits that one thread examines at a time: they stay in the second-level cache.
constexpr int64_t kSpan = 64 * kBlock;
// Multiplications that are worth a thread.
constexpr int64_t kGrain = 1 << 15;

template <typename F>
void dispatch(const Tensor& like, const F& f) {
  switch (like.scalar_type()) {
    case at::kFloat: return f(float{});
    case at::kBFloat16: return f(BFloat16{});
    case at::kHalf: return f(Float16{});
    default: TORCH_CHECK(false, "dtype must be float32, bfloat16 or float16, got ", like.dtype());
  }
}

void check_shape(const Tensor& x, at::ScalarType dtype, at::IntArrayRef sizes, const char* name) {
  TORCH_CHECK(x.scalar_type() == dtype, name, ": dtype must be ", dtype, ", got ", x.dtype());
  TORCH_CHECK(x.sizes() == sizes, name, ": shape must be ", sizes, ", got ", x.sizes());
}

template <typename T>
const T* row_of(const Tensor& x, int64_t row) {
  return static_cast<const T*>(x.const_data_ptr()) + row * x.stride(0);
}

// The rows' settings, one value each.
struct Settings {
  Settings(const Tensor& expert, const Tensor& mode, const Tensor& alpha, const Tensor& beta,
           const Tensor& temperature, const std::optional<Tensor>& noise)
      : mode_(mode.contiguous()),
        alpha_(alpha.contiguous()),
        beta_(beta.contiguous()),
        temperature_(temperature.contiguous()),
        noise_(noise ? noise->contiguous() : Tensor()) {
    const int64_t rows = expert.size(0);
    check_shape(mode_, at::kInt, {rows}, "mode");
    check_shape(alpha_, at::kFloat, {rows}, "alpha");
    check_shape(beta_, at::kFloat, {rows}, "beta");
    check_shape(temperature_, at::kFloat, {rows}, "temperature");
    if (noise) check_shape(noise_, at::kFloat, expert.sizes(), "noise");
  }
  int32_t mode(int64_t row) const { return mode_.const_data_ptr<int32_t>()[row]; }
  float alpha(int64_t row) const { return alpha_.const_data_ptr<float>()[row]; }
  float beta(int64_t row) const { return beta_.const_data_ptr<float>()[row]; }
  float temperature(int64_t row) const { return temperature_.const_data_ptr<float>()[row]; }
  // Null where the row takes the best score.
  const float* noise(int64_t row) const {
    return noise_.defined() && temperature(row) > 0 ? row_of<float>(noise_, row) : nullptr;
  }

 private:
  Tensor mode_, alpha_, beta_, temperature_, noise_;
};

// Statistics of the rows of one model's logits, those that are read.
template <typename T>
struct Logits {
  Logits(const Tensor& logits, const Settings& settings, int32_t unread)
      : rows(logits.size(0)),
        vocab(logits.size(1)),
        blocks((vocab + kBlock - 1) / kBlock),
        spans((vocab + kSpan - 1) / kSpan),
        tensor(logits.stride(1) == 1 ? logits : logits.contiguous()),
        block_max(rows * blocks),
        stats(rows * spans),
        read(rows) {
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
void examine_both(Logits<T>& expert, Logits<T>* base) {
  const int64_t items = expert.rows * expert.spans;
  at::parallel_for(0, base ? 2 * items : items, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      i < items ? expert.examine_span(i) : base->examine_span(i - items);
  });
}

// One row's part of a selection.
struct Choice {
  int64_t token = -1, expert_token = -1;
  float score = kNotANumber, expert_log_prob = kNotANumber, base_log_prob = kNotANumber;
  int32_t valid_count = 0;
};

// Keeps the best of what it is shown in ascending order of tokens; of equals the first.
struct Best {
  int64_t token = -1;
  float key = -kInfinity, score = kNotANumber;
  void see(int64_t id, float score_, float key_) {
    if (token >= 0 && !(key_ > key)) return;
    token = id, key = key_, score = score_;
  }
};

float perturbed(float score, float best, float temperature, float noise) {
  return (score == best ? 0.0f : (score - best) / temperature) + noise;
}

// e + beta * (e - a), with the product rounded before the sum as everywhere else: a fused
// multiply-add would break ties differently.
float contrast(float e, float a, float beta) {
  if (beta == 0) return e;
  volatile float product = beta * (e - a);
  return e + product;
}

// Chooses among all tokens of one model.
template <typename T>
Best choose_alone(const Logits<T>& logits, int64_t row, const Settings& settings) {
  const float best = logits.whole(row).max;
  Best choice;
  const float* noise = settings.noise(row);
  if (!noise) {
    choice.see(logits.leftmost(row, best), best, best);
    return choice;
  }
  const T* p = logits.row(row);
  for (int64_t i = 0; i < logits.vocab; ++i) {
    const float score = to_float(p[i]);
    if (score > -kInfinity)
      choice.see(i, score, perturbed(score, best, settings.temperature(row), noise[i]));
  }
  return choice;
}

// Chooses among the valid tokens, whose base logits are given.
template <typename T>
Best choose_contrasted(const T* expert, const std::vector<int32_t>& valid, const float* base,
                       int64_t row, const Settings& settings) {
  std::vector<float> scores(valid.size());
  for (size_t i = 0; i < valid.size(); ++i)
    scores[i] = contrast(to_float(expert[valid[i]]), base[i], settings.beta(row));
  const float best = *std::max_element(scores.begin(), scores.end());
  const float* noise = settings.noise(row);
  Best choice;
  for (size_t i = 0; i < valid.size(); ++i)
    choice.see(valid[i], scores[i],
               noise ? perturbed(scores[i], best, settings.temperature(row), noise[valid[i]])
                     : scores[i]);
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

bool usable(const Stats& stats) { return !stats.broken && stats.max > -kInfinity; }


// The choice of a row that reads the expert. `base_of(row, ids)` gives the base's logits at ids;
// `base` is null where the base's statistics are not known.
template <typename T, typename BaseOf>
Choice choose(const Logits<T>& expert, const Logits<T>* base, int64_t row,
              const Settings& settings, const BaseOf& base_of) {
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
    const std::vector<float> at_valid = base_of(row, valid);
    for (const float logit : at_valid)
      if (!(logit < kInfinity)) return Choice();
    if (base && !usable(base->whole(row))) return Choice();
    best = choose_contrasted(expert.row(row), valid, at_valid.data(), row, settings);
    if (base)
      choice.base_log_prob =
          to_float(base->row(row)[best.token]) - base->whole(row).log_sum_exp();
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

Selection contrast_select(const Tensor& expert, const Tensor& base, const Tensor& mode,
                          const Tensor& alpha, const Tensor& beta, const Tensor& temperature,
                          const std::optional<Tensor>& noise) {
  check_shape(base, expert.scalar_type(), expert.sizes(), "base");
  const Settings settings(expert, mode, alpha, beta, temperature, noise);
  Chosen chosen(expert.size(0));
  dispatch(expert, [&](auto element) {
    using T = decltype(element);
    Logits<T> e(expert, settings, kBase), a(base, settings, kExpert);
    examine_both(e, &a);
    const auto base_of = [&](int64_t row, const std::vector<int32_t>& ids) {
      std::vector<float> at_ids(ids.size());
      for (size_t i = 0; i < ids.size(); ++i) at_ids[i] = to_float(a.row(row)[ids[i]]);
      return at_ids;
    };
    at::parallel_for(0, e.rows, 4, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        chosen.set(row, settings.mode(row) == kBase ? choose_base(a, row, settings)
                                                    : choose(e, &a, row, settings, base_of));
    });
  });
  return chosen.selection();
}

Selection head_gather(const Tensor& expert, const Tensor& hidden, const Tensor& head,
                      const Tensor& mode, const Tensor& alpha, const Tensor& beta,
                      const Tensor& temperature, const std::optional<Tensor>& noise) {
  const int64_t rows = expert.size(0), vocab = expert.size(1), width = hidden.size(1);
  check_shape(hidden, expert.scalar_type(), {rows, width}, "hidden");
  check_shape(head, expert.scalar_type(), {vocab, width}, "head");
  const Settings settings(expert, mode, alpha, beta, temperature, noise);
  const Tensor states = hidden.contiguous(), weights = head.contiguous();
  Chosen chosen(rows);
  dispatch(expert, [&](auto element) {
    using T = decltype(element);
    Logits<T> e(expert, settings, kBase);
    examine_both<T>(e, nullptr);
    const auto base_of = [&](int64_t row, const std::vector<int32_t>& ids) {
      std::vector<float> at_ids(ids.size());
      at::parallel_for(0, ids.size(), std::max<int64_t>(1, kGrain / width),
                       [&](int64_t begin, int64_t end) {
                         for (int64_t i = begin; i < end; ++i)
                           at_ids[i] = dot(row_of<T>(states, row), row_of<T>(weights, ids[i]), width);
                       });
      return at_ids;
    };
    // Within a row the threads share the products, across rows the rows.
    const int64_t grain = rows < at::get_num_threads() ? rows : 1;
    at::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        chosen.set(row, settings.mode(row) == kBase
                            ? Choice()
                            : choose<T>(e, nullptr, row, settings, base_of));
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
           const Tensor& b, const float* scale, const int32_t* rank) {
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
          rows(tile, y, outputs);
          shrunk_rows(i, inputs);
          for (T*& output : outputs) output += start;
          expand(outputs, tile.count, row_of<T>(b, tile.adapter) + start, rank[tile.adapter], m,
                 std::min(chunk, m - start), scale[tile.adapter], inputs);
        }
      });
}

void lora_apply(Tensor y, const Tensor& x, const Tensor& a, const Tensor& b, const Tensor& scale,
                const Tensor& rank, const Tensor& index) {
  const int64_t tokens = x.size(0), adapters = a.size(0), ranks = a.size(1);
  check_shape(y, x.scalar_type(), {tokens, y.size(1)}, "y");
  check_shape(a, x.scalar_type(), {adapters, ranks, x.size(1)}, "a");
  check_shape(b, x.scalar_type(), {adapters, ranks, y.size(1)}, "b");
  check_shape(scale, at::kFloat, {adapters}, "scale");
  check_shape(rank, at::kInt, {adapters}, "rank");
  check_shape(index, at::kInt, {tokens}, "index");
  TORCH_CHECK(y.stride(1) == 1, "y: its rows must be contiguous");
  TORCH_CHECK(a.is_contiguous() && b.is_contiguous(), "a and b must be contiguous");
  const Tensor input = x.stride(1) == 1 ? x : x.contiguous();
  const Tensor indices = index.contiguous();
  const std::vector<Tile> tiles = tiles_of(indices.const_data_ptr<int32_t>(), tokens,
                                           rank.const_data_ptr<int32_t>(), adapters);
  if (tiles.empty()) return;
  dispatch(x, [&](auto element) {
    apply<decltype(element)>(tiles, y, input, a, b, scale.const_data_ptr<float>(),
                             rank.const_data_ptr<int32_t>());
  });
}

}  // namespace

TORCH_LIBRARY_IMPL(cold_native, CPU, library) {
  library.impl("contrast_select", contrast_select);
  library.impl("lora_apply", lora_apply);
  library.impl("head_gather", head_gather);
}

}  // namespace cold
