// token_statistics(Tensor logits) -> (token, min_entropy, shannon_entropy, margin), on CUDA: a counter of
// each row is set to zero, then one kernel. (record_tokens is given its counters and is the kernel alone.)
#include "cuda/token_statistics.cuh"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <tuple>

#include "cuda/token_launch.h"
#include "token_checks.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

std::tuple<Tensor, Tensor, Tensor, Tensor> token_statistics(const Tensor& logits) {
  secondlook::check_logits(logits);
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  const std::int64_t rows = logits.size(0);
  Tensor token = torch::stable::new_empty(logits, {rows}, ScalarType::Long);
  Tensor min_entropy = torch::stable::new_empty(logits, {rows}, ScalarType::Float);
  Tensor shannon_entropy = torch::stable::new_empty(logits, {rows}, ScalarType::Float);
  Tensor margin = torch::stable::new_empty(logits, {rows}, ScalarType::Float);
  if (rows > 0) {
    const secondlook::cuda::StatisticsSink sink{
        token.mutable_data_ptr<std::int64_t>(), min_entropy.mutable_data_ptr<float>(),
        shannon_entropy.mutable_data_ptr<float>(), margin.mutable_data_ptr<float>()};
    Tensor arrivals = torch::stable::new_empty(logits, {rows}, ScalarType::Int);
    int* const counts = arrivals.mutable_data_ptr<std::int32_t>();
    const auto bytes = static_cast<std::size_t>(rows) * sizeof(int);
    STD_CUDA_CHECK(cudaMemsetAsync(counts, 0, bytes, secondlook::cuda::current_stream(logits)));
    secondlook::cuda::launch_for(logits, sink, counts);
  }
  return {token, min_entropy, shannon_entropy, margin};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(secondlook, CUDA, m) { m.impl("token_statistics", TORCH_BOX(&token_statistics)); }
