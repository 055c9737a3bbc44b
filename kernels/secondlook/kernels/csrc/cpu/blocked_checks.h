// From tensors of weights in blocks to what blocked.h takes, checked.
#pragma once

#include <cstdint>
#include <optional>

#include "checks.h"
#include "cpu/blocked.h"

namespace secondlook::blocked {

// Weights [blocks, pairs, width, pair] of so many outputs, and of at least so many inputs.
inline void check_weights(const torch::stable::Tensor& weight, const char* name, std::int64_t outputs,
                          std::int64_t inputs) {
  using torch::headeronly::ScalarType;
  const ScalarType type = weight.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::BFloat16, name,
                  " must be Float or BFloat16, but is scalar type ", static_cast<int>(type));
  STD_TORCH_CHECK(weight.dim() == 4 && weight.is_contiguous(), name,
                  " must be [blocks, pairs, width, pair] and contiguous");
  const std::int64_t pair = type == ScalarType::Float ? 1 : 2, width = weight.size(2);
  STD_TORCH_CHECK(weight.size(3) == pair, name, " must have pairs of ", pair, ", but has ", weight.size(3));
  STD_TORCH_CHECK(width >= kLanes && width <= kWidth && width % kLanes == 0, name,
                  " must have blocks of 16, 32, 48 or 64 outputs, but has ", width);
  STD_TORCH_CHECK(weight.size(0) == tiles(outputs, width) && outputs >= 1, name, " must have ",
                  tiles(outputs, width), " blocks for ", outputs, " outputs, but has ", weight.size(0));
  STD_TORCH_CHECK(weight.size(1) >= tiles(inputs, pair), name, " must have at least ", tiles(inputs, pair),
                  " pairs for ", inputs, " inputs, but has ", weight.size(1));
}

inline void check(const torch::stable::Tensor& input, const torch::stable::Tensor& weight,
                  const std::optional<torch::stable::Tensor>& bias, std::int64_t outputs) {
  SECONDLOOK_CHECK_DIM(input, 2, "[B, inputs]");
  SECONDLOOK_CHECK_LAST_STRIDE(input);
  STD_TORCH_CHECK(input.size(1) >= 1, "input must have at least one input in each row, but has none");
  STD_TORCH_CHECK(weight.scalar_type() == input.scalar_type(), "weight must have the dtype of input");
  check_weights(weight, "weight", outputs, input.size(1));
  if (bias) {
    STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == outputs && bias->is_contiguous() &&
                        bias->scalar_type() == input.scalar_type(),
                    "bias must be [outputs], contiguous, of the dtype of input");
  }
}

template <typename T>
Weights<T> weights_of(const torch::stable::Tensor& weight, std::int64_t outputs, std::int64_t inputs) {
  return {static_cast<const T*>(weight.const_data_ptr()), outputs, paired<T>(inputs), weight.size(2),
          weight.stride(0)};
}

}  // namespace secondlook::blocked
