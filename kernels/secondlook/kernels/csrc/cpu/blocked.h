// Products of rows with weights in blocks, which are read in the order in which they lie, and for a few rows once, so
// that the memory decides how long those take.
//
// Weights [outputs, inputs] lie as [blocks, pairs, width, pair], block after block of `width` outputs: oneDNN's
// BA16a64b and its kin with pairs of 16-bit floats (https://uxlfoundation.github.io/oneDNN, "Understanding
// Memory Formats"). Blocks may have more pairs than there are inputs; what pads them is zero. How weights of
// few bits lie says low_bit.h.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/bf16_dot.h"
#include "cpu/low_bit.h"
#include "cpu/rows.h"

namespace secondlook::blocked {

using low_bit::kChunk, low_bit::kWidth;
inline constexpr std::int64_t kRows = 6;       // rows whose sums are in registers, where those are of 512 bits
inline constexpr std::int64_t kMostRows = 16;  // rows that are multiplied while a block is in the nearest cache
inline constexpr std::int64_t kPart = 16384;   // bytes of a block that are multiplied with all these, before the next
inline constexpr std::int64_t kManyRows = 48;  // rows that are multiplied with kChunk inputs of a block of floats

enum class Held { kFloats, kBytes, kNibbles };

template <typename T>
struct Weights {
  const void* data;  // of T, unless of few bits
  Held held;
  std::int64_t outputs, inputs, width;  // inputs with those that pad them
  std::int64_t stride;                  // bytes of a block
  std::int64_t group;                   // inputs that share a scale; of floats all
};

template <typename T>
inline constexpr std::int64_t kPair = 4 / sizeof(T);  // inputs in 32 bits

// The multiple of kPair that so many inputs are padded to.
template <typename T>
SECONDLOOK_INLINE std::int64_t paired(std::int64_t inputs) {
  return tiles(inputs, kPair<T>) * kPair<T>;
}

// The even number that a row of so many inputs is padded to, whatever it is multiplied with.
SECONDLOOK_INLINE std::int64_t row_stride(std::int64_t inputs) { return tiles(inputs, 2) * 2; }

template <typename T>
SECONDLOOK_INLINE std::int64_t blocks(const Weights<T>& weights) {
  return tiles(weights.outputs, weights.width);
}

// sum[r][i] += x[r, k] * weights[k, i] for a pair of inputs k, or one of 32 bits.
template <int R, int V>
SECONDLOOK_INLINE void add_products(const float* const (&x)[R], std::int64_t k, const float* weights,
                                    Floats (&sum)[R][V]) {
  Floats weight[V];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) weight[v] = load(weights + kLanes * v);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const Floats value = broadcast(x[r][k]);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[r][v] += value * weight[v];
  }
}
template <int R, int V>
SECONDLOOK_INLINE void add_products(const float* const (&x)[R], std::int64_t k, const BFloat16* weights,
                                    Floats (&sum)[R][V]) {
  Floats even[R], odd[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    even[r] = broadcast(x[r][k]);
    odd[r] = broadcast(x[r][k + 1]);
  }
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) {
    const Words pairs = load_pairs(weights + 2 * kLanes * v);
    const Floats first = secondlook::even(pairs), second = secondlook::odd(pairs);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      sum[r][v] += even[r] * first;
      sum[r][v] += odd[r] * second;
    }
  }
}

// The same of a pair of bfloat16 in x, too: in functions of SECONDLOOK_BF16_DOT.
template <int R, int V>
SECONDLOOK_INLINE void add_products(const BFloat16* const (&x)[R], std::int64_t k, const BFloat16* weights,
                                    Floats (&sum)[R][V]) {
  Words weight[V];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) weight[v] = load_pairs(weights + 2 * kLanes * v);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const Words value = broadcast_pair(x[r] + k);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[r][v] = add_dot(weight[v], value, sum[r][v]);
  }
}

// What is fetched while pairs of inputs are multiplied: for each some of `lines` lines of 64 bytes.
struct Fetch {
  const std::uint8_t* from = nullptr;  // of the first pair
  int lines = 0, begin = 0, end = 0;   // those from `begin` to `end`

  SECONDLOOK_INLINE Fetch share(int turn, int turns) const {
    return {from, lines, lines * turn / turns, lines * (turn + 1) / turns};
  }
  SECONDLOOK_INLINE void run(std::int64_t pair) const {
    for (int line = begin; line < end; ++line) __builtin_prefetch(from + (pair * lines + line) * 64);
  }
};

