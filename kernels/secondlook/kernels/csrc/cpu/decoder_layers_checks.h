// The arguments of secondlook::decoder_layers, and whether they fit.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "checks.h"
#include "cpu/blocked_checks.h"

namespace secondlook::decoder_layers {

using Index = std::int64_t;
using torch::stable::Tensor;

// A layer's weights, in the order in which they are given; those that may be absent have no elements.
enum Part {
  kInputNorm, kQuery, kKey, kValue, kQueryBias, kKeyBias, kValueBias, kQueryNorm, kKeyNorm, kOutput,
  kOutputNorm, kGate, kUp, kDown, kParts
};
inline constexpr const char* kNames[kParts] = {
    "input_norm", "query",    "key",    "value",       "query_bias", "key_bias", "value_bias",
    "query_norm", "key_norm", "output", "output_norm", "gate",       "up",       "down"};

inline bool is_product(Part which) {
  return (kQuery <= which && which <= kValue) || which == kOutput || (kGate <= which && which <= kDown);
}

// See decoder_layers.py.
struct Arguments {
  const Tensor& hidden;
  const std::vector<Tensor>&weights, &keys, &values;
  const Tensor &cosine, &sine, &slots, &places;
  Index heads, inner;
  double scale, epsilon;

  Index rows() const { return hidden.size(0); }
  Index size() const { return hidden.size(1); }
  Index layers() const { return static_cast<Index>(keys.size()); }
  Index kv_heads() const { return keys[0].size(1); }
  Index width() const { return keys[0].size(3); }
  const Tensor& part(Index layer, Part which) const { return weights[layer * kParts + which]; }

  // Of products: elements of what they give, and of what they take.
  Index outputs(Part which) const {
    if (which == kQuery) return heads * width();
    if (which == kKey || which == kValue) return kv_heads() * width();
    return which == kGate || which == kUp ? inner : size();
  }
  Index inputs(Part which) const {
    if (which == kOutput) return heads * width();
    return which == kDown ? inner : size();
  }
  Index products_of_a_layer() const {
    Index products = 0;
    for (const Part which : {kQuery, kKey, kValue, kOutput, kGate, kUp, kDown}) {
      products += rows() * outputs(which) * inputs(which);
    }
    return products;
  }
};

inline void check_rows(const Tensor& tensor, const std::string& name, const Arguments& a,
                       const std::vector<Index>& shape) {
  STD_TORCH_CHECK(tensor.scalar_type() == a.hidden.scalar_type(), name, " must have the dtype of hidden");
  bool fits = tensor.dim() == static_cast<Index>(shape.size()) && tensor.is_contiguous();
  for (std::size_t i = 0; fits && i < shape.size(); ++i) fits = tensor.size(static_cast<Index>(i)) == shape[i];
  STD_TORCH_CHECK(fits, name, " must be contiguous, of ", shape.size(), " dimensions, the last of size ",
                  shape.back());
}

inline void check_cache(const Tensor& cache, const std::string& name, const Arguments& a) {
  STD_TORCH_CHECK(cache.dim() == 4, name, " must be [S, H_kv, T, W], but has ", cache.dim(), " dimension(s)");
  STD_TORCH_CHECK(cache.scalar_type() == a.hidden.scalar_type(), name, " must have the dtype of hidden");
  for (int dimension = 0; dimension < 4; ++dimension) {
    STD_TORCH_CHECK(cache.size(dimension) == a.keys[0].size(dimension), name, " must have size ",
                    a.keys[0].size(dimension), " in dimension ", dimension, ", but has ", cache.size(dimension));
  }
  STD_TORCH_CHECK(cache.stride(3) == 1, name, " must be contiguous in its last dimension, but its stride is ",
                  cache.stride(3));
}

inline void check_layer(Index layer, const Arguments& a) {
  const std::string of_layer = " of layer " + std::to_string(layer);
  const Index width = a.width(), size = a.size();
  check_cache(a.keys[layer], "keys" + of_layer, a);
  check_cache(a.values[layer], "values" + of_layer, a);
  for (int i = 0; i < kParts; ++i) {
    const Part which = static_cast<Part>(i);
    const Tensor& weight = a.part(layer, which);
    const std::string name = kNames[i] + of_layer;
    switch (which) {
      case kInputNorm:
      case kOutputNorm:
        check_rows(weight, name, a, {size});
        break;
      case kQueryNorm:
      case kKeyNorm:
        if (weight.numel()) check_rows(weight, name, a, {width});
        break;
      case kQueryBias:
      case kKeyBias:
      case kValueBias:
        if (weight.numel()) check_rows(weight, name, a, {a.outputs(static_cast<Part>(which - kQueryBias + kQuery))});
        break;
      default:
        blocked::check_weights(weight, name.c_str(), a.outputs(which), a.inputs(which), a.hidden.scalar_type());
    }
  }
  STD_TORCH_CHECK(blocked::width_of(a.part(layer, kGate)) == blocked::width_of(a.part(layer, kUp)),
                  "gate and up", of_layer, " must have blocks of the same width");
}

inline void check(const Arguments& a) {
  using torch::headeronly::ScalarType;
  SECONDLOOK_CHECK_DIM(a.hidden, 2, "[B, D]");
  const ScalarType type = a.hidden.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::BFloat16,
                  "hidden must be Float or BFloat16, but is scalar type ", static_cast<int>(type));
  STD_TORCH_CHECK(!a.keys.empty() && a.keys.size() == a.values.size(),
                  "keys and values must have a tensor for each of the same layers, but have ", a.keys.size(), " and ",
                  a.values.size());
  STD_TORCH_CHECK(a.weights.size() == kParts * a.keys.size(), "weights must have ", static_cast<int>(kParts),
                  " tensors for each layer of keys, but has ", a.weights.size(), " for ", a.keys.size(), " layer(s)");
  STD_TORCH_CHECK(a.keys[0].dim() == 4, "keys must be [S, H_kv, T, W], but has ", a.keys[0].dim(), " dimension(s)");
  const Index rows = a.rows(), size = a.size(), width = a.width(), kv_heads = a.kv_heads();
  STD_TORCH_CHECK(2 <= width && width <= 256 && width % 2 == 0,
                  "keys must have 2 to 256 elements in each head, an even number, but has ", width);
  STD_TORCH_CHECK(std::isfinite(static_cast<float>(a.scale)), "scale must be finite in float32, but is ",
                  a.scale);
  STD_TORCH_CHECK(a.epsilon >= 0, "epsilon must be 0 or more, but is ", a.epsilon);
  STD_TORCH_CHECK(kv_heads >= 1 && a.heads >= 1 && a.heads % kv_heads == 0,
                  "heads must be a multiple of those of keys, ", kv_heads, ", but is ", a.heads);
  check_rows(a.hidden, "hidden", a, {rows, size});
  check_rows(a.cosine, "cosine", a, {rows, width});
  check_rows(a.sine, "sine", a, {rows, width});
  for (Index layer = 0; layer < a.layers(); ++layer) check_layer(layer, a);
  const Tensor &slots = a.slots, &places = a.places;
  SECONDLOOK_CHECK_DTYPE(slots, Long);
  SECONDLOOK_CHECK_DTYPE(places, Long);
  for (const Tensor* tensor : {&slots, &places}) {
    STD_TORCH_CHECK(tensor->dim() == 1 && tensor->size(0) == rows, "slots and places must be [B], B of hidden, ",
                    rows);
  }
  secondlook::check_values(slots, "slots", a.keys[0].size(0) - 1);
  secondlook::check_values(places, "places", a.keys[0].size(2) - 1);
}

}  // namespace secondlook::decoder_layers
