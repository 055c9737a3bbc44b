// The most likely token of a row of logits and three measures of doubt; cpu/token_statistics.h has the sums.
//
// A row is cut into chunks of kChunk tokens, one block each, however many rows there are: a row's result
// depends neither on its neighbours nor on where it lies in memory. A thread holds its 16 logits in
// registers, so that they are read once: first the block finds its best, then the sums as seen from there.
// The block that comes last (each row counts its arrivals) merges the chunks' states in a fixed order. No
// float atomics: the same result every time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/warp.cuh"

namespace secondlook::cuda {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kPerThread = 16;
constexpr int kChunk = kThreads * kPerThread;
constexpr std::int64_t kNowhere = INT64_MAX;

// A total order of floats: -inf, negative, zero (of either sign), positive, +inf, NaN. Nothing at all is 0.
__device__ __forceinline__ unsigned order_of(float value) {
  if (value != value) return 0xffffffffu;
  const unsigned bits = __float_as_uint(value + 0.0f);  // -0 becomes +0
  return bits ^ ((bits >> 31) != 0u ? 0xffffffffu : 0x80000000u);
}

__device__ __forceinline__ float value_of(unsigned order) {
  return __uint_as_float(order ^ ((order >> 31) != 0u ? 0x80000000u : 0xffffffffu));
}

constexpr unsigned kMinusInfinity = 0x007fffffu;  // order_of(-inf)
constexpr unsigned kPlusInfinity = 0xff800000u;   // order_of(+inf)

__device__ __forceinline__ bool is_finite(unsigned order) {
  return order > kMinusInfinity && order < kPlusInfinity;
}

// What is known of a part of a row. The sums and the runner-up mean something where `best` is finite.
struct __align__(16) State {
  std::int64_t index;    // of the best, the lowest among equals
  unsigned best;         // in order_of
  float second, others, spread;
  float unused[2];
};
static_assert(sizeof(State) == 32);

__device__ __forceinline__ State nothing() { return {kNowhere, 0u, -INFINITY, 0.0f, 0.0f, {0.0f, 0.0f}}; }

__device__ __forceinline__ State merge(const State& a, const State& b) {
  const bool b_leads = b.best > a.best || (b.best == a.best && b.index < a.index);
  State high = a, low = b;  // copies: a choice between references would put both in local memory
  if (b_leads) {
    high = b;
    low = a;
  }
  if (is_finite(high.best) && is_finite(low.best)) {
    const float low_best = value_of(low.best);
    const float distance = value_of(high.best) - low_best;
    const float weight = expf(-distance);
    if (weight > 0.0f) {  // the distance may have overflowed to infinity
      high.others += weight * (1.0f + low.others);
      high.spread += weight * (distance * (1.0f + low.others) + low.spread);
    }
    high.second = fmaxf(high.second, low_best);
  }
  return high;
}

__device__ __forceinline__ State from_lane_below(const State& state, int delta) {
  State other = nothing();
  other.index = __shfl_down_sync(kAllLanes, state.index, delta);
  other.best = __shfl_down_sync(kAllLanes, state.best, delta);
  other.second = __shfl_down_sync(kAllLanes, state.second, delta);
  other.others = __shfl_down_sync(kAllLanes, state.others, delta);
  other.spread = __shfl_down_sync(kAllLanes, state.spread, delta);
  return other;
}

// A 16-byte load's worth of logits.
template <typename T>
struct alignas(16) Pack {
  static constexpr int kSize = 16 / sizeof(T);
  T values[kSize];
};

// This thread's logits of the chunk that begins at position `first`; bit i of the result: values[i] is one.
// Which they are does not depend on the row's address, so that neither does the order of any sum: a row that
// does not start at a multiple of 16 bytes is loaded one logit at a time.
template <typename T>
__device__ __forceinline__ unsigned load_chunk(const T* __restrict__ row, std::int64_t first,
                                               std::int64_t vocabulary, float (&values)[kPerThread]) {
  constexpr int kSize = Pack<T>::kSize;
  const bool aligned = reinterpret_cast<std::uintptr_t>(row) % sizeof(Pack<T>) == 0;
  unsigned valid = 0;
#pragma unroll
  for (int j = 0; j < kPerThread / kSize; ++j) {
    const std::int64_t position = first + (j * kThreads + static_cast<int>(threadIdx.x)) * kSize;
    if (aligned && position + kSize <= vocabulary) {
      const uint4 raw = __ldg(reinterpret_cast<const uint4*>(row + position));
      const Pack<T> pack = *reinterpret_cast<const Pack<T>*>(&raw);
#pragma unroll
      for (int e = 0; e < kSize; ++e) values[j * kSize + e] = to_float(pack.values[e]);
      valid |= ((1u << kSize) - 1u) << (j * kSize);
    } else {
#pragma unroll
      for (int e = 0; e < kSize; ++e) {
        const bool inside = position + e < vocabulary;
        values[j * kSize + e] = inside ? to_float(row[position + e]) : -INFINITY;
        valid |= (inside ? 1u : 0u) << (j * kSize + e);
      }
    }
  }
  return valid;
}

// The position in the chunk of this thread's i-th logit.
template <typename T>
__device__ __forceinline__ unsigned position_of(int i) {
  constexpr int kSize = Pack<T>::kSize;
  return (i / kSize * kThreads + threadIdx.x) * kSize + i % kSize;
}

// The state of one chunk; only thread 0's is right.
template <typename T>
__device__ State chunk_state(const T* __restrict__ row, std::int64_t vocabulary, std::int64_t chunk) {
  __shared__ unsigned long long best_of_warp[kWarps];
  __shared__ float others_of_warp[kWarps], spread_of_warp[kWarps], second_of_warp[kWarps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const std::int64_t first = chunk * kChunk;

  float values[kPerThread];
  const unsigned valid = load_chunk(row, first, vocabulary, values);

  // Best first, then lowest position: one number to maximise.
  unsigned long long best = 0;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const unsigned long long key =
        static_cast<unsigned long long>(order_of(values[i])) << 32 | (0xffffffffu - position_of<T>(i));
    if ((valid >> i & 1u) != 0u && key > best) best = key;
  }
  best = reduce_lanes(best, [](auto one, auto other) { return other > one ? other : one; });
  if (lane == 0) best_of_warp[warp] = best;
  __syncthreads();
#pragma unroll
  for (int other = 0; other < kWarps; ++other) {
    if (best_of_warp[other] > best) best = best_of_warp[other];
  }

  State state = nothing();
  state.best = static_cast<unsigned>(best >> 32);
  const unsigned best_position = 0xffffffffu - static_cast<unsigned>(best);
  if (state.best != 0) state.index = first + best_position;
  if (!is_finite(state.best)) return state;  // every thread of the block agrees

  const float best_value = value_of(state.best);
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    // What is not there is -inf: weight 0.
    if (position_of<T>(i) != best_position) {
      const float distance = best_value - values[i];
      const float weight = expf(-distance);
      state.others += weight;
      state.spread += weight > 0.0f ? weight * distance : 0.0f;
      state.second = fmaxf(state.second, values[i]);
    }
  }
  state.others = sum_lanes(state.others);
  state.spread = sum_lanes(state.spread);
  state.second = max_lanes(state.second);
  if (lane == 0) {
    others_of_warp[warp] = state.others;
    spread_of_warp[warp] = state.spread;
    second_of_warp[warp] = state.second;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int other = 1; other < kWarps; ++other) {
      state.others += others_of_warp[other];
      state.spread += spread_of_warp[other];
      state.second = fmaxf(state.second, second_of_warp[other]);
    }
  }
  return state;
}

