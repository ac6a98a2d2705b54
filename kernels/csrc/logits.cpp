#include "logits.h"

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

namespace cold {
namespace {

// Integers that order as the floating-point numbers do, NaNs beyond the infinities.
template <typename T>
struct Order {
  using Key = std::conditional_t<sizeof(T) == 4, int32_t, int16_t>;
  static constexpr Key kMagnitude = std::numeric_limits<Key>::max();
  static constexpr Key kPlusInfinity = std::is_same_v<T, float>      ? Key(0x7f800000)
                                       : std::is_same_v<T, BFloat16> ? Key(0x7f80)
                                                                     : Key(0x7c00);
  static constexpr Key kMinusInfinity = Key(-kPlusInfinity - 1);

  static COLD_INLINE Key flip(Key bits) {  // its own inverse
    return bits ^ ((bits >> (8 * sizeof(Key) - 1)) & kMagnitude);
  }
  static COLD_INLINE Key of(T x) { return flip(bit_cast<Key>(x)); }
  static COLD_INLINE T number(Key key) { return bit_cast<T>(flip(key)); }
};

template <typename T>
struct Range {
  using Key = typename Order<T>::Key;
  Key lowest = std::numeric_limits<Key>::max(), highest = std::numeric_limits<Key>::min();
};

template <typename T>
COLD_INLINE Range<T> range_of(const T* p, int64_t n) {
  Range<T> range;
  for (int64_t i = 0; i < n; ++i) {
    const auto key = Order<T>::of(p[i]);
    range.highest = std::max(range.highest, key);
    range.lowest = std::min(range.lowest, key);
  }
  return range;
}

// Sums exp(logit - origin). The origin need not be the maximum: it moves only when a block rises far
// above it, so that a block is read from memory once and hardly ever rescaled.
template <typename T>
class SumOfExp {
 public:
  COLD_INLINE void add(const T* p, int64_t n, float block_max) {
    if (!(block_max <= origin_ + kFar)) move_origin(block_max);
    const float bias = exponent_bias(origin_);
    Pair sums = sums_;
    int64_t i = 0;
    for (; i + kWidth <= n; i += kWidth) {
      add(sums, load(p + i), bias);
    }
    if (i < n) {
      T rest[kWidth];
      std::fill(rest, rest + kWidth, Order<T>::number(Order<T>::kMinusInfinity));
      std::memcpy(rest, p + i, (n - i) * sizeof(T));
      add(sums, load(rest), bias);
    }
    sums_ = sums;
  }
  COLD_INLINE float relative_to(float max) const {
    return sum(sums_.first + sums_.second) * std::exp(origin_ - max);
  }

 private:
  static constexpr float kFar = 30;  // exp(kFar) times a vocabulary is far from overflow

  static COLD_INLINE void add(Pair& sums, const Pair& x, float bias) {
    sums.first += exp_below<sizeof(T) == 2>(x.first, bias);
    sums.second += exp_below<sizeof(T) == 2>(x.second, bias);
  }
  COLD_INLINE void move_origin(float origin) {
    const float scale = std::exp(origin_ - origin);
    sums_.first *= scale;
    sums_.second *= scale;
    origin_ = origin;
  }

