// token_statistics(Tensor logits) -> (token, min_entropy, shannon_entropy, margin), on CUDA.
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
    secondlook::cuda::launch_for(logits, sink);
  }
  return {token, min_entropy, shannon_entropy, margin};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(secondlook, CUDA, m) { m.impl("token_statistics", TORCH_BOX(&token_statistics)); }
