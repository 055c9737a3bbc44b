// secondlook::attention_row on the CPU: checks, memory and threads around the passes of attention_row.h.
#include "cpu/attention_row.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>

#include "attention_row_checks.h"

namespace {

using secondlook::grain;
using secondlook::attention_row::Call;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename T>
void run(Call<T> call, const Tensor& query) {
  namespace row = secondlook::attention_row;
  const std::int64_t full = secondlook::padded(call.width), positions = secondlook::padded(call.positions);
  const std::int64_t queries = call.batch * call.heads;
  Tensor scratch = torch::stable::new_empty(query, {queries * (full + positions + 1)}, ScalarType::Float);
  call.wide_query = static_cast<float*>(scratch.mutable_data_ptr());
  call.weights = call.wide_query + queries * full;
  call.factors = call.weights + queries * positions;

  using torch::stable::parallel_for;
  using Index = std::int64_t;
  const Index group = call.heads / call.kv_heads;
  parallel_for(0, call.head_tasks(), grain(full),
               [&](Index begin, Index end) { row::run_widen_queries(call, begin, end); });
  parallel_for(0, call.score_tasks(), grain(row::kTile * full * (group + 1) / 8),
               [&](Index begin, Index end) { row::run_score_keys(call, begin, end); });
  parallel_for(0, call.head_tasks(), grain(2 * positions),
               [&](Index begin, Index end) { row::run_normalise(call, begin, end); });
  parallel_for(0, call.span_tasks(), grain(call.heads * row::kSpan / 8),
               [&](Index begin, Index end) { row::run_mix_heads(call, begin, end); });
}

Tensor attention_row(const Tensor& query, const Tensor& keys, const Tensor& lengths, std::int64_t start,
                     std::int64_t stop, double scale, std::optional<Tensor> head_weights) {
  secondlook::attention_row::check(query, keys, lengths, start, stop, scale, head_weights);
  secondlook::check_values(lengths, "lengths", keys.size(2));
  Tensor result = torch::stable::new_empty(query, {query.size(0), stop - start}, ScalarType::Float);
  if (result.numel() == 0) return result;

  const auto call = [&]<typename T>(T) {
    run<T>({secondlook::attention_row::arguments_of<T>(query, keys, lengths, start, stop, scale, head_weights,
                                                       result)},
           query);
  };
  switch (query.scalar_type()) {
    case ScalarType::Float:
      call(float{});
      break;
    case ScalarType::Half:
      call(secondlook::Half{});
      break;
    default:
      call(secondlook::BFloat16{});
  }
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(secondlook, CPU, m) { m.impl("attention_row", TORCH_BOX(&attention_row)); }
