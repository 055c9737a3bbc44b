// Attention of a decode step over a slotted cache of keys and values: flash-decoding (Dao et al., 2023), that
// is, the softmax of Milakov & Gimelshein (arXiv 1805.02867) with the positions cut into chunks. Two
// launches, deterministic, without atomics and without any look at device memory from the host:
//
//   1. attend_chunks  Each block takes one key head, up to kHeads of its query heads, and every so many-th
//                     chunk of the positions. All keys and values of a chunk are on their way before the
//                     first is used. It writes, for each chunk and head, the largest score, the sum of
//                     exp(score - largest), and the values' sum with those weights.
//   2. merge_chunks   Each block merges the chunks of one head, always in the same order.
//
// The launches depend on the shapes alone, so that a captured graph may be replayed with other slots and
// lengths. They must then do for rows as long as the cache, and most rows are far shorter. For few rows each
// chunk has a block of its own, which returns at once behind its row's length; for many, more blocks would
// have nothing to do than something, and kMostBlocks share the chunks. A chunk has kChunk positions, whatever
// the other rows, the blocks and the cache's size, so that none of them changes a bit of a row's result.
// Positions at and after a length are never read: they may be uninitialised.
#pragma once

#include <climits>
#include <cstdint>

#include "cuda/warp.cuh"
#include "decode_attention_call.h"

namespace secondlook::decode_attention {

using cuda::clamped;
using cuda::load_rows;
using cuda::max_lanes;
using cuda::reference_point;
using cuda::round_to;
using cuda::sum_lanes;
using cuda::to_float;
using cuda::Vector;

constexpr int kMostWidth = 256;            // of one head
constexpr int kHeads = 8;                  // query heads of one block of attend_chunks
constexpr int kChunk = 64;                 // positions of one block
constexpr int kUnroll = 4;                 // positions of one thread
constexpr int kSlices = kChunk / kUnroll;  // groups of threads, each with every kSlices-th position
constexpr int kMergeThreads = 256;         // of merge_chunks
constexpr std::int64_t kMostBlocks = 4096;  // of attend_chunks: several times what a GPU runs at once

// How a call is cut into blocks; scratch is [batch, heads, chunks, stride] floats: the values' sum, then at
// stride - 4 the largest score and the weights' sum.
struct Plan {
  std::int64_t group;   // query heads of each key head
  std::int64_t tiles;   // parts of a group
  std::int64_t chunks;  // parts of the positions
  std::int64_t stride;

