// The most likely token of a row of logits and three measures of doubt, in one read of the row.
//
// With d_v = best - l_v and sums over all tokens but the best, others = Σ exp(-d_v), spread = Σ exp(-d_v) d_v,
// and (Song & Kim, arXiv 2512.16349, the measures g_t)
//   min-entropy = log1p(others),  Shannon entropy = log1p(others) + spread / (1 + others),
//   margin = 1 - (p1 - p2) = (others + exp(-d_second)) / (1 + others):
// never a difference of nearly equal numbers, so that very sure tokens keep their relative precision.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "cpu/vectorised.h"

namespace secondlook {

struct TokenStatistics {
  std::int64_t token;
  float min_entropy, shannon_entropy, margin;
};

// What is known of the part of a row that was read. With a NaN, only its index counts; with best = +inf, only
// the index.
struct TokenState {
  float best = -std::numeric_limits<float>::infinity();
  float second = -std::numeric_limits<float>::infinity();
  std::int64_t index = 0;
  double others = 0;
  double spread = 0;
  std::int64_t nan_index = -1;
};

// Rows are read in segments that threads may share; where they begin does not depend on the threads, so that
// results do not either.
inline constexpr std::int64_t kTokenSegment = 8192;
inline constexpr std::int64_t kTokenBlock = 1024;  // of floats, which stay in the first-level cache

inline std::int64_t token_segments(std::int64_t vocabulary) {
  return (vocabulary + kTokenSegment - 1) / kTokenSegment;
}

namespace token_detail {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Sums of `low`, and its best, as seen from `best` above it: (others, spread).
inline void add_below(TokenState& to, float best, const TokenState& low) {
  if (low.best == -kInfinity) return;
  const double distance = static_cast<double>(best) - static_cast<double>(low.best);
  const double weight = std::exp(-distance);
  to.others += weight * (1 + low.others);
  to.spread += weight * (distance * (1 + low.others) + low.spread);
}

template <typename T>
SECONDLOOK_INLINE void read_block(const T* logits, std::int64_t first, std::int64_t size, TokenState& state) {
  alignas(64) float block[kTokenBlock];
  Floats largest = broadcast(-kInfinity);
  Words nan{};
  std::int64_t at = 0;
  for (; at + kLanes <= size; at += kLanes) {
    const Floats values = load(logits + first + at);
    store(block + at, values);
    largest = maximum(largest, values);
    nan |= nan_mask(values);
  }
  if (at < size) {
    const Floats values = load_partial(logits + first + at, size - at, -kInfinity);
    store(block + at, values);
    largest = maximum(largest, values);
    nan |= nan_mask(values);
    at += kLanes;
  }
  if (any_lane(nan)) {
    std::int64_t position = 0;
    while (block[position] == block[position]) ++position;
    state.nan_index = first + position;
    return;
  }
  const float best = maximum_lanes(largest);
  if (best > state.best) {
    std::int64_t position = 0;
    while (block[position] != best) ++position;
    TokenState higher;
    higher.best = best;
    higher.second = state.best;
    higher.index = first + position;
    if (best < kInfinity) add_below(higher, best, state);
    state = higher;
    block[position] = -kInfinity;
  }
  if (state.best == -kInfinity || state.best == kInfinity) return;
  Floats others = broadcast(0), spread = broadcast(0), second = broadcast(state.second);
  for (std::int64_t i = 0; i < at; i += kLanes) {
    const Floats values = load(block + i);
    const Floats distance = state.best - values;
    const Floats weight = exp_nonpositive(-distance);
    const Words finite = reinterpret_bits<Words>(distance < kInfinity);  // else 0 times infinity
    others += weight;
    spread += reinterpret_bits<Floats>(reinterpret_bits<Words>(weight * distance) & finite);
    second = maximum(second, values);
  }
  state.others += sum_lanes(others);
  state.spread += sum_lanes(spread);
  state.second = maximum_lanes(second);
}

template <typename T>
SECONDLOOK_INLINE void read_segment_of(const T* logits, std::int64_t first, std::int64_t end,
                                       TokenState& state) {
  for (; first < end && state.nan_index < 0; first += kTokenBlock) {
    read_block(logits, first, end - first < kTokenBlock ? end - first : kTokenBlock, state);
  }
}

}  // namespace token_detail

// The tokens [first, end) of a row.
SECONDLOOK_CLONES static void read_segment(const float* logits, std::int64_t first, std::int64_t end,
                                           TokenState& state) {
  token_detail::read_segment_of(logits, first, end, state);
}
SECONDLOOK_CLONES static void read_segment(const Half* logits, std::int64_t first, std::int64_t end,
                                           TokenState& state) {
  token_detail::read_segment_of(logits, first, end, state);
}
SECONDLOOK_CLONES static void read_segment(const BFloat16* logits, std::int64_t first, std::int64_t end,
                                           TokenState& state) {
  token_detail::read_segment_of(logits, first, end, state);
}

// Two neighbouring parts of one row.
inline TokenState merge(const TokenState& left, const TokenState& right) {
  if (left.nan_index >= 0) return left;
  if (right.nan_index >= 0) return right;
  const bool rising = right.best > left.best;
  TokenState high = rising ? right : left;
  const TokenState& low = rising ? left : right;
  if (high.best < token_detail::kInfinity) token_detail::add_below(high, high.best, low);
  if (low.best > high.second) high.second = low.best;
  return high;
}

inline TokenStatistics finish(const TokenState& state) {
  const float undefined = std::numeric_limits<float>::quiet_NaN();
  if (state.nan_index >= 0) return {state.nan_index, undefined, undefined, undefined};
  if (!std::isfinite(state.best)) return {state.index, undefined, undefined, undefined};
  const double total = 1 + state.others;
  const double min_entropy = std::log1p(state.others);
  const double second = std::exp(static_cast<double>(state.second) - static_cast<double>(state.best));
  return {state.index, static_cast<float>(min_entropy),
          static_cast<float>(min_entropy + state.spread / total),
          static_cast<float>((state.others + second) / total)};
}

// A whole row from the states of its segments, in order.
inline TokenStatistics finish(const TokenState* states, std::int64_t segments) {
  TokenState row = states[0];
  for (std::int64_t segment = 1; segment < segments; ++segment) row = merge(row, states[segment]);
  return finish(row);
}

}  // namespace secondlook
