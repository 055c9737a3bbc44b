// What secondlook::decode_attention works on, on every device.
#pragma once

#include <cstdint>

namespace secondlook::decode_attention {

// Everything about one call; strides in elements.
template <typename T>
struct Call {
  const T* query;               // [batch, heads, width]
  const T* keys;                // [cache_slots, kv_heads, positions, width]
  const T* values;              // [cache_slots, kv_heads, positions, width]
  const std::int64_t* slots;    // [batch], each in [0, cache_slots)
  const std::int64_t* lengths;  // [batch], each in [0, positions]
  std::int64_t batch, heads, kv_heads, width;
  std::int64_t cache_slots, positions;
  std::int64_t query_batch_stride, query_head_stride;
  std::int64_t keys_slot_stride, keys_head_stride, keys_position_stride;
  std::int64_t values_slot_stride, values_head_stride, values_position_stride;
  std::int64_t slots_stride, lengths_stride;
  float scale;
  T* result;  // [batch, heads, width], contiguous
};

}  // namespace secondlook::decode_attention
