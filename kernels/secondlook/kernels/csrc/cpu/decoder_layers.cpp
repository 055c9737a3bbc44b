// secondlook::decoder_layers on the CPU: all layers of a decoder's step, products with weights in blocks and all
// between them, in one call, for which threads are woken once.
#include "cpu/decoder_layers.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "cpu/blocked_pass.h"
#include "cpu/decode_attention.h"
#include "cpu/decoder_layers_checks.h"
#include "cpu/phases.h"
#include "cpu/row_passes.h"
#include "cpu/tensors.h"

namespace {

namespace attention = secondlook::decode_attention;
namespace blocked = secondlook::blocked;
using blocked::Then;
using secondlook::BFloat16, secondlook::Memory;
using secondlook::changed, secondlook::data, secondlook::run_norm, secondlook::run_widen;
using namespace secondlook::decoder_layers;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Where a layer's cache lies, for one of keys and values; strides in elements.
template <typename T>
struct Cache {
  T* data;
  Index slot_stride, head_stride, position_stride;

  explicit Cache(const Tensor& cache)
      : data(changed<T>(cache)),
        slot_stride(cache.stride(0)),
        head_stride(cache.stride(1)),
        position_stride(cache.stride(2)) {}
  T* at(Index slot, Index head, Index place) const {
    return data + slot * slot_stride + head * head_stride + place * position_stride;
  }
};

// What a layer computes with: all that is asked of tensors, which may throw, as no thread of several may.
template <typename T>
struct Layer {
  blocked::Weights<T> weights[kParts];  // of products
  const T* vectors[kParts];             // of norms and biases; null where there is none
  Cache<T> keys, values;

  Layer(const Arguments& a, Index layer) : keys(a.keys[layer]), values(a.values[layer]) {
    for (int i = 0; i < kParts; ++i) {
      const Part which = static_cast<Part>(i);
      const Tensor& part = a.part(layer, which);
      if (is_product(which)) {
        weights[i] = blocked::weights_of<T>(part, a.outputs(which), a.inputs(which));
      } else {
        vectors[i] = data<T>(part);
      }
    }
  }
};

// What a thread has for itself: a norm's results, rows as floats, and totals of three products' inputs.
template <typename T>
struct Own {
  T* normed;
  float *floats, *totals;
};

template <typename T>
class Step {
  using Weights = blocked::Weights<T>;

 public:
  Step(const Arguments& arguments, Tensor& result)
      : a_(arguments),
        memory_(arguments.hidden),
        rows_(a_.rows()),
        size_(a_.size()),
        width_(a_.width()),
        kv_heads_(a_.kv_heads()),
        hidden_(data<T>(a_.hidden)),
        cosine_(data<T>(a_.cosine)),
        sine_(data<T>(a_.sine)),
        result_(changed<T>(result)),
        middle_(memory_.take<T>(rows_ * size_)),
        queries_(memory_.take<T>(rows_ * a_.outputs(kQuery))),
        mixed_(memory_.take<T>(rows_ * a_.outputs(kQuery))),
        inner_(memory_.take_inputs<T>(rows_, a_.inner)) {
    for (Index layer = 0; layer < a_.layers(); ++layer) layers_.emplace_back(a_, layer);
    for (int i = 0; i < 3; ++i) projected_[i] = memory_.take<float>(rows_ * a_.outputs(kProjections[i]));
    for (Index row = 0; row < rows_; ++row) {
      slots_.push_back(at(a_.slots, row));
      lengths_.push_back(at(a_.places, row) + 1);
    }
    const auto call = attention_of(layers_[0]);
    for (Index row = 0; row < rows_; ++row) {
      first_task_.push_back(first_task_.back() + kv_heads_ * attention::chunks(call, row));
    }
    partials_ = memory_.take<float>(first_task_.back() * attention::partials_of_a_task(call));
  }

  void run() {
    std::vector<Own<T>> own;
    const Index most = torch::stable::get_num_threads();
    const Index threads = std::clamp<Index>(1 + a_.products_of_a_layer() / kWorkOfAThread, 1, most);
    for (Index thread = 0; thread < threads; ++thread) own.push_back(take_own());
    secondlook::Phases phases(a_.layers() * kPhases, threads);
    std::atomic<std::size_t> arrived{0};
    torch::stable::parallel_for(0, threads, 1, [&](Index, Index) {
      const Own<T>& mine = own[arrived.fetch_add(1)];
      for (Index number = 0; number < a_.layers(); ++number) run_layer(number, phases, mine);
    });
  }

 private:
  static constexpr Index kPhases = 7;
  static constexpr Index kWorkOfAThread = 1 << 18;  // multiplications in a layer that are worth another's
  static constexpr Index kTogether = 1 << 15;       // bytes of weights, or so much work, that are taken at once at least
  static constexpr Part kProjections[3] = {kQuery, kKey, kValue};
  static constexpr Part kProjectionBiases[3] = {kQueryBias, kKeyBias, kValueBias};

