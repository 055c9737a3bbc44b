// Attention of one query position to the keys of a span, averaged over heads: three passes over scratch
// memory.
//
//   1. scores  score[b, h, s] = scale * sum_d query[b, h, d] * keys[b, h / group, s, d]     for s < length[b]
//   2. weights weight[b, h, s] = exp(score - max score), factor[b, h] = head_weight[h] / sum of the weights
//   3. result  result[b, n] = sum_h factor[b, h] * weight[b, h, start + n]
//
// Each pass is a function of a range of independent tasks, for whatever runs tasks in parallel. Every number
// is computed by one task in one order, so that the result does not depend on the number of threads. Keys at
// and after a length are never read: they may be uninitialised.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

#include "../attention_row.h"
#include "cpu/vectorised.h"

namespace secondlook::attention_row {

inline constexpr std::int64_t kLanes = 16;
inline constexpr std::int64_t kMostWidth = 256;  // of one head
inline constexpr std::int64_t kTile = 64;        // keys of one task of pass 1
inline constexpr std::int64_t kTogether = 4;     // keys whose dot products are computed at once
inline constexpr std::int64_t kSpan = 256;       // positions of one task of pass 3

inline constexpr std::int64_t padded(std::int64_t size) { return (size + kLanes - 1) / kLanes * kLanes; }
inline constexpr std::int64_t tiles(std::int64_t size, std::int64_t tile) { return (size + tile - 1) / tile; }

// Lengths are in [0, positions].
template <typename T>
struct Call : Arguments<T> {
  float* wide_query;  // scratch [batch, heads, padded(width)]
  float* weights;     // scratch [batch, heads, padded(positions)]
  float* factors;     // scratch [batch, heads]

  std::int64_t score_tasks() const { return this->batch * this->kv_heads * tiles(this->positions, kTile); }
  std::int64_t head_tasks() const { return this->batch * this->heads; }
  std::int64_t span_tasks() const { return this->batch * tiles(this->stop - this->start, kSpan); }
  std::int64_t length(std::int64_t b) const { return this->lengths[b * this->lengths_stride]; }
};

// A vector that every machine has in one register (of GCC 12 and Clang).
using Four [[gnu::vector_size(16)]] = float;

SECONDLOOK_INLINE Four sum_to_four(const float* lane) {
  Four part[kLanes / 4];
  std::memcpy(part, lane, sizeof(part));
  return (part[0] + part[2]) + (part[1] + part[3]);
}

// `count` elements as floats, and zeros up to `full`.
template <typename T>
SECONDLOOK_INLINE void widen(const T* __restrict from, std::int64_t count, std::int64_t full,
                             float* __restrict to) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = to_float(from[i]);
  for (std::int64_t i = count; i < full; ++i) to[i] = 0.0f;
}

// scores[k] = scale * query . row k, for kTogether rows of `full` elements, a multiple of kLanes. Written out
// for each row, so that the accumulators stay in registers.
template <typename T>
SECONDLOOK_INLINE void dot(const float* __restrict query, const T* const* rows, std::int64_t full,
                           float scale, float* __restrict scores) {
  const T *row0 = rows[0], *row1 = rows[1], *row2 = rows[2], *row3 = rows[3];
  float lane0[kLanes] = {}, lane1[kLanes] = {}, lane2[kLanes] = {}, lane3[kLanes] = {};
  for (std::int64_t d = 0; d < full; d += kLanes) {
    for (std::int64_t i = 0; i < kLanes; ++i) {
      const float q = query[d + i];
      lane0[i] += q * to_float(row0[d + i]);
      lane1[i] += q * to_float(row1[d + i]);
      lane2[i] += q * to_float(row2[d + i]);
      lane3[i] += q * to_float(row3[d + i]);
    }
  }
  const Four a = sum_to_four(lane0), b = sum_to_four(lane1);
  const Four c = sum_to_four(lane2), d = sum_to_four(lane3);
  const Four ab = __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Four cd = __builtin_shufflevector(c, d, 0, 4, 1, 5) + __builtin_shufflevector(c, d, 2, 6, 3, 7);
  const Four all = __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
  for (int k = 0; k < kTogether; ++k) scores[k] = all[k] * scale;
}

// Pass 0: the queries of the given (batch, head) pairs as padded floats.
template <typename T>
SECONDLOOK_INLINE void widen_queries(const Call<T>& call, std::int64_t begin, std::int64_t end) {
  const std::int64_t full = padded(call.width);
  for (std::int64_t task = begin; task < end; ++task) {
    const std::int64_t b = task / call.heads, h = task % call.heads;
    widen(call.query + b * call.query_batch_stride + h * call.query_head_stride, call.width, full,
          call.wide_query + task * full);
  }
}