// Inputs [first, last) of a product, all of the same kChunk of them; what it has of those before them in the chunk is
// in `running`, and of chunks before it in the products.
struct Part {
  std::int64_t first, last, inputs;

  SECONDLOOK_INLINE bool begins() const { return first % kChunk == 0; }
  SECONDLOOK_INLINE bool ends() const { return last % kChunk == 0 || last == inputs; }
};

// products[r, i], rows `apart`, of R rows of x, `stride` apart, with a part of a block of 16 V outputs.
template <typename T, int R, int V, typename X>
SECONDLOOK_INLINE void multiply_part(const X* x, std::int64_t stride, const T* block, const Part& part,
                                     const Fetch& fetch, float* running, float* products, std::int64_t apart) {
  constexpr std::int64_t width = kLanes * V;
  const X* rows[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) rows[r] = x + r * stride;
  Floats sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[r][v] = part.begins() ? Floats{} : load(running + r * width + kLanes * v);
  }
  if (fetch.begin == fetch.end) {
#pragma GCC unroll 2
    for (std::int64_t k = part.first; k < part.last; k += kPair<T>) {
      add_products<R, V>(rows, k, block + k * width, sum);
    }
  } else {
    for (std::int64_t k = part.first; k < part.last; k += kPair<T>) {
      fetch.run((k - part.first) / kPair<T>);
      add_products<R, V>(rows, k, block + k * width, sum);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      float* const place = products + r * apart + kLanes * v;
      if (!part.ends()) {
        store(running + r * width + kLanes * v, sum[r][v]);
      } else {
        store(place, part.last <= kChunk ? sum[r][v] : load(place) + sum[r][v]);
      }
    }
  }
}

// The same of all inputs.
template <typename T, int R, int V, typename X>
SECONDLOOK_INLINE void multiply(const X* x, std::int64_t stride, const T* block, std::int64_t inputs,
                                float* products, std::int64_t apart = kLanes * V) {
  for (std::int64_t first = 0; first < inputs; first += kChunk) {
    multiply_part<T, R, V>(x, stride, block, {first, std::min(inputs, first + kChunk), inputs}, {}, nullptr, products,
                           apart);
  }
}

// Rows [count, stride] of inputs, with zeros to an even number.
template <typename T>
struct Inputs {
  const T* rows;
  const float* floats;  // the same; null where products take none
  std::int64_t stride, count;
};

// A product with weights in blocks.
template <typename T>
struct Product {
  Inputs<T> x;
  Weights<T> weights;
  const T* bias;        // [outputs], or null
  const float* totals;  // [rows, spans] of the inputs, see low_bit.h; of floats null
};

// Whether products take floats, or, where the processor multiplies pairs of bfloat16, the rows as they are.
template <typename T>
bool takes_floats() {
  return sizeof(T) == sizeof(float) || !has_bf16_dot();
}

// products [R, width] with a part of a block of any width.
template <int R, typename T, typename X>
SECONDLOOK_INLINE void multiply_rows(const X* x, std::int64_t stride, std::int64_t width, const T* block,
                                     const Part& part, const Fetch& fetch, float* running, float* products) {
  switch (width / kLanes) {
    case 1:
      return multiply_part<T, R, 1>(x, stride, block, part, fetch, running, products, kLanes);
    case 2:
      return multiply_part<T, R, 2>(x, stride, block, part, fetch, running, products, 2 * kLanes);
    case 3:
      return multiply_part<T, R, 3>(x, stride, block, part, fetch, running, products, 3 * kLanes);
    default:
      return multiply_part<T, R, 4>(x, stride, block, part, fetch, running, products, 4 * kLanes);
  }
}