  static Index at(const Tensor& tensor, Index row) { return data<Index>(tensor)[row * tensor.stride(0)]; }
  static Index stride(Index size) { return blocked::row_stride(size); }

  Own<T> take_own() {
    Index floats = 0, totals = 0;
    for (const Layer<T>& layer : layers_) {
      for (int i = 0; i < kParts; ++i) {
        const Part which = static_cast<Part>(i);
        if (!is_product(which)) continue;
        if (blocked::takes_floats<T>()) floats = std::max(floats, rows_ * stride(a_.inputs(which)));
        totals = std::max(totals, blocked::totals_of(layer.weights[i], rows_));
      }
    }
    if (sizeof(T) == sizeof(float)) floats = 0;  // rows are that
    totals_ = totals;
    return {memory_.take_inputs<T>(rows_, size_), memory_.take<float>(floats), memory_.take<float>(3 * totals)};
  }

  // A layer's part of the step, as one of the threads does it.
  void run_layer(Index number, secondlook::Phases& phases, const Own<T>& own) const {
    const Layer<T>& layer = layers_[static_cast<std::size_t>(number)];
    const T* const hidden = number == 0 ? hidden_ : result_;
    Index phase = number * kPhases;
    project(layer, hidden, phases, phase++, own);
    turn(layer, phases, phase++);
    attend(layer, phases, phase);
    phase += 2;
    add(layer, kOutput, mixed_, hidden, middle_, phases, phase++, own);
    gate(layer, phases, phase++, own);
    add(layer, kDown, inner_, middle_, result_, phases, phase++, own);
  }

  // Rows [rows, row_stride(size)], as floats too where products take those.
  blocked::Inputs<T> inputs(const T* rows, Index size, const Own<T>& own) const {
    if constexpr (std::is_same_v<T, float>) {
      return {rows, rows, stride(size), rows_};
    } else {
      const bool floats = blocked::takes_floats<T>();
      if (floats) run_widen(rows, rows_ * stride(size), own.floats);
      return {rows, floats ? own.floats : nullptr, stride(size), rows_};
    }
  }
  blocked::Inputs<T> normed(const T* x, const T* weight, const Own<T>& own) const {
    run_norm(x, size_, size_, secondlook::Norm<T>{weight, nullptr, epsilon()}, 0, rows_, stride(size_), own.normed);
    return inputs(own.normed, size_, own);
  }

  // Tasks that are taken at once at least.
  static Index together(const Weights& weights) { return std::max<Index>(1, kTogether / weights.stride); }

  void project(const Layer<T>& layer, const T* hidden, secondlook::Phases& phases, Index number,
               const Own<T>& own) const {
    Index starts[4] = {0};
    for (int i = 0; i < 3; ++i) {
      const Weights& weights = layer.weights[kProjections[i]];
      starts[i + 1] = starts[i] + blocked::tasks(weights, rows_);
    }
    blocked::Pass<T> passes[3];
    const auto prepare = [&] {
      const auto x = normed(hidden, layer.vectors[kInputNorm], own);
      for (int i = 0; i < 3; ++i) {
        const Weights& weights = layer.weights[kProjections[i]];
        const T* const bias = layer.vectors[kProjectionBiases[i]];
        const auto product = blocked::product(x, weights, bias, own.totals + i * totals_);
        passes[i] = {product, Then::kFloats, weights.outputs, nullptr, nullptr, projected_[i]};
      }
    };
    phases.run(number, starts[3], together(layer.weights[kQuery]), prepare, [&](Index begin, Index end) {
      for (int i = 0; i < 3; ++i) {
        const Index from = std::max(begin, starts[i]), until = std::min(end, starts[i + 1]);
        if (from < until) blocked::run(passes[i], from - starts[i], until - starts[i]);
      }
    });
  }

  // The rows' keys and values go into the cache.
  void turn(const Layer<T>& layer, secondlook::Phases& phases, Index number) const {
    const Index group = a_.heads / kv_heads_;
    const Index together = std::max<Index>(1, 2048 / (width_ * (group + 2)));
    phases.run(number, rows_ * kv_heads_, together, [] {}, [&](Index begin, Index end) {
      for (Index task = begin; task < end; ++task) {
        const Index row = task / kv_heads_, head = task % kv_heads_;
        const Index slot = slots_[row], place = lengths_[row] - 1;
        run_turn(Heads<T>{projected_[0] + task * group * width_, projected_[1] + task * width_,
                          projected_[2] + task * width_, group, width_, layer.vectors[kQueryNorm],
                          layer.vectors[kKeyNorm], epsilon(), cosine_ + row * width_, sine_ + row * width_,
                          queries_ + task * group * width_, layer.keys.at(slot, head, place),
                          layer.values.at(slot, head, place)});
      }
    });
  }

