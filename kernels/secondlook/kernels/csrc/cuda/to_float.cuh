// Logits, queries and keys of every dtype as float32.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace secondlook::cuda {

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }
__device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

}  // namespace secondlook::cuda
