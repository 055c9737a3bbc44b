// Attention of one query position to the keys of a span, averaged over heads: two launches, deterministic,
// without atomics and without any look at device memory from the host.
//
//   1. score_chunks  Each block takes one chunk of the keys of one key head and up to kHeads of its query
//                    heads. It writes the scores that fall on the span, and for each head the chunk's partial
//                    softmax: the largest score and the sum of exp(score - largest).
//   2. mix_heads     Each block takes 32 positions of the span. A warp merges the partials of every kWarps-th
//                    head and adds up its heads' softmax there; the warps' sums are added in order.
//
// Keys at and after a length are never read: they may be uninitialised. How the keys are cut depends on the
// shapes alone, so that equal arguments give equal bits on every GPU of one architecture.
#pragma once

#include <climits>
#include <cstdint>

#include "../attention_row.h"
#include "cuda/warp.cuh"

namespace secondlook::attention_row {

using cuda::max_lanes;
using cuda::reference_point;
using cuda::sum_lanes;
using cuda::to_float;
using cuda::Vector;

constexpr int kThreads = 256;     // of score_chunks
constexpr int kHeads = 8;         // query heads of one block of score_chunks, a warp for each at its end
constexpr int kMostWidth = 256;   // of one head
constexpr int kMostChunk = 256;   // keys
constexpr int kUnroll = 4;        // keys of one group of threads that are loaded together
constexpr int kWarps = 16;        // of mix_heads
static_assert(kThreads / 32 >= kHeads);

template <typename T>
struct Call : Arguments<T> {
  float* scratch;  // plan(call).scratch_floats() of them

  __host__ __device__ std::int64_t span() const { return this->stop - this->start; }
  __device__ std::int64_t length(std::int64_t b) const {
    return cuda::clamped(this->lengths[b * this->lengths_stride], this->positions);
  }
};

// How a call is cut into blocks, and where its scratch memory has what.
struct Plan {
  std::int64_t group;   // query heads of each key head
  std::int64_t tiles;   // parts of a group
  std::int64_t chunk;   // keys of a block
  std::int64_t chunks;  // parts of the keys
  std::int64_t parts;   // parts of the span
  std::int64_t rows;    // batch * heads
  std::int64_t span;

  std::int64_t scratch_floats() const { return rows * (span + 2 * chunks); }
  // Scores [batch, heads, span], then [batch, heads, chunks] twice.
  __device__ std::int64_t largest_offset() const { return rows * span; }
  __device__ std::int64_t sums_offset() const { return rows * (span + chunks); }
};

template <typename T>
Plan plan(const Call<T>& call) {
  Plan made{};
  made.group = call.heads / call.kv_heads;
  made.tiles = (made.group + kHeads - 1) / kHeads;
  // Few keys while that fills a GPU, so that one question is answered fast, then more.
  const std::int64_t smallest = call.batch * call.kv_heads * made.tiles * ((call.positions + 63) / 64);
  made.chunk = smallest > 4096 ? kMostChunk : 64;
  made.chunks = (call.positions + made.chunk - 1) / made.chunk;
  made.parts = (call.span() + 31) / 32;
  made.rows = call.batch * call.heads;
  made.span = call.span();
  return made;
}

// kLanes threads share a key; each loads kLoads vectors of kVector elements of it.
template <typename T, int kVector, int kLanes, int kLoads>
__global__ void __launch_bounds__(kThreads) score_chunks(const Call<T> call, const Plan plan) {
  static_assert(kLanes * kVector * kLoads <= kMostWidth && kThreads / kLanes * kUnroll <= kMostChunk);
  constexpr int kTogether = kThreads / kLanes;  // keys of the block at once
  __shared__ alignas(16) float query[kHeads][kMostWidth];
  __shared__ float score[kHeads][kMostChunk];

  // Fewer than 2^31 blocks: 32-bit divisions, which are much faster.
  const unsigned chunks = static_cast<unsigned>(plan.chunks), tiles = static_cast<unsigned>(plan.tiles);
  const unsigned kv_heads = static_cast<unsigned>(call.kv_heads), rest = blockIdx.x / chunks;
  const std::int64_t chunk_index = blockIdx.x % chunks, tile = rest % tiles;
  const std::int64_t kv = rest / tiles % kv_heads, b = rest / tiles / kv_heads;
  const std::int64_t first = chunk_index * plan.chunk, left = call.length(b) - first;
  if (left <= 0) return;  // the whole block: nothing valid here
  const int count = static_cast<int>(left < plan.chunk ? left : plan.chunk);
  const std::int64_t head = kv * plan.group + tile * kHeads, more = plan.group - tile * kHeads;
  const int heads = static_cast<int>(more < kHeads ? more : kHeads);
  const int width = static_cast<int>(call.width);

  const int lane = threadIdx.x % kLanes, slot = threadIdx.x / kLanes;
  const T* keys = call.keys + b * call.keys_batch_stride + kv * call.keys_head_stride;
  keys += first * call.keys_position_stride;
  Vector<T, kVector> loaded[kUnroll][kLoads];
  const auto load = [&](int base) {
    cuda::load_rows<kLanes>(keys, call.keys_position_stride, base + slot, kTogether, count, width, loaded);
  };
  load(0);  // on its way while the queries come
  for (int h = 0; h < heads; ++h) {
    const T* from = call.query + b * call.query_batch_stride + (head + h) * call.query_head_stride;
    for (int d = threadIdx.x; d < kMostWidth; d += kThreads) {
      query[h][d] = d < width ? to_float(from[d]) : 0.0f;
    }
  }
  __syncthreads();

  for (int base = 0; base < count; base += kTogether * kUnroll) {
    if (base > 0) load(base);
    for (int h = 0; h < heads; ++h) {
      float product[kUnroll];
      cuda::multiply_rows<kLanes>(query[h], loaded, product);
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const int s = base + u * kTogether + slot;
        if (lane == 0 && s < count) score[h][s] = product[u] * call.scale;
      }
    }
  }
  __syncthreads();

