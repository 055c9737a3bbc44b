// Weights of 8 or 4 bits in blocks, and what they are multiplied by: floats, or bfloat16 as it is, of which nothing
// is rounded.
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
#include "cpu/vectorised.h"

namespace secondlook::low_bit {

inline constexpr std::int64_t kWidth = 64;   // outputs of a block
inline constexpr std::int64_t kChunk = 512;  // products that are added up in a row; then those sums are
inline constexpr int kVectors = kWidth / kLanes;
inline constexpr std::int64_t kWords = 4;  // rows of a group before its values
inline constexpr std::int64_t kRows = 4;   // rows of inputs that are multiplied while a block is read

// How many bytes ahead of what is read is fetched: a block's weights are so few bytes that the processor by
// itself fetches too late.
inline constexpr std::int64_t kAhead = 8192;

// Which inputs are added up at once, a span: a group's, or of a long one kChunk at a time.
struct Spans {
  std::int64_t inputs, group;

  SECONDLOOK_INLINE std::int64_t count() const { return inputs / group * ((group + kChunk - 1) / kChunk); }
};

// totals [rows, spans] of rows of inputs.
template <typename X>
SECONDLOOK_INLINE void add_up_rows(const X* x, std::int64_t stride, std::int64_t rows, const Spans& spans,
                                   float* totals) {
  for (std::int64_t row = 0; row < rows; ++row, x += stride) {
    for (std::int64_t first = 0; first < spans.inputs; first += spans.group) {
      for (std::int64_t from = 0; from < spans.group; from += kChunk) {
        const std::int64_t end = first + std::min(spans.group, from + kChunk);
        std::int64_t k = first + from;
        Floats sum = {};
        for (; k + kLanes <= end; k += kLanes) sum += load(x + k);
        float total = sum_lanes(sum);
        for (; k < end; ++k) total += to_float(x[k]);
        *totals++ = total;
      }
    }
  }
}
// Clones are not made of templates.
[[maybe_unused]] SECONDLOOK_CLONES static void add_up(const float* x, std::int64_t stride, std::int64_t rows,
                                                      const Spans& spans, float* totals) {
  add_up_rows(x, stride, rows, spans, totals);
}
[[maybe_unused]] SECONDLOOK_CLONES static void add_up(const BFloat16* x, std::int64_t stride, std::int64_t rows,
                                                      const Spans& spans, float* totals) {
  add_up_rows(x, stride, rows, spans, totals);
}

SECONDLOOK_INLINE Words load_32(const void* from) {
  Words words;
  std::memcpy(&words, from, sizeof(words));
  return words;
}
SECONDLOOK_INLINE Floats to_floats(const Words& below) {
  return __builtin_convertvector(reinterpret_bits<Integers>(below), Floats);
}

// How values are held: kLines rows, of kInputs inputs, have 16 of each vector of outputs as floats that are too large
// by a factor of 2^shift(v), and before that by kMore. X is what they are multiplied by.
struct Bytes {
  using X = float;
  static constexpr std::int64_t kLines = 1;
  static constexpr std::int64_t kInputs = 1;
  static constexpr float kMore = 128.0f;
  static constexpr int shift(int v) { return v < 3 ? 8 * v : 0; }

  // The words that to_floats takes have no sign.
  static SECONDLOOK_INLINE Floats values(const Words& row, int, int v) {
    return to_floats(v < 3 ? row & 0xffu << 8 * v : row >> 24);
  }
};

struct Nibbles {
  using X = float;
  static constexpr std::int64_t kLines = 1;
  static constexpr std::int64_t kInputs = 2;
  static constexpr float kMore = 8.0f;
  static constexpr int shift(int v) { return 4 * v; }

  static SECONDLOOK_INLINE Floats values(const Words& row, int input, int v) {
    return to_floats((input ? row >> 16 : row) & 15u << 4 * v);
  }
};

// The same as bfloat16, which they are exactly, of two inputs of each output in 32 bits: for functions of
// SECONDLOOK_BF16_DOT, whose products take subnormal numbers as zeros.
//
// Of 4 bits a row has both inputs.
struct NibblePairs {
  using X = BFloat16;
  static constexpr std::int64_t kInputs = 2, kLines = 1;
  static constexpr float kMore = 0.0f;
  static constexpr int shift(int) { return 0; }