  std::int64_t scratch_floats(std::int64_t rows) const { return rows * chunks * stride; }
};

template <typename T>
Plan plan(const Call<T>& call) {
  Plan made{};
  made.group = call.heads / call.kv_heads;
  made.tiles = (made.group + kHeads - 1) / kHeads;
  made.chunks = (call.positions + kChunk - 1) / kChunk;
  made.stride = (call.width + 3) / 4 * 4 + 4;
  return made;
}

// kLanes threads share a position; each has kLoads vectors of kVector elements of it.
template <typename T, int kVector, int kLanes, int kLoads>
__global__ void __launch_bounds__(kSlices* kLanes, 1)
    attend_chunks(const Call<T> call, const Plan plan, float* __restrict__ scratch) {
  constexpr int kThreads = kSlices * kLanes, kWarps = kThreads / 32, kWidth = kLanes * kVector * kLoads;
  static_assert(kWidth <= kMostWidth && kLanes <= 32);
  __shared__ alignas(16) float query[kHeads][kWidth];
  __shared__ float weights[kHeads][kChunk];
  __shared__ float sums[2][kWarps][kWidth];

  // Fewer than 2^31 blocks: 32-bit divisions, which are much faster.
  const unsigned tiles = static_cast<unsigned>(plan.tiles), kv_heads = static_cast<unsigned>(call.kv_heads);
  const std::int64_t tile = blockIdx.x % tiles, kv = blockIdx.x / tiles % kv_heads;
  const std::int64_t b = blockIdx.x / tiles / kv_heads;
  // Fewer than 2^31 positions too: wider numbers would need registers that the keys and values have.
  const unsigned length =
      static_cast<unsigned>(clamped(call.lengths[b * call.lengths_stride], call.positions));
  const int width = static_cast<int>(call.width);
  const std::int64_t head = kv * plan.group + tile * kHeads, more = plan.group - tile * kHeads;
  const int heads = static_cast<int>(more < kHeads ? more : kHeads);
  const std::int64_t slot = clamped(call.slots[b * call.slots_stride], call.cache_slots - 1);
  const T* const row_keys = call.keys + slot * call.keys_slot_stride + kv * call.keys_head_stride;
  const T* const row_values = call.values + slot * call.values_slot_stride + kv * call.values_head_stride;
  const int lane = threadIdx.x % kLanes, slice = threadIdx.x / kLanes;
  const int warp = threadIdx.x / 32, thread = threadIdx.x % 32;

  unsigned first = blockIdx.y * kChunk;
  if (first >= length) return;  // the whole block: nothing valid here
  int count;
  Vector<T, kVector> keys[kUnroll][kLoads], values[kUnroll][kLoads];
  const auto load = [&] {
    count = static_cast<int>(length - first < kChunk ? length - first : kChunk);
    load_rows<kLanes>(row_keys + first * call.keys_position_stride, call.keys_position_stride, slice, kSlices,
                      count, width, keys);
    load_rows<kLanes>(row_values + first * call.values_position_stride, call.values_position_stride, slice,
                      kSlices, count, width, values);
  };
  load();
  for (int i = threadIdx.x; i < heads * kWidth; i += kThreads) {
    const int h = i / kWidth, d = i % kWidth;
    const T* from = call.query + b * call.query_batch_stride + (head + h) * call.query_head_stride;
    query[h][d] = d < width ? to_float(from[d]) : 0.0f;
  }
  __syncthreads();

#pragma unroll 1
  for (;;) {
#pragma unroll 1
    for (int h = 0; h < heads; ++h) {
      float product[kUnroll];
      cuda::multiply_rows<kLanes>(query[h], keys, product);
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const int s = u * kSlices + slice;
        if (lane == 0) weights[h][s] = s < count ? product[u] * call.scale : -INFINITY;
      }
    }
    __syncthreads();

    float* const partials = scratch + ((b * call.heads + head) * plan.chunks + first / kChunk) * plan.stride;
    const std::int64_t next_head = plan.chunks * plan.stride;
    for (int h = warp; h < heads; h += kWarps) {
      static_assert(kChunk == 64);
      const float one = weights[h][thread], other = weights[h][thread + 32];
      const float largest = max_lanes(fmaxf(one, other)), point = reference_point(largest);
      weights[h][thread] = expf(one - point);
      weights[h][thread + 32] = expf(other - point);
      const float total = sum_lanes(weights[h][thread] + weights[h][thread + 32]);
      if (thread == 0) {
        partials[h * next_head + plan.stride - 4] = largest;
        partials[h * next_head + plan.stride - 3] = total;
      }
    }
    __syncthreads();

#pragma unroll 1
    for (int h = 0; h < heads; ++h) {
      float(&sum)[kWarps][kWidth] = sums[h % 2];  // in turns, so that one barrier a head is enough
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
#pragma unroll
        for (int e = 0; e < kVector; ++e) {
          float part = 0.0f;
#pragma unroll
          for (int u = 0; u < kUnroll; ++u) {
            part += weights[h][u * kSlices + slice] * to_float(values[u][i].element[e]);
          }
#pragma unroll
          for (int offset = kLanes; offset < 32; offset *= 2) {
            part += __shfl_xor_sync(0xffffffffu, part, offset);
          }
          if (thread < kLanes) sum[warp][(i * kLanes + lane) * kVector + e] = part;
        }
      }
      __syncthreads();
      for (int d = threadIdx.x; d < width; d += kThreads) {
        float all = 0.0f;
#pragma unroll
        for (int w = 0; w < kWarps; ++w) all += sum[w][d];
        partials[h * next_head + d] = all;
      }
    }
    first += gridDim.y * kChunk;
    if (first >= length) return;
    load();  // without a barrier: one comes before anything is written that the last chunk's sums are from
  }
}

