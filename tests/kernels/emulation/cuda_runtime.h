// As much of CUDA's language as the kernels use, for g++, in place of the toolkit's headers. A thread of CUDA
// is a fiber, a block runs in one thread of the system, and `__shared__` is thread-local.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <source_location>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
#define __grid_constant__
#define __shared__ thread_local

struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct uint3 { unsigned x, y, z; };
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };

namespace emulation {

using Where = std::source_location;

uint3 thread_index();
uint3 block_index();
dim3 block_size();
dim3 grid_size();

// Runs every block; returns when all have ended. A launch that CUDA would refuse is left to `take_error`.
void launch(dim3 grid, unsigned threads, std::size_t shared_bytes, const std::function<void()>& body);
cudaError_t take_error();

// Ends the program with a message.
[[noreturn]] void fail(const char* what);

// Whether all threads of the block said yes.
bool barrier(bool yes, Where where);

// The bits that lane `from` of the warp gave. Only of whole warps. `orders`: memory, as __syncwarp does.
std::uint64_t exchange(unsigned mask, std::uint64_t bits, unsigned from, bool orders, Where where);
void fence();
int add(int* to, int value);

// What `kernel<<<grid, threads, bytes, stream>>>` is rewritten to.
template <typename... Parameters>
auto configured(void (*kernel)(Parameters...), dim3 grid, unsigned threads, std::size_t bytes, cudaStream_t) {
  return [=](Parameters... arguments) { launch(grid, threads, bytes, [&] { kernel(arguments...); }); };
}

template <typename To, typename From>
To bits_as(From value) {
  To to{};
  std::memcpy(&to, &value, std::min(sizeof(To), sizeof(From)));
  return to;
}

template <typename T>
T from_lane(unsigned mask, T value, unsigned from, Where where) {
  return bits_as<T>(exchange(mask, bits_as<std::uint64_t>(value), from, false, where));
}

// A load whose address must be a multiple of its size.
template <typename T>
T load(const T* from) {
  if (reinterpret_cast<std::uintptr_t>(from) % sizeof(T) != 0) fail("a misaligned load");
  return *from;
}

}  // namespace emulation

#define threadIdx (::emulation::thread_index())
#define blockIdx (::emulation::block_index())
#define blockDim (::emulation::block_size())
#define gridDim (::emulation::grid_size())
#define __ldg(from) ::emulation::load(from)
#define __ldcg(from) ::emulation::load(from)

using emulation::Where;

inline void __syncthreads(Where where = Where::current()) { emulation::barrier(true, where); }
inline int __syncthreads_and(int yes, Where where = Where::current()) {
  return emulation::barrier(yes != 0, where);
}
inline void __syncwarp(unsigned mask = ~0u, Where where = Where::current()) {
  emulation::exchange(mask, 0, 0, true, where);
}
inline void __threadfence() { emulation::fence(); }
inline int atomicAdd(int* to, int value) { return emulation::add(to, value); }

template <typename T>
T __shfl_sync(unsigned mask, T value, int from, Where where = Where::current()) {
  return emulation::from_lane(mask, value, from % 32, where);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int other, Where where = Where::current()) {
  return emulation::from_lane(mask, value, threadIdx.x % 32 ^ other, where);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, int delta, Where where = Where::current()) {
  const unsigned lane = threadIdx.x % 32;
  return emulation::from_lane(mask, value, lane + delta < 32 ? lane + delta : lane, where);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, Where where = Where::current()) {
  const unsigned lane = threadIdx.x % 32;
  return emulation::from_lane(mask, value, lane >= delta ? lane - delta : lane, where);
}

struct __half { _Float16 value; };
struct __nv_bfloat16 { std::uint16_t bits; };

inline unsigned __float_as_uint(float value) { return emulation::bits_as<unsigned>(value); }
inline float __uint_as_float(unsigned bits) { return emulation::bits_as<float>(bits); }
inline long long __double_as_longlong(double value) { return emulation::bits_as<long long>(value); }
inline double __longlong_as_double(long long bits) { return emulation::bits_as<double>(bits); }
inline long long __double2ll_rn(double value) { return std::llrint(value); }
inline double __dmul_rn(double one, double other) {
  volatile double rounded = one * other;
  return rounded;
}
inline float __half2float(__half value) { return static_cast<float>(value.value); }
inline __half __float2half_rn(float value) { return {static_cast<_Float16>(value)}; }
inline float __bfloat162float(__nv_bfloat16 value) {
  return __uint_as_float(static_cast<unsigned>(value.bits) << 16);
}
inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  if (value != value) return {0x7fff};
  const unsigned bits = __float_as_uint(value);
  return {static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

inline cudaError_t cudaGetLastError() { return emulation::take_error(); }
inline cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}