// A row whose best logit is not finite has no distribution: its measures are NaN.
template <typename Sink>
__device__ __forceinline__ void finish(const Sink& sink, std::int64_t row, const State& state) {
  if (!is_finite(state.best)) {
    const float undefined = __uint_as_float(0x7fc00000u);
    sink.append(row, state.index, undefined, undefined, undefined);
    return;
  }
  const float total = 1.0f + state.others;
  const float min_entropy = log1pf(state.others);
  const float second = expf(state.second - value_of(state.best));
  const float spread = state.spread / total;
  sink.append(row, state.index, min_entropy, min_entropy + spread, (state.others + second) / total);
}

// Grid: rows by chunks. Sink: wants(row) says whether the row is read; append takes the result.
// arrivals [rows] are zeros and left so: every block counts, wanted or not, and the row's last one resets.
template <typename T, typename Sink>
__global__ void __launch_bounds__(kThreads, 4) token_kernel(const T* __restrict__ logits, std::int64_t stride,
                                                         std::int64_t vocabulary, Sink sink,
                                                         State* __restrict__ states,
                                                         int* __restrict__ arrivals) {
  const std::int64_t row = blockIdx.x;
  const unsigned chunk = blockIdx.y, chunks = gridDim.y;
  // One answer for the block: another row that names the same slot may be closing it right now.
  const bool wanted = __syncthreads_and(sink.wants(row)) != 0;
  State state = wanted ? chunk_state(logits + row * stride, vocabulary, chunk) : nothing();
  if (chunks == 1) {
    if (wanted && threadIdx.x == 0) finish(sink, row, state);
    return;
  }
  if (threadIdx.x >= 32) return;

  State* const row_states = states + row * chunks;
  int arrived = 0;
  if (threadIdx.x == 0) {
    row_states[chunk] = state;
    __threadfence();  // the state before the count, and every block's wants() before the last one's append
    arrived = atomicAdd(arrivals + row, 1);
  }
  if (__shfl_sync(kAllLanes, arrived, 0) != static_cast<int>(chunks) - 1) return;
  if (threadIdx.x == 0) arrivals[row] = 0;
  if (!wanted) return;
  __threadfence();  // thread 0's, which has seen every count,
  __syncwarp();     // before what the other lanes read
  state = nothing();
  for (unsigned i = threadIdx.x; i < chunks; i += 32) {
    const int4* const from = reinterpret_cast<const int4*>(row_states + i);
    int4 raw[2] = {__ldcg(from), __ldcg(from + 1)};
    state = merge(state, *reinterpret_cast<const State*>(raw));
  }
#pragma unroll
  for (int delta = 16; delta > 0; delta /= 2) state = merge(state, from_lane_below(state, delta));
  if (threadIdx.x == 0) finish(sink, row, state);
}