  void attend(const Layer<T>& layer, secondlook::Phases& phases, Index number) const {
    const auto call = attention_of(layer);
    const attention::Work work{first_task_.data(), partials_};
    const Index tasks = first_task_.back(), rows = rows_ * a_.heads;
    const Index bytes = 2 * attention::kChunk * width_ * static_cast<Index>(sizeof(T));
    phases.run(number, tasks, std::max<Index>(1, kTogether / bytes), [] {},
               [&](Index begin, Index end) { attention::run_attend(call, work, begin, end); });
    const Index merged = tasks * attention::partials_of_a_task(call) * 4 / rows;
    phases.run(number + 1, rows, std::max<Index>(1, kTogether / 2 / merged), [] {},
               [&](Index begin, Index end) { attention::run_merge(call, work, begin, end); });
  }

  // to = before + the product of `from`.
  void add(const Layer<T>& layer, Part which, const T* from, const T* before, T* to, secondlook::Phases& phases,
           Index number, const Own<T>& own) const {
    const Weights& weights = layer.weights[which];
    blocked::Pass<T> pass;
    const auto prepare = [&] {
      const auto x = inputs(from, weights.inputs, own);
      pass = {blocked::product(x, weights, {}, own.totals), Then::kAdd, size_, to, before};
    };
    phases.run(number, blocked::tasks(weights, rows_), together(weights), prepare,
               [&](Index begin, Index end) { blocked::run(pass, begin, end); });
  }

  void gate(const Layer<T>& layer, secondlook::Phases& phases, Index number, const Own<T>& own) const {
    const Weights &gate = layer.weights[kGate], &up = layer.weights[kUp];
    blocked::Pass<T> gates, ups;
    const auto prepare = [&] {
      const auto x = normed(middle_, layer.vectors[kOutputNorm], own);
      gates = {blocked::product(x, gate, {}, own.totals), Then::kSilu, stride(a_.inner), inner_};
      ups = {blocked::product(x, up, {}, own.totals + totals_), Then::kMultiply, stride(a_.inner), inner_, inner_};
    };
    phases.run(number, blocked::tasks(gate, rows_), together(gate), prepare, [&](Index begin, Index end) {
      blocked::run(gates, begin, end);
      blocked::run(ups, begin, end);
    });
  }

  float epsilon() const { return static_cast<float>(a_.epsilon); }

  attention::Call<T> attention_of(const Layer<T>& layer) const {
    attention::Call<T> call{};
    call.query = queries_;
    call.keys = layer.keys.data;
    call.values = layer.values.data;
    call.slots = slots_.data();
    call.lengths = lengths_.data();
    call.batch = rows_;
    call.heads = a_.heads;
    call.kv_heads = kv_heads_;
    call.width = width_;
    call.query_batch_stride = a_.heads * width_;
    call.query_head_stride = width_;
    call.keys_slot_stride = layer.keys.slot_stride;
    call.keys_head_stride = layer.keys.head_stride;
    call.keys_position_stride = layer.keys.position_stride;
    call.values_slot_stride = layer.values.slot_stride;
    call.values_head_stride = layer.values.head_stride;
    call.values_position_stride = layer.values.position_stride;
    call.slots_stride = 1;
    call.lengths_stride = 1;
    call.scale = static_cast<float>(a_.scale);
    call.result = mixed_;
    return call;
  }

  const Arguments& a_;
  Memory memory_;
  const Index rows_, size_, width_, kv_heads_;
  const T *const hidden_, *const cosine_, *const sine_;
  T* const result_;                  // [rows, size] of a layer, which the next one reads
  T* const middle_;                  // [rows, size]
  T *const queries_, *const mixed_;  // [rows, heads, width]
  T* const inner_;                   // [rows, row_stride(inner)]
  float* projected_[3];
  float* partials_ = nullptr;
  Index totals_ = 0;  // of one product
  std::vector<Layer<T>> layers_;
  std::vector<Index> slots_, lengths_, first_task_{0};
};

Tensor decoder_layers(const Tensor& hidden, const std::vector<Tensor>& weights, const Tensor& cosine,
                      const Tensor& sine, const std::vector<Tensor>& keys, const std::vector<Tensor>& values,
                      const Tensor& slots, const Tensor& places, Index heads, Index inner, double scale,
                      double epsilon) {
  const Arguments args{hidden, weights, keys, values, cosine, sine, slots, places, heads, inner, scale, epsilon};
  check(args);
  Tensor result = torch::stable::new_empty(hidden, {hidden.size(0), hidden.size(1)});
  if (result.numel() == 0) return result;
  if (hidden.scalar_type() == ScalarType::Float) {
    Step<float>(args, result).run();
  } else {
    Step<BFloat16>(args, result).run();
  }
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(secondlook, CPU, m) { m.impl("decoder_layers", TORCH_BOX(&decoder_layers)); }
