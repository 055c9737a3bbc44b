// Weights of 8 or 4 bits in blocks, and what they are multiplied by: floats, of which nothing is rounded.
//
// Each weight is (value - zero) * scale; a group of inputs that follow each other shares zero and scale. They
// lie as [blocks, groups, 4 + rows, 64] bytes, block after block of 64 outputs, group after group: four rows are
// a word for each output, the scale's upper 24 bits and then the zero + 128; behind them
//
//     of 8 bits a row for each input, of 16 words: word i holds the values + 128 of the outputs i, 16 + i,
//     32 + i and 48 + i, from its lowest bits on;
//     of 4 bits a row for each pair of inputs, of 16 words: word i holds the values + 8 of these outputs, of the
//     even input and then of the odd one.
//
// So a product with a group is scale * (sum of x * value - zero * sum of x), of which the last sum is the same
// for all outputs: a total.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "cpu/bf16_dot.h"

namespace secondlook::low_bit {

inline constexpr std::int64_t kWidth = 64;   // outputs of a block
inline constexpr std::int64_t kChunk = 512;  // products that are added up in a row; then those sums are
inline constexpr int kVectors = kWidth / kLanes;
inline constexpr std::int64_t kWords = 4;  // rows of a group before its values

// Which inputs are added up at once, a span: a group's, or of a long one kChunk at a time.
struct Spans {
  std::int64_t inputs, group;

  SECONDLOOK_INLINE std::int64_t count() const { return inputs / group * ((group + kChunk - 1) / kChunk); }
};

// totals [rows, spans] of rows of inputs.
SECONDLOOK_CLONES static void add_up(const float* x, std::int64_t stride, std::int64_t rows,
                                     const Spans& spans, float* totals) {
  for (std::int64_t row = 0; row < rows; ++row, x += stride) {
    for (std::int64_t first = 0; first < spans.inputs; first += spans.group) {
      for (std::int64_t from = 0; from < spans.group; from += kChunk) {
        const std::int64_t end = first + std::min(spans.group, from + kChunk);
        std::int64_t k = first + from;
        Floats sum = {};
        for (; k + kLanes <= end; k += kLanes) sum += load(x + k);
        float total = sum_lanes(sum);
        for (; k < end; ++k) total += x[k];
        *totals++ = total;
      }
    }
  }
}

// Floats that are bfloat16 ones, an even number of them, as pairs of these.
SECONDLOOK_CLONES static void narrow(const float* x, std::int64_t count, std::uint32_t* pairs) {
  for (std::int64_t i = 0; i < count / 2; ++i) {
    const auto even = reinterpret_bits<std::uint32_t>(x[2 * i]);
    pairs[i] = even >> 16 | (reinterpret_bits<std::uint32_t>(x[2 * i + 1]) & 0xffff0000u);
  }
}

SECONDLOOK_INLINE Words load_32(const void* from) {
  Words words;
  std::memcpy(&words, from, sizeof(words));
  return words;
}
SECONDLOOK_INLINE Floats to_floats(const Words& below) {
  return __builtin_convertvector(reinterpret_bits<Integers>(below), Floats);
}

// How values are held, and multiplied: what is read of a row, of `kInputs` inputs, and added to the sums of 64
// outputs. The sums of vector v are too large by 2^shift(v), and each value is by `kMore` before that.
struct Bytes {
  using X = float;
  static constexpr std::int64_t kInputs = 1;
  static constexpr float kMore = 128.0f;
  static constexpr int shift(int v) { return v < 3 ? 8 * v : 0; }

  static SECONDLOOK_INLINE Floats values(const Words& row, int v) {
    return to_floats(v < 3 ? row & 0xffu << 8 * v : row >> 24);
  }
  static SECONDLOOK_INLINE Floats values(const Words& row, int, int v) { return values(row, v); }
  template <int R>
  static SECONDLOOK_INLINE void add(const float* const (&x)[R], std::int64_t k, const Words& row,
                                    Floats (&sum)[R][kVectors]) {
    const Floats first = values(row, 0), second = values(row, 1), third = values(row, 2), last = values(row, 3);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Floats each = broadcast(x[r][k]);
      sum[r][0] += each * first;
      sum[r][1] += each * second;
      sum[r][2] += each * third;
      sum[r][3] += each * last;
    }
  }
};

struct Nibbles {
  using X = float;
  static constexpr std::int64_t kInputs = 2;
  static constexpr float kMore = 8.0f;
  static constexpr int shift(int v) { return 4 * v; }

  static SECONDLOOK_INLINE Floats values(const Words& half, int v) { return to_floats(half & 15u << 4 * v); }
  static SECONDLOOK_INLINE Floats values(const Words& row, int input, int v) {
    return values(input ? row >> 16 : row, v);
  }
  template <int R>
  static SECONDLOOK_INLINE void add_half(const float* const (&x)[R], std::int64_t k, const Words& half,
                                         Floats (&sum)[R][kVectors]) {
    const Floats first = values(half, 0), second = values(half, 1);
    const Floats third = values(half, 2), last = values(half, 3);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Floats each = broadcast(x[r][k]);
      sum[r][0] += each * first;
      sum[r][1] += each * second;
      sum[r][2] += each * third;
      sum[r][3] += each * last;
    }
  }
  template <int R>
  static SECONDLOOK_INLINE void add(const float* const (&x)[R], std::int64_t k, const Words& row,
                                    Floats (&sum)[R][kVectors]) {
    add_half(x, k, row, sum);
    add_half(x, k + 1, row >> 16, sum);
  }
};

