// Attention of a decode step over a slotted cache of keys and values: flash-decoding (Dao et al., 2023), that
// is, the softmax of Milakov & Gimelshein (arXiv 1805.02867) with the positions cut into chunks.
//
//   1. attend  for one chunk of positions of one key head, and each query head h of its group:
//              score[s] = scale * query[b, h] . keys[slot, kv, s], largest = max score,
//              weight[s] = exp(score[s] - largest), total = sum of the weights,
//              sum[d] = sum_s weight[s] * values[slot, kv, s, d]
//   2. merge   result[b, h] = sum_chunks f * sum / sum_chunks f * total,  f = exp(largest - largest of all)
//
// Each pass is a function of a range of independent tasks, for whatever runs tasks in parallel. A chunk has
// kChunk positions, whatever the threads, the other rows and the cache's size, so that none of them changes a
// bit of a row's result. Positions at and after a length are never read: they may be uninitialised.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "cpu/rows.h"
#include "decode_attention_call.h"

namespace secondlook::decode_attention {

inline constexpr std::int64_t kMostWidth = 256;  // of one head
inline constexpr std::int64_t kChunk = 128;      // positions of one task of pass 1
inline constexpr std::int64_t kTile = 16;        // positions that are widened together
inline constexpr std::int64_t kAhead = 48;       // positions from those that are read to those that are fetched
inline constexpr std::int64_t kHeads = 8;        // query heads that are handled while a chunk is in cache
static_assert(kAhead % kTile == 0);

// What the passes share besides the call.
struct Work {
  const std::int64_t* first_task;  // [batch + 1]: of pass 1, for each row: [kv_heads, chunks of its length]
  float* partials;                 // scratch [tasks, group, padded(width) + 2]: the sum, largest and total
};

template <typename T>
SECONDLOOK_INLINE std::int64_t chunks(const Call<T>& call, std::int64_t b) {
  return tiles(call.lengths[b * call.lengths_stride], kChunk);
}

// Floats of a partial result, and of those of a whole group.
template <typename T>
SECONDLOOK_INLINE std::int64_t partial_size(const Call<T>& call) {
  return padded(call.width) + 2;
}
template <typename T>
SECONDLOOK_INLINE std::int64_t partials_of_a_task(const Call<T>& call) {
  return call.heads / call.kv_heads * partial_size(call);
}

// bfloat16 is handled in pairs where the width allows: 16 even elements, then the 16 odd ones between them, for
// in 32 bits those are a shift and a mask away. Queries and sums are in that order, too, until they are merged.
inline constexpr std::int64_t kPaired = 2 * kLanes;
template <typename T>
SECONDLOOK_INLINE bool in_pairs(std::int64_t width) {
  return std::is_same_v<T, BFloat16> && width % kPaired == 0;
}

// Asks for the memory of rows that will be read soon; no row need be there. Much sooner, a chunk's keys and values
// would put each other out of the nearest cache.
template <typename T>
SECONDLOOK_INLINE void fetch(const T* rows, std::int64_t stride, std::int64_t count, std::int64_t width) {
  constexpr std::int64_t line = 64 / sizeof(T);
  for (std::int64_t s = 0; s < count; ++s) {
    for (std::int64_t d = 0; d < width; d += line) __builtin_prefetch(rows + s * stride + d);
  }
}

// `widen`, `score` and `add` of rows.h for rows in pairs.
SECONDLOOK_INLINE void widen_pairs(const BFloat16* rows, std::int64_t stride, std::int64_t count,
                                   std::int64_t width, float* wide) {
  for (std::int64_t s = 0; s < count; ++s) {
    for (std::int64_t d = 0; d < width; d += kPaired) {
      const Words pairs = load_pairs(rows + s * stride + d);
      store(wide + s * width + d, even(pairs));
      store(wide + s * width + d + kLanes, odd(pairs));
    }
  }
}

SECONDLOOK_INLINE void score_pairs(const float* query, const BFloat16* rows, std::int64_t stride,
                                   std::int64_t count, std::int64_t width, float scale, float* scores) {
  for (std::int64_t s = 0; s < count; s += kTogether) {
    Floats sums[kTogether] = {};
    for (std::int64_t d = 0; d < width; d += kPaired) {
      const Floats first = load(query + d), second = load(query + d + kLanes);
#pragma GCC unroll 4
      for (std::int64_t r = 0; r < kTogether; ++r) {
        const Words pairs = load_pairs(rows + std::min(s + r, count - 1) * stride + d);
        sums[r] += first * even(pairs);
        sums[r] += second * odd(pairs);
      }
    }
#pragma GCC unroll 4
    for (std::int64_t r = 0; r < kTogether; ++r) {
      float lanes[kLanes];
      store(lanes, sums[r]);
      const Four four = sum_to_four(lanes);
      scores[s + r] = scale * ((four[0] + four[2]) + (four[1] + four[3]));
    }
  }
}

SECONDLOOK_INLINE void add_pairs(const float* weights, const BFloat16* rows, std::int64_t stride,
                                 std::int64_t count, std::int64_t width, float* sum) {
  for (std::int64_t d = 0; d < width; d += kPaired) {
    Floats first = load(sum + d), second = load(sum + d + kLanes);
    Floats third{}, fourth{};
    std::int64_t s = 0;
    for (; s + 2 <= count; s += 2) {
      const Words one = load_pairs(rows + s * stride + d), two = load_pairs(rows + (s + 1) * stride + d);
      const Floats weight = broadcast(weights[s]), other = broadcast(weights[s + 1]);
      first += weight * even(one);
      second += weight * odd(one);
      third += other * even(two);
      fourth += other * odd(two);
    }
    if (s < count) {
      const Words one = load_pairs(rows + s * stride + d);
      first += broadcast(weights[s]) * even(one);
      second += broadcast(weights[s]) * odd(one);
    }
    store(sum + d, first + third);
    store(sum + d + kLanes, second + fourth);
  }
}

// One chunk's rows of keys or values.
template <typename T>
struct Rows {
  const T* first;
  std::int64_t stride, count, width;
};

// Calls use(rows, stride, first, count) for tiles of the chunk as rows of padded(width) elements, which are
// floats where they are to be used more than once. `next` are the rows that will probably be read after these; the
// first of them are not fetched where these are no whole tiles, or fewer than kAhead.
template <typename T, typename Use>
SECONDLOOK_INLINE void for_tiles(const Rows<T>& rows, const Rows<T>& next, bool once, const Use& use) {
  const std::int64_t full = padded(rows.width);
  const bool as_they_are = full == rows.width && (once || sizeof(T) == sizeof(float));
  alignas(64) float wide[kTile * kMostWidth];
  for (std::int64_t s = 0; s < rows.count; s += kTile) {
    const std::int64_t count = std::min(kTile, rows.count - s);
    const std::int64_t ahead = s + kAhead, beyond = ahead - rows.count;
    if (beyond < 0) {
      fetch(rows.first + ahead * rows.stride, rows.stride, kTile, rows.width);
    } else {
      fetch(next.first + beyond * next.stride, next.stride, kTile, next.width);
    }
    if (as_they_are) {
      use(rows.first + s * rows.stride, rows.stride, s, count);
      continue;
    }
    if constexpr (std::is_same_v<T, BFloat16>) {
      if (in_pairs<T>(rows.width)) {
        widen_pairs(rows.first + s * rows.stride, rows.stride, count, rows.width, wide);
        use(static_cast<const float*>(wide), full, s, count);
        continue;
      }
    }
    widen(rows.first + s * rows.stride, rows.stride, count, rows.width, full, wide);
    use(static_cast<const float*>(wide), full, s, count);
  }
}

// One chunk's partial results [heads, padded(width) + 2], for heads <= kHeads queries.
template <typename T>
SECONDLOOK_INLINE void attend_chunk(const Rows<T>& queries, const Rows<T>& keys, const Rows<T>& values,
                                    float scale, float* partials) {
  const std::int64_t heads = queries.count, full = padded(queries.width), size = full + 2;
  alignas(64) float query[kHeads * kMostWidth], weights[kHeads][kChunk];
  if constexpr (std::is_same_v<T, BFloat16>) {
    if (in_pairs<T>(queries.width)) widen_pairs(queries.first, queries.stride, heads, queries.width, query);
  }
  if (!in_pairs<T>(queries.width)) widen(queries.first, queries.stride, heads, queries.width, full, query);
  const auto score_heads = [&](const auto* rows, std::int64_t stride, std::int64_t first,
                               std::int64_t count) __attribute__((always_inline)) {
    for (std::int64_t h = 0; h < heads; ++h) {
      if constexpr (std::is_same_v<decltype(rows), const BFloat16*>) {
        if (in_pairs<T>(queries.width)) {
          score_pairs(query + h * full, rows, stride, count, full, scale, weights[h] + first);
          continue;
        }
      }
      score(query + h * full, rows, stride, count, full, scale, weights[h] + first);
    }
  };
  const auto add_heads = [&](const auto* rows, std::int64_t stride, std::int64_t first,
                             std::int64_t count) __attribute__((always_inline)) {
    for (std::int64_t h = 0; h < heads; ++h) {
      if constexpr (std::is_same_v<decltype(rows), const BFloat16*>) {
        if (in_pairs<T>(queries.width)) {
          add_pairs(weights[h] + first, rows, stride, count, full, partials + h * size);
          continue;
        }
      }
      add(weights[h] + first, rows, stride, count, full, partials + h * size);
    }
  };
  for_tiles(keys, values, heads == 1, score_heads);
  for (std::int64_t h = 0; h < heads; ++h) {
    float* const partial = partials + h * size;
    std::fill(partial, partial + full, 0.0f);
    weigh(weights[h], keys.count, partial[full], partial[full + 1]);
  }
  const Rows<T> next{keys.first + kChunk * keys.stride, keys.stride, kChunk, keys.width};
  for_tiles(values, next, heads == 1, add_heads);
}

// Pass 1: the partial results of the given (row, key head, chunk of the row's length) triples.
template <typename T>
SECONDLOOK_INLINE void attend(const Call<T>& call, const Work& work, std::int64_t begin, std::int64_t end) {
  const std::int64_t group = call.heads / call.kv_heads, size = partial_size(call);
  const std::int64_t* const starts = work.first_task;
  std::int64_t b = std::upper_bound(starts, starts + call.batch, begin) - starts - 1;
  for (std::int64_t task = begin; task < end; ++task) {
    while (task >= starts[b + 1]) ++b;
    const std::int64_t kv = (task - starts[b]) / chunks(call, b);
    const std::int64_t first = (task - starts[b]) % chunks(call, b) * kChunk;
    const std::int64_t count = std::min(kChunk, call.lengths[b * call.lengths_stride] - first);
    const std::int64_t slot = call.slots[b * call.slots_stride];
    const T* const keys = call.keys + slot * call.keys_slot_stride + kv * call.keys_head_stride;
    const T* const values = call.values + slot * call.values_slot_stride + kv * call.values_head_stride;
    const Rows<T> key_rows{keys + first * call.keys_position_stride, call.keys_position_stride, count,
                           call.width};
    const Rows<T> value_rows{values + first * call.values_position_stride, call.values_position_stride, count,
                             call.width};
    for (std::int64_t g = 0; g < group; g += kHeads) {
      const T* const query =
          call.query + b * call.query_batch_stride + (kv * group + g) * call.query_head_stride;
      const Rows<T> queries{query, call.query_head_stride, std::min(kHeads, group - g), call.width};
      attend_chunk(queries, key_rows, value_rows, call.scale, work.partials + (task * group + g) * size);
    }
  }
}

// Pass 2: the result of the given (row, head) pairs.
template <typename T>
SECONDLOOK_INLINE void merge(const Call<T>& call, const Work& work, std::int64_t begin, std::int64_t end) {
  const std::int64_t group = call.heads / call.kv_heads, full = padded(call.width);
  const std::int64_t step = partials_of_a_task(call);
  for (std::int64_t task = begin; task < end; ++task) {
    const std::int64_t b = task / call.heads, h = task % call.heads, parts = chunks(call, b);
    const float* const partials = work.partials + (work.first_task[b] + h / group * parts) * step +
                                  h % group * partial_size(call);
    float largest = -std::numeric_limits<float>::infinity(), total = 0.0f;
    for (std::int64_t c = 0; c < parts; ++c) largest = std::max(largest, partials[c * step + full]);
    const float point = reference_point(largest);
    alignas(64) float sum[kMostWidth] = {};
    for (std::int64_t c = 0; c < parts; ++c) {
      const float* const partial = partials + c * step;
      const float factor = exp_nonpositive(partial[full] - point);
      total += factor * partial[full + 1];
      for (std::int64_t i = 0; i < full; ++i) sum[i] += factor * partial[i];
    }
    if (parts == 0) total = 1.0f;  // no position: zeros
    T* const result = call.result + task * call.width;
    if (in_pairs<T>(call.width)) {
      for (std::int64_t d = 0; d < call.width; d += kPaired) {
        for (std::int64_t i = 0; i < kLanes; ++i) {
          round_to(sum[d + i] / total, result[d + 2 * i]);
          round_to(sum[d + kLanes + i] / total, result[d + 2 * i + 1]);
        }
      }
      continue;
    }
    for (std::int64_t i = 0; i < call.width; ++i) round_to(sum[i] / total, result[i]);
  }
}

// Clones are not made of templates, so that each pass has a function for each type.
#define SECONDLOOK_DECODE_ATTENTION_PASSES(T)                                                              \
  [[maybe_unused]] SECONDLOOK_CLONES static void run_attend(const Call<T>& call, const Work& work,         \
                                                            std::int64_t begin, std::int64_t end) {        \
    attend(call, work, begin, end);                                                                        \
  }                                                                                                        \
  [[maybe_unused]] SECONDLOOK_CLONES static void run_merge(const Call<T>& call, const Work& work,          \
                                                           std::int64_t begin, std::int64_t end) {         \
    merge(call, work, begin, end);                                                                         \
  }
SECONDLOOK_DECODE_ATTENTION_PASSES(float)
SECONDLOOK_DECODE_ATTENTION_PASSES(Half)
SECONDLOOK_DECODE_ATTENTION_PASSES(BFloat16)
#undef SECONDLOOK_DECODE_ATTENTION_PASSES

}  // namespace secondlook::decode_attention
