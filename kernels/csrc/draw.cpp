#include "draw.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "logits.h"

namespace cold {
namespace {

// Scores whose maximum is remembered: small, so that the k-th best maximum is close to the k-th best
// score.
constexpr int64_t kGroup = 64;
// Rounding of cutoffs, so that none leaves out what is compared exactly later.
constexpr float kSlack = 1e-3f;

struct Candidate {
  float score, weight;  // weight: exp of what the score is below the best
  int32_t id;
};

bool comes_before(const Candidate& x, const Candidate& y) {
  return x.score > y.score || (x.score == y.score && x.id < y.id);
}

COLD_INLINE Floats below(Floats score, float best, float temperature) {
  return score == best ? Floats{} : (score - best) / temperature;  // the best may be infinite
}

COLD_CLONES void find_maxima(const float* scores, int64_t n, float* maxima) {
  for (int64_t start = 0; start < n; start += kGroup) {
    Floats highest = Floats{} - kInfinity;
    int64_t i = start;
    for (; i + 16 <= std::min(start + kGroup, n); i += 16) {
      const Floats x = load_as<Floats>(scores + i);
      highest = x > highest ? x : highest;
    }
    float top = max(highest);
    for (; i < std::min(start + kGroup, n); ++i) top = std::max(top, scores[i]);
    *maxima++ = top;
  }
}

// The sum of all tokens' weights.
COLD_CLONES float mass_of(const float* scores, int64_t n, float best, float temperature) {
  const float bias = exponent_bias(0);
  Floats sums{};
  for (int64_t i = 0; i < n; i += 16) {
    Floats x = Floats{} - kInfinity;
    std::memcpy(&x, scores + i, std::min<int64_t>(16, n - i) * sizeof(float));
    sums += exp_below<false>(below(x, best, temperature), bias);
  }
  return sum(sums);
}

// One row while it is narrowed down.
class Row {
 public:
  Row(const float* scores, int64_t n, const Sampling& sampling)
      : scores_(scores), n_(n), sampling_(sampling), maxima_((n + kGroup - 1) / kGroup) {
    find_maxima(scores, n, maxima_.data());
    best_ = *std::max_element(maxima_.begin(), maxima_.end());
  }

  int64_t draw() {
    if (!(best_ > -kInfinity)) return -1;
    if (sampling_.temperature == 0) return std::find(scores_, scores_ + n_, best_) - scores_;
    if (is_open() && best_ < kInfinity) return sample_all();
    find_candidates(cutoff());
    keep_top_k();
    keep_top_p();
    return sample();
  }

 private:
  float below_best(float score) const {
    return score == best_ ? 0 : (score - best_) / sampling_.temperature;
  }
  // Whether no filter is on.
  bool is_open() const {
    return sampling_.top_p == 1 && sampling_.top_k == 0 && sampling_.min_p == 0;
  }
  bool only_top_p() const {
    return sampling_.top_p < 1 && sampling_.top_k == 0 && sampling_.min_p == 0;
  }

  // How far below the best, in temperatures, a token may be and still matter.
  float cutoff() {
    float cut = -kInfinity;
    if (sampling_.min_p > 0) cut = std::log(sampling_.min_p);
    const int64_t k = sampling_.top_k, groups = maxima_.size();
    if (k > 0 && k <= groups) {
      std::vector<float> highest = maxima_;  // k scores reach the k-th of these
      std::nth_element(highest.begin(), highest.begin() + k - 1, highest.end(), std::greater<>());
      cut = std::max(cut, below_best(highest[k - 1]));
    }
    if (only_top_p()) {
      mass_ = mass_of(scores_, n_, best_, sampling_.temperature);
      cut = std::log((1 - sampling_.top_p) * mass_ / n_);  // all below it are less than 1 - top_p
    }
    return cut - kSlack;
  }

  void find_candidates(float cut) {
    const float reach = cut > -kInfinity ? best_ + cut * sampling_.temperature : cut;
    const float lowest = best_ == kInfinity ? best_ : reach - kSlack * 1e-3f * std::abs(best_);
    for (size_t group = 0; group < maxima_.size(); ++group) {
      if (!(maxima_[group] >= lowest && maxima_[group] > -kInfinity)) continue;
      const int64_t start = group * kGroup;
      for (int64_t i = start; i < std::min(start + kGroup, n_); ++i) {
        if (!(scores_[i] >= lowest && scores_[i] > -kInfinity)) continue;
        const float weight = std::exp(below_best(scores_[i]));
        if (weight >= sampling_.min_p) kept_.push_back({scores_[i], weight, int32_t(i)});
      }
    }
  }

  void keep_top_k() {
    const size_t k = sampling_.top_k;
    if (k == 0 || kept_.size() <= k) return;
    std::nth_element(kept_.begin(), kept_.begin() + k, kept_.end(), comes_before);
    kept_.resize(k);
  }

  // A token stays if those before it hold less than top_p. Halves what is in doubt until it is worth
  // sorting.
  void keep_top_p() {
    if (sampling_.top_p >= 1) return;
    double left = sampling_.top_p * (only_top_p() ? double(mass_) : weight(kept_.begin(), kept_.end()));
    auto begin = kept_.begin(), end = kept_.end();
    while (end - begin > 32) {
      const auto middle = begin + (end - begin) / 2;
      std::nth_element(begin, middle, end, comes_before);
      const double here = weight(begin, middle);
      if (here >= left) {
        end = middle;
      } else {
        left -= here;
        begin = middle;
      }
    }
    std::sort(begin, end, comes_before);
    while (begin < end && left > 0) left -= (begin++)->weight;
    kept_.erase(begin, kept_.end());
  }

  using Place = std::vector<Candidate>::const_iterator;
  static double weight(Place begin, Place end) {
    double total = 0;
    for (; begin < end; ++begin) total += begin->weight;
    return total;
  }

  Heat heat() const { return {best_, sampling_.temperature, sampling_.first, sampling_.second}; }

  int64_t sample_all() const {
    constexpr size_t kGroups = kBlock / kGroup;
    std::vector<float> of_blocks((maxima_.size() + kGroups - 1) / kGroups, -kInfinity);
    for (size_t group = 0; group < maxima_.size(); ++group)
      of_blocks[group / kGroups] = std::max(of_blocks[group / kGroups], maxima_[group]);
    return cold::sample(scores_, n_, of_blocks.data(), heat()).token;
  }

  int64_t sample() const {
    std::vector<int32_t> ids;
    std::vector<float> scores;
    for (const Candidate& one : kept_) ids.push_back(one.id), scores.push_back(one.score);
    return sample_among(ids.data(), scores.data(), ids.size(), heat()).token;
  }

  const float* scores_;
  int64_t n_;
  const Sampling& sampling_;
  std::vector<float> maxima_;
  std::vector<Candidate> kept_;
  float best_, mass_ = 0;
};

}  // namespace

int64_t draw(const float* scores, int64_t n, const Sampling& sampling) {
  return Row(scores, n, sampling).draw();
}

}  // namespace cold
