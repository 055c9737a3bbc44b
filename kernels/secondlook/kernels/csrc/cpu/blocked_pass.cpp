// Passes over blocks of weights: the one place where their many functions are compiled.
#include "cpu/blocked_pass.h"

#include <algorithm>
#include <cstdint>

#include "cpu/elementwise.h"

namespace secondlook::blocked {

namespace {

template <typename T>
SECONDLOOK_INLINE void finish(const Pass<T>& pass, std::int64_t at, std::int64_t count, const float* sum,
                              const float* bias) {
  switch (pass.then) {
    case Then::kWrite:
      return elementwise::for_lanes(count, [](const auto& x, const auto& b) __attribute__((always_inline)) {
        return elementwise::rounded_lanes<T>(x + b);
      }, pass.to + at, sum, bias);
    case Then::kFloats:
      return elementwise::for_lanes(count, [](const auto& x, const auto& b) __attribute__((always_inline)) {
        return elementwise::rounded_lanes<T>(x + b);
      }, pass.floats + at, sum, bias);
    case Then::kAdd:
      return elementwise::for_lanes(count, [](const auto& x, const auto& b, const auto& y)
                                               __attribute__((always_inline)) {
        return elementwise::rounded_lanes<T>(y + elementwise::rounded_lanes<T>(x + b));
      }, pass.to + at, sum, bias, pass.before + at);
    case Then::kSilu:
      return elementwise::for_lanes(count, [](const auto& x, const auto& b) __attribute__((always_inline)) {
        return elementwise::silu<T>(elementwise::rounded_lanes<T>(x + b));
      }, pass.to + at, sum, bias);
    case Then::kQuickGelu:
      return elementwise::for_lanes(count, [](const auto& x, const auto& b) __attribute__((always_inline)) {
        return elementwise::quick_gelu<T>(elementwise::rounded_lanes<T>(x + b));
      }, pass.to + at, sum, bias);
    case Then::kGeluTanh:
      return elementwise::for_lanes(count, [](const auto& x, const auto& b) __attribute__((always_inline)) {
        return elementwise::gelu_tanh<T>(elementwise::rounded_lanes<T>(x + b));
      }, pass.to + at, sum, bias);
    case Then::kMultiply:
      return elementwise::for_lanes(count, [](const auto& x, const auto& b, const auto& y)
                                               __attribute__((always_inline)) {
        return elementwise::rounded_lanes<T>(y * elementwise::rounded_lanes<T>(x + b));
      }, pass.to + at, sum, bias, pass.before + at);
  }
}

// With kDot in functions of SECONDLOOK_BF16_DOT.
template <bool kDot, typename T>
SECONDLOOK_INLINE void run_tasks(const Pass<T>& pass, std::int64_t begin, std::int64_t end) {
  const std::int64_t all = pass.product.x.count, some = shares(all);
  const std::int64_t rows = tiles(tiles(all, some), kRows) * kRows;
  for (std::int64_t task = begin; task < end; ++task) {
    const std::int64_t first = task % some * rows, last = std::min(all, first + rows);
    for_products<kDot>(pass.product, task / some, first, last,
                       [&](std::int64_t row, std::int64_t at, std::int64_t count, const float* sum, const float* bias)
                           __attribute__((always_inline)) {
      finish(pass, row * pass.stride + at, count, sum, bias);
    });
  }
}

// Clones are not made of templates.
SECONDLOOK_CLONES void run_floats(const Pass<float>& pass, std::int64_t begin, std::int64_t end) {
  run_tasks<false>(pass, begin, end);
}
SECONDLOOK_CLONES void run_floats(const Pass<BFloat16>& pass, std::int64_t begin, std::int64_t end) {
  run_tasks<false>(pass, begin, end);
}
SECONDLOOK_BF16_DOT void run_pairs(const Pass<BFloat16>& pass, std::int64_t begin, std::int64_t end) {
  run_tasks<true>(pass, begin, end);
}

}  // namespace

void run(const Pass<float>& pass, std::int64_t begin, std::int64_t end) { run_floats(pass, begin, end); }
void run(const Pass<BFloat16>& pass, std::int64_t begin, std::int64_t end) {
  takes_floats<BFloat16>() ? run_floats(pass, begin, end) : run_pairs(pass, begin, end);
}

}  // namespace secondlook::blocked
