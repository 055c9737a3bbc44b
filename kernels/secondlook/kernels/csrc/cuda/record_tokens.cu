// record_tokens(logits, slots, end_tokens, limits, tokens!, measures!, means!, lengths!, finished!,
// next_tokens!) on CUDA: one kernel, after one counter a row is set to zero where rows have several chunks; no
// synchronisation.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include "cuda/token_launch.h"
#include "record_checks.h"

namespace {

using torch::stable::Tensor;

void record_tokens(const Tensor& logits, const Tensor& slots, const Tensor& end_tokens, const Tensor& limits,
                   const Tensor& tokens, const Tensor& measures, const Tensor& means, const Tensor& lengths,
                   const Tensor& finished, const Tensor& next_tokens) {
  const secondlook::Record record = secondlook::checked_record(
      logits, slots, end_tokens, limits, tokens, measures, means, lengths, finished, next_tokens);
  if (logits.size(0) == 0) return;
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  secondlook::cuda::launch_for(logits, record);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(secondlook, CUDA, m) { m.impl("record_tokens", TORCH_BOX(&record_tokens)); }