#if SECONDLOOK_HAS_BF16_DOT
// The same by pairs of bfloat16: the bits of 128 <= f < 144 are those of 128 and the four of what is more.
struct NibblePairs {
  using X = std::uint32_t;
  static constexpr std::int64_t kInputs = 2;
  static constexpr float kMore = 8.0f + 128.0f;
  static constexpr int shift(int) { return 0; }

  template <int R>
  static SECONDLOOK_INLINE void add(const std::uint32_t* const (&x)[R], std::int64_t k, const Words& row,
                                    Floats (&sum)[R][kVectors]) {
    Words pairs[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) pairs[v] = (row >> 4 * v & 0x000f000fu) | 0x43004300u;
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Words each = reinterpret_bits<Words>(broadcast(reinterpret_bits<float>(x[r][k / 2])));
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[r][v] = add_dot(each, pairs[v], sum[r][v]);
    }
  }
};
#endif

// Scales and zeros of 16 outputs.
struct Scales {
  Words words;

  SECONDLOOK_INLINE Scales(const std::uint8_t* group, int v) : words(load_32(group + 4 * kLanes * v)) {}
  SECONDLOOK_INLINE Floats scales() const { return reinterpret_bits<Floats>(words & 0xffffff00u); }
  SECONDLOOK_INLINE Floats zeros() const { return to_floats(words & 0xffu) - 128.0f; }
};

// Bytes of a group.
template <typename Q>
SECONDLOOK_INLINE std::int64_t stride_of(const Spans& spans) {
  return (kWords + spans.group / Q::kInputs) * kWidth;
}

// R rows of inputs, and their totals.
template <typename X, int R>
struct Rows {
  const X* x[R];
  const float* totals[R];
};

// A span's group, its values, and its first input.
struct Span {
  const std::uint8_t *group, *values;
  std::int64_t begin;
};

// products [R, 64] += of S spans of one length, the first of them the span of this number: of so many that there
// are sums enough at once for the processor to be busy.
template <typename Q, int R, int S>
SECONDLOOK_INLINE void multiply_spans(const Rows<typename Q::X, R>& rows, const Span (&spans)[S],
                                      std::int64_t length, std::int64_t number, float* products) {
  Floats sum[S][R][kVectors];
#pragma GCC unroll 2
  for (int s = 0; s < S; ++s) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[s][r][v] = Floats{};
    }
  }
  std::int64_t at = 0;
  for (std::int64_t k = 0; k < length; k += Q::kInputs, at += kWidth) {
#pragma GCC unroll 2
    for (int s = 0; s < S; ++s) {
      Q::template add<R>(rows.x, spans[s].begin + k, load_32(spans[s].values + at), sum[s]);
    }
  }
#pragma GCC unroll 2
  for (int s = 0; s < S; ++s) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const Scales of(spans[s].group, v);
      const float much = static_cast<float>(1 << Q::shift(v));
      const Floats scale = of.scales() * (1.0f / much), zero = (of.zeros() + Q::kMore) * much;
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        float* const place = products + r * kWidth + kLanes * v;
        store(place, load(place) + scale * (sum[s][r][v] - zero * broadcast(rows.totals[r][number + s])));
      }
    }
  }
}

// products [R, 64] with a block.
template <typename Q, int R>
SECONDLOOK_INLINE void multiply(const Rows<typename Q::X, R>& rows, const Spans& spans,
                                const std::uint8_t* block, float* products) {
  std::fill(products, products + R * kWidth, 0.0f);
  const std::int64_t size = spans.group, stride = stride_of<Q>(spans);
  const auto span_at = [&](std::int64_t first, std::int64_t from) __attribute__((always_inline)) {
    return Span{block, block + (kWords + from / Q::kInputs) * kWidth, first + from};
  };
  std::int64_t first = 0, number = 0;
  if constexpr (R <= 2) {
    for (; size <= kChunk && first + 2 * size <= spans.inputs; first += 2 * size, number += 2) {
      const Span one = span_at(first, 0);
      block += stride;
      const Span both[] = {one, span_at(first + size, 0)};
      block += stride;
      multiply_spans<Q, R, 2>(rows, both, size, number, products);
    }
  }
  for (; first < spans.inputs; first += size, block += stride) {
    for (std::int64_t from = 0; from < size; from += kChunk, ++number) {
      const Span span[] = {span_at(first, from)};
      multiply_spans<Q, R, 1>(rows, span, std::min(kChunk, size - from), number, products);
    }
  }
}

#if SECONDLOOK_HAS_BF16_DOT
template <int R>
SECONDLOOK_BF16_DOT __attribute__((noinline)) void multiply_dots(const Rows<std::uint32_t, R>& rows,
                                                                 const Spans& spans,
                                                                 const std::uint8_t* block, float* products) {
  multiply<NibblePairs, R>(rows, spans, block, products);
}
#endif

}  // namespace secondlook::low_bit
