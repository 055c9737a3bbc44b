// Rows of floats of 16 or 32 bits as vector code: widened, multiplied by a query, weighed, added up, rounded.
//
// Plain loops over kLanes elements of arrays become vector code on every machine; accumulators are written
// out, so that they stay in registers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

#include "cpu/vectorised.h"

namespace secondlook {

// Tasks for one thread, when a task takes so many operations.
inline constexpr std::int64_t grain(std::int64_t operations) { return 1 + 32768 / (operations + 1); }

inline constexpr std::int64_t tiles(std::int64_t size, std::int64_t tile) { return (size + tile - 1) / tile; }
inline constexpr std::int64_t padded(std::int64_t size) { return tiles(size, kLanes) * kLanes; }

// A vector that every machine has in one register (of GCC 12 and Clang).
using Four [[gnu::vector_size(16)]] = float;

SECONDLOOK_INLINE Four sum_to_four(const float* lane) {
  Four part[kLanes / 4];
  std::memcpy(part, lane, sizeof(part));
  return (part[0] + part[2]) + (part[1] + part[3]);
}

// `count` rows as floats, each padded with zeros to `full` elements.
template <typename T>
SECONDLOOK_INLINE void widen(const T* __restrict rows, std::int64_t stride, std::int64_t count,
                             std::int64_t width, std::int64_t full, float* __restrict wide) {
  for (std::int64_t s = 0; s < count; ++s) {
    for (std::int64_t i = 0; i < width; ++i) wide[s * full + i] = to_float(rows[s * stride + i]);
    for (std::int64_t i = width; i < full; ++i) wide[s * full + i] = 0.0f;
  }
}

inline constexpr std::int64_t kTogether = 4;  // rows whose dot products are computed at once

// scores[s] = scale * query . row s, for rows of `full` elements; there is room for a multiple of kTogether.
template <typename T>
SECONDLOOK_INLINE void score(const float* __restrict query, const T* __restrict rows, std::int64_t stride,
                             std::int64_t count, std::int64_t full, float scale, float* __restrict scores) {
  for (std::int64_t s = 0; s < count; s += kTogether) {
    // The last row stands in for those after it.
    const T* const row0 = rows + s * stride;
    const T* const row1 = rows + std::min(s + 1, count - 1) * stride;
    const T* const row2 = rows + std::min(s + 2, count - 1) * stride;
    const T* const row3 = rows + std::min(s + 3, count - 1) * stride;
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
    const Four low = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
    const Four scaled = (low + __builtin_shufflevector(ab, cd, 2, 3, 6, 7)) * scale;
    std::memcpy(scores + s, &scaled, sizeof(scaled));
  }
}

// sum[d] += sum_s weights[s] * row s[d], for rows of `full` elements.
template <typename T>
SECONDLOOK_INLINE void add(const float* __restrict weights, const T* __restrict rows, std::int64_t stride,
                           std::int64_t count, std::int64_t full, float* __restrict sum) {
  std::int64_t d = 0;
  for (; d + 4 * kLanes <= full; d += 4 * kLanes) {
    float lane0[kLanes], lane1[kLanes], lane2[kLanes], lane3[kLanes];
    std::memcpy(lane0, sum + d, sizeof(lane0));
    std::memcpy(lane1, sum + d + kLanes, sizeof(lane1));
    std::memcpy(lane2, sum + d + 2 * kLanes, sizeof(lane2));
    std::memcpy(lane3, sum + d + 3 * kLanes, sizeof(lane3));
    for (std::int64_t s = 0; s < count; ++s) {
      const T* const row = rows + s * stride + d;
      const float weight = weights[s];
      for (std::int64_t i = 0; i < kLanes; ++i) {
        lane0[i] += weight * to_float(row[i]);
        lane1[i] += weight * to_float(row[i + kLanes]);
        lane2[i] += weight * to_float(row[i + 2 * kLanes]);
        lane3[i] += weight * to_float(row[i + 3 * kLanes]);
      }
    }
    std::memcpy(sum + d, lane0, sizeof(lane0));
    std::memcpy(sum + d + kLanes, lane1, sizeof(lane1));
    std::memcpy(sum + d + 2 * kLanes, lane2, sizeof(lane2));
    std::memcpy(sum + d + 3 * kLanes, lane3, sizeof(lane3));
  }
  for (; d < full; d += kLanes) {
    float lane[kLanes];
    std::memcpy(lane, sum + d, sizeof(lane));
    for (std::int64_t s = 0; s < count; ++s) {
      const T* const row = rows + s * stride + d;
      for (std::int64_t i = 0; i < kLanes; ++i) lane[i] += weights[s] * to_float(row[i]);
    }
    std::memcpy(sum + d, lane, sizeof(lane));
  }
}

// What is subtracted before exp: if there is nothing but -inf, 0, so that -inf adds nothing to a sum.
SECONDLOOK_INLINE float reference_point(float largest) {
  return largest == -std::numeric_limits<float>::infinity() ? 0.0f : largest;
}

// Scores to weights in place; the largest score and the weights' sum. As in any softmax, a NaN or a score of
// +inf makes the sum NaN.
SECONDLOOK_INLINE void weigh(float* __restrict scores, std::int64_t count, float& largest, float& total) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const std::int64_t full = padded(count);
  for (std::int64_t s = count; s < full; ++s) scores[s] = -infinity;
  float lane[kLanes];
  for (std::int64_t i = 0; i < kLanes; ++i) lane[i] = -infinity;
  for (std::int64_t s = 0; s < full; s += kLanes) {
    for (std::int64_t i = 0; i < kLanes; ++i) lane[i] = scores[s + i] > lane[i] ? scores[s + i] : lane[i];
  }
  largest = -infinity;
  for (std::int64_t i = 0; i < kLanes; ++i) largest = lane[i] > largest ? lane[i] : largest;
  const float point = reference_point(largest);
  for (std::int64_t i = 0; i < kLanes; ++i) lane[i] = 0.0f;
  for (std::int64_t s = 0; s < full; s += kLanes) {
    for (std::int64_t i = 0; i < kLanes; ++i) {
      const float weight = exp_nonpositive(scores[s + i] - point);
      scores[s + i] = weight;
      lane[i] += weight;
    }
  }
  const Four sum = sum_to_four(lane);
  total = (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

// To the nearest, to even between two; a NaN stays one.
SECONDLOOK_INLINE void round_to(float value, float& to) { to = value; }
SECONDLOOK_INLINE void round_to(float value, BFloat16& to) {
  const auto bits = reinterpret_bits<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  to.bits = static_cast<std::uint16_t>(value != value ? 0x7fc0u : rounded);
}
SECONDLOOK_INLINE void round_to(float value, Half& to) {
  const auto bits = reinterpret_bits<std::uint32_t>(value);
  const std::uint32_t magnitude = bits & 0x7fffffffu, sign = bits >> 16 & 0x8000u;
  std::uint32_t rounded;
  if (magnitude >= 0x47800000u) {  // 65536 or more, infinite or NaN
    rounded = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // subnormal: the addition of 0.5 rounds to multiples of 2^-24
    rounded = reinterpret_bits<std::uint32_t>(reinterpret_bits<float>(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    rounded = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  }
  to.bits = static_cast<std::uint16_t>(rounded | sign);
}

// What is left of a value that is written as a T.
template <typename T>
SECONDLOOK_INLINE float rounded(float value) {
  T to;
  round_to(value, to);
  return to_float(to);
}

}  // namespace secondlook
