// What a transformer's layers do to many rows, phase after phase: norms, products, attention.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include "checks.h"
#include "cpu/attention_call.h"
#include "cpu/blocked_checks.h"
#include "cpu/blocked_pass.h"
#include "cpu/phases.h"
#include "cpu/row_passes.h"
#include "cpu/tensors.h"

namespace secondlook::layer_rows {

using blocked::Inputs, blocked::Pass, blocked::Then;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Index = std::int64_t;

// Products and norms of a call's rows, phase after phase: of each is said first what it needs, by one thread. All that
// is given must outlive the call.
template <typename T>
class Rows {
 public:
  explicit Rows(const Tensor& hidden)
      : memory_(hidden), rows_(hidden.size(0)), most_threads_(torch::stable::get_num_threads()) {}

  Index count() const { return rows_; }

  // Rows [count, stride] that a product takes, to be written before.
  Inputs<T> inputs(Index stride) { return inputs(memory_.take<T>(rows_ * stride), stride); }
  Inputs<T> inputs(const T* rows, Index stride) {
    if constexpr (std::is_same_v<T, float>) {
      return {rows, rows, stride, rows_};
    } else {
      return {rows, blocked::takes_floats<T>() ? memory_.take<float>(rows_ * stride) : nullptr, stride, rows_};
    }
  }
  T* take(Index size) { return memory_.take<T>(rows_ * size); }

  void norm(const T* x, Index size, const Norm<T>& norm, const Inputs<T>& to) {
    phases_.push_back({rows_, kRowsAtOnce, [=](Index, Index begin, Index end) {
      run_norm(x, size, size, norm, begin, end, to.stride, const_cast<T*>(to.rows));
    }});
    widen(to);
  }

  // As floats, where products take those.
  void widen(const Inputs<T>& x) {
    if constexpr (!std::is_same_v<T, float>) {
      if (!x.floats) return;
      phases_.push_back({rows_, kRowsAtOnce, [=](Index, Index begin, Index end) {
        run_widen(x.rows + begin * x.stride, (end - begin) * x.stride, const_cast<float*>(x.floats) + begin * x.stride);
      }});
    }
  }

  // Products of the same rows, one after the other.
  void multiply(const std::vector<Pass<T>>& passes) {
    std::vector<Index> ends;
    for (const Pass<T>& pass : passes) {
      add_work(pass);
      ends.push_back((ends.empty() ? 0 : ends.back()) + blocked::tasks(pass.product.weights, rows_));
    }
    phases_.push_back({ends.back(), 1, [=](Index, Index begin, Index end) {
      Index start = 0;
      for (std::size_t i = 0; i < passes.size(); start = ends[i++]) {
        const Index from = std::max(begin, start), until = std::min(end, ends[i]);
        if (from < until) blocked::run(passes[i], from - start, until - start);
      }
    }});
  }
  // Of two of as many outputs each task of the first and then that of the second.
  void multiply(const Pass<T>& first, const Pass<T>& second) {
    add_work(first);
    add_work(second);
    phases_.push_back({blocked::tasks(first.product.weights, rows_), 1, [=](Index, Index begin, Index end) {
      for (Index task = begin; task < end; ++task) {
        blocked::run(first, task, task + 1);
        blocked::run(second, task, task + 1);
      }
    }});
  }

  // Of each head of each picture.
  void attend(const attention::Call<T>& call) {
    work_ += 2 * call.batch * call.heads * call.rows * call.positions * call.width;
    const Index floats = attention::scratch_of_a_thread(call);
    if (scratch_.empty()) {  // of all calls, which are of the same sizes
      for (Index i = 0; i < most_threads_; ++i) scratch_.push_back(memory_.take<float>(floats));
    }
    phases_.push_back({call.batch * call.heads, 1, [this, call](Index thread, Index begin, Index end) {
      attention::run(call, begin, end, scratch_[thread]);
    }});
  }

