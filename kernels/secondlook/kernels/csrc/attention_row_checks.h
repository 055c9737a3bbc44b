// The arguments of attention_row, checked and as raw pointers; the same on every device.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>

#include "attention_row.h"
#include "checks.h"

namespace secondlook::attention_row {

inline void check(const torch::stable::Tensor& query, const torch::stable::Tensor& keys,
                  const torch::stable::Tensor& lengths, std::int64_t start, std::int64_t stop, double scale,
                  const std::optional<torch::stable::Tensor>& head_weights) {
  using torch::headeronly::ScalarType;
  SECONDLOOK_CHECK_DIM(query, 3, "[B, H, D]");
  SECONDLOOK_CHECK_DIM(keys, 4, "[B, H_kv, S, D]");
  SECONDLOOK_CHECK_DIM(lengths, 1, "[B]");
  const ScalarType type = query.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Half || type == ScalarType::BFloat16,
                  "query must be Float, Half or BFloat16, but is scalar type ", static_cast<int>(type));
  STD_TORCH_CHECK(keys.scalar_type() == type, "keys must have the dtype of query, scalar type ",
                  static_cast<int>(type), ", but is scalar type ", static_cast<int>(keys.scalar_type()));
  SECONDLOOK_CHECK_DTYPE(lengths, Long);
  SECONDLOOK_CHECK_SIZE(keys, 0, query.size(0));
  SECONDLOOK_CHECK_SIZE(lengths, 0, query.size(0));
  const std::int64_t heads = query.size(1), kv_heads = keys.size(1), width = query.size(2);
  STD_TORCH_CHECK(kv_heads >= 1 && heads >= 1 && heads % kv_heads == 0,
                  "query must have a multiple of the heads of keys, ", kv_heads, ", but has ", heads);
  STD_TORCH_CHECK(1 <= width && width <= 256, "query must have size 1 to 256 in dimension 2, but has ",
                  width);
  SECONDLOOK_CHECK_SIZE(keys, 3, width);
  SECONDLOOK_CHECK_LAST_STRIDE(query);
  SECONDLOOK_CHECK_LAST_STRIDE(keys);
  SECONDLOOK_CHECK_SAME_DEVICE(keys, query);
  SECONDLOOK_CHECK_SAME_DEVICE(lengths, query);
  STD_TORCH_CHECK(0 <= start && start <= stop && stop <= keys.size(2),
                  "start and stop must satisfy 0 <= start <= stop <= ", keys.size(2), ", but start is ",
                  start, " and stop is ", stop);
  STD_TORCH_CHECK(std::isfinite(static_cast<float>(scale)), "scale must be finite in float32, but is ",
                  scale);
  if (head_weights.has_value()) {
    const torch::stable::Tensor& weights = *head_weights;
    STD_TORCH_CHECK(weights.dim() == 1 && weights.size(0) == heads, "head_weights must be [H] with H = ",
                    heads, ", but has ", weights.dim(), " dimension(s) and ", weights.numel(), " element(s)");
    STD_TORCH_CHECK(weights.scalar_type() == ScalarType::Float,
                    "head_weights must be Float, but is scalar type ",
                    static_cast<int>(weights.scalar_type()));
    STD_TORCH_CHECK(
        weights.get_device_index() == query.get_device_index() && weights.is_cuda() == query.is_cuda(),
        "head_weights must be on the device of query");
  }
}

// Of tensors that check accepted, with elements T, and a result [B, stop - start] that is contiguous.
template <typename T>
Arguments<T> arguments_of(const torch::stable::Tensor& query, const torch::stable::Tensor& keys,
                          const torch::stable::Tensor& lengths, std::int64_t start, std::int64_t stop,
                          double scale, const std::optional<torch::stable::Tensor>& head_weights,
                          const torch::stable::Tensor& result) {
  return {.query = static_cast<const T*>(query.const_data_ptr()),
          .keys = static_cast<const T*>(keys.const_data_ptr()),
          .lengths = lengths.const_data_ptr<std::int64_t>(),
          .head_weights = head_weights.has_value() ? head_weights->const_data_ptr<float>() : nullptr,
          .batch = query.size(0),
          .heads = query.size(1),
          .kv_heads = keys.size(1),
          .positions = keys.size(2),
          .width = query.size(2),
          .query_batch_stride = query.stride(0),
          .query_head_stride = query.stride(1),
          .keys_batch_stride = keys.stride(0),
          .keys_head_stride = keys.stride(1),
          .keys_position_stride = keys.stride(2),
          .lengths_stride = lengths.stride(0),
          .head_weights_stride = head_weights.has_value() ? head_weights->stride(0) : 0,
          .start = start,
          .stop = stop,
          .scale = static_cast<float>(scale),
          .result = result.mutable_data_ptr<float>()};
}

}  // namespace secondlook::attention_row
