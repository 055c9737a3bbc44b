// secondlook::decoder_layer on the CPU: a whole layer of a decoder's step, products with weights in blocks and
// all between them, in one call.
#include "cpu/decoder_layer.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#include "cpu/blocked_checks.h"
#include "cpu/decode_attention_threads.h"

namespace {

namespace blocked = secondlook::blocked;
namespace layer = secondlook::decoder_layer;
using secondlook::BFloat16;
using secondlook::blocked::Product;
using torch::headeronly::ScalarType;
using torch::stable::parallel_for;
using torch::stable::Tensor;
using Index = std::int64_t;
using Maybe = std::optional<Tensor>;

// The arguments; see decoder_layer.py.
struct Layer {
  const Tensor &hidden, &input_norm, &query, &key, &value;
  const Maybe &query_bias, &key_bias, &value_bias, &query_norm, &key_norm;
  const Tensor &cosine, &sine, &keys, &values, &slots, &places, &output, &output_norm, &gate, &up, &down;
  Index heads, inner;
  double scale, epsilon;
};

template <typename T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <typename T>
const T* data(const Maybe& tensor) {
  return tensor ? data<T>(*tensor) : nullptr;
}

// Memory for this call.
class Memory {
 public:
  explicit Memory(const Tensor& like) : like_(like) {}
  template <typename T>
  T* take(Index count) {
    const Index floats = (count * static_cast<Index>(sizeof(T)) + 3) / 4;
    held_.push_back(torch::stable::new_empty(like_, {floats}, ScalarType::Float));
    return static_cast<T*>(held_.back().mutable_data_ptr());
  }

 private:
  const Tensor& like_;
  std::vector<Tensor> held_;
};

// Rows of `size` floats, with zeros to an even number.
float* take_inputs(Memory& memory, Index rows, Index size) {
  const Index stride = blocked::row_stride(size);
  float* const x = memory.take<float>(rows * stride);
  if (stride > size) std::fill(x, x + rows * stride, 0.0f);
  return x;
}

template <typename T>
class Step {
 public:
  explicit Step(const Layer& args)
      : a_(args),
        memory_(args.hidden),
        rows_(args.hidden.size(0)),
        size_(args.hidden.size(1)),
        width_(args.keys.size(3)),
        kv_heads_(args.keys.size(1)) {}

  void run(Tensor& result) {
    T* const attended = memory_.take<T>(rows_ * size_);
    float* const x = take_inputs(memory_, rows_, size_);
    layer::run_normalise(data<T>(a_.hidden), data<T>(a_.input_norm), rows_, size_, epsilon(), stride(size_), x);
    float* const mixed = attend(x);
    add(product(mixed, a_.heads * width_, a_.output, size_, nullptr), data<T>(a_.hidden), attended);
    layer::run_normalise(attended, data<T>(a_.output_norm), rows_, size_, epsilon(), stride(size_), x);
    float* const inner = take_inputs(memory_, rows_, a_.inner);
    const auto gates = product(x, size_, a_.gate, a_.inner, nullptr);
    const auto ups = product(x, size_, a_.up, a_.inner, nullptr);
    parallel_for(0, blocked::blocks(gates.weights), blocked::block_grain(gates), [&](Index begin, Index end) {
      layer::run_gate(gates, ups, begin, end, stride(a_.inner), inner);
    });
    add(product(inner, a_.inner, a_.down, size_, nullptr), attended, static_cast<T*>(result.mutable_data_ptr()));
  }

 private:
  float epsilon() const { return static_cast<float>(a_.epsilon); }
  static Index stride(Index size) { return blocked::row_stride(size); }

  Product<T> product(const float* x, Index inputs, const Tensor& weight, Index outputs, const T* bias) {
    const auto weights = blocked::weights_of<T>(weight, outputs, inputs);
    const Index totals = blocked::totals_of(weights, rows_);
    return blocked::product(x, stride(inputs), rows_, weights, bias,
                            totals ? memory_.take<float>(totals) : nullptr);
  }

  void add(const Product<T>& product, const T* residual, T* to) const {
    parallel_for(0, blocked::blocks(product.weights), blocked::block_grain(product),
                 [&](Index begin, Index end) { layer::run_add_to(product, begin, end, residual, to); });
  }