// Blocks for each row.
inline std::int64_t token_chunks(std::int64_t vocabulary) { return (vocabulary + kChunk - 1) / kChunk; }

// Bytes of scratch memory, 16-byte aligned, that token_launch needs.
inline std::size_t token_workspace(std::int64_t rows, std::int64_t vocabulary) {
  const std::int64_t chunks = token_chunks(vocabulary);
  return chunks == 1 ? 0 : static_cast<std::size_t>(rows * chunks) * sizeof(State);
}

// One kernel; arrivals [rows] are zeros and left so.
template <typename T, typename Sink>
cudaError_t token_launch(const T* logits, std::int64_t rows, std::int64_t stride, std::int64_t vocabulary,
                         const Sink& sink, void* workspace, int* arrivals, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  const std::int64_t chunks = token_chunks(vocabulary);
  if (rows > INT32_MAX || chunks > 65535) return cudaErrorInvalidValue;
  const dim3 grid(static_cast<unsigned>(rows), static_cast<unsigned>(chunks));
  token_kernel<T, Sink><<<grid, kThreads, 0, stream>>>(logits, stride, vocabulary, sink,
                                                       static_cast<State*>(workspace), arrivals);
  return cudaGetLastError();
}

// Where token_statistics puts its results: four arrays [B].
struct StatisticsSink {
  std::int64_t* token;
  float *min_entropy, *shannon_entropy, *margin;

  __device__ __forceinline__ bool wants(std::int64_t) const { return true; }
  __device__ __forceinline__ void append(std::int64_t row, std::int64_t index, float first, float second,
                                         float third) const {
    token[row] = index;
    min_entropy[row] = first;
    shannon_entropy[row] = second;
    margin[row] = third;
  }
};

}  // namespace secondlook::cuda
