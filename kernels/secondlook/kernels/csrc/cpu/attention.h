// Attention of many queries to many keys, in float32 throughout: scores, softmax and weighted sums of a few
// queries at a time, whose scores stay in the cache.
//
// A head's keys are put in blocks of positions (blocked.h), so that scores are products of rows with blocks;
// its values lie as they must for the second product: a block of one head's width, its inputs positions.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "cpu/blocked.h"

namespace secondlook::attention {

using blocked::kRows;

inline constexpr std::int64_t kMostWidth = 256;  // of one head
inline constexpr std::int64_t kPart = 64;        // of a head's width, that are summed at once; and positions of a block

// Everything about one call; strides in elements.
template <typename T>
struct Call {
  const T* query;   // [batch, heads, rows, width]
  const T* keys;    // [batch, kv_heads, positions, width]
  const T* values;  // [batch, kv_heads, positions, width]
  std::int64_t batch, heads, kv_heads, rows, positions, width;
  std::int64_t query_strides[3], keys_strides[3], values_strides[3];
  float scale;
  bool causal;  // whether row i sees the first positions - rows + i + 1 positions alone
  T* result;    // [batch, rows, heads, width], contiguous
};

// Floats of scratch for one head: keys, values, and the scores, queries and sums of kRows rows.
template <typename T>
SECONDLOOK_INLINE std::int64_t score_stride(const Call<T>& call) {
  return tiles(call.positions, kPart) * kPart;
}
template <typename T>
SECONDLOOK_INLINE std::int64_t full_width(const Call<T>& call) {
  return tiles(call.width, kPart) * kPart;
}
template <typename T>
SECONDLOOK_INLINE std::int64_t scratch_of_a_head(const Call<T>& call) {
  const std::int64_t positions = score_stride(call);
  return positions * call.width + positions * full_width(call) +
         kRows * (positions + call.width + full_width(call));
}

// Keys [positions, width] in blocks [tiles, width, kPart]; what is beyond the last position is zero.
template <typename T>
SECONDLOOK_INLINE void block_keys(const Call<T>& call, const T* keys, float* __restrict to) {
  const std::int64_t stride = call.keys_strides[2], width = call.width;
  for (std::int64_t first = 0; first < call.positions; first += kPart, to += width * kPart) {
    const std::int64_t count = std::min(kPart, call.positions - first);
    if (count < kPart) std::fill(to, to + width * kPart, 0.0f);
    for (std::int64_t s = 0; s < count; ++s) {
      const T* const row = keys + (first + s) * stride;
      for (std::int64_t i = 0; i < width; ++i) to[i * kPart + s] = to_float(row[i]);
    }
  }
}

// Values [positions, width] in parts [full_width / kPart, positions, kPart], zeros beside the width.
template <typename T>
SECONDLOOK_INLINE void part_values(const Call<T>& call, const T* values, float* __restrict to) {
  for (std::int64_t first = 0; first < call.width; first += kPart, to += call.positions * kPart) {
    widen(values + first, call.values_strides[2], call.positions, std::min(kPart, call.width - first), kPart,
          to);
  }
}

// exp(score - largest) of `count` scores in place, and zeros to the end of the tile; returns the factor by
// which sums with these weights are multiplied. As in any softmax a NaN or +inf makes that NaN, and so do
// scores of which none is above -inf.
SECONDLOOK_INLINE float weigh_row(float* __restrict scores, std::int64_t count, std::int64_t full, float scale) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  for (std::int64_t s = 0; s < full; s += kLanes) store(scores + s, load(scores + s) * broadcast(scale));
  for (std::int64_t s = count; s < full; ++s) scores[s] = -infinity;
  Floats most = broadcast(-infinity);
  for (std::int64_t s = 0; s < full; s += kLanes) most = maximum(most, load(scores + s));
  const float largest = maximum_lanes(most), point = reference_point(largest);
  Floats sum{};
  for (std::int64_t s = 0; s < full; s += kLanes) {
    const Floats weight = exp_nonpositive(load(scores + s) - broadcast(point));
    store(scores + s, weight);
    sum += weight;
  }
  return 1.0f / sum_lanes(sum);
}

