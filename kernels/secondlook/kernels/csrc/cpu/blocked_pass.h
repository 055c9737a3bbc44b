// A pass over blocks of weights: products of a few rows, and what is made of them as long as they are in
// registers' reach.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/blocked.h"
#include "cpu/elementwise.h"

namespace secondlook::blocked {

// What a pass makes of its products, [rows, outputs], rounded to T.
enum class Then {
  kWrite,    // to = product
  kFloats,   // floats = product
  kAdd,      // to = before + product
  kSilu,     // to = silu(product), of Shazeer, arXiv 2002.05202
  kMultiply  // to = before * product
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

template <typename T>
SECONDLOOK_INLINE void finish(const Pass<T>& pass, std::int64_t at, std::int64_t count, const float* sum) {
  T* const to = pass.to;
  const T* const before = pass.before;
  switch (pass.then) {
    case Then::kWrite:
      for (std::int64_t i = 0; i < count; ++i) round_to(sum[i], to[at + i]);
      break;
    case Then::kFloats:
      std::copy(sum, sum + count, pass.floats + at);
      break;
    case Then::kAdd:
      for (std::int64_t i = 0; i < count; ++i) round_to(to_float(before[at + i]) + sum[i], to[at + i]);
      break;
    case Then::kSilu: {
      const auto silu = [](const auto& x) __attribute__((always_inline)) { return elementwise::silu<T>(x); };
      elementwise::for_lanes(count, silu, to + at, sum);
      break;
    }
    case Then::kMultiply:
      for (std::int64_t i = 0; i < count; ++i) round_to(to_float(before[at + i]) * sum[i], to[at + i]);
  }
}

// With kDot in functions of SECONDLOOK_BF16_DOT.
template <bool kDot, typename T>
SECONDLOOK_INLINE void run_blocks(const Pass<T>& pass, std::int64_t begin, std::int64_t end) {
  for (std::int64_t block = begin; block < end; ++block) {
    for_products<kDot>(pass.product, block, [&](std::int64_t row, std::int64_t first, std::int64_t count,
                                                const float* sum) __attribute__((always_inline)) {
      finish(pass, row * pass.stride + first, count, sum);
    });
  }
}

// Clones are not made of templates.
SECONDLOOK_CLONES static void run_floats(const Pass<float>& pass, std::int64_t begin, std::int64_t end) {
  run_blocks<false>(pass, begin, end);
}
SECONDLOOK_CLONES static void run_floats(const Pass<BFloat16>& pass, std::int64_t begin, std::int64_t end) {
  run_blocks<false>(pass, begin, end);
}
SECONDLOOK_BF16_DOT static void run_pairs(const Pass<BFloat16>& pass, std::int64_t begin, std::int64_t end) {
  run_blocks<true>(pass, begin, end);
}

// Some of a pass's blocks.
inline void run(const Pass<float>& pass, std::int64_t begin, std::int64_t end) { run_floats(pass, begin, end); }
inline void run(const Pass<BFloat16>& pass, std::int64_t begin, std::int64_t end) {
  takes_floats<BFloat16>() ? run_floats(pass, begin, end) : run_pairs(pass, begin, end);
}

}  // namespace secondlook::blocked
