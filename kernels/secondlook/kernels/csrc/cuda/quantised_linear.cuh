// A linear layer whose weights have few bits, of a few rows and, as weights of the input's dtype, of many.
//
// With few rows the time is that of reading the weights. Each block has kOutputs outputs, and its threads the
// inputs in turns, kPiece each time: neighbours read neighbouring weights and inputs, and all that a turn
// needs is on its way before the first of it is used. Values become weights in registers, with float32's one
// rounding; products are summed in float32. Which thread adds what in which order does not depend on the
// rows, so that none of them changes a bit of another's result. Deterministic, without atomics and without
// any look at device memory from the host.
#pragma once

#include <climits>
#include <cstdint>

#include "cuda/warp.cuh"

namespace secondlook::quantised_linear {

using cuda::kWarp;
using cuda::round_to;
using cuda::sum_lanes;
using cuda::to_float;
using cuda::Vector;

constexpr int kPiece = 8;    // inputs of a thread's turn
constexpr int kOutputs = 4;  // of one block of multiply
constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr std::int64_t kMostRows = 16;         // of multiply
constexpr std::int64_t kMostInputs = 1 << 19;  // fewer than that, for Call::divisor
constexpr std::int64_t kLeastGroup = 2 * kPiece;

// Everything about one call; strides in elements. Inputs and groups are whole numbers of pieces.
template <typename T>
struct Call {
  const T* input;          // [rows, inputs]; each row starts at a multiple of 16 bytes
  const void* values;      // [outputs, inputs], of a format's bits; contiguous, as all that follow
  const unsigned* scales;  // [outputs, groups]; see Scale
  const T* bias;           // [outputs]; may be null
  std::int64_t rows, inputs, outputs, groups;
  std::int64_t input_stride;
  T* result;               // [rows, outputs]

  // For the group of a piece, piece * divisor >> 32, which is exact for fewer than 2^16 pieces: the divisor is
  // 2^32 / (pieces of a group), rounded up, by less than 1.
  unsigned divisor() const {
    const std::uint64_t pieces = static_cast<std::uint64_t>(inputs / groups / kPiece);
    return static_cast<unsigned>(((std::uint64_t{1} << 32) + pieces - 1) / pieces);
  }
};

// A group's scale and zero in a word: a float without its last 8 bits, and in their place the zero + 128.
struct Scale {
  float scale, zero;

  __device__ __forceinline__ explicit Scale(unsigned word) {
    scale = __uint_as_float(word & ~0xffu);
    zero = __uint_as_float(0x4b000000u | (word & 0xffu)) - 0x1.0001p23f;  // 2^23 + 128
  }
};

// Whole numbers in two's complement, the first in the lowest bits. Each is put into the mantissa of a float,
// where it is: with the exponent for which the value's lowest bit is worth 1, that is 2^(23 - place) + value
// + half the values' range, after the sign's bit is flipped.
template <int kBits>
struct Whole {
  static constexpr float kUnit = 1.0f;
  using Piece = Vector<unsigned, kPiece * kBits / 32>;

  __device__ static __forceinline__ void widen(const Piece& piece, float (&to)[kPiece]) {
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
      const int bit = i * kBits, place = bit % 16;
      const unsigned word = piece.element[bit / 32] >> (bit % 32 - place);
      const unsigned mask = ((1u << kBits) - 1u) << place, sign = 1u << (kBits - 1 + place);
      const unsigned exponent = static_cast<unsigned>(127 + 23 - place) << 23;
      const float added = static_cast<float>((1 << (23 - place)) + (1 << (kBits - 1)));
      to[i] = __uint_as_float((word & mask) ^ (exponent | sign)) - added;
    }
  }
};
using Int4 = Whole<4>;
using Int8 = Whole<8>;

// Floats of 4 bits of exponent and 3 of mantissa (E4M3 of arXiv 2209.05433), all finite: as the highest bits
// of a half they are worth 1 / 256, for the exponents' biases are 7 and 15; subnormal ones too.
struct Float8 {
  static constexpr float kUnit = 256.0f;
  using Piece = Vector<unsigned, kPiece / 4>;

  __device__ static __forceinline__ void widen(const Piece& piece, float (&to)[kPiece]) {
#pragma unroll
    for (int i = 0; i < kPiece; i += 4) {
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        const unsigned word = piece.element[i / 4] << (odd != 0 ? 0 : 8);
        const unsigned bits = (word & 0x80008000u) | (word & 0x7f007f00u) >> 1;
        const auto halves = *reinterpret_cast<const Vector<__half, 2>*>(&bits);
        to[i + odd] = to_float(halves.element[0]);
        to[i + odd + 2] = to_float(halves.element[1]);
      }
    }
  }
};

// The weights of an output at a piece of its inputs.
template <typename Format, typename T>
__device__ __forceinline__ void load_weights(const Call<T>& call, std::int64_t output, unsigned piece,
                                             unsigned group, float (&to)[kPiece]) {
  using Piece = typename Format::Piece;
  const Piece loaded = static_cast<const Piece*>(call.values)[output * (call.inputs / kPiece) + piece];
  const Scale of(call.scales[output * call.groups + group]);
  Format::widen(loaded, to);
  // (value - zero) * scale: the zero's product is exact, of 8 and 16 bits.
  const float scale = of.scale * Format::kUnit, offset = -of.zero * of.scale;
#pragma unroll
  for (int i = 0; i < kPiece; ++i) to[i] = fmaf(to[i], scale, offset);
}

