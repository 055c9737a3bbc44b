// secondlook::norm_linears, output_mlp and encoder_layers on the CPU: what a transformer's layer does to many rows
// before and behind its attention, and all layers of an encoder, each in one call, for which threads are woken once.
#include "cpu/layer_rows.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

namespace {

using secondlook::changed, secondlook::data, secondlook::with_type;
using namespace secondlook::layer_rows;

std::vector<Tensor> norm_linears(const Tensor& hidden, const Tensor& norm, const Tensor& norm_bias, double epsilon,
                                 const std::vector<Tensor>& weights, const std::vector<Tensor>& biases,
                                 const std::vector<Index>& outputs) {
  check_hidden(hidden);
  check_norm(norm, norm_bias, epsilon, hidden);
  STD_TORCH_CHECK(!weights.empty() && weights.size() == biases.size() && weights.size() == outputs.size(),
                  "weights, biases and outputs must be as many, but are ", weights.size(), ", ", biases.size(), " and ",
                  outputs.size());
  const Index rows = hidden.size(0), size = hidden.size(1);
  std::vector<Linear> linears;
  std::vector<Tensor> results;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    linears.push_back({weights[i], biases[i], outputs[i], size});
    const std::string at = "[" + std::to_string(i) + "]";
    linears.back().check("weights" + at, "biases" + at, hidden.scalar_type());
    results.push_back(torch::stable::new_empty(hidden, {rows, outputs[i]}));
  }
  if (rows == 0) return results;
  with_type(hidden, [&]<typename T>(T) {
    Rows<T> call(hidden);
    const Inputs<T> x = call.inputs(size);
    call.norm(data<T>(hidden), size, norm_of<T>(norm, norm_bias, epsilon), x);
    std::vector<Pass<T>> passes;
    for (std::size_t i = 0; i < linears.size(); ++i) {
      passes.push_back(linears[i].template pass<T>(x, Then::kWrite, outputs[i], changed<T>(results[i])));
    }
    call.multiply(passes);
    call.run();
  });
  return results;
}

Tensor output_mlp(const Tensor& hidden, const Tensor& mixed, const std::vector<Tensor>& weights, Index inner,
                  double epsilon, std::string activation) {
  check_hidden(hidden);
  check_rows(mixed, "mixed", hidden);
  STD_TORCH_CHECK(weights.size() == kMlpParts, "weights must be ", static_cast<int>(kMlpParts), " tensors, but are ",
                  weights.size());
  const Mlp mlp(weights.data(), hidden.size(1), mixed.size(1), inner, epsilon, activation);
  mlp.check(hidden);
  Tensor result = torch::stable::new_empty(hidden, {hidden.size(0), hidden.size(1)});
  if (result.numel() == 0) return result;
  with_type(hidden, [&]<typename T>(T) {
    Rows<T> call(hidden);
    const Inputs<T> found = call.inputs(data<T>(mixed), mixed.size(1));
    mlp.add(call, data<T>(hidden), found, mlp.between(call), changed<T>(result));
    call.run();
  });
  return result;
}

// The order in which encoder_layers takes the weights of a layer: these, and those of output_mlp.
enum LayerPart { kFirstNorm, kFirstNormBias, kQuery, kQueryBias, kKey, kKeyBias, kValue, kValueBias, kRest };
constexpr std::size_t kLayerParts = kRest + kMlpParts;

Tensor encoder_layers(const Tensor& hidden, const std::vector<Tensor>& weights, Index heads, Index inner, double scale,
                      double epsilon, std::string activation) {
  SECONDLOOK_CHECK_DIM(hidden, 3, "[N, L, D]");
  STD_TORCH_CHECK(hidden.is_contiguous(), "hidden must be contiguous");
  const Index count = hidden.size(0), length = hidden.size(1), size = hidden.size(2);
  const Tensor rows = torch::stable::view(hidden, {count * length, size});
  check_hidden(rows);
  STD_TORCH_CHECK(heads >= 1 && size % heads == 0 && size / heads <= secondlook::attention::kMostWidth,
                  "heads must divide D, ", size, ", into at most ", secondlook::attention::kMostWidth,
                  " elements each, but is ", heads);
  STD_TORCH_CHECK(std::isfinite(static_cast<float>(scale)), "scale must be finite in float32, but is ", scale);
  STD_TORCH_CHECK(!weights.empty() && weights.size() % kLayerParts == 0, "weights must be ", kLayerParts,
                  " tensors for each layer, but are ", weights.size());
  std::vector<Mlp> ends;
  std::vector<Linear> linears;
  for (std::size_t at = 0; at < weights.size(); at += kLayerParts) {
    const std::string of_layer = " of layer " + std::to_string(at / kLayerParts);
    check_norm(weights[at + kFirstNorm], weights[at + kFirstNormBias], epsilon, rows, of_layer);
    for (const LayerPart part : {kQuery, kKey, kValue}) {
      linears.push_back({weights[at + part], weights[at + part + 1], size, size});
      const std::string name = part == kQuery ? "query" : part == kKey ? "key" : "value";
      linears.back().check(name + of_layer, name + "_bias" + of_layer, rows.scalar_type());
    }
    ends.emplace_back(&weights[at + kRest], size, size, inner, epsilon, activation);
    ends.back().check(rows, of_layer);
  }
  Tensor result = torch::stable::new_empty(hidden, {count, length, size});
  if (result.numel() == 0) return result;
  with_type(hidden, [&]<typename T>(T) {
    Rows<T> call(rows);
    const auto between = ends[0].between(call);
    const Inputs<T> mixed = call.inputs(size);
    T* const found[3] = {call.take(size), call.take(size), call.take(size)};
    const Index width = size / heads, strides[3] = {length * size, width, size};
    secondlook::attention::Call<T> attention{found[0], found[1], found[2], count, heads, heads, length, length, width};
    for (Index* const to : {attention.query_strides, attention.keys_strides, attention.values_strides}) {
      std::copy(strides, strides + 3, to);
    }
    attention.scale = static_cast<float>(scale);
    attention.result = const_cast<T*>(mixed.rows);
    for (std::size_t layer = 0; layer < ends.size(); ++layer) {
      const T* const before = layer == 0 ? data<T>(hidden) : changed<T>(result);
      const Tensor* const its = &weights[layer * kLayerParts];
      call.norm(before, size, norm_of<T>(its[kFirstNorm], its[kFirstNormBias], epsilon), between.x);
      std::vector<Pass<T>> passes;
      for (int i = 0; i < 3; ++i) {
        passes.push_back(linears[3 * layer + i].template pass<T>(between.x, Then::kWrite, size, found[i]));
      }
      call.multiply(passes);
      call.attend(attention);
      ends[layer].add(call, before, mixed, between, changed<T>(result));
    }
    call.run();
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(secondlook, CPU, m) {
  m.impl("norm_linears", TORCH_BOX(&norm_linears));
  m.impl("output_mlp", TORCH_BOX(&output_mlp));
  m.impl("encoder_layers", TORCH_BOX(&encoder_layers));
}
