// secondlook::decode_attention on CUDA: checks, memory, device and stream around the launches of
// decode_attention.cuh.
#include "cuda/decode_attention.cuh"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#include "cuda/current_stream.h"
#include "decode_attention_checks.h"

namespace {

using secondlook::decode_attention::Call;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename T>
void run(const Call<T>& call, const Tensor& query) {
  const secondlook::decode_attention::Plan plan = secondlook::decode_attention::plan(call);
  Tensor scratch =
      torch::stable::new_empty(query, {plan.scratch_floats(call.batch * call.heads)}, ScalarType::Float);
  STD_CUDA_CHECK(secondlook::decode_attention::launch(
      call, plan, static_cast<float*>(scratch.mutable_data_ptr()), secondlook::cuda::current_stream(query)));
}

Tensor decode_attention(const Tensor& query, const Tensor& keys, const Tensor& values, const Tensor& slots,
                        const Tensor& lengths, double scale) {
  using secondlook::decode_attention::call_of;
  secondlook::decode_attention::check(query, keys, values, slots, lengths, scale);
  const torch::stable::accelerator::DeviceGuard guard(query.get_device_index());
  Tensor result = torch::stable::new_empty(query, {query.size(0), query.size(1), query.size(2)});
  if (result.numel() == 0) return result;
  switch (query.scalar_type()) {
    case ScalarType::Float:
      run(call_of<float>(query, keys, values, slots, lengths, scale, result), query);
      break;
    case ScalarType::Half:
      run(call_of<__half>(query, keys, values, slots, lengths, scale, result), query);
      break;
    default:
      run(call_of<__nv_bfloat16>(query, keys, values, slots, lengths, scale, result), query);
  }
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(secondlook, CUDA, m) { m.impl("decode_attention", TORCH_BOX(&decode_attention)); }