  // The heads' results [rows, heads * width] as inputs; their keys and values go into the cache.
  float* attend(const float* x) {
    const Index sizes[3] = {a_.heads * width_, kv_heads_ * width_, kv_heads_ * width_};
    const Product<T> products[3] = {product(x, size_, a_.query, sizes[0], data<T>(a_.query_bias)),
                                    product(x, size_, a_.key, sizes[1], data<T>(a_.key_bias)),
                                    product(x, size_, a_.value, sizes[2], data<T>(a_.value_bias))};
    float* projected[3];
    for (int i = 0; i < 3; ++i) projected[i] = memory_.take<float>(rows_ * sizes[i]);
    project(products, projected);

    T* const queries = memory_.take<T>(rows_ * sizes[0]);
    std::vector<Index> lengths;
    for (Index row = 0; row < rows_; ++row) {
      const Index slot = at(a_.slots, row), place = at(a_.places, row);
      const T* const cosine = data<T>(a_.cosine) + row * width_;
      const T* const sine = data<T>(a_.sine) + row * width_;
      lengths.push_back(place + 1);
      layer::run_turn(projected[0] + row * sizes[0], a_.heads, width_, data<T>(a_.query_norm), epsilon(), cosine,
                      sine, queries + row * sizes[0], width_);
      T* const keys = static_cast<T*>(a_.keys.mutable_data_ptr()) + slot * a_.keys.stride(0) +
                      place * a_.keys.stride(2);
      layer::run_turn(projected[1] + row * sizes[1], kv_heads_, width_, data<T>(a_.key_norm), epsilon(), cosine,
                      sine, keys, a_.keys.stride(1));
      T* const values = static_cast<T*>(a_.values.mutable_data_ptr()) + slot * a_.values.stride(0) +
                        place * a_.values.stride(2);
      for (Index head = 0; head < kv_heads_; ++head) {
        const float* const value = projected[2] + row * sizes[2] + head * width_;
        for (Index i = 0; i < width_; ++i) {
          secondlook::round_to(value[i], values[head * a_.values.stride(1) + i]);
        }
      }
    }

    T* const mixed = memory_.take<T>(rows_ * sizes[0]);
    secondlook::decode_attention::run(call(queries, lengths.data(), mixed), a_.hidden);
    float* const inputs = take_inputs(memory_, rows_, sizes[0]);
    secondlook::widen(mixed, sizes[0], rows_, sizes[0], stride(sizes[0]), inputs);
    return inputs;
  }

  // Three products side by side, so that the threads wait for each other once.
  void project(const Product<T> (&products)[3], float* const (&to)[3]) const {
    const Index first = blocked::blocks(products[0].weights);
    const Index second = first + blocked::blocks(products[1].weights);
    const Index starts[4] = {0, first, second, second + blocked::blocks(products[2].weights)};
    parallel_for(0, starts[3], blocked::block_grain(products[0]), [&](Index begin, Index end) {
      for (int i = 0; i < 3; ++i) {
        const Index from = std::max(begin, starts[i]) - starts[i], until = std::min(end, starts[i + 1]) - starts[i];
        if (from < until) layer::run_project(products[i], from, until, to[i]);
      }
    });
  }

  static Index at(const Tensor& tensor, Index row) { return data<Index>(tensor)[row * tensor.stride(0)]; }

  secondlook::decode_attention::Call<T> call(const T* queries, const Index* lengths, T* result) const {
    secondlook::decode_attention::Call<T> call{};
    call.query = queries;
    call.keys = data<T>(a_.keys);
    call.values = data<T>(a_.values);
    call.slots = data<Index>(a_.slots);
    call.lengths = lengths;
    call.batch = rows_;
    call.heads = a_.heads;
    call.kv_heads = kv_heads_;
    call.width = width_;
    call.cache_slots = a_.keys.size(0);
    call.positions = a_.keys.size(2);
    call.query_batch_stride = a_.heads * width_;
    call.query_head_stride = width_;
    call.keys_slot_stride = a_.keys.stride(0);
    call.keys_head_stride = a_.keys.stride(1);
    call.keys_position_stride = a_.keys.stride(2);
    call.values_slot_stride = a_.values.stride(0);
    call.values_head_stride = a_.values.stride(1);
    call.values_position_stride = a_.values.stride(2);
    call.slots_stride = a_.slots.stride(0);
    call.lengths_stride = 1;
    call.scale = static_cast<float>(a_.scale);
    call.result = result;
    return call;
  }

