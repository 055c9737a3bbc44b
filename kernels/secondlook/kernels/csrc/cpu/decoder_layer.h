// What a decoder's layer does to a few rows, in passes over blocks of weights or over rows.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/blocked.h"
#include "cpu/elementwise.h"

namespace secondlook::decoder_layer {

using blocked::Product;

// The heads of a row, each normed first where there are weights for that, rotated.
template <typename T>
SECONDLOOK_INLINE void turn(float* x, std::int64_t heads, std::int64_t width, const T* norm, float epsilon,
                            const T* cosine, const T* sine, T* to, std::int64_t stride) {
  for (std::int64_t head = 0; head < heads; ++head) {
    float* const own = x + head * width;
    if (norm) elementwise::normalise(own, norm, width, epsilon, own);
    elementwise::rotate(own, cosine, sine, width, to + head * stride);
  }
}

// The results [rows, outputs] of some blocks, as floats.
template <typename T>
SECONDLOOK_INLINE void project(const Product<T>& product, std::int64_t begin, std::int64_t end, float* to) {
  const std::int64_t outputs = product.weights.outputs;
  for (std::int64_t block = begin; block < end; ++block) {
    blocked::for_products(product, block, [&](std::int64_t row, std::int64_t first, std::int64_t count,
                                     const float* sum) __attribute__((always_inline)) {
      std::copy(sum, sum + count, to + row * outputs + first);
    });
  }
}

// The same, added to a tensor [rows, outputs].
template <typename T>
SECONDLOOK_INLINE void add_to(const Product<T>& product, std::int64_t begin, std::int64_t end,
                              const T* residual, T* to) {
  const std::int64_t outputs = product.weights.outputs;
  for (std::int64_t block = begin; block < end; ++block) {
    blocked::for_products(product, block, [&](std::int64_t row, std::int64_t first, std::int64_t count,
                                     const float* sum) __attribute__((always_inline)) {
      const std::int64_t at = row * outputs + first;
      for (std::int64_t i = 0; i < count; ++i) round_to(to_float(residual[at + i]) + sum[i], to[at + i]);
    });
  }
}

// silu(gate) * up [rows, stride] of Shazeer, arXiv 2002.05202, for some blocks of both.
template <typename T>
SECONDLOOK_INLINE void gate(const Product<T>& gates, const Product<T>& ups, std::int64_t begin,
                            std::int64_t end, std::int64_t stride, float* to) {
  for (std::int64_t block = begin; block < end; ++block) {
    blocked::for_products(gates, block, [&](std::int64_t row, std::int64_t first, std::int64_t count,
                                   const float* sum) __attribute__((always_inline)) {
      float* const place = to + row * stride + first;
      const auto use = [](const auto& x) __attribute__((always_inline)) { return elementwise::silu<T>(x); };
      elementwise::for_lanes(count, use, place, sum);
    });
    blocked::for_products(ups, block, [&](std::int64_t row, std::int64_t first, std::int64_t count,
                                 const float* sum) __attribute__((always_inline)) {
      float* const place = to + row * stride + first;
      for (std::int64_t i = 0; i < count; ++i) place[i] = rounded<T>(place[i] * sum[i]);
    });
  }
}

// Clones are not made of templates, so that each has a function for each type.
#define SECONDLOOK_DECODER_LAYER_PASSES(T)                                                                   \
  SECONDLOOK_CLONES static void run_normalise(const T* x, const T* weight, std::int64_t rows,                \
                                              std::int64_t size, float epsilon, std::int64_t stride,         \
                                              float* to) {                                                   \
    for (std::int64_t row = 0; row < rows; ++row) {                                                          \
      elementwise::normalise(x + row * size, weight, size, epsilon, to + row * stride);                                   \
    }                                                                                                        \
  }                                                                                                          \
  SECONDLOOK_CLONES static void run_turn(float* x, std::int64_t heads, std::int64_t width, const T* norm,     \
                                         float epsilon, const T* cosine, const T* sine, T* to,               \
                                         std::int64_t stride) {                                              \
    turn(x, heads, width, norm, epsilon, cosine, sine, to, stride);                                          \
  }                                                                                                          \
  SECONDLOOK_CLONES static void run_project(const Product<T>& product, std::int64_t begin, std::int64_t end, \
                                            float* to) {                                                     \
    project(product, begin, end, to);                                                                        \
  }                                                                                                          \
  SECONDLOOK_CLONES static void run_add_to(const Product<T>& product, std::int64_t begin, std::int64_t end,  \
                                           const T* residual, T* to) {                                       \
    add_to(product, begin, end, residual, to);                                                               \
  }                                                                                                          \
  SECONDLOOK_CLONES static void run_gate(const Product<T>& gates, const Product<T>& ups, std::int64_t begin, \
                                         std::int64_t end, std::int64_t stride, float* to) {                 \
    gate(gates, ups, begin, end, stride, to);                                                                \
  }
SECONDLOOK_DECODER_LAYER_PASSES(float)
SECONDLOOK_DECODER_LAYER_PASSES(BFloat16)
#undef SECONDLOOK_DECODER_LAYER_PASSES

}  // namespace secondlook::decoder_layer