template <typename T, int R>
SECONDLOOK_INLINE void attend_rows(const Call<T>& call, const float* queries, const float* keys,
                                   const float* values, std::int64_t seen, float* scores, float* sums,
                                   float (&factors)[kRows]) {
  const std::int64_t stride = score_stride(call), width = call.width;
  for (std::int64_t first = 0; first < seen; first += kPart) {
    alignas(64) float block[kRows * kPart];
    blocked::multiply<float, R, kPart / kLanes>(queries, width, keys + first * width, width, block);
    for (int r = 0; r < R; ++r) std::copy(block + r * kPart, block + (r + 1) * kPart, scores + r * stride + first);
  }
  const std::int64_t full = tiles(seen, kLanes) * kLanes;
  for (int r = 0; r < R; ++r) {
    const std::int64_t own = call.causal ? seen - (R - 1 - r) : seen;
    factors[r] = weigh_row(scores + r * stride, own, full, call.scale);
  }
  for (std::int64_t part = 0; part < full_width(call); part += kPart) {
    blocked::multiply<float, R, kPart / kLanes>(scores, stride, values + part * call.positions, seen,
                                                sums + part * kRows);
  }
}

// The results of some of a head's rows, from `begin` on, at most kRows.
template <typename T>
SECONDLOOK_INLINE void attend_few(const Call<T>& call, std::int64_t batch, std::int64_t head,
                                  std::int64_t begin, std::int64_t count, float* scratch) {
  const std::int64_t width = call.width, positions = score_stride(call);
  const float* const keys = scratch;
  const float* const values = keys + positions * width;
  float* const scores = scratch + positions * (width + full_width(call));
  float* const queries = scores + kRows * positions;
  float* const sums = queries + kRows * width;
  const T* const query = call.query + batch * call.query_strides[0] + head * call.query_strides[1];
  widen(query + begin * call.query_strides[2], call.query_strides[2], count, width, width, queries);
  const std::int64_t seen = call.causal ? call.positions - call.rows + begin + count : call.positions;
  float factors[kRows];
  switch (count) {
    case 1:
      attend_rows<T, 1>(call, queries, keys, values, seen, scores, sums, factors);
      break;
    case 2:
      attend_rows<T, 2>(call, queries, keys, values, seen, scores, sums, factors);
      break;
    case 3:
      attend_rows<T, 3>(call, queries, keys, values, seen, scores, sums, factors);
      break;
    default:
      attend_rows<T, 4>(call, queries, keys, values, seen, scores, sums, factors);
  }
  for (std::int64_t r = 0; r < count; ++r) {
    T* const result = call.result + ((batch * call.rows + begin + r) * call.heads + head) * width;
    for (std::int64_t i = 0; i < width; ++i) {
      const float* const sum = sums + i / kPart * kPart * kRows + r * kPart;
      round_to(sum[i % kPart] * factors[r], result[i]);
    }
  }
}

// The results of some (batch, head) pairs.
template <typename T>
SECONDLOOK_INLINE void attend(const Call<T>& call, std::int64_t begin, std::int64_t end, float* scratch) {
  std::int64_t held = -1;  // whose keys and values are in the scratch
  for (std::int64_t task = begin; task < end; ++task) {
    const std::int64_t batch = task / call.heads, head = task % call.heads;
    const std::int64_t kv = head / (call.heads / call.kv_heads);
    if (held != batch * call.kv_heads + kv) {
      held = batch * call.kv_heads + kv;
      block_keys(call, call.keys + batch * call.keys_strides[0] + kv * call.keys_strides[1], scratch);
      part_values(call, call.values + batch * call.values_strides[0] + kv * call.values_strides[1],
                  scratch + score_stride(call) * call.width);
    }
    for (std::int64_t row = 0; row < call.rows; row += kRows) {
      attend_few(call, batch, head, row, std::min(kRows, call.rows - row), scratch);
    }
  }
}

// Clones are not made of templates.
#define SECONDLOOK_ATTENTION_PASS(T)                                                                          \
  SECONDLOOK_CLONES static void run_attend(const Call<T>& call, std::int64_t begin, std::int64_t end,         \
                                           float* scratch) {                                                  \
    attend(call, begin, end, scratch);                                                                        \
  }
SECONDLOOK_ATTENTION_PASS(float)
SECONDLOOK_ATTENTION_PASS(BFloat16)
#undef SECONDLOOK_ATTENTION_PASS

}  // namespace secondlook::attention
