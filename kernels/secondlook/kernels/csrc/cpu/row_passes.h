// Norms of rows, and rows as floats, compiled for each type.
#pragma once

#include <cstdint>

#include "cpu/elementwise.h"

namespace secondlook {

template <typename T>
struct Norm {
  const T *weight, *bias;  // [size]; with a bias it is Ba et al.'s, without Zhang & Sennrich's
  float epsilon;
};

// Of rows from `begin` to `end`, `stride` apart, those of the result `to_stride`.
template <typename T>
SECONDLOOK_INLINE void norm_rows(const T* x, std::int64_t stride, std::int64_t size, const Norm<T>& norm,
                                 std::int64_t begin, std::int64_t end, std::int64_t to_stride, T* to) {
  for (std::int64_t row = begin; row < end; ++row) {
    if (norm.bias) {
      elementwise::centre(x + row * stride, norm.weight, norm.bias, size, norm.epsilon, to + row * to_stride);
    } else {
      elementwise::normalise(x + row * stride, norm.weight, size, norm.epsilon, to + row * to_stride);
    }
  }
}

// Clones are not made of templates.
#define SECONDLOOK_ROW_PASS(T)                                                                               \
  [[maybe_unused]] SECONDLOOK_CLONES static void run_norm(                                                   \
      const T* x, std::int64_t stride, std::int64_t size, const Norm<T>& norm, std::int64_t begin,           \
      std::int64_t end, std::int64_t to_stride, T* to) {                                                     \
    norm_rows(x, stride, size, norm, begin, end, to_stride, to);                                             \
  }
SECONDLOOK_ROW_PASS(float)
SECONDLOOK_ROW_PASS(BFloat16)
#undef SECONDLOOK_ROW_PASS
[[maybe_unused]] SECONDLOOK_CLONES static void run_widen(const BFloat16* x, std::int64_t count, float* to) {
  widen(x, 0, 1, count, count, to);
}

}  // namespace secondlook
