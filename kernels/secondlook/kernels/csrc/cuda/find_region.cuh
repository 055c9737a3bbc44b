// find_region on the GPU: one block for each row, one launch, by a summed-area table.
//
// The table is in shared memory where it fits, else in a scratch buffer. Relative attention lies, as bits, in
// the table's cells until the largest is known. All loops and returns around a barrier or a shuffle are
// uniform; nothing depends on the order of threads.
#pragma once

#include <climits>
#include <cstddef>
#include <cstdint>

#include "../find_region.h"
#include "warp.cuh"

namespace secondlook::cuda {

inline constexpr int kMostThreads = 512;  // a thread then has 128 registers, on every architecture
inline constexpr size_t kMostTableBytes = 46 * 1024;  // of 48 kB; the kernel's own arrays need the rest

using Cell = long long;

// Bytes of one row's table.
inline size_t region_table_bytes(const region::Search& search) {
  return (static_cast<size_t>(search.rows) + 1) * (static_cast<size_t>(search.columns) + 1) * sizeof(Cell);
}

// Bytes of scratch that `launch_find_region` needs; 0 where shared memory is enough.
inline size_t region_scratch_bytes(const region::Search& search, int64_t batch) {
  const size_t bytes = region_table_bytes(search);
  return bytes <= kMostTableBytes ? 0 : bytes * static_cast<size_t>(batch);
}

struct Smaller {
  __device__ double operator()(double one, double other) const { return one < other ? one : other; }
};

struct Larger {
  __device__ double operator()(double one, double other) const { return one > other ? one : other; }
};

// The smallest or largest value of the block, for every thread. `partial` has a place for each warp, and is
// used once in a kernel.
template <typename Choice>
__device__ double reduce_block(double value, double* partial, Choice choice) {
  value = reduce_lanes(value, choice);
  const int lane = threadIdx.x % kWarp;
  if (lane == 0) partial[threadIdx.x / kWarp] = value;
  __syncthreads();
  return reduce_lanes(partial[lane < blockDim.x / kWarp ? lane : 0], choice);
}

// Running sums along `lines` lines of `length` cells, in place; a warp takes 32 cells at a time.
__device__ inline void scan_lines(Cell* table, int lines, int length, int line_stride, int cell_stride) {
  const int lane = threadIdx.x % kWarp;
  for (int line = threadIdx.x / kWarp; line < lines; line += blockDim.x / kWarp) {
    Cell* cells = table + line * line_stride;
    Cell carried = 0;
    for (int begin = 0; begin < length; begin += kWarp) {
      const int index = begin + lane;
      Cell sum = index < length ? cells[index * cell_stride] : 0;
      for (int offset = 1; offset < kWarp; offset *= 2) {
        const Cell before = __shfl_up_sync(kAllLanes, sum, offset);
        if (lane >= offset) sum += before;
      }
      sum += carried;
      if (index < length) cells[index * cell_stride] = sum;
      carried = __shfl_sync(kAllLanes, sum, kWarp - 1);
    }
  }
}

// A window's sum and its number in x-major order.
struct Candidate {
  Cell sum;
  int order;
};

__device__ inline Candidate better(Candidate one, Candidate other) {
  const bool second = other.sum > one.sum || (other.sum == one.sum && other.order < one.order);
  return second ? other : one;
}

__device__ inline Candidate reduce_warp(Candidate best) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const Candidate other{__shfl_xor_sync(kAllLanes, best.sum, offset),
                          __shfl_xor_sync(kAllLanes, best.order, offset)};
    best = better(best, other);
  }
  return best;
}

// The best of the windows that this thread looks at: number threadIdx.x, + blockDim.x, ... in y-major order.
__device__ inline Candidate best_of_thread(const Cell* table, const region::Search& search,
                                           region::Window window) {
  const int across = search.columns - window.nx + 1;
  const int down = search.rows - window.ny + 1;
  Candidate best{-1, INT_MAX};  // sums are never negative
  for (int number = threadIdx.x; number < across * down; number += blockDim.x) {
    const int y = number / across;
    const int x = number - y * across;
    best = better(best, {region::window_sum(table, search.columns, window, x, y), x * down + y});
  }
  return best;
}

__device__ inline void write_box(int64_t* out, region::Box box) {
  out[0] = box.left;
  out[1] = box.top;
  out[2] = box.right;
  out[3] = box.bottom;
}

extern __shared__ Cell region_shared_table[];

