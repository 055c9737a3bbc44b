// From tensors of weights in blocks to what blocked.h takes, checked.
#pragma once

#include <cstdint>
#include <optional>

#include "checks.h"
#include "cpu/blocked.h"

namespace secondlook::blocked {

inline bool of_few_bits(const torch::stable::Tensor& weight) {
  using torch::headeronly::ScalarType;
  return weight.scalar_type() == ScalarType::Char || weight.scalar_type() == ScalarType::Byte;
}

inline std::int64_t width_of(const torch::stable::Tensor& weight) {
  return of_few_bits(weight) ? low_bit::kWidth : weight.size(2);
}

// Inputs of a group of weights of few bits.
inline std::int64_t group_of(const torch::stable::Tensor& weight) {
  const bool bytes = weight.scalar_type() == torch::headeronly::ScalarType::Char;
  return (weight.size(2) - low_bit::kWords) * (bytes ? low_bit::Bytes::kInputs : low_bit::Nibbles::kInputs);
}

// Weights [blocks, groups, 4 + rows, 64] of 8 or 4 bits.
inline void check_low_bit(const torch::stable::Tensor& weight, const char* name, std::int64_t outputs,
                          std::int64_t inputs) {
  STD_TORCH_CHECK(weight.dim() == 4 && weight.is_contiguous() && weight.size(3) == low_bit::kWidth &&
                      weight.size(2) > low_bit::kWords,
                  name, " must be [blocks, groups, 4 + rows, 64] and contiguous");
  STD_TORCH_CHECK(weight.size(0) == tiles(outputs, low_bit::kWidth) && outputs >= 1, name, " must have ",
                  tiles(outputs, low_bit::kWidth), " blocks for ", outputs, " outputs, but has ",
                  weight.size(0));
  const std::int64_t group = group_of(weight), held = weight.size(1) * group;
  const bool padded = weight.scalar_type() == torch::headeronly::ScalarType::Byte && weight.size(1) == 1;
  STD_TORCH_CHECK(held == inputs || (padded && held == row_stride(inputs)), name, " must have ", inputs,
                  " inputs, but has ", weight.size(1), " group(s) of ", group);
}

// Weights [blocks, pairs, width, pair] of so many outputs, and of at least so many inputs; or of few bits.
inline void check_weights(const torch::stable::Tensor& weight, const char* name, std::int64_t outputs,
                          std::int64_t inputs, torch::headeronly::ScalarType type) {
  using torch::headeronly::ScalarType;
  if (of_few_bits(weight)) return check_low_bit(weight, name, outputs, inputs);
  STD_TORCH_CHECK(weight.scalar_type() == type, name, " must have the dtype of the rows, or be of few bits");
  STD_TORCH_CHECK(weight.dim() == 4 && weight.is_contiguous(), name,
                  " must be [blocks, pairs, width, pair] and contiguous");
  const std::int64_t pair = type == ScalarType::Float ? 1 : 2, width = weight.size(2);
  STD_TORCH_CHECK(weight.size(3) == pair, name, " must have pairs of ", pair, ", but has ", weight.size(3));
  STD_TORCH_CHECK(width >= kLanes && width <= low_bit::kWidth && width % kLanes == 0, name,
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
  const auto type = input.scalar_type();
  STD_TORCH_CHECK(type == torch::headeronly::ScalarType::Float ||
                      type == torch::headeronly::ScalarType::BFloat16,
                  "input must be Float or BFloat16, but is scalar type ", static_cast<int>(type));
  check_weights(weight, "weight", outputs, input.size(1), type);
  if (bias) {
    STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == outputs && bias->is_contiguous() &&
                        bias->scalar_type() == input.scalar_type(),
                    "bias must be [outputs], contiguous, of the dtype of input");
  }
}

template <typename T>
Weights<T> weights_of(const torch::stable::Tensor& weight, std::int64_t outputs, std::int64_t inputs) {
  const void* const data = weight.const_data_ptr();
  if (!of_few_bits(weight)) {
    const std::int64_t held = paired<T>(inputs), size = sizeof(T);
    return {data, Held::kFloats, outputs, held, weight.size(2), weight.stride(0) * size, held};
  }
  const bool bytes = weight.scalar_type() == torch::headeronly::ScalarType::Char;
  const std::int64_t group = group_of(weight);
  return {data,           bytes ? Held::kBytes : Held::kNibbles, outputs, weight.size(1) * group,
          low_bit::kWidth, weight.stride(0),                      group};
}

}  // namespace secondlook::blocked
