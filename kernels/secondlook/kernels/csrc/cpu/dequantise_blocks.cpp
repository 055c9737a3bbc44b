// secondlook::dequantise_blocks on the CPU: weights of few bits as floats, in the blocks that a product of many
// rows reads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "cpu/blocked_checks.h"
#include "cpu/elementwise.h"

namespace {

namespace blocked = secondlook::blocked;
namespace low_bit = secondlook::low_bit;
using namespace secondlook;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Index = std::int64_t;

// Floats in blocks [blocks, pairs, width, pair].
template <typename T>
struct Target {
  T* data;
  Index blocks, pairs, width;
};

// The weights of 16 outputs, of a first or second input of a pair: these are written first.
SECONDLOOK_INLINE void write(const Floats& weights, bool, float* to) { store(to, weights); }
SECONDLOOK_INLINE void write(const Floats& weights, bool second, BFloat16* to) {
  const Words bits = reinterpret_bits<Words>(elementwise::rounded_lanes<BFloat16>(weights));
  const Words pairs = second ? bits | load_pairs(to) : bits >> 16;
  std::memcpy(to, &pairs, sizeof(pairs));
}

// 16 outputs of a block, 16 v behind its first.
template <typename Q, int v, typename T>
SECONDLOOK_INLINE void dequantise_lanes(const std::uint8_t* group, const low_bit::Spans& spans, Index inputs,
                                        Index block, const Target<T>& to) {
  constexpr Index pair = blocked::kPair<T>;
  constexpr float less = 1.0f / static_cast<float>(1 << Q::shift(v));
  const Index output = block * low_bit::kWidth + v * kLanes;
  if (output >= to.blocks * to.width) return;
  T* const place = to.data + (output / to.width * to.pairs * to.width + output % to.width) * pair;
  for (Index first = 0; first < inputs; first += spans.group, group += low_bit::stride_of<Q>(spans)) {
    const low_bit::Scales of(group, v);
    const Floats scale = of.scales(), zero = of.zeros() + Q::kMore;
    const std::uint8_t* row = group + low_bit::kWords * low_bit::kWidth;
    const Index end = std::min(inputs, first + spans.group);
    for (Index k = first; k < end; row += low_bit::kWidth) {
      const Words words = low_bit::load_32(row);
#pragma GCC unroll 2
      for (int input = 0; input < Q::kInputs && k < end; ++input, ++k) {
        const Floats weights = (Q::values(words, input, v) * less - zero) * scale;
        write(weights, k % pair, place + k / pair * to.width * pair);
      }
    }
  }
}

template <typename Q, typename T>
SECONDLOOK_INLINE void dequantise(const blocked::Weights<T>& weights, Index inputs, Index begin, Index end,
                                  const Target<T>& to) {
  const low_bit::Spans spans{weights.inputs, weights.group};
  for (Index block = begin; block < end; ++block) {
    const auto* const data = static_cast<const std::uint8_t*>(weights.data) + block * weights.stride;
    dequantise_lanes<Q, 0>(data, spans, inputs, block, to);
    dequantise_lanes<Q, 1>(data, spans, inputs, block, to);
    dequantise_lanes<Q, 2>(data, spans, inputs, block, to);
    dequantise_lanes<Q, 3>(data, spans, inputs, block, to);
  }
}

#define SECONDLOOK_DEQUANTISE(T)                                                                      \
  SECONDLOOK_CLONES void run(const blocked::Weights<T>& weights, Index inputs, Index begin, Index end, \
                             const Target<T>& to) {                                                   \
    if (weights.held == blocked::Held::kBytes) {                                                      \
      dequantise<low_bit::Bytes>(weights, inputs, begin, end, to);                                       \
    } else {                                                                                          \
      dequantise<low_bit::Nibbles>(weights, inputs, begin, end, to);                                  \
    }                                                                                                 \
  }
SECONDLOOK_DEQUANTISE(float)
SECONDLOOK_DEQUANTISE(BFloat16)
#undef SECONDLOOK_DEQUANTISE

template <typename T>
void run_all(const Tensor& weight, Index inputs, const Tensor& result) {
  const auto weights = blocked::weights_of<T>(weight, weight.size(0) * low_bit::kWidth, inputs);
  T* const data = static_cast<T*>(result.mutable_data_ptr());
  const Target<T> to{data, result.size(0), result.size(1), result.size(2)};
  torch::stable::parallel_for(0, weight.size(0), grain(inputs * low_bit::kWidth),
                              [&](Index begin, Index end) { run(weights, inputs, begin, end, to); });
}

void dequantise_blocks(const Tensor& weight, Index inputs, const Tensor& result) {
  STD_TORCH_CHECK(blocked::of_few_bits(weight) && weight.dim() == 4, "weight must be of few bits, in blocks");
  blocked::check_low_bit(weight, "weight", weight.size(0) * low_bit::kWidth, inputs);
  const ScalarType type = result.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::BFloat16,
                  "result must be Float or BFloat16, but is scalar type ", static_cast<int>(type));
  const Index before = (weight.size(0) - 1) * low_bit::kWidth;
  STD_TORCH_CHECK(result.dim() == 4 && result.size(0) * result.size(2) > before,
                  "result must have as many outputs as weight");
  blocked::check_weights(result, "result", result.size(0) * result.size(2), inputs, type);
  if (type == ScalarType::Float) {
    run_all<float>(weight, inputs, result);
  } else {
    run_all<BFloat16>(weight, inputs, result);
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(secondlook, CPU, m) { m.impl("dequantise_blocks", TORCH_BOX(&dequantise_blocks)); }
