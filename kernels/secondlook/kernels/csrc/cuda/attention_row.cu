// secondlook::attention_row on CUDA: checks, memory, device and stream around the launches of
// attention_row.cuh.
#include "cuda/attention_row.cuh"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>

#include "attention_row_checks.h"
#include "cuda/current_stream.h"

namespace {

using secondlook::attention_row::Call;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename T>
void run(const Tensor& query, const Tensor& keys, const Tensor& lengths, std::int64_t start,
         std::int64_t stop, double scale, const std::optional<Tensor>& head_weights, const Tensor& result) {
  Call<T> call{secondlook::attention_row::arguments_of<T>(query, keys, lengths, start, stop, scale,
                                                          head_weights, result)};
  const secondlook::attention_row::Plan plan = secondlook::attention_row::plan(call);
  Tensor scratch = torch::stable::new_empty(query, {plan.scratch_floats()}, ScalarType::Float);
  call.scratch = static_cast<float*>(scratch.mutable_data_ptr());
  STD_CUDA_CHECK(secondlook::attention_row::launch(call, plan, secondlook::cuda::current_stream(query)));
}

Tensor attention_row(const Tensor& query, const Tensor& keys, const Tensor& lengths, std::int64_t start,
                     std::int64_t stop, double scale, std::optional<Tensor> head_weights) {
  secondlook::attention_row::check(query, keys, lengths, start, stop, scale, head_weights);
  const torch::stable::accelerator::DeviceGuard guard(query.get_device_index());
  Tensor result = torch::stable::new_empty(query, {query.size(0), stop - start}, ScalarType::Float);
  if (result.numel() == 0) return result;
  switch (query.scalar_type()) {
    case ScalarType::Float:
      run<float>(query, keys, lengths, start, stop, scale, head_weights, result);
      break;
    case ScalarType::Half:
      run<__half>(query, keys, lengths, start, stop, scale, head_weights, result);
      break;
    default:
      run<__nv_bfloat16>(query, keys, lengths, start, stop, scale, head_weights, result);
  }
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(secondlook, CUDA, m) { m.impl("attention_row", TORCH_BOX(&attention_row)); }