  float origin_ = -kInfinity;
  Pair sums_{};
};

template <typename T>
COLD_INLINE Stats examine_all(const T* logits, int64_t n, float* block_max) {
  using O = Order<T>;
  Stats stats;
  SumOfExp<T> sums;
  for (int64_t start = 0; start < n; start += kBlock) {
    const int64_t size = std::min(kBlock, n - start);
    const Range<T> range = range_of(logits + start, size);
    stats.broken |= range.highest >= O::kPlusInfinity || range.lowest < O::kMinusInfinity;
    *block_max = to_float(O::number(range.highest));
    if (!stats.broken && *block_max > -kInfinity) {
      sums.add(logits + start, size, *block_max);
      stats.max = std::max(stats.max, *block_max);
    }
    ++block_max;
  }
  if (stats.max > -kInfinity) stats.sum = sums.relative_to(stats.max);
  return stats;
}

template <typename T>
COLD_INLINE int64_t find_in_block(const T* p, int64_t n, float cutoff, int32_t first,
                                  int32_t* found) {
  constexpr int64_t kStep = 64;
  int64_t count = 0;
  for (int64_t start = 0; start < n; start += kStep) {
    const int64_t end = std::min(start + kStep, n);
    int32_t reached = 0;
    for (int64_t i = start; i < end; ++i) reached |= to_float(p[i]) >= cutoff;
    if (!reached) continue;
    for (int64_t i = start; i < end; ++i)
      if (to_float(p[i]) >= cutoff) found[count++] = first + i;
  }
  return count;
}

template <typename T>
COLD_INLINE int64_t find_all(const T* logits, int64_t n, const float* block_max, float cutoff,
                             int32_t* found) {
  int64_t count = 0;
  for (int64_t start = 0; start < n; start += kBlock)
    if (*block_max++ >= cutoff)
      count += find_in_block(logits + start, std::min(kBlock, n - start), cutoff, start,
                             found + count);
  return count;
}

// The ids of what `load` takes from p, less those before p.
template <typename T>
COLD_INLINE std::pair<Words, Words> places() {
  constexpr uint32_t kStride = sizeof(T) == 2 ? 2 : 1;
  Words lane;
  for (uint32_t i = 0; i < 16; ++i) lane[i] = i;
  return {lane * kStride, lane * kStride + (kStride == 2 ? 1 : 16)};
}

template <typename T>
COLD_INLINE void widen_all(const T* logits, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    Pair x = load(logits + i);
    if constexpr (sizeof(T) == 2)
      x = {__builtin_shufflevector(x.first, x.second, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6,
                                   22, 7, 23),
           __builtin_shufflevector(x.first, x.second, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29,
                                   14, 30, 15, 31)};
    store(out + i, x);
  }
  for (; i < n; ++i) out[i] = to_float(logits[i]);
}

// The part of one distribution in their difference: 0 where it has nothing.
COLD_INLINE Floats part_of(Floats p, Floats both) {
  const Floats nats = p * log_of((p + p) / both);
  return p > 0 ? nats : Floats{};
}

template <typename T>
COLD_INLINE float difference_of(const T* first, float first_log_sum, const T* second,
                                float second_log_sum, int64_t n) {
  constexpr bool kShort = sizeof(T) == 2;
  const float first_bias = exponent_bias(first_log_sum), second_bias = exponent_bias(second_log_sum);
  Floats sums{};
  const auto add = [&](Floats x, Floats y) {
    const Floats p = exp_below<kShort>(x, first_bias), q = exp_below<kShort>(y, second_bias);
    sums += part_of(p, p + q) + part_of(q, p + q);
  };
  T rest[2][kWidth];
  std::fill(rest[0], rest[0] + 2 * kWidth, Order<T>::number(Order<T>::kMinusInfinity));
  for (int64_t i = 0; i < n; i += kWidth) {
    const T *from = first + i, *to = second + i;
    if (i + kWidth > n) {
      std::memcpy(rest[0], from, (n - i) * sizeof(T));
      std::memcpy(rest[1], to, (n - i) * sizeof(T));
      from = rest[0], to = rest[1];
    }
    const Pair x = load(from), y = load(to);
    add(x.first, y.first);
    add(x.second, y.second);
  }
  return sum(sums);
}

// In each lane the best key and its token.
struct Lanes {
  Floats key = Floats{} - kInfinity, score = Floats{};
  Words ids = Words{};
  COLD_INLINE void see(Floats scores, Words at, const Heat& heat) {
    const Floats keys = perturbed(scores, at, heat);
    const auto better = keys > key || (keys == key && at < ids);
    key = better ? keys : key;
    score = better ? scores : score;
    ids = better ? at : ids;
  }
  COLD_INLINE Best best() const {
    Best best;
    for (int i = 0; i < 16; ++i)
      if (key[i] > -kInfinity) best.see(ids[i], score[i], key[i]);
    return best;
  }
};

// Calls see(scores, ids) for all of n logits, sixteen at a time; what is beyond them is at -inf.
template <typename T, typename F>
COLD_INLINE void visit(const T* p, int64_t n, uint32_t first, const F& see) {
  const auto [here, there] = places<T>();
  for (int64_t i = 0; i < n; i += kWidth) {
    T rest[kWidth];
    const T* from = p + i;
    if (i + kWidth > n) {
      std::fill(rest, rest + kWidth, Order<T>::number(Order<T>::kMinusInfinity));
      std::memcpy(rest, p + i, (n - i) * sizeof(T));
      from = rest;
    }
    const Pair x = load(from);
    see(x.first, first + uint32_t(i) + here);
    see(x.second, first + uint32_t(i) + there);
  }
}

// Most tokens are far from winning, which is seen without the logarithms of their noise.
template <typename T>
COLD_INLINE void sample_block(const T* p, int64_t n, uint32_t first, const Heat& heat,
                              Lanes& lanes, float& highest) {
  constexpr int64_t kStep = 64;
  const float cold = 1 / heat.temperature;
  for (int64_t start = 0; start < n; start += kStep) {
    const int64_t here = std::min(kStep, n - start);
    Floats most = Floats{} - kInfinity;
    visit(p + start, here, first + start, [&](Floats x, Words ids) {
      const Floats key = (x - heat.best) * cold + at_least_gumbel(ids, heat);
      most = key > most ? key : most;
    });
    if (max(most) < highest) continue;
    visit(p + start, here, first + start, [&](Floats x, Words ids) { lanes.see(x, ids, heat); });
    highest = std::max(highest, max(lanes.key));
  }
}

template <typename T>
COLD_INLINE Best sample_all(const T* logits, int64_t n, const float* block_max, const Heat& heat) {
  Lanes lanes;
  float highest = kLeastNoise;  // a key that is reached
  for (int64_t start = 0; start < n; start += kBlock) {
    const float top = *block_max++;
    if (top == -kInfinity || (top - heat.best) / heat.temperature + kMostNoise < highest) continue;
    sample_block(logits + start, std::min(kBlock, n - start), start, heat, lanes, highest);
  }
  return lanes.best();
}

}  // namespace

