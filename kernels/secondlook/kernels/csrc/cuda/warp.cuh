// What several kernels repeat: elements of every dtype as float32 and back, several of them loaded at once, a
// query's products with keys, and reductions over the lanes of a warp. Every order of additions is fixed.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace secondlook::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }
__device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

__device__ __forceinline__ void round_to(float value, float& to) { to = value; }
__device__ __forceinline__ void round_to(float value, __half& to) { to = __float2half_rn(value); }
__device__ __forceinline__ void round_to(float value, __nv_bfloat16& to) { to = __float2bfloat16_rn(value); }

// Into [0, largest], for values that the host has not looked at.
__device__ inline std::int64_t clamped(std::int64_t value, std::int64_t largest) {
  return value < 0 ? 0 : value < largest ? value : largest;
}

// Every lane's values combined with those of the lanes that are kLanes / 2, ..., 1 away.
template <int kLanes = kWarp, typename T, typename Combine>
__device__ __forceinline__ T reduce_lanes(T value, Combine combine) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) {
    value = combine(value, __shfl_xor_sync(kAllLanes, value, offset));
  }
  return value;
}

template <int kLanes = kWarp>
__device__ __forceinline__ float sum_lanes(float value) {
  return reduce_lanes<kLanes>(value, [](float one, float other) { return one + other; });
}

// Past any NaN.
__device__ __forceinline__ float max_lanes(float value) {
  return reduce_lanes(value, [](float one, float other) { return fmaxf(one, other); });
}

// What is subtracted before exp: the largest score, which fmaxf finds past any NaN. If there is none but
// -inf, 0, so that -inf adds nothing to a sum, while a NaN still makes it NaN.
__device__ inline float reference_point(float largest) { return largest == -INFINITY ? 0.0f : largest; }

// kVector elements, loaded at once.
template <typename T, int kVector>
struct alignas(sizeof(T) * kVector) Vector {
  T element[kVector];
};

// Parts of kRows rows of `width` elements: rows first, first + step, ...; zeros at and after `count`. kLanes
// threads share a row, of which each has kLoads vectors.
template <int kLanes, typename T, int kVector, int kRows, int kLoads>
__device__ __forceinline__ void load_rows(const T* rows, std::int64_t stride, int first, int step, int count,
                                          int width, Vector<T, kVector> (&loaded)[kRows][kLoads]) {
  const int lane = threadIdx.x % kLanes;
#pragma unroll
  for (int u = 0; u < kRows; ++u) {
    const int s = first + u * step;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int d = (i * kLanes + lane) * kVector;
      loaded[u][i] = {};
      if (s < count && d < width) {
        loaded[u][i] = *reinterpret_cast<const Vector<T, kVector>*>(rows + s * stride + d);
      }
    }
  }
}

// The products of those rows with a query in shared memory, for every one of the kLanes threads.
template <int kLanes, typename T, int kVector, int kRows, int kLoads>
__device__ __forceinline__ void multiply_rows(const float* query,
                                              const Vector<T, kVector> (&loaded)[kRows][kLoads],
                                              float (&product)[kRows]) {
  constexpr int kFloats = kVector == 1 ? 1 : 4;  // of the query, read at once
  const int lane = threadIdx.x % kLanes;
#pragma unroll
  for (int u = 0; u < kRows; ++u) product[u] = 0.0f;
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
#pragma unroll
    for (int e = 0; e < kVector; e += kFloats) {
      const float* from = query + (i * kLanes + lane) * kVector + e;
      const auto q = *reinterpret_cast<const Vector<float, kFloats>*>(from);
#pragma unroll
      for (int f = 0; f < kFloats; ++f) {
#pragma unroll
        for (int u = 0; u < kRows; ++u) product[u] += q.element[f] * to_float(loaded[u][i].element[e + f]);
      }
    }
  }
#pragma unroll
  for (int u = 0; u < kRows; ++u) product[u] = sum_lanes<kLanes>(product[u]);
}

}  // namespace secondlook::cuda