  static SECONDLOOK_INLINE void read(const std::uint8_t* row, Words (&values)[kVectors]) {
    // From -8 to 7; twice, for the fifth bit of what is looked up is another value's.
    alignas(64) static constexpr std::uint16_t all[2 * kLanes] = {
        0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80, 0x0000, 0x3f80, 0x4000,
        0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0, 0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040,
        0xc000, 0xbf80, 0x0000, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0};
    const Words table = load_32(all), words = load_32(row);
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) values[v] = look_up(table, v == 0 ? words : words >> 4 * v);
  }
};

// Of 8 bits each of two rows has one input.
struct BytePairs {
  using X = BFloat16;
  static constexpr std::int64_t kInputs = 2, kLines = 2;
  static constexpr float kMore = Bytes::kMore;
  static constexpr int shift(int v) { return Bytes::shift(v); }

  static SECONDLOOK_INLINE void read(const std::uint8_t* row, Words (&values)[kVectors]) {
    const Words next = load_32(row + kWidth);
    read_last(row, values);
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) values[v] |= reinterpret_bits<Words>(Bytes::values(next, 0, v));
  }
  // Of an input without a next one.
  static SECONDLOOK_INLINE void read_last(const std::uint8_t* row, Words (&values)[kVectors]) {
    const Words words = load_32(row);
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) values[v] = reinterpret_bits<Words>(Bytes::values(words, 0, v)) >> 16;
  }
};

// Scales and zeros of 16 outputs.
struct Scales {
  Words words;

  SECONDLOOK_INLINE Scales(const std::uint8_t* group, int v) : words(load_32(group + 4 * kLanes * v)) {}
  SECONDLOOK_INLINE Floats scales() const { return reinterpret_bits<Floats>(words & 0xffffff00u); }
  SECONDLOOK_INLINE Floats zeros() const { return to_floats(words & 0xffu) - 128.0f; }
};

// What makes of sums of products, of 16 outputs and a group's inputs, what it adds to the result.
template <typename Q>
struct Scaled {
  Floats scale, zero;

  SECONDLOOK_INLINE Scaled(const std::uint8_t* group, int v) {
    const Scales of(group, v);
    const float much = static_cast<float>(1 << Q::shift(v));
    scale = of.scales() * (1.0f / much);
    zero = (of.zeros() + Q::kMore) * much;
  }
  SECONDLOOK_INLINE void add(const Floats& sum, float total, float* to) const {
    store(to, load(to) + scale * (sum - zero * broadcast(total)));
  }
};

// Bytes of a group.
template <typename Q>
SECONDLOOK_INLINE std::int64_t stride_of(const Spans& spans) {
  static_assert(Q::kLines == 1);
  return (kWords + spans.group / Q::kInputs) * kWidth;
}

// R rows of inputs, and their totals.
template <int R, typename X>
struct Rows {
  const X* x[R];
  const float* totals[R];

  SECONDLOOK_INLINE Rows(const X* first, std::int64_t stride, const float* all, std::int64_t spans) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      x[r] = first + r * stride;
      totals[r] = all + r * spans;
    }
  }
};

// sum[r][v] += x[r, k...] * values of a row, or of two.
template <typename Q, int R>
SECONDLOOK_INLINE void add_products(const Rows<R, float>& rows, std::int64_t k, const std::uint8_t* row,
                                    Floats (&sum)[R][kVectors]) {
  const Words words = load_32(row);
#pragma GCC unroll 2
  for (int input = 0; input < Q::kInputs; ++input) {
    const Floats first = Q::values(words, input, 0), second = Q::values(words, input, 1);
    const Floats third = Q::values(words, input, 2), last = Q::values(words, input, 3);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Floats x = broadcast(rows.x[r][k + input]);
      sum[r][0] += x * first;
      sum[r][1] += x * second;
      sum[r][2] += x * third;
      sum[r][3] += x * last;
    }
  }
}
SECONDLOOK_INLINE void add_dots(const Words& x, const Words (&values)[kVectors], Floats (&sum)[kVectors]) {
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) sum[v] = add_dot(values[v], x, sum[v]);
}
template <typename Q, int R>
SECONDLOOK_INLINE void add_products(const Rows<R, BFloat16>& rows, std::int64_t k, const std::uint8_t* row,
                                    Floats (&sum)[R][kVectors]) {
  Words values[kVectors];
  Q::read(row, values);
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) add_dots(broadcast_pair(rows.x[r] + k), values, sum[r]);
}
template <typename Q, int R>
SECONDLOOK_INLINE void add_last(const Rows<R, BFloat16>& rows, std::int64_t k, const std::uint8_t* row,
                                Floats (&sum)[R][kVectors]) {
  Words values[kVectors];
  Q::read_last(row, values);
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    const BFloat16 pair[2] = {rows.x[r][k], BFloat16{0}};
    add_dots(broadcast_pair(pair), values, sum[r]);
  }
}

