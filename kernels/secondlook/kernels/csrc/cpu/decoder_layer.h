// What a decoder's layer does to a few rows between its products: norms, rotations, the gate. Rounded to T
// wherever PyTorch's operations would write a tensor of T, so that the layer differs from those by the order
// of sums alone.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "cpu/blocked.h"

namespace secondlook::decoder_layer {

using blocked::Product;

// The root mean square norm of Zhang & Sennrich, arXiv 1910.07467: to[i] = weight[i] * x[i] / rms(x).
template <typename T, typename X>
SECONDLOOK_INLINE void normalise(const X* x, const T* __restrict weight, std::int64_t size, float epsilon,
                                 float* to) {
  float lanes[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const float value = to_float(x[i + lane]);
      lanes[lane] += value * value;
    }
  }
  for (; i < size; ++i) lanes[0] += to_float(x[i]) * to_float(x[i]);
  const Four sum = sum_to_four(lanes);
  const float mean = ((sum[0] + sum[2]) + (sum[1] + sum[3])) / static_cast<float>(size);
  const float factor = 1.0f / std::sqrt(mean + epsilon);
  for (i = 0; i < size; ++i) to[i] = rounded<T>(to_float(weight[i]) * rounded<T>(to_float(x[i]) * factor));
}

// A head's rotation (Su et al., arXiv 2104.09864), its halves paired: to = x * cosine + (-high, low) * sine.
template <typename T>
SECONDLOOK_INLINE void rotate(const float* __restrict x, const T* __restrict cosine, const T* __restrict sine,
                              std::int64_t width, T* __restrict to) {
  const std::int64_t half = width / 2;
  for (std::int64_t i = 0; i < half; ++i) {
    const float low = x[i], high = x[half + i];
    round_to(rounded<T>(low * to_float(cosine[i])) + rounded<T>(-high * to_float(sine[i])), to[i]);
    round_to(rounded<T>(high * to_float(cosine[half + i])) + rounded<T>(low * to_float(sine[half + i])),
             to[half + i]);
  }
}

// The heads of a row, each normed first where there are weights for that, rotated.
template <typename T>
SECONDLOOK_INLINE void turn(float* x, std::int64_t heads, std::int64_t width, const T* norm, float epsilon,
                            const T* cosine, const T* sine, T* to, std::int64_t stride) {
  for (std::int64_t head = 0; head < heads; ++head) {
    float* const own = x + head * width;
    if (norm) normalise(own, norm, width, epsilon, own);
    rotate(own, cosine, sine, width, to + head * stride);
  }
}

// x / (1 + exp(-x)): SiLU.
SECONDLOOK_INLINE float silu(float x) {
  const float e = exp_nonpositive(x < 0.0f ? x : -x);
  return x * ((x < 0.0f ? e : 1.0f) / (1.0f + e));
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
      for (std::int64_t i = 0; i < count; ++i) place[i] = rounded<T>(silu(sum[i]));
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
      normalise(x + row * size, weight, size, epsilon, to + row * stride);                                   \
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
