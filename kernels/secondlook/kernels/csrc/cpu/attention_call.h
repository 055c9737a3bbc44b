// A call of attention.h, which is compiled in one place.
#pragma once

#include <cstdint>

#include "cpu/vectorised.h"

namespace secondlook::attention {

inline constexpr std::int64_t kMostWidth = 256;  // of one head

// Everything about one call; strides in elements.
template <typename T>
struct Call {
  const T* query;   // [batch, heads, rows, width]
  const T* keys;    // [batch, kv_heads, positions, width]
  const T* values;  // [batch, kv_heads, positions, width]
  std::int64_t batch, heads, kv_heads, rows, positions, width;
  std::int64_t query_strides[3], keys_strides[3], values_strides[3];
  float scale;
  bool causal;  // whether row i sees the first positions - rows + i + 1 positions alone
  T* result;    // [batch, rows, heads, width], contiguous
};

// Floats that a thread needs for itself.
std::int64_t scratch_of_a_thread(const Call<float>& call);
std::int64_t scratch_of_a_thread(const Call<BFloat16>& call);

// The results of some (batch, head) pairs.
void run(const Call<float>& call, std::int64_t begin, std::int64_t end, float* scratch);
void run(const Call<BFloat16>& call, std::int64_t begin, std::int64_t end, float* scratch);

}  // namespace secondlook::attention