// products [R, 64] with a block.
template <typename Q, int R>
SECONDLOOK_INLINE void multiply(const Rows<R, typename Q::X>& rows, const Spans& spans, const std::uint8_t* block,
                                float* products) {
  std::fill(products, products + R * kWidth, 0.0f);
  std::int64_t span = 0;
  for (std::int64_t first = 0; first < spans.inputs; first += spans.group) {
    const std::int64_t end = first + spans.group;
    const std::uint8_t* row = block + kWords * kWidth;
    for (std::int64_t begin = first; begin < end; begin += kChunk, ++span) {
      const std::int64_t last = std::min(end, begin + kChunk);
      Floats sum[R][kVectors];
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sum[r][v] = Floats{};
      }
      std::int64_t k = begin;
      for (; k + Q::kInputs <= last; k += Q::kInputs, row += Q::kLines * kWidth) {
        for (std::int64_t line = 0; line < Q::kLines; ++line) __builtin_prefetch(row + kAhead + line * kWidth);
        add_products<Q, R>(rows, k, row, sum);
      }
      if constexpr (Q::kLines == 2) {
        if (k < last) {
          add_last<Q, R>(rows, k, row, sum);
          row += kWidth;
        }
      }
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const Scaled<Q> scaled(block, v);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) scaled.add(sum[r][v], rows.totals[r][span], products + r * kWidth + kLanes * v);
      }
    }
    block = row;
  }
}

// products [rows, 64] of up to kRows rows of x with a block; a row's bits do not depend on the others.
template <typename Q>
SECONDLOOK_INLINE void multiply_rows(const typename Q::X* x, std::int64_t stride, const float* totals,
                                     std::int64_t rows, const Spans& spans, const std::uint8_t* block,
                                     float* products) {
  const std::int64_t count = spans.count();
  switch (rows) {
    case 1:
      return multiply<Q, 1>({x, stride, totals, count}, spans, block, products);
    case 2:
      return multiply<Q, 2>({x, stride, totals, count}, spans, block, products);
    case 3:
      return multiply<Q, 3>({x, stride, totals, count}, spans, block, products);
    default:
      return multiply<Q, 4>({x, stride, totals, count}, spans, block, products);
  }
}

[[maybe_unused]] SECONDLOOK_CLONES static void multiply_block(const float* x, std::int64_t stride,
                                                              const float* totals, std::int64_t rows,
                                                              const Spans& spans, bool bytes,
                                                              const std::uint8_t* block, float* products) {
  if (bytes) {
    multiply_rows<Bytes>(x, stride, totals, rows, spans, block, products);
  } else {
    multiply_rows<Nibbles>(x, stride, totals, rows, spans, block, products);
  }
}

// Values of so many inputs, of 8 bits, as pairs [pairs, 64, 2] of bfloat16; of an odd number a zero for the last.
SECONDLOOK_INLINE void write_pairs(const std::uint8_t* row, std::int64_t inputs, BFloat16* to) {
  Words values[kVectors];
  for (std::int64_t k = 0; k < inputs; k += 2, row += 2 * kWidth, to += 2 * kWidth) {
    if (k + 1 < inputs) {
      BytePairs::read(row, values);
    } else {
      BytePairs::read_last(row, values);
    }
    std::memcpy(to, values, sizeof(values));
  }
}

}  // namespace secondlook::low_bit