  void run() {
    const Index threads = std::clamp<Index>(1 + work_ / kWorkOfAThread, 1, most_threads_);
    Phases phases(static_cast<Index>(phases_.size()), threads);
    std::atomic<Index> arrived{0};
    torch::stable::parallel_for(0, threads, 1, [&](Index, Index) {
      const Index thread = arrived.fetch_add(1);
      for (std::size_t i = 0; i < phases_.size(); ++i) {
        const Work& work = phases_[i];
        phases.run(static_cast<Index>(i), work.tasks, work.least, [] {},
                   [&](Index begin, Index end) { work.use(thread, begin, end); });
      }
    });
  }

 private:
  static constexpr Index kRowsAtOnce = 4;  // where each takes no more than a few microseconds
  static constexpr Index kWorkOfAThread = 1 << 18;  // multiplications that are worth another's

  void add_work(const Pass<T>& pass) { work_ += rows_ * pass.product.weights.inputs * pass.product.weights.outputs; }

  struct Work {
    Index tasks, least;
    std::function<void(Index thread, Index begin, Index end)> use;
  };

  Memory memory_;
  const Index rows_, most_threads_;
  std::vector<Work> phases_;
  std::vector<float*> scratch_;  // of each thread, for attention
  Index work_ = 0;  // multiplications
};

// A product of a call's: its weights' name, and what is added to it.
struct Linear {
  const Tensor &weight, &bias;
  Index outputs, inputs;

  void check(const std::string& name, const std::string& bias_name, ScalarType type) const {
    STD_TORCH_CHECK(!blocked::of_few_bits(weight), name, " must have the dtype of the rows, not be of few bits");
    blocked::check_weights(weight, name.c_str(), outputs, inputs, type);
    STD_TORCH_CHECK(bias.numel() == 0 || (bias.dim() == 1 && bias.size(0) == outputs && bias.is_contiguous() &&
                                          bias.scalar_type() == type),
                    bias_name, " must be [", outputs, "], contiguous, of the dtype of the rows, or empty");
  }
  template <typename T>
  Pass<T> pass(const Inputs<T>& x, Then then, Index stride, T* to, const T* before = nullptr) const {
    const auto weights = blocked::weights_of<T>(weight, outputs, inputs);
    return {blocked::product(x, weights, data<T>(bias), nullptr), then, stride, to, before};
  }
};

// Rows [R, size], of an even size, for a row is read in pairs.
inline void check_rows(const Tensor& rows, const char* name, const Tensor& like) {
  STD_TORCH_CHECK(rows.dim() == 2 && rows.is_contiguous(), name, " must be [R, D] and contiguous");
  STD_TORCH_CHECK(rows.size(1) >= 2 && rows.size(1) % 2 == 0, name, " must have rows of an even size, but of ",
                  rows.size(1));
  STD_TORCH_CHECK(rows.size(0) == like.size(0) && rows.scalar_type() == like.scalar_type(), name,
                  " must have the rows and the dtype of hidden");
}

inline void check_norm(const Tensor& weight, const Tensor& bias, double epsilon, const Tensor& hidden,
                       const std::string& of_layer = "") {
  STD_TORCH_CHECK(epsilon >= 0, "epsilon must be 0 or more, but is ", epsilon);
  for (const Tensor* one : {&weight, &bias}) {
    if (one == &bias && bias.numel() == 0) continue;
    STD_TORCH_CHECK(one->dim() == 1 && one->size(0) == hidden.size(1) && one->is_contiguous() &&
                        one->scalar_type() == hidden.scalar_type(),
                    "norms", of_layer, " and their biases must be [D], contiguous, of the dtype of hidden");
  }
}

inline void check_hidden(const Tensor& hidden) {
  const ScalarType type = hidden.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::BFloat16,
                  "hidden must be Float or BFloat16, but is scalar type ", static_cast<int>(type));
  check_rows(hidden, "hidden", hidden);
}