// products [rows, width] with a part of a block, of some rows after the others. Meanwhile `lines` for each pair of
// inputs are fetched from `ahead` on: where a part is multiplied with some rows after the others, the memory would
// have nothing to do after the first.
template <typename T, typename X>
SECONDLOOK_INLINE void multiply_turns(const X* x, std::int64_t stride, std::int64_t rows, std::int64_t width,
                                      const T* block, const Part& part, const void* ahead, int lines, float* running,
                                      float* products) {
  const int turns = static_cast<int>(tiles(rows, kRows));
  for (int turn = 0; turn < turns; ++turn) {
    const Fetch fetch = Fetch{static_cast<const std::uint8_t*>(ahead), lines}.share(turn, turns);
    const X* const own = x + turn * kRows * stride;
    float* const sums = running + turn * kRows * width;
    float* const to = products + turn * kRows * width;
    switch (std::min(kRows, rows - turn * kRows)) {
      case 1:
        multiply_rows<1>(own, stride, width, block, part, fetch, sums, to);
        break;
      case 2:
        multiply_rows<2>(own, stride, width, block, part, fetch, sums, to);
        break;
      case 3:
        multiply_rows<3>(own, stride, width, block, part, fetch, sums, to);
        break;
      case 4:
        multiply_rows<4>(own, stride, width, block, part, fetch, sums, to);
        break;
      case 5:
        multiply_rows<5>(own, stride, width, block, part, fetch, sums, to);
        break;
      default:
        multiply_rows<6>(own, stride, width, block, part, fetch, sums, to);
    }
  }
}

// products [rows, width] of up to kManyRows rows with a block of floats, a part after the other, which of few rows
// fits into the nearest cache. While one is multiplied the next is fetched.
template <typename T, typename X>
SECONDLOOK_INLINE void multiply_block(const X* x, std::int64_t stride, std::int64_t rows, const Weights<T>& weights,
                                      const T* block, float* products) {
  alignas(64) float running[kManyRows * kWidth];  // of many rows unused, for parts are chunks
  const std::int64_t bytes = weights.width * static_cast<std::int64_t>(sizeof(T));
  const std::int64_t most = rows <= kMostRows ? kPart / bytes : kChunk;
  for (Part part{0, 0, weights.inputs}; part.first < weights.inputs; part.first = part.last) {
    part.last = std::min({weights.inputs, part.first + most, (part.first / kChunk + 1) * kChunk});
    const T* const ahead = block + part.last * weights.width;
    const int lines = part.last == weights.inputs ? 0 : static_cast<int>(weights.width / kLanes);
    multiply_turns(x, stride, rows, weights.width, block, part, ahead, lines, running, products);
  }
}

// products [rows, 64] with a block of 8 bits, to the bit what low_bit::multiply_rows gives: that makes pairs anew for
// each few rows, while here they are written once for all.
SECONDLOOK_INLINE void multiply_bytes(const BFloat16* x, std::int64_t stride, const float* totals, std::int64_t rows,
                                      const low_bit::Spans& spans, const std::uint8_t* block, float* products) {
  constexpr std::int64_t most = kPart / (kWidth * static_cast<std::int64_t>(sizeof(BFloat16)));
  alignas(64) BFloat16 pairs[kChunk * kWidth];
  alignas(64) float running[kMostRows * kWidth], sums[kMostRows * kWidth];
  std::fill(products, products + rows * kWidth, 0.0f);
  const std::int64_t count = spans.count();
  std::int64_t span = 0;
  for (std::int64_t first = 0; first < spans.inputs; first += spans.group) {
    const std::uint8_t* row = block + low_bit::kWords * kWidth;
    for (std::int64_t begin = first; begin < first + spans.group; begin += kChunk, ++span) {
      const std::int64_t inputs = std::min(kChunk, first + spans.group - begin);
      for (Part part{0, 0, inputs}; part.first < inputs; part.first = part.last) {
        part.last = std::min(inputs, part.first + most);
        low_bit::write_pairs(row, part.last - part.first, pairs + part.first * kWidth);
        row += (part.last - part.first) * kWidth;
        multiply_turns(x + begin, stride, rows, kWidth, pairs, part, row, 2, running, sums);
      }
      for (int v = 0; v < low_bit::kVectors; ++v) {
        const low_bit::Scaled<low_bit::BytePairs> scaled(block, v);
        for (std::int64_t r = 0; r < rows; ++r) {
          const std::int64_t at = r * kWidth + kLanes * v;
          scaled.add(load(sums + at), totals[r * count + span], products + at);
        }
      }
    }
    block = row;
  }
}