template <typename T>
__global__ void __launch_bounds__(kMergeThreads)
    merge_chunks(const Call<T> call, const Plan plan, const float* __restrict__ scratch) {
  __shared__ float4 sums[kMergeThreads];
  __shared__ float totals[kMergeThreads];
  const std::int64_t row = blockIdx.x, b = row / call.heads;
  const std::int64_t length = clamped(call.lengths[b * call.lengths_stride], call.positions);
  const std::int64_t chunks = (length + kChunk - 1) / kChunk;  // those with a valid position
  const float* const partials = scratch + row * plan.chunks * plan.stride;
  const float* const scalars = partials + plan.stride - 4;

  float largest = -INFINITY;
  for (std::int64_t c = threadIdx.x % 32; c < chunks; c += 32) {
    largest = fmaxf(largest, scalars[c * plan.stride]);
  }
  const float point = reference_point(max_lanes(largest));

  // Each thread has four elements of every parts-th chunk.
  const int columns = static_cast<int>(plan.stride / 4) - 1, parts = kMergeThreads / columns;
  const int column = threadIdx.x % columns, part = threadIdx.x / columns;
  float4 sum = {};
  float total = 0.0f;
#pragma unroll 4
  for (std::int64_t c = part; part < parts && c < chunks; c += parts) {
    const float2 scalar = *reinterpret_cast<const float2*>(scalars + c * plan.stride);
    const float4 one = *reinterpret_cast<const float4*>(partials + c * plan.stride + column * 4);
    const float factor = expf(scalar.x - point);
    total += factor * scalar.y;
    sum.x += factor * one.x;
    sum.y += factor * one.y;
    sum.z += factor * one.z;
    sum.w += factor * one.w;
  }
  sums[threadIdx.x] = sum;
  totals[threadIdx.x] = total;
  __syncthreads();
  if (part > 0) return;
  for (int other = 1; other < parts; ++other) {
    const float4 one = sums[other * columns + column];
    total += totals[other * columns + column];
    sum.x += one.x;
    sum.y += one.y;
    sum.z += one.z;
    sum.w += one.w;
  }
  if (chunks == 0) total = 1.0f;  // no position: zeros
  const float elements[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    const int d = column * 4 + e;
    if (d < call.width) round_to(elements[e] / total, call.result[row * call.width + d]);
  }
}

template <typename T, int kVector, int kLanes, int kLoads>
cudaError_t launch_shape(const Call<T>& call, const Plan& plan, float* scratch, cudaStream_t stream) {
  const std::int64_t groups = call.batch * call.kv_heads * plan.tiles, rows = call.batch * call.heads;
  if (groups > INT_MAX || rows > INT_MAX || call.positions > INT_MAX) return cudaErrorInvalidConfiguration;
  if (rows == 0) return cudaSuccess;
  if (plan.chunks > 0) {
    const std::int64_t share = kMostBlocks / groups > 1 ? kMostBlocks / groups : 1;
    const dim3 grid(static_cast<unsigned>(groups),
                    static_cast<unsigned>(share < plan.chunks ? share : plan.chunks));
    attend_chunks<T, kVector, kLanes, kLoads><<<grid, kSlices * kLanes, 0, stream>>>(call, plan, scratch);
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) return error;
  }
  merge_chunks<T><<<static_cast<unsigned>(rows), kMergeThreads, 0, stream>>>(call, plan, scratch);
  return cudaGetLastError();
}

// Whether every row of the cache starts at a multiple of 16 bytes and is a whole number of them long.
template <typename T>
bool aligned(const Call<T>& call) {
  constexpr std::int64_t vector = 16 / sizeof(T);
  const auto starts = [&](const T* first, std::int64_t slot, std::int64_t head, std::int64_t position) {
    return reinterpret_cast<std::uintptr_t>(first) % 16 == 0 &&
           (call.cache_slots == 1 || slot % vector == 0) && (call.kv_heads == 1 || head % vector == 0) &&
           (call.positions == 1 || position % vector == 0);
  };
  return call.width % vector == 0 &&
         starts(call.keys, call.keys_slot_stride, call.keys_head_stride, call.keys_position_stride) &&
         starts(call.values, call.values_slot_stride, call.values_head_stride, call.values_position_stride);
}

// Computes call.result; asynchronous, on the current device. Widths are 1 to kMostWidth; scratch is aligned
// to 16 bytes and has plan.scratch_floats(batch * heads) floats.
template <typename T>
cudaError_t launch(const Call<T>& call, const Plan& plan, float* scratch, cudaStream_t stream) {
  constexpr int vector = 16 / sizeof(T);
  if (!aligned(call)) return launch_shape<T, 1, 32, kMostWidth / 32>(call, plan, scratch, stream);
  if (call.width <= vector * 8) return launch_shape<T, vector, 8, 1>(call, plan, scratch, stream);
  if (call.width <= vector * 16) return launch_shape<T, vector, 16, 1>(call, plan, scratch, stream);
  if (call.width <= vector * 32) return launch_shape<T, vector, 32, 1>(call, plan, scratch, stream);
  return launch_shape<T, vector, 32, kMostWidth / vector / 32>(call, plan, scratch, stream);
}

}  // namespace secondlook::decode_attention
