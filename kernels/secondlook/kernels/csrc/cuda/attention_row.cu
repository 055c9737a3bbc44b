// secondlook::attention_row on CUDA: checks, memory, device and stream around the launches of
// attention_row.cuh.
#include "cuda/attention_row.cuh"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>

#include "attention_row_checks.h"

namespace {

using secondlook::attention_row::Call;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename T>
void run(const Tensor& query, const Tensor& keys, const Tensor& lengths, std::int64_t start,
         std::int64_t stop, double scale, const std::optional<Tensor>& head_weights, const Tensor& result) {
  Call<T> call{};
  call.query = static_cast<const T*>(query.const_data_ptr());
  call.keys = static_cast<const T*>(keys.const_data_ptr());
  call.lengths = static_cast<const std::int64_t*>(lengths.const_data_ptr());
  call.batch = query.size(0);
  call.heads = query.size(1);
  call.kv_heads = keys.size(1);
  call.positions = keys.size(2);
  call.width = query.size(2);
  call.query_batch_stride = query.stride(0);
  call.query_head_stride = query.stride(1);
  call.keys_batch_stride = keys.stride(0);
  call.keys_head_stride = keys.stride(1);
  call.keys_position_stride = keys.stride(2);
  call.lengths_stride = lengths.stride(0);
  if (head_weights.has_value()) {
    call.head_weights = static_cast<const float*>(head_weights->const_data_ptr());
    call.head_weights_stride = head_weights->stride(0);
  }
  call.start = start;
  call.stop = stop;
  call.scale = static_cast<float>(scale);
  call.result = static_cast<float*>(result.mutable_data_ptr());
  const secondlook::attention_row::Plan plan = secondlook::attention_row::plan(call);
  Tensor scratch = torch::stable::new_empty(query, {plan.scratch_floats()}, ScalarType::Float);
  call.scratch = static_cast<float*>(scratch.mutable_data_ptr());

  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(query.get_device_index(), &stream));
  STD_CUDA_CHECK(secondlook::attention_row::launch(call, plan, static_cast<cudaStream_t>(stream)));
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