  const Layer& a_;
  Memory memory_;
  const Index rows_, size_, width_, kv_heads_;
};

void check_rows(const Tensor& tensor, const char* name, const Layer& a, std::vector<Index> shape) {
  STD_TORCH_CHECK(tensor.scalar_type() == a.hidden.scalar_type(), name, " must have the dtype of hidden");
  bool fits = tensor.dim() == static_cast<Index>(shape.size()) && tensor.is_contiguous();
  for (std::size_t i = 0; fits && i < shape.size(); ++i) fits = tensor.size(static_cast<Index>(i)) == shape[i];
  STD_TORCH_CHECK(fits, name, " must be contiguous, of ", shape.size(), " dimensions, the last of size ",
                  shape.back());
}

void check(const Layer& a) {
  SECONDLOOK_CHECK_DIM(a.hidden, 2, "[B, D]");
  SECONDLOOK_CHECK_DIM(a.keys, 4, "[S, H_kv, T, W]");
  SECONDLOOK_CHECK_DIM(a.values, 4, "[S, H_kv, T, W]");
  const ScalarType type = a.hidden.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::BFloat16,
                  "hidden must be Float or BFloat16, but is scalar type ", static_cast<int>(type));
  const Index rows = a.hidden.size(0), size = a.hidden.size(1), width = a.keys.size(3);
  const Index kv_heads = a.keys.size(1);
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
  check_rows(a.input_norm, "input_norm", a, {size});
  check_rows(a.output_norm, "output_norm", a, {size});
  if (a.query_norm) check_rows(*a.query_norm, "query_norm", a, {width});
  if (a.key_norm) check_rows(*a.key_norm, "key_norm", a, {width});
  if (a.query_bias) check_rows(*a.query_bias, "query_bias", a, {a.heads * width});
  if (a.key_bias) check_rows(*a.key_bias, "key_bias", a, {kv_heads * width});
  if (a.value_bias) check_rows(*a.value_bias, "value_bias", a, {kv_heads * width});
  STD_TORCH_CHECK(a.keys.scalar_type() == type && a.values.scalar_type() == type,
                  "keys and values must have the dtype of hidden");
  for (int dimension = 0; dimension < 4; ++dimension) {
    SECONDLOOK_CHECK_SIZE(a.values, dimension, a.keys.size(dimension));
  }
  SECONDLOOK_CHECK_LAST_STRIDE(a.keys);
  SECONDLOOK_CHECK_LAST_STRIDE(a.values);
  for (const Tensor* tensor : {&a.slots, &a.places}) {
    SECONDLOOK_CHECK_DTYPE(*tensor, Long);
    STD_TORCH_CHECK(tensor->dim() == 1 && tensor->size(0) == rows, "slots and places must be [B], B of hidden, ",
                    rows);
  }
  secondlook::check_values(a.slots, "slots", a.keys.size(0) - 1);
  secondlook::check_values(a.places, "places", a.keys.size(2) - 1);
  const struct {
    const Tensor& weight;
    const char* name;
    Index outputs, inputs;
  } weights[] = {{a.query, "query", a.heads * width, size},   {a.key, "key", kv_heads * width, size},
                 {a.value, "value", kv_heads * width, size},  {a.output, "output", size, a.heads * width},
                 {a.gate, "gate", a.inner, size},             {a.up, "up", a.inner, size},
                 {a.down, "down", size, a.inner}};
  for (const auto& each : weights) {
    blocked::check_weights(each.weight, each.name, each.outputs, each.inputs, type);
  }
  STD_TORCH_CHECK(blocked::width_of(a.gate) == blocked::width_of(a.up), "gate and up must have blocks of the same width");
}

Tensor decoder_layer(const Tensor& hidden, const Tensor& input_norm, const Tensor& query, const Tensor& key,
                     const Tensor& value, const Maybe& query_bias, const Maybe& key_bias,
                     const Maybe& value_bias, const Maybe& query_norm, const Maybe& key_norm,
                     const Tensor& cosine, const Tensor& sine, const Tensor& keys, const Tensor& values,
                     const Tensor& slots, const Tensor& places, const Tensor& output,
                     const Tensor& output_norm, const Tensor& gate, const Tensor& up, const Tensor& down,
                     Index heads, Index inner, double scale, double epsilon) {
  const Layer args{hidden, input_norm, query,  key,    value,  query_bias,  key_bias, value_bias, query_norm,
                   key_norm, cosine,   sine,   keys,   values, slots,       places,   output,     output_norm,
                   gate,   up,         down,   heads,  inner,  scale,       epsilon};
  check(args);
  Tensor result = torch::stable::new_empty(hidden, {hidden.size(0), hidden.size(1)});
  if (result.numel() == 0) return result;
  if (hidden.scalar_type() == ScalarType::Float) {
    Step<float>(args).run(result);
  } else {
    Step<BFloat16>(args).run(result);
  }
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(secondlook, CPU, m) { m.impl("decoder_layer", TORCH_BOX(&decoder_layer)); }