template <typename Value, bool kInShared>
__global__ void __launch_bounds__(kMostThreads, 1)
    find_region_kernel(const Value* __restrict__ question, int64_t question_stride,
                       const Value* __restrict__ generic, int64_t generic_stride,
                       const int64_t* __restrict__ sizes, int64_t size_stride,
                       const __grid_constant__ region::Search search, Cell* __restrict__ scratch,
                       int64_t* __restrict__ boxes) {
  __shared__ region::Window windows[region::kMostRatios];
  __shared__ double smallest_of_warps[kWarp];
  __shared__ double largest_of_warps[kWarp];
  __shared__ Candidate best_of_warps[2][kWarp];

  const int64_t row = blockIdx.x;
  const int thread = threadIdx.x;
  const int cells = search.rows * search.columns;
  const int pitch = search.columns + 1;
  question += row * question_stride;
  generic += row * generic_stride;
  int64_t* box = boxes + row * 4;
  const region::Image image{sizes[row * size_stride], sizes[row * size_stride + 1]};
  const int64_t table_cells = (static_cast<int64_t>(search.rows) + 1) * pitch;
  Cell* table = kInShared ? region_shared_table : scratch + row * table_cells;

  // What the row holds: attention only? What stands in for zero?
  bool valid = region::is_size(image);
  if (valid && thread < search.ratio_count) {
    windows[thread] = region::window_of(search, image, search.ratios[thread]);
  }
  double floor = region::kInfinity;
  for (int cell = thread; cell < cells; cell += blockDim.x) {
    const double seen = generic[cell];
    valid = valid && region::is_attention(question[cell]) && region::is_attention(seen);
    if (seen > 0 && seen < floor) floor = seen;
  }
  if (!__syncthreads_and(valid)) {
    if (thread == 0) write_box(box, region::kNoRegion);
    return;
  }
  if (region::covers(search, windows[0])) {
    if (thread == 0) write_box(box, {0, 0, image.width, image.height});
    return;
  }
  floor = reduce_block(floor, smallest_of_warps, Smaller{});
  if (floor == region::kInfinity) floor = 1;

  // Relative attention, and its largest value.
  double largest = 0;
  for (int cell = thread; cell < cells; cell += blockDim.x) {
    const double relative = region::relative_attention(question[cell], generic[cell], floor);
    largest = Larger{}(largest, relative);
    const int y = cell / search.columns;
    table[(y + 1) * pitch + cell - y * search.columns + 1] = __double_as_longlong(relative);
  }
  largest = reduce_block(largest, largest_of_warps, Larger{});

  // In steps; each thread has the cells it wrote.
  const region::Scale scale = region::scale_of(largest, search.bits);
  for (int cell = thread; cell < cells; cell += blockDim.x) {
    const int y = cell / search.columns;
    Cell* place = table + (y + 1) * pitch + cell - y * search.columns + 1;
    *place = region::in_steps(__longlong_as_double(*place), scale);
  }
  for (int x = thread; x <= search.columns; x += blockDim.x) table[x] = 0;
  for (int y = thread + 1; y <= search.rows; y += blockDim.x) table[y * pitch] = 0;
  __syncthreads();
  scan_lines(table + pitch + 1, search.rows, search.columns, pitch, 1);
  __syncthreads();
  scan_lines(table + pitch + 1, search.columns, search.rows, 1, pitch);
  __syncthreads();

  // The sharpest of the windows with the largest sums. Two buffers take turns: warp 0 has read one before it
  // passes the barrier after which that one is written again.
  region::Sharpness sharpest{0, 1};
  region::Window window{};
  int best_order = 0;
  int best_ratio = -1;
  for (int index = 0; index < search.ratio_count; ++index) {
    const region::Window tried = windows[index];
    if (region::covers(search, tried)) continue;
    Candidate best = reduce_warp(best_of_thread(table, search, tried));
    if (thread % kWarp == 0) best_of_warps[index % 2][thread / kWarp] = best;
    __syncthreads();
    if (thread >= kWarp) continue;
    best = reduce_warp(best_of_warps[index % 2][thread < blockDim.x / kWarp ? thread : 0]);
    if (thread == 0) {
      const int down = search.rows - tried.ny + 1;
      const region::Sharpness sharpness =
          region::sharpness_of(table, search, tried, best.order / down, best.order % down);
      if (best_ratio < 0 || region::sharper(sharpness, sharpest)) {
        sharpest = sharpness;
        window = tried;
        best_order = best.order;
        best_ratio = index;
      }
    }
  }
  if (thread == 0) {
    const int down = search.rows - window.ny + 1;
    write_box(box, region::box_of(search, image, search.ratios[best_ratio], window, best_order / down,
                                  best_order % down));
  }
}

// Writes batch boxes. All pointers are of the current device; scratch has `region_scratch_bytes` bytes. 1 <=
// batch < 2^31.
template <typename Value>
cudaError_t launch_find_region(const Value* question, int64_t question_stride, const Value* generic,
                               int64_t generic_stride, const int64_t* sizes, int64_t size_stride,
                               int64_t batch, const region::Search& search, void* scratch, int64_t* boxes,
                               cudaStream_t stream) {
  const size_t bytes = region_table_bytes(search);
  const int threads = search.rows * search.columns <= 1024 ? 256 : kMostThreads;
  const dim3 grid(static_cast<unsigned>(batch));
  if (bytes <= kMostTableBytes) {
    find_region_kernel<Value, true><<<grid, threads, bytes, stream>>>(
        question, question_stride, generic, generic_stride, sizes, size_stride, search, nullptr, boxes);
  } else {
    find_region_kernel<Value, false><<<grid, threads, 0, stream>>>(
        question, question_stride, generic, generic_stride, sizes, size_stride, search,
        static_cast<Cell*>(scratch), boxes);
  }
  return cudaGetLastError();
}

}  // namespace secondlook::cuda
