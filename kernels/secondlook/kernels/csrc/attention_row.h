// One call of attention_row, as its kernels see it; the same on every device.
#pragma once

#include <cstdint>

namespace secondlook::attention_row {

// Strides in elements; all pointers are to the device's memory.
template <typename T>
struct Arguments {
  const T* query;               // [batch, heads, width]
  const T* keys;                // [batch, kv_heads, positions, width]
  const std::int64_t* lengths;  // [batch]
  const float* head_weights;    // [heads], or null: 1 / heads each
  std::int64_t batch, heads, kv_heads, positions, width;
  std::int64_t query_batch_stride, query_head_stride;
  std::int64_t keys_batch_stride, keys_head_stride, keys_position_stride;
  std::int64_t lengths_stride, head_weights_stride;
  std::int64_t start, stop;
  float scale;
  float* result;  // [batch, stop - start], contiguous
};

}  // namespace secondlook::attention_row