  const int h = threadIdx.x / 32, thread = threadIdx.x % 32;
  if (h >= heads) return;
  const std::int64_t row = b * call.heads + head + h;
  float largest = -INFINITY;
  for (int s = thread; s < count; s += 32) largest = fmaxf(largest, score[h][s]);
  largest = max_lanes(largest);
  const float point = reference_point(largest);
  float sum = 0.0f;
  for (int s = thread; s < count; s += 32) {
    sum += expf(score[h][s] - point);
    const std::int64_t n = first + s - call.start;
    if (0 <= n && n < plan.span) call.scratch[row * plan.span + n] = score[h][s];
  }
  sum = sum_lanes(sum);
  if (thread == 0) {
    call.scratch[plan.largest_offset() + row * plan.chunks + chunk_index] = largest;
    call.scratch[plan.sums_offset() + row * plan.chunks + chunk_index] = sum;
  }
}

template <typename T>
__global__ void __launch_bounds__(kWarps * 32) mix_heads(const Call<T> call, const Plan plan) {
  __shared__ float partial[kWarps][32];
  const int warp = threadIdx.x / 32, thread = threadIdx.x % 32;
  const unsigned parts = static_cast<unsigned>(plan.parts);
  const std::int64_t b = blockIdx.x / parts, n = static_cast<std::int64_t>(blockIdx.x % parts) * 32 + thread;
  const std::int64_t length = call.length(b);
  const std::int64_t chunks = (length + plan.chunk - 1) / plan.chunk;  // those with a valid key
  const bool valid = n < plan.span && call.start + n < length;

  float sum = 0.0f;
#pragma unroll 2
  for (std::int64_t h = warp; h < call.heads; h += kWarps) {
    const std::int64_t row = b * call.heads + h;
    const float* __restrict__ largest = call.scratch + plan.largest_offset() + row * plan.chunks;
    const float* __restrict__ sums = call.scratch + plan.sums_offset() + row * plan.chunks;
    const float score = valid ? call.scratch[row * plan.span + n] : 0.0f;
    float most = -INFINITY, total = 0.0f;
#pragma unroll 1
    for (std::int64_t c = thread; c < chunks; c += 32) {
      const float next = fmaxf(most, largest[c]), point = reference_point(next);
      total = total * expf(most - point) + sums[c] * expf(largest[c] - point);
      most = next;
    }
    const float point = reference_point(max_lanes(most));
    total = sum_lanes(total * expf(most - point));
    const float weight = call.head_weights == nullptr ? 1.0f / static_cast<float>(call.heads)
                                                      : call.head_weights[h * call.head_weights_stride];
    if (valid) sum += weight / total * expf(score - point);
  }
  partial[warp][thread] = sum;
  __syncthreads();
  if (warp == 0 && n < plan.span) {
    float all = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) all += partial[w][thread];
    call.result[b * plan.span + n] = all;
  }
}

template <typename T, int kVector, int kLanes, int kLoads>
cudaError_t launch_shape(const Call<T>& call, const Plan& plan, cudaStream_t stream) {
  const std::int64_t first = call.batch * call.kv_heads * plan.tiles * plan.chunks;
  const std::int64_t second = call.batch * plan.parts;
  if (first > INT_MAX || second > INT_MAX) return cudaErrorInvalidConfiguration;
  if (second == 0) return cudaSuccess;  // and with a span there are keys
  score_chunks<T, kVector, kLanes, kLoads><<<static_cast<unsigned>(first), kThreads, 0, stream>>>(call, plan);
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) return error;
  mix_heads<T><<<static_cast<unsigned>(second), kWarps * 32, 0, stream>>>(call, plan);
  return cudaGetLastError();
}

// Whether every key starts at a multiple of 16 bytes and is a whole number of them long.
template <typename T>
bool aligned(const Call<T>& call) {
  constexpr std::int64_t vector = 16 / sizeof(T);
  return reinterpret_cast<std::uintptr_t>(call.keys) % 16 == 0 && call.width % vector == 0 &&
         (call.batch == 1 || call.keys_batch_stride % vector == 0) &&
         (call.kv_heads == 1 || call.keys_head_stride % vector == 0) &&
         (call.positions == 1 || call.keys_position_stride % vector == 0);
}

// Computes call.result; asynchronous, on the current device. Widths are 1 to kMostWidth.
template <typename T>
cudaError_t launch(const Call<T>& call, const Plan& plan, cudaStream_t stream) {
  constexpr int vector = 16 / sizeof(T);
  if (!aligned(call)) return launch_shape<T, 1, 32, kMostWidth / 32>(call, plan, stream);
  if (call.width <= vector * 8) return launch_shape<T, vector, 8, 1>(call, plan, stream);
  if (call.width <= vector * 16) return launch_shape<T, vector, 16, 1>(call, plan, stream);
  if (call.width <= vector * 32) return launch_shape<T, vector, 32, 1>(call, plan, stream);
  return launch_shape<T, vector, 32, kMostWidth / vector / 32>(call, plan, stream);
}

}  // namespace secondlook::attention_row
