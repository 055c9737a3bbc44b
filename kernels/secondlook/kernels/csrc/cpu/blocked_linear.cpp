// secondlook::blocked_linear on the CPU: checks, memory and threads around the products of blocked.h.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <type_traits>

#include "cpu/blocked_checks.h"
#include "cpu/blocked_pass.h"

namespace {

namespace blocked = secondlook::blocked;
using secondlook::BFloat16;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The input's rows with zeros to an even number, where it has not got them itself.
template <typename T>
const T* padded_rows(const Tensor& input, Tensor& held) {
  const T* const rows = static_cast<const T*>(input.const_data_ptr());
  const std::int64_t count = input.size(0), size = input.size(1), stride = blocked::row_stride(size);
  if (stride == size && (count <= 1 || input.stride(0) == size)) return rows;
  held = torch::stable::new_empty(input, {count * stride});
  T* const to = static_cast<T*>(held.mutable_data_ptr());
  for (std::int64_t row = 0; row < count; ++row) {
    std::copy(rows + row * input.stride(0), rows + row * input.stride(0) + size, to + row * stride);
    std::fill(to + row * stride + size, to + (row + 1) * stride, T{});
  }
  return to;
}

template <typename T>
void run_all(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, Tensor& result) {
  const auto weights = blocked::weights_of<T>(weight, result.size(1), input.size(1));
  const std::int64_t rows = input.size(0), stride = blocked::row_stride(input.size(1));
  Tensor held = input;
  blocked::Inputs<T> x{padded_rows<T>(input, held), nullptr, stride, rows};
  const std::int64_t elements = rows * stride, totals = blocked::totals_of(weights, rows);
  const bool widened = !std::is_same_v<T, float> && blocked::takes_floats<T>();
  const std::int64_t floats = widened ? elements : 0;
  Tensor scratch = torch::stable::new_empty(input, {floats + totals}, ScalarType::Float);
  float* const values = static_cast<float*>(scratch.mutable_data_ptr());
  if constexpr (std::is_same_v<T, float>) {
    x.floats = x.rows;
  } else if (widened) {
    secondlook::widen(x.rows, 0, 1, elements, elements, values);
    x.floats = values;
  }
  const T* const added = bias ? static_cast<const T*>(bias->const_data_ptr()) : nullptr;
  const auto product = blocked::product(x, weights, added, values + floats);
  const blocked::Pass<T> pass{product, blocked::Then::kWrite, result.size(1),
                              static_cast<T*>(result.mutable_data_ptr())};
  const std::int64_t each = weights.inputs * weights.width * std::min(rows, blocked::kManyRows);
  torch::stable::parallel_for(0, blocked::tasks(weights, rows), secondlook::grain(each / 8),
                              [&](std::int64_t begin, std::int64_t end) { blocked::run(pass, begin, end); });
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
