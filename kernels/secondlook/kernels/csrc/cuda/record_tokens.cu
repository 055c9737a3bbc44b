// record_tokens(logits, slots, end_tokens, limits, tokens!, measures!, means!, lengths!, finished!,
// next_tokens!, arrivals!) on CUDA: one kernel and nothing else on the stream; no synchronisation.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include "cuda/token_launch.h"
#include "record_checks.h"

namespace {

using torch::stable::Tensor;

void record_tokens(const Tensor& logits, const Tensor& slots, const Tensor& end_tokens, const Tensor& limits,
                   const Tensor& tokens, const Tensor& measures, const Tensor& means, const Tensor& lengths,
                   const Tensor& finished, const Tensor& next_tokens, const Tensor& arrivals) {
  const secondlook::Record record = secondlook::checked_record(
      logits, slots, end_tokens, limits, tokens, measures, means, lengths, finished, next_tokens, arrivals);
  if (logits.size(0) == 0) return;
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  secondlook::cuda::launch_for(logits, record, arrivals.mutable_data_ptr<std::int32_t>());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(secondlook, CUDA, m) { m.impl("record_tokens", TORCH_BOX(&record_tokens)); }