// The same of weights of few bits. Of 8 bits and many rows, if no group ends amid a pair, what is multiplied with is
// written before.
SECONDLOOK_INLINE void multiply_few_bits(const BFloat16* x, std::int64_t stride, const float* totals,
                                         std::int64_t rows, const low_bit::Spans& spans, bool eight,
                                         const std::uint8_t* block, float* products) {
  const bool whole = spans.group % 2 == 0 || spans.group == spans.inputs;
  if (eight && whole && rows > low_bit::kRows) {
    return multiply_bytes(x, stride, totals, rows, spans, block, products);
  }
  for (std::int64_t r = 0; r < rows; r += low_bit::kRows) {
    const std::int64_t some = std::min(low_bit::kRows, rows - r);
    const BFloat16* const from = x + r * stride;
    const float* const own = totals + r * spans.count();
    float* const to = products + r * kWidth;
    if (eight) {
      low_bit::multiply_rows<low_bit::BytePairs>(from, stride, own, some, spans, block, to);
    } else {
      low_bit::multiply_rows<low_bit::NibblePairs>(from, stride, own, some, spans, block, to);
    }
  }
}
SECONDLOOK_INLINE void multiply_few_bits(const float* x, std::int64_t stride, const float* totals, std::int64_t rows,
                                         const low_bit::Spans& spans, bool eight, const std::uint8_t* block,
                                         float* products) {
  for (std::int64_t r = 0; r < rows; r += low_bit::kRows) {
    low_bit::multiply_block(x + r * stride, stride, totals + r * spans.count(), std::min(low_bit::kRows, rows - r),
                            spans, eight, block, products + r * kWidth);
  }
}

// Rows that are multiplied with a block at once at most.
template <typename T>
SECONDLOOK_INLINE std::int64_t most_rows(const Weights<T>& weights) {
  return weights.held == Held::kFloats ? kManyRows : kMostRows;
}

// products [rows, width] of up to most_rows rows from `row` on with one block; a row's bits do not depend on the
// others. With kDot, in functions of SECONDLOOK_BF16_DOT, of rows as they are, else of floats.
template <bool kDot, typename T>
SECONDLOOK_INLINE void multiply_any(const Product<T>& product, std::int64_t row, std::int64_t rows,
                                    std::int64_t block, float* products) {
  const Weights<T>& weights = product.weights;
  const auto* const bytes = static_cast<const std::uint8_t*>(weights.data) + block * weights.stride;
  const std::int64_t stride = product.x.stride;
  const auto multiply = [&](const auto* x) __attribute__((always_inline)) {
    if (weights.held == Held::kFloats) {
      return multiply_block(x, stride, rows, weights, reinterpret_cast<const T*>(bytes), products);
    }
    const low_bit::Spans spans{weights.inputs, weights.group};
    const float* const totals = product.totals + row * spans.count();
    multiply_few_bits(x, stride, totals, rows, spans, weights.held == Held::kBytes, bytes, products);
  };
  if constexpr (kDot) {
    multiply(product.x.rows + row * stride);
  } else {
    multiply(product.x.floats + row * stride);
  }
}

// Floats for the totals of so many rows.
template <typename T>
std::int64_t totals_of(const Weights<T>& weights, std::int64_t rows) {
  return weights.held == Held::kFloats ? 0 : rows * low_bit::Spans{weights.inputs, weights.group}.count();
}

// A product; its totals are written where there is memory for them.
template <typename T>
Product<T> product(const Inputs<T>& x, const Weights<T>& weights, const T* bias, float* totals) {
  if (weights.held == Held::kFloats) return {x, weights, bias, nullptr};
  const low_bit::Spans spans{weights.inputs, weights.group};
  if (takes_floats<T>()) {
    low_bit::add_up(x.floats, x.stride, x.count, spans, totals);
  } else {
    low_bit::add_up(x.rows, x.stride, x.count, spans, totals);
  }
  return {x, weights, bias, totals};
}

// Calls use(row, first, count, sums, biases) with the sums of each row from `begin` to `end`, `count` outputs of a
// block from `first` on and as many biases, zeros where there are none.
template <bool kDot, typename T, typename Use>
SECONDLOOK_INLINE void for_products(const Product<T>& product, std::int64_t block, std::int64_t begin,
                                    std::int64_t end, const Use& use) {
  alignas(64) float sums[kManyRows * kWidth], biases[kWidth] = {};
  const Weights<T>& weights = product.weights;
  const std::int64_t first = block * weights.width;
  const std::int64_t count = std::min(weights.width, weights.outputs - first);
  if (product.bias) widen(product.bias + first, 0, 1, count, count, biases);
  for (std::int64_t row = begin; row < end; row += most_rows(weights)) {
    const std::int64_t rows = std::min(most_rows(weights), end - row);
    multiply_any<kDot>(product, row, rows, block, sums);
    for (std::int64_t r = 0; r < rows; ++r) use(row + r, first, count, sums + r * weights.width, biases);
  }
}

}  // namespace secondlook::blocked
