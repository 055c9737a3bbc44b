// Products of a few rows with weights in blocks, read once and in the order in which they lie, so that the
// memory decides how long they take.
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
inline constexpr std::int64_t kRows = 4;  // rows that are multiplied while a block is read

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

// products[r, i], rows `apart`, of R rows of x, `stride` apart, with a block of 16 V outputs.
template <typename T, int R, int V, typename X>
SECONDLOOK_INLINE void multiply(const X* x, std::int64_t stride, const T* block, std::int64_t inputs,
                                float* products, std::int64_t apart = kLanes * V) {
  constexpr std::int64_t width = kLanes * V;
  const X* rows[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) rows[r] = x + r * stride;
  for (std::int64_t first = 0; first < inputs; first += kChunk) {
    const std::int64_t last = std::min(inputs, first + kChunk);
    Floats sum[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[r][v] = Floats{};
    }
    for (std::int64_t k = first; k < last; k += kPair<T>) add_products<R, V>(rows, k, block + k * width, sum);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        float* const place = products + r * apart + kLanes * v;
        store(place, first == 0 ? sum[r][v] : load(place) + sum[r][v]);
      }
    }
  }
}

// A product with weights in blocks.
template <typename T>
struct Product {
  const float* x;  // [rows, stride]: the inputs, with zeros to an even number
  std::int64_t stride, rows;
  Weights<T> weights;
  const T* bias;        // [outputs], or null
  const float* totals;  // [rows, spans] of the inputs, see low_bit.h; of floats null
};

template <typename T, int R>
SECONDLOOK_INLINE void multiply_rows(const float* x, std::int64_t stride, const Weights<T>& weights,
                                     const T* block, float* products) {
  switch (weights.width / kLanes) {
    case 1:
      return multiply<T, R, 1>(x, stride, block, weights.inputs, products);
    case 2:
      return multiply<T, R, 2>(x, stride, block, weights.inputs, products);
    case 3:
      return multiply<T, R, 3>(x, stride, block, weights.inputs, products);
    default:
      return multiply<T, R, 4>(x, stride, block, weights.inputs, products);
  }
}

// products [rows, width] of up to kRows rows from `row` on with one block; a row's bits do not depend on the
// others.
template <typename T>
SECONDLOOK_INLINE void multiply_block(const Product<T>& product, std::int64_t row, std::int64_t rows,
                                      std::int64_t block, float* products) {
  const Weights<T>& weights = product.weights;
  const auto* const bytes = static_cast<const std::uint8_t*>(weights.data) + block * weights.stride;
  const float* const x = product.x + row * product.stride;
  if (weights.held != Held::kFloats) {
    const low_bit::Spans spans{weights.inputs, weights.group};
    return low_bit::multiply_block(x, product.stride, product.totals + row * spans.count(), rows, spans,
                                   weights.held == Held::kBytes, bytes, products);
  }
  const T* const data = reinterpret_cast<const T*>(bytes);
  switch (rows) {
    case 1:
      return multiply_rows<T, 1>(x, product.stride, weights, data, products);
    case 2:
      return multiply_rows<T, 2>(x, product.stride, weights, data, products);
    case 3:
      return multiply_rows<T, 3>(x, product.stride, weights, data, products);
    default:
      return multiply_rows<T, 4>(x, product.stride, weights, data, products);
  }
}

// Floats for the totals of so many rows.
template <typename T>
std::int64_t totals_of(const Weights<T>& weights, std::int64_t rows) {
  return weights.held == Held::kFloats ? 0 : rows * low_bit::Spans{weights.inputs, weights.group}.count();
}

// A product; its totals are written where there is memory for them.
template <typename T>
Product<T> product(const float* x, std::int64_t stride, std::int64_t rows, const Weights<T>& weights,
                   const T* bias, float* totals) {
  if (weights.held == Held::kFloats) return {x, stride, rows, weights, bias, nullptr};
  low_bit::add_up(x, stride, rows, {weights.inputs, weights.group}, totals);
  return {x, stride, rows, weights, bias, totals};
}

// Blocks for one thread.
template <typename T>
std::int64_t block_grain(const Product<T>& product) {
  return grain(product.weights.inputs * product.weights.width * product.rows / 8);
}

// Calls use(row, first, count, sums) with the sums of each row and `count` outputs of a block from `first` on,
// biased, rounded to T.
template <typename T, typename Use>
SECONDLOOK_INLINE void for_products(const Product<T>& product, std::int64_t block, const Use& use) {
  alignas(64) float sums[kRows * kWidth];
  const Weights<T>& weights = product.weights;
  const std::int64_t first = block * weights.width;
  const std::int64_t count = std::min(weights.width, weights.outputs - first);
  for (std::int64_t row = 0; row < product.rows; row += kRows) {
    const std::int64_t rows = std::min(kRows, product.rows - row);
    multiply_block(product, row, rows, block, sums);
    for (std::int64_t r = 0; r < rows; ++r) {
      float* const sum = sums + r * weights.width;
      if (product.bias) {
        for (std::int64_t i = 0; i < count; ++i) sum[i] += to_float(product.bias[first + i]);
      }
      for (std::int64_t i = 0; i < count; ++i) sum[i] = rounded<T>(sum[i]);
      use(row + r, first, count, sum);
    }
  }
}

}  // namespace secondlook::blocked
