// secondlook::blocked_linear on the CPU: checks, memory and threads around the products of blocked.h.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>

#include "cpu/blocked.h"
#include "cpu/blocked_checks.h"

namespace {

namespace blocked = secondlook::blocked;
using secondlook::BFloat16;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename T>
SECONDLOOK_INLINE void multiply(const blocked::Product<T>& product, std::int64_t begin, std::int64_t end,
                                T* to) {
  const std::int64_t outputs = product.weights.outputs;
  for (std::int64_t block = begin; block < end; ++block) {
    blocked::for_products(product, block, [&](std::int64_t row, std::int64_t first, std::int64_t count,
                                              const float* sum) __attribute__((always_inline)) {
      for (std::int64_t i = 0; i < count; ++i) secondlook::round_to(sum[i], to[row * outputs + first + i]);
    });
  }
}

SECONDLOOK_CLONES void run(const blocked::Product<float>& product, std::int64_t begin, std::int64_t end,
                           float* to) {
  multiply(product, begin, end, to);
}
SECONDLOOK_CLONES void run(const blocked::Product<BFloat16>& product, std::int64_t begin, std::int64_t end,
                           BFloat16* to) {
  multiply(product, begin, end, to);
}

template <typename T>
void run_all(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, Tensor& result) {
  const auto weights = blocked::weights_of<T>(weight, result.size(1), input.size(1));
  const std::int64_t rows = input.size(0), stride = blocked::row_stride(input.size(1));
  const std::int64_t floats = rows * stride + blocked::totals_of(weights, rows);
  Tensor x = torch::stable::new_empty(input, {floats}, ScalarType::Float);
  float* const values = static_cast<float*>(x.mutable_data_ptr());
  secondlook::widen(static_cast<const T*>(input.const_data_ptr()), input.stride(0), rows, input.size(1), stride,
                    values);
  const T* const added = bias ? static_cast<const T*>(bias->const_data_ptr()) : nullptr;
  const auto product = blocked::product(values, stride, rows, weights, added, values + rows * stride);
  T* const to = static_cast<T*>(result.mutable_data_ptr());
  torch::stable::parallel_for(0, blocked::blocks(weights), blocked::block_grain(product),
                              [&](std::int64_t begin, std::int64_t end) { run(product, begin, end, to); });
}

Tensor blocked_linear(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                      std::int64_t outputs) {
  blocked::check(input, weight, bias, outputs);
  Tensor result = torch::stable::new_empty(input, {input.size(0), outputs});
  if (result.numel() == 0) return result;
  if (input.scalar_type() == ScalarType::Float) {
    run_all<float>(input, weight, bias, result);
  } else {
    run_all<BFloat16>(input, weight, bias, result);
  }
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(secondlook, CPU, m) { m.impl("blocked_linear", TORCH_BOX(&blocked_linear)); }
