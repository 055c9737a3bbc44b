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

#include "../attention_row.h"
#include "cpu/rows.h"

namespace secondlook::attention_row {

inline constexpr std::int64_t kMostWidth = 256;  // of one head
inline constexpr std::int64_t kTile = 64;        // keys of one task of pass 1
inline constexpr std::int64_t kSpan = 256;       // positions of one task of pass 3

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

// Pass 0: the queries of the given (batch, head) pairs as padded floats.
template <typename T>
SECONDLOOK_INLINE void widen_queries(const Call<T>& call, std::int64_t begin, std::int64_t end) {
  const std::int64_t full = padded(call.width);
  for (std::int64_t task = begin; task < end; ++task) {
    const std::int64_t b = task / call.heads, h = task % call.heads;
    const T* const query = call.query + b * call.query_batch_stride + h * call.query_head_stride;
    widen(query, std::int64_t{0}, 1, call.width, full, call.wide_query + task * full);
  }
}

// Pass 1: the scores of the given (batch, key head, tile of keys) triples.
template <typename T>
SECONDLOOK_INLINE void score_keys(const Call<T>& call, std::int64_t begin, std::int64_t end) {
  const std::int64_t full = padded(call.width), row = padded(call.positions);
  const std::int64_t group = call.heads / call.kv_heads, count = tiles(call.positions, kTile);
  const bool as_they_are = full == call.width && (group == 1 || sizeof(T) == sizeof(float));
  alignas(64) float wide[kTogether * kMostWidth];
  for (std::int64_t task = begin; task < end; ++task) {
    const std::int64_t b = task / (call.kv_heads * count), kv = task / count % call.kv_heads;
    const std::int64_t first = task % count * kTile, last = std::min(first + kTile, call.length(b));
    const T* keys = call.keys + b * call.keys_batch_stride + kv * call.keys_head_stride;
    const std::int64_t head = b * call.heads + kv * group;
    for (std::int64_t s = first; s < last; s += kTogether) {
      const std::int64_t stride = call.keys_position_stride, together = std::min(kTogether, last - s);
      const T* const rows = keys + s * stride;
      const float* const query = call.wide_query + head * full;
      float* const scores = call.weights + head * row + s;
      if (!as_they_are) widen(rows, stride, together, call.width, full, wide);
      for (std::int64_t g = 0; g < group; ++g) {
        if (as_they_are) {
          score(query + g * full, rows, stride, together, full, call.scale, scores + g * row);
        } else {
          score(query + g * full, wide, full, together, full, call.scale, scores + g * row);
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
  for (std::int64_t task = begin; task < end; ++task) {
    const std::int64_t h = task % call.heads;
    float largest, total;
    weigh(call.weights + task * padded(call.positions), call.length(task / call.heads), largest, total);
    const float head_weight = call.head_weights == nullptr ? 1.0f / static_cast<float>(call.heads)
                                                           : call.head_weights[h * call.head_weights_stride];
    call.factors[task] = head_weight / total;
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
  SECONDLOOK_ATTENTION_ROW_PASS(score_keys, T)    \
  SECONDLOOK_ATTENTION_ROW_PASS(normalise, T)     \
  SECONDLOOK_ATTENTION_ROW_PASS(mix_heads, T)
SECONDLOOK_ATTENTION_ROW_PASSES(float)
SECONDLOOK_ATTENTION_ROW_PASSES(Half)
SECONDLOOK_ATTENTION_ROW_PASSES(BFloat16)
#undef SECONDLOOK_ATTENTION_ROW_PASSES
#undef SECONDLOOK_ATTENTION_ROW_PASS

}  // namespace secondlook::attention_row