template <typename T>
__device__ __forceinline__ void load_inputs(const T* from, float (&to)[kPiece]) {
  constexpr int kVector = 16 / sizeof(T);
#pragma unroll
  for (int i = 0; i < kPiece; i += kVector) {
    const auto part = *reinterpret_cast<const Vector<T, kVector>*>(from + i);
#pragma unroll
    for (int e = 0; e < kVector; ++e) to[i + e] = to_float(part.element[e]);
  }
}

__device__ __forceinline__ unsigned group_of(unsigned piece, unsigned divisor) {
  return static_cast<unsigned>(static_cast<std::uint64_t>(piece) * divisor >> 32);
}

// A block for kRows rows of kOutputs outputs; blocks of the same outputs follow each other.
template <typename T, typename Format, int kRows>
__global__ void __launch_bounds__(kThreads) multiply(const Call<T> call, const unsigned divisor) {
  constexpr int kSums = kRows * kOutputs;
  static_assert(kSums <= kThreads);
  __shared__ float sums[kWarps][kSums];
  const unsigned tiles = static_cast<unsigned>((call.rows + kRows - 1) / kRows);
  const std::int64_t first_output = std::int64_t{blockIdx.x / tiles} * kOutputs;
  const std::int64_t first_row = std::int64_t{blockIdx.x % tiles} * kRows;
  const unsigned pieces = static_cast<unsigned>(call.inputs / kPiece);

  // Behind the last row and output are those again.
  const T* inputs[kRows];
  std::int64_t outputs[kOutputs];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    inputs[r] = call.input + cuda::clamped(first_row + r, call.rows - 1) * call.input_stride;
  }
#pragma unroll
  for (int o = 0; o < kOutputs; ++o) outputs[o] = cuda::clamped(first_output + o, call.outputs - 1);

  float sum[kRows][kOutputs] = {};
#pragma unroll 1
  for (unsigned piece = threadIdx.x; piece < pieces; piece += kThreads) {
    const unsigned group = group_of(piece, divisor);
    float weights[kOutputs][kPiece];
#pragma unroll
    for (int o = 0; o < kOutputs; ++o) load_weights<Format>(call, outputs[o], piece, group, weights[o]);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float x[kPiece];
      load_inputs(inputs[r] + piece * kPiece, x);
#pragma unroll
      for (int i = 0; i < kPiece; ++i) {
#pragma unroll
        for (int o = 0; o < kOutputs; ++o) sum[r][o] = fmaf(weights[o][i], x[i], sum[r][o]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int o = 0; o < kOutputs; ++o) {
      const float all = sum_lanes(sum[r][o]);
      if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp][r * kOutputs + o] = all;
    }
  }
  __syncthreads();
  const std::int64_t row = first_row + threadIdx.x / kOutputs, output = first_output + threadIdx.x % kOutputs;
  if (threadIdx.x >= kSums || row >= call.rows || output >= call.outputs) return;
  float total = call.bias != nullptr ? to_float(call.bias[output]) : 0.0f;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) total += sums[w][threadIdx.x];
  round_to(total, call.result[row * call.outputs + output]);
}

// Weights [outputs, inputs] of the input's dtype; a block an output.
template <typename T, typename Format>
__global__ void __launch_bounds__(kThreads)
    dequantise(const Call<T> call, const unsigned divisor, T* __restrict__ to) {
  constexpr int kVector = 16 / sizeof(T);
  const std::int64_t output = blockIdx.x;
  const unsigned pieces = static_cast<unsigned>(call.inputs / kPiece);
  for (unsigned piece = threadIdx.x; piece < pieces; piece += kThreads) {
    float weights[kPiece];
    load_weights<Format>(call, output, piece, group_of(piece, divisor), weights);
#pragma unroll
    for (int i = 0; i < kPiece; i += kVector) {
      Vector<T, kVector> part;
#pragma unroll
      for (int e = 0; e < kVector; ++e) round_to(weights[i + e], part.element[e]);
      *reinterpret_cast<Vector<T, kVector>*>(to + output * call.inputs + piece * kPiece + i) = part;
    }
  }
}

template <typename T, typename Format, int kRows>
cudaError_t launch_rows(const Call<T>& call, cudaStream_t stream) {
  const std::int64_t tiles = (call.rows + kRows - 1) / kRows;
  const std::int64_t blocks = (call.outputs + kOutputs - 1) / kOutputs * tiles;
  if (blocks > INT_MAX) return cudaErrorInvalidConfiguration;
  multiply<T, Format, kRows><<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(call, call.divisor());
  return cudaGetLastError();
}

// Computes call.result; asynchronous, on the current device. 1 to kMostRows rows, at least one output, fewer
// than kMostInputs inputs, groups of at least kLeastGroup.
template <typename T, typename Format>
cudaError_t launch(const Call<T>& call, cudaStream_t stream) {
  if (call.rows == 1) return launch_rows<T, Format, 1>(call, stream);
  if (call.rows == 2) return launch_rows<T, Format, 2>(call, stream);
  if (call.rows <= 4) return launch_rows<T, Format, 4>(call, stream);
  return launch_rows<T, Format, 8>(call, stream);
}

// The weights alone; to is [outputs, inputs], aligned to 16 bytes.
template <typename T, typename Format>
cudaError_t launch_dequantise(const Call<T>& call, T* to, cudaStream_t stream) {
  if (call.outputs > INT_MAX) return cudaErrorInvalidConfiguration;
  dequantise<T, Format><<<static_cast<unsigned>(call.outputs), kThreads, 0, stream>>>(call, call.divisor(), to);
  return cudaGetLastError();
}

}  // namespace secondlook::quantised_linear