COLD_CLONES Best sample_among(const int32_t* ids, const float* scores, int64_t n,
                              const Heat& heat) {
  constexpr int64_t kLanes = 16;
  Lanes lanes;
  for (int64_t i = 0; i < n; i += kLanes) {
    Ints at{};
    Floats score = Floats{} - kInfinity;
    const int64_t here = std::min(kLanes, n - i);
    std::memcpy(&at, ids + i, here * sizeof(*ids));
    std::memcpy(&score, scores + i, here * sizeof(*scores));
    lanes.see(score, bit_cast<Words>(at), heat);
  }
  return lanes.best();
}

void Stats::merge(const Stats& other) {
  broken |= other.broken;
  if (other.max == -kInfinity) return;
  const float highest = std::max(max, other.max);
  sum = sum * std::exp(max - highest) + other.sum * std::exp(other.max - highest);
  max = highest;
}

float Stats::log_sum_exp() const { return max + std::log(sum); }

#define COLD_DEFINE(T)                                                                        \
  COLD_CLONES Stats examine(const T* logits, int64_t n, float* block_max) {                   \
    return examine_all(logits, n, block_max);                                                 \
  }                                                                                           \
  COLD_CLONES int64_t find(const T* logits, int64_t n, const float* block_max, float cutoff, \
                           int32_t* found) {                                                  \
    return find_all(logits, n, block_max, cutoff, found);                                     \
  }                                                                                           \
  COLD_CLONES Best sample(const T* logits, int64_t n, const float* block_max,                 \
                          const Heat& heat) {                                                 \
    return sample_all(logits, n, block_max, heat);                                            \
  }                                                                                           \
  COLD_CLONES void widen(const T* logits, int64_t n, float* out) {                            \
    widen_all(logits, n, out);                                                                \
  }                                                                                           \
  COLD_CLONES float difference(const T* first, float first_log_sum, const T* second,          \
                               float second_log_sum, int64_t n) {                             \
    return difference_of(first, first_log_sum, second, second_log_sum, n);                    \
  }
COLD_DEFINE(float)
COLD_DEFINE(BFloat16)
COLD_DEFINE(Float16)
#undef COLD_DEFINE

}  // namespace cold