template <typename T>
Norm<T> norm_of(const Tensor& weight, const Tensor& bias, double epsilon) {
  return {data<T>(weight), data<T>(bias), static_cast<float>(epsilon)};
}

// The order in which output_mlp takes its weights; what may be absent has no elements.
enum MlpPart { kOutput, kOutputBias, kNorm, kNormBias, kGate, kGateBias, kUp, kUpBias, kDown, kDownBias, kMlpParts };

inline Then activation_of(const std::string& name) {
  if (name == "silu") return Then::kSilu;
  if (name == "quick_gelu") return Then::kQuickGelu;
  if (name == "gelu_tanh") return Then::kGeluTanh;
  STD_TORCH_CHECK(false, "activation must be silu, quick_gelu or gelu_tanh, but is ", name);
}

// The end of a layer, from what attention found on.
class Mlp {
 public:
  Mlp(const Tensor* weights, Index size, Index mixed, Index inner, double epsilon, const std::string& activation)
      : then_(activation_of(activation)),
        size_(size),
        epsilon_(epsilon),
        norm_(weights[kNorm]),
        norm_bias_(weights[kNormBias]),
        output_{weights[kOutput], weights[kOutputBias], size, mixed},
        gate_{weights[kGate], weights[kGateBias], inner, size},
        up_{weights[kUp], weights[kUpBias], inner, size},
        down_{weights[kDown], weights[kDownBias], size, inner} {}

  void check(const Tensor& hidden, const std::string& of_layer = "") const {
    const ScalarType type = hidden.scalar_type();
    STD_TORCH_CHECK(up_.outputs >= 2 && up_.outputs % 2 == 0, "inner must be an even number, 2 or more, but is ",
                    up_.outputs);
    check_norm(norm_, norm_bias_, epsilon_, hidden, of_layer);
    output_.check("output" + of_layer, "output_bias" + of_layer, type);
    if (gated()) gate_.check("gate" + of_layer, "gate_bias" + of_layer, type);
    up_.check("up" + of_layer, "up_bias" + of_layer, type);
    down_.check("down" + of_layer, "down_bias" + of_layer, type);
    STD_TORCH_CHECK(!gated() || blocked::width_of(gate_.weight) == blocked::width_of(up_.weight), "gate and up",
                    of_layer, " must have blocks of the same width");
  }

  // Rows between its phases, which may be those of other layers, too.
  template <typename T>
  struct Between {
    T* middle;
    Inputs<T> x, wide;
  };
  template <typename T>
  Between<T> between(Rows<T>& call) const {
    // Wide rows do not all begin in the same few places of a cache.
    const Index stride = blocked::row_stride(up_.outputs) + blocked::kWidth;
    return {call.take(size_), call.inputs(size_), call.inputs(stride)};
  }

  template <typename T>
  void add(Rows<T>& call, const T* hidden, const Inputs<T>& mixed, const Between<T>& between, T* result) const {
    const auto& [middle, x, wide] = between;
    T* const inner = const_cast<T*>(wide.rows);
    call.widen(mixed);
    call.multiply({output_.pass<T>(mixed, Then::kAdd, size_, middle, hidden)});
    call.norm(middle, size_, norm_of<T>(norm_, norm_bias_, epsilon_), x);
    if (gated()) {
      call.multiply(gate_.pass<T>(x, then_, wide.stride, inner),
                    up_.pass<T>(x, Then::kMultiply, wide.stride, inner, inner));
    } else {
      call.multiply({up_.pass<T>(x, then_, wide.stride, inner)});
    }
    call.widen(wide);
    call.multiply({down_.pass<T>(wide, Then::kAdd, size_, result, middle)});
  }

 private:
  bool gated() const { return gate_.weight.numel() > 0; }

  const Then then_;
  const Index size_;
  const double epsilon_;
  const Tensor &norm_, &norm_bias_;
  const Linear output_, gate_, up_, down_;
};

}  // namespace secondlook::layer_rows
