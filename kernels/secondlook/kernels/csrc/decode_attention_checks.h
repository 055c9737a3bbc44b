// From the arguments of secondlook::decode_attention to a checked call, for both bindings.
#pragma once

#include <cmath>
#include <cstdint>

#include "checks.h"
#include "decode_attention_call.h"

namespace secondlook::decode_attention {

inline void check(const torch::stable::Tensor& query, const torch::stable::Tensor& keys,
                  const torch::stable::Tensor& values, const torch::stable::Tensor& slots,
                  const torch::stable::Tensor& lengths, double scale) {
  using torch::headeronly::ScalarType;
  SECONDLOOK_CHECK_DIM(query, 3, "[B, H, D]");
  SECONDLOOK_CHECK_DIM(keys, 4, "[S, H_kv, T, D]");
  SECONDLOOK_CHECK_DIM(values, 4, "[S, H_kv, T, D]");
  SECONDLOOK_CHECK_DIM(slots, 1, "[B]");
  SECONDLOOK_CHECK_DIM(lengths, 1, "[B]");
  const ScalarType type = query.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Half || type == ScalarType::BFloat16,
                  "query must be Float, Half or BFloat16, but is scalar type ", static_cast<int>(type));
  STD_TORCH_CHECK(keys.scalar_type() == type, "keys must have the dtype of query, scalar type ",
                  static_cast<int>(type), ", but is scalar type ", static_cast<int>(keys.scalar_type()));
  STD_TORCH_CHECK(values.scalar_type() == type, "values must have the dtype of query, scalar type ",
                  static_cast<int>(type), ", but is scalar type ", static_cast<int>(values.scalar_type()));
  SECONDLOOK_CHECK_DTYPE(slots, Long);
  SECONDLOOK_CHECK_DTYPE(lengths, Long);
  SECONDLOOK_CHECK_SIZE(slots, 0, query.size(0));
  SECONDLOOK_CHECK_SIZE(lengths, 0, query.size(0));
  const std::int64_t heads = query.size(1), kv_heads = keys.size(1), width = query.size(2);
  STD_TORCH_CHECK(1 <= width && width <= 256, "query must have size 1 to 256 in dimension 2, but has ",
                  width);
  STD_TORCH_CHECK(kv_heads >= 1 && heads >= 1 && heads % kv_heads == 0,
                  "query must have a multiple of the heads of keys, ", kv_heads, ", but has ", heads);
  STD_TORCH_CHECK(keys.size(0) >= 1, "keys must have at least one slot, but has none");
  SECONDLOOK_CHECK_SIZE(keys, 3, width);
  for (int dimension = 0; dimension < 4; ++dimension) {
    SECONDLOOK_CHECK_SIZE(values, dimension, keys.size(dimension));
  }
  SECONDLOOK_CHECK_LAST_STRIDE(query);
  SECONDLOOK_CHECK_LAST_STRIDE(keys);
  SECONDLOOK_CHECK_LAST_STRIDE(values);
  SECONDLOOK_CHECK_SAME_DEVICE(keys, query);
  SECONDLOOK_CHECK_SAME_DEVICE(values, query);
  SECONDLOOK_CHECK_SAME_DEVICE(slots, query);
  SECONDLOOK_CHECK_SAME_DEVICE(lengths, query);
  STD_TORCH_CHECK(std::isfinite(static_cast<float>(scale)), "scale must be finite in float32, but is ",
                  scale);
}

// The call of arguments that check accepted, of which T is the dtype.
template <typename T>
Call<T> call_of(const torch::stable::Tensor& query, const torch::stable::Tensor& keys,
                const torch::stable::Tensor& values, const torch::stable::Tensor& slots,
                const torch::stable::Tensor& lengths, double scale, const torch::stable::Tensor& result) {
  Call<T> call{};
  call.query = static_cast<const T*>(query.const_data_ptr());
  call.keys = static_cast<const T*>(keys.const_data_ptr());
  call.values = static_cast<const T*>(values.const_data_ptr());
  call.slots = static_cast<const std::int64_t*>(slots.const_data_ptr());
  call.lengths = static_cast<const std::int64_t*>(lengths.const_data_ptr());
  call.batch = query.size(0);
  call.heads = query.size(1);
  call.kv_heads = keys.size(1);
  call.width = query.size(2);
  call.cache_slots = keys.size(0);
  call.positions = keys.size(2);
  call.query_batch_stride = query.stride(0);
  call.query_head_stride = query.stride(1);
  call.keys_slot_stride = keys.stride(0);
  call.keys_head_stride = keys.stride(1);
  call.keys_position_stride = keys.stride(2);
  call.values_slot_stride = values.stride(0);
  call.values_head_stride = values.stride(1);
  call.values_position_stride = values.stride(2);
  call.slots_stride = slots.stride(0);
  call.lengths_stride = lengths.stride(0);
  call.scale = static_cast<float>(scale);
  call.result = static_cast<T*>(result.mutable_data_ptr());
  return call;
}

}  // namespace secondlook::decode_attention
