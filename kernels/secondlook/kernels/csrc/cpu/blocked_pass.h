// A pass over blocks of weights: products of rows, and what is made of them while they are in the nearest cache.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/blocked.h"

namespace secondlook::blocked {

// What a pass makes of its products, [rows, outputs], rounded to T.
enum class Then {
  kWrite,      // to = product
  kFloats,     // floats = product
  kAdd,        // to = before + product
  kSilu,       // to = silu(product), of Shazeer, arXiv 2002.05202
  kQuickGelu,  // to = quick_gelu(product), of Hendrycks & Gimpel, arXiv 1606.08415
  kGeluTanh,   // to = gelu_tanh(product), of the same
  kMultiply    // to = before * product
};

template <typename T>
struct Pass {
  Product<T> product;
  Then then;
  std::int64_t stride;  // of the rows of what is written and of `before`
  T* to;
  const T* before = nullptr;
  float* floats = nullptr;
};

// Into how many shares rows are divided, of which each is multiplied with a block at once.
SECONDLOOK_INLINE std::int64_t shares(std::int64_t rows) {
  return std::max<std::int64_t>(1, tiles(rows, kManyRows));
}

// Tasks of a pass over so many rows: blocks times shares, a block's one after the other.
template <typename T>
SECONDLOOK_INLINE std::int64_t tasks(const Weights<T>& weights, std::int64_t rows) {
  return blocks(weights) * shares(rows);
}

// Some of a pass's tasks.
void run(const Pass<float>& pass, std::int64_t begin, std::int64_t end);
void run(const Pass<BFloat16>& pass, std::int64_t begin, std::int64_t end);

}  // namespace secondlook::blocked