// Pass 1: the scores of the given (batch, key head, tile of keys) triples.
template <typename T>
SECONDLOOK_INLINE void score(const Call<T>& call, std::int64_t begin, std::int64_t end) {
  const std::int64_t full = padded(call.width), row = padded(call.positions);
  const std::int64_t group = call.heads / call.kv_heads, count = tiles(call.positions, kTile);
  const bool as_they_are = full == call.width && (group == 1 || sizeof(T) == sizeof(float));
  alignas(64) float wide[kTogether][kMostWidth];
  const float* const wide_rows[kTogether] = {wide[0], wide[1], wide[2], wide[3]};
  for (std::int64_t task = begin; task < end; ++task) {
    const std::int64_t b = task / (call.kv_heads * count), kv = task / count % call.kv_heads;
    const std::int64_t first = task % count * kTile, last = std::min(first + kTile, call.length(b));
    const T* keys = call.keys + b * call.keys_batch_stride + kv * call.keys_head_stride;
    const std::int64_t head = b * call.heads + kv * group;
    for (std::int64_t s = first; s < last; s += kTogether) {
      // The last key stands in for those after it: there is room for scores, and pass 2 drops them.
      const T* rows[kTogether];
      for (std::int64_t k = 0; k < kTogether; ++k) {
        rows[k] = keys + std::min(s + k, last - 1) * call.keys_position_stride;
      }
      float* scores = call.weights + head * row + s;
      const float* query = call.wide_query + head * full;
      if (as_they_are) {
        for (std::int64_t g = 0; g < group; ++g) {
          dot(query + g * full, rows, full, call.scale, scores + g * row);
        }
      } else {
        for (std::int64_t k = 0; k < kTogether; ++k) widen(rows[k], call.width, full, wide[k]);
        for (std::int64_t g = 0; g < group; ++g) {
          dot(query + g * full, wide_rows, full, call.scale, scores + g * row);
        }
      }
    }
  }
}

// Pass 2: scores to weights in place, and the factors, of the given (batch, head) pairs. As in any softmax, a
// NaN or a score of +inf, or nothing but -inf, makes everything NaN: here the factor, or its products with
// the weights.
template <typename T>
SECONDLOOK_INLINE void normalise(const Call<T>& call, std::int64_t begin, std::int64_t end) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  for (std::int64_t task = begin; task < end; ++task) {
    const std::int64_t h = task % call.heads, length = call.length(task / call.heads);
    const std::int64_t full = padded(length);
    float* __restrict row = call.weights + task * padded(call.positions);
    for (std::int64_t s = length; s < full; ++s) row[s] = -infinity;
    float lane[kLanes];
    for (std::int64_t i = 0; i < kLanes; ++i) lane[i] = -infinity;
    for (std::int64_t s = 0; s < full; s += kLanes) {
      for (std::int64_t i = 0; i < kLanes; ++i) lane[i] = row[s + i] > lane[i] ? row[s + i] : lane[i];
    }
    float largest = -infinity;
    for (std::int64_t i = 0; i < kLanes; ++i) largest = lane[i] > largest ? lane[i] : largest;
    if (largest == -infinity) largest = 0.0f;  // the padding's weights stay 0, and NaN stays NaN
    for (std::int64_t i = 0; i < kLanes; ++i) lane[i] = 0.0f;
    for (std::int64_t s = 0; s < full; s += kLanes) {
      for (std::int64_t i = 0; i < kLanes; ++i) {
        const float weight = exp_nonpositive(row[s + i] - largest);
        row[s + i] = weight;
        lane[i] += weight;
      }
    }
    const Four sum = sum_to_four(lane);
    const float head_weight = call.head_weights == nullptr ? 1.0f / static_cast<float>(call.heads)
                                                           : call.head_weights[h * call.head_weights_stride];
    call.factors[task] = head_weight / ((sum[0] + sum[2]) + (sum[1] + sum[3]));
  }
}

// Pass 3: the result of the given (batch, part of the span) pairs.
template <typename T>
SECONDLOOK_INLINE void mix_heads(const Call<T>& call, std::int64_t begin, std::int64_t end) {
  const std::int64_t size = call.stop - call.start, count = tiles(size, kSpan);
  const std::int64_t row = padded(call.positions);
  for (std::int64_t task = begin; task < end; ++task) {
    const std::int64_t b = task / count, first = task % count * kSpan, part = std::min(kSpan, size - first);
    const std::int64_t valid = std::clamp<std::int64_t>(call.length(b) - call.start - first, 0, part);
    alignas(64) float sum[kSpan] = {};
    for (std::int64_t h = 0; h < call.heads; ++h) {
      const float factor = call.factors[b * call.heads + h];
      const float* __restrict weights = call.weights + (b * call.heads + h) * row + call.start + first;
      for (std::int64_t n = 0; n < valid; ++n) sum[n] += factor * weights[n];
    }
    std::copy(sum, sum + part, call.result + b * size + first);
  }
}

// Clones are not made of templates, so that each pass has a function for each type.
#define SECONDLOOK_ATTENTION_ROW_PASS(pass, T)                                                             \
  SECONDLOOK_CLONES static void run_##pass(const Call<T>& call, std::int64_t begin, std::int64_t end) {    \
    pass(call, begin, end);                                                                                \
  }
#define SECONDLOOK_ATTENTION_ROW_PASSES(T)        \
  SECONDLOOK_ATTENTION_ROW_PASS(widen_queries, T) \
  SECONDLOOK_ATTENTION_ROW_PASS(score, T)         \
  SECONDLOOK_ATTENTION_ROW_PASS(normalise, T)     \
  SECONDLOOK_ATTENTION_ROW_PASS(mix_heads, T)
SECONDLOOK_ATTENTION_ROW_PASSES(float)
SECONDLOOK_ATTENTION_ROW_PASSES(Half)
SECONDLOOK_ATTENTION_ROW_PASSES(BFloat16)
#undef SECONDLOOK_ATTENTION_ROW_PASSES
#undef SECONDLOOK_ATTENTION_ROW_PASS

}  // namespace secondlook::attention_row
