// Attention of many queries to many keys: scores, softmax and weighted sums of a few queries at a time, whose
// scores stay in the cache.
//
// A head's keys are put in blocks of positions (blocked.h), so that scores are products of rows with blocks;
// its values lie as they must for the second product: a block of one head's width, its inputs positions.
//
// What is multiplied is E. With float all is in float32. With BFloat16, where a processor multiplies that
// (bf16_dot.h), scores are the same sums of exact products, and weights are rounded before the second product,
// as in any fused attention; what they are divided by is the sum of the rounded ones.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "cpu/attention_call.h"
#include "cpu/blocked.h"

namespace secondlook::attention {

using blocked::kPair;
using blocked::paired;

inline constexpr std::int64_t kRows = 6;         // queries at a time
inline constexpr std::int64_t kPart = 64;        // of a head's width, that are summed at once; and positions of a block

template <typename T>
SECONDLOOK_INLINE std::int64_t score_stride(const Call<T>& call) {
  return tiles(call.positions, kPart) * kPart;
}
template <typename T>
SECONDLOOK_INLINE std::int64_t full_width(const Call<T>& call) {
  return tiles(call.width, kPart) * kPart;
}

// The scratch of one head: its keys and values; queries, scores, weights and sums of kRows rows.
template <typename E>
struct Scratch {
  E *keys, *values, *queries, *weights;
  float *scores, *sums;
};

// Elements of E, as floats.
template <typename E>
SECONDLOOK_INLINE std::int64_t floats(std::int64_t elements) {
  return elements / kPair<E>;
}

// A head's scratch; where nothing is rounded, weights take the place of scores.
template <typename E, typename T>
SECONDLOOK_INLINE Scratch<E> divided(const Call<T>& call, float* memory) {
  const std::int64_t positions = score_stride(call), width = paired<E>(call.width);
  Scratch<E> scratch;
  scratch.keys = reinterpret_cast<E*>(memory);
  scratch.values = scratch.keys + positions * width;
  scratch.queries = scratch.values + positions * full_width(call);
  scratch.weights = scratch.queries + kRows * width;
  scratch.scores = memory + floats<E>(positions * (width + full_width(call)) + kRows * width);
  if constexpr (sizeof(E) < sizeof(float)) scratch.scores += floats<E>(kRows * positions);
  scratch.sums = scratch.scores + kRows * positions;
  return scratch;
}
template <typename E, typename T>
SECONDLOOK_INLINE std::int64_t scratch_of_a_head(const Call<T>& call) {
  const std::int64_t positions = score_stride(call), width = paired<E>(call.width);
  return floats<E>(positions * (width + full_width(call)) + kRows * (width + positions)) +
         kRows * (positions + full_width(call));
}

// Keys [positions, width] in blocks [tiles, width / kPair, kPart, kPair]; what is beyond the last position is
// zero.
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
SECONDLOOK_INLINE void block_keys(const Call<BFloat16>& call, const BFloat16* keys, BFloat16* to) {
  const std::int64_t stride = call.keys_strides[2], width = call.width, pairs = paired<BFloat16>(width) / 2;
  for (std::int64_t first = 0; first < call.positions; first += kPart, to += pairs * kPart * 2) {
    const std::int64_t count = std::min(kPart, call.positions - first);
    std::uint32_t* const words = reinterpret_cast<std::uint32_t*>(to);
    if (count < kPart) std::fill(words, words + pairs * kPart, 0u);
    for (std::int64_t s = 0; s < count; ++s) {
      const BFloat16* const row = keys + (first + s) * stride;
      for (std::int64_t i = 0; i < width / 2; ++i) std::memcpy(words + i * kPart + s, row + 2 * i, 4);
      if (width % 2) words[(pairs - 1) * kPart + s] = row[width - 1].bits;
    }
  }
}

// Values [positions, width] in parts [full_width / kPart, positions / kPair, kPart, kPair], zeros beside the
// width and beyond the last position.
template <typename T>
SECONDLOOK_INLINE void part_values(const Call<T>& call, const T* values, float* __restrict to) {
  for (std::int64_t first = 0; first < call.width; first += kPart, to += call.positions * kPart) {
    widen(values + first, call.values_strides[2], call.positions, std::min(kPart, call.width - first), kPart,
          to);
  }
}
SECONDLOOK_INLINE void part_values(const Call<BFloat16>& call, const BFloat16* values, BFloat16* to) {
  const std::int64_t stride = call.values_strides[2];
  std::uint32_t* words = reinterpret_cast<std::uint32_t*>(to);
  for (std::int64_t first = 0; first < call.width; first += kPart) {
    const std::int64_t width = std::min(kPart, call.width - first);
    for (std::int64_t s = 0; s < call.positions; s += 2, words += kPart) {
      const BFloat16* const even = values + first + s * stride;
      const BFloat16* const odd = even + stride;
      const bool both = s + 1 < call.positions;
      for (std::int64_t i = 0; i < width; ++i) {
        words[i] = even[i].bits | (both ? static_cast<std::uint32_t>(odd[i].bits) << 16 : 0u);
      }
      for (std::int64_t i = width; i < kPart; ++i) words[i] = 0u;
    }
  }
}

// Queries [count, width], padded to pairs.
SECONDLOOK_INLINE void put_queries(const float* from, std::int64_t stride, std::int64_t count, std::int64_t width,
                                   float* to) {
  widen(from, stride, count, width, width, to);
}
SECONDLOOK_INLINE void put_queries(const BFloat16* from, std::int64_t stride, std::int64_t count,
                                   std::int64_t width, float* to) {
  widen(from, stride, count, width, width, to);
}
SECONDLOOK_INLINE void put_queries(const BFloat16* from, std::int64_t stride, std::int64_t count,
                                   std::int64_t width, BFloat16* to) {
  const std::int64_t full = paired<BFloat16>(width);
  for (std::int64_t r = 0; r < count; ++r) {
    std::copy(from + r * stride, from + r * stride + width, to + r * full);
    if (full > width) to[r * full + width] = BFloat16{0};
  }
}

// exp(x) for 16 x <= 0 as they are multiplied; the same, as floats. Of what is rounded to bfloat16, 16 bits are
// right, and what is below 2^-126 is 0.
SECONDLOOK_INLINE Floats put_exp(const Floats& x, float* to) {
  const Floats weights = exp_nonpositive(x);
  store(to, weights);
  return weights;
}
SECONDLOOK_INLINE Floats put_exp(const Floats& x, BFloat16* to) {
  const HalfWords rounded = to_bf16(rough_exp_nonpositive(x));
  std::memcpy(to, &rounded, sizeof(rounded));
  return reinterpret_bits<Floats>(__builtin_convertvector(rounded, Words) << 16);
}

// Weights exp(score - largest) of `count` scores, and zeros to the end of the part; returns the factor by which
// sums with these weights are multiplied. As in any softmax a NaN or +inf makes that NaN, and so do scores of
// which none is above -inf.
template <typename E>
SECONDLOOK_INLINE float weigh_row(float* scores, std::int64_t count, std::int64_t seen, float scale,
                                   E* weights) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  constexpr int step = kPart / kLanes;  // that do not wait for each other
  const std::int64_t full = tiles(seen, kPart) * kPart;
  if (scale == 0.0f) {  // times which infinity is none
    for (std::int64_t s = 0; s < count; ++s) scores[s] *= scale;
    scale = 1.0f;
  }
  for (std::int64_t s = count; s < full; ++s) scores[s] = scale < 0.0f ? infinity : -infinity;
  const Floats factor = broadcast(scale);
  Floats most[step], sum[step];
#pragma GCC unroll 4
  for (int i = 0; i < step; ++i) most[i] = broadcast(-infinity);
  for (std::int64_t s = 0; s < full; s += kPart) {
#pragma GCC unroll 4
    for (int i = 0; i < step; ++i) most[i] = maximum(most[i], load(scores + s + i * kLanes) * factor);
  }
  const float largest = maximum_lanes(maximum(maximum(most[0], most[1]), maximum(most[2], most[3])));
  const Floats point = broadcast(reference_point(largest));
#pragma GCC unroll 4
  for (int i = 0; i < step; ++i) sum[i] = Floats{};
  for (std::int64_t s = 0; s < full; s += kPart) {
#pragma GCC unroll 4
    for (int i = 0; i < step; ++i) {
      const std::int64_t place = s + i * kLanes;
      sum[i] += put_exp(load(scores + place) * factor - point, weights + place);
    }
  }
  return 1.0f / sum_lanes((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

template <typename E, int R, typename T>
SECONDLOOK_INLINE void attend_rows(const Call<T>& call, const Scratch<E>& scratch, std::int64_t seen,
                                   float (&factors)[kRows]) {
  const std::int64_t stride = score_stride(call), width = paired<E>(call.width);
  for (std::int64_t first = 0; first < seen; first += kPart) {
    blocked::multiply<E, R, kPart / kLanes>(scratch.queries, width, scratch.keys + first * width, width,
                                            scratch.scores + first, stride);
  }
  for (int r = 0; r < R; ++r) {
    const std::int64_t own = call.causal ? seen - (R - 1 - r) : seen;
    factors[r] = weigh_row(scratch.scores + r * stride, own, seen, call.scale, scratch.weights + r * stride);
  }
  const std::int64_t positions = paired<E>(call.positions);
  for (std::int64_t part = 0; part < full_width(call); part += kPart) {
    blocked::multiply<E, R, kPart / kLanes>(scratch.weights, stride, scratch.values + part * positions,
                                            paired<E>(seen), scratch.sums + part * kRows);
  }
}

// The results of some of a head's rows, from `begin` on, at most kRows.
template <typename E, typename T>
SECONDLOOK_INLINE void attend_few(const Call<T>& call, std::int64_t batch, std::int64_t head,
                                  std::int64_t begin, std::int64_t count, const Scratch<E>& scratch) {
  const T* const query = call.query + batch * call.query_strides[0] + head * call.query_strides[1];
  put_queries(query + begin * call.query_strides[2], call.query_strides[2], count, call.width, scratch.queries);
  const std::int64_t seen = call.causal ? call.positions - call.rows + begin + count : call.positions;
  float factors[kRows];
  switch (count) {
    case 1:
      attend_rows<E, 1>(call, scratch, seen, factors);
      break;
    case 2:
      attend_rows<E, 2>(call, scratch, seen, factors);
      break;
    case 3:
      attend_rows<E, 3>(call, scratch, seen, factors);
      break;
    case 4:
      attend_rows<E, 4>(call, scratch, seen, factors);
      break;
    case 5:
      attend_rows<E, 5>(call, scratch, seen, factors);
      break;
    default:
      attend_rows<E, 6>(call, scratch, seen, factors);
  }
  for (std::int64_t r = 0; r < count; ++r) {
    T* const result = call.result + ((batch * call.rows + begin + r) * call.heads + head) * call.width;
    for (std::int64_t part = 0; part < call.width; part += kPart) {
      const float* const sum = scratch.sums + part * kRows + r * kPart;
      const std::int64_t width = std::min(kPart, call.width - part);
      for (std::int64_t i = 0; i < width; ++i) round_to(sum[i] * factors[r], result[part + i]);
    }
  }
}

// The results of some (batch, head) pairs.
template <typename E, typename T>
SECONDLOOK_INLINE void attend(const Call<T>& call, std::int64_t begin, std::int64_t end, float* memory) {
  const Scratch<E> scratch = divided<E>(call, memory);
  std::int64_t held = -1;  // whose keys and values are in the scratch
  for (std::int64_t task = begin; task < end; ++task) {
    const std::int64_t batch = task / call.heads, head = task % call.heads;
    const std::int64_t kv = head / (call.heads / call.kv_heads);
    if (held != batch * call.kv_heads + kv) {
      held = batch * call.kv_heads + kv;
      block_keys(call, call.keys + batch * call.keys_strides[0] + kv * call.keys_strides[1], scratch.keys);
      part_values(call, call.values + batch * call.values_strides[0] + kv * call.values_strides[1],
                  scratch.values);
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
    attend<float>(call, begin, end, scratch);                                                                 \
  }
SECONDLOOK_ATTENTION_PASS(float)
SECONDLOOK_ATTENTION_PASS(BFloat16)
#undef SECONDLOOK_ATTENTION_PASS
SECONDLOOK_BF16_DOT static void run_attend_dot(const Call<BFloat16>& call, std::int64_t begin, std::int64_t end,
                                               float* scratch) {
  attend<BFloat16>(call, begin, end, scratch);
}

}  // namespace secondlook::attention
