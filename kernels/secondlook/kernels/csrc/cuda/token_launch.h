// From a logits tensor to a launch; used by the bindings of token_statistics and record_tokens.
#pragma once

#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#include "cuda/current_stream.h"
#include "cuda/token_statistics.cuh"

namespace secondlook::cuda {

template <typename T, typename Sink>
cudaError_t launch_as(const torch::stable::Tensor& logits, const Sink& sink, int* arrivals) {
  const std::int64_t rows = logits.size(0), vocabulary = logits.size(1);
  const auto bytes = static_cast<std::int64_t>(token_workspace(rows, vocabulary));
  torch::stable::Tensor workspace =
      torch::stable::new_empty(logits, {bytes}, torch::headeronly::ScalarType::Byte);
  return token_launch(static_cast<const T*>(logits.const_data_ptr()), rows, logits.stride(0), vocabulary,
                      sink, workspace.mutable_data_ptr(), arrivals, current_stream(logits));
}

// On the current stream, with the device current, for logits [B, V] that check_logits accepted; arrivals [B]
// are zeros and left so.
template <typename Sink>
void launch_for(const torch::stable::Tensor& logits, const Sink& sink, int* arrivals) {
  using torch::headeronly::ScalarType;
  STD_TORCH_CHECK(logits.size(0) <= INT32_MAX && logits.size(1) <= std::int64_t{65535} * kChunk,
                  "logits must have at most ", INT32_MAX, " rows of ", std::int64_t{65535} * kChunk,
                  " tokens, but its shape is [", logits.size(0), ", ", logits.size(1), "]");
  switch (logits.scalar_type()) {
    case ScalarType::Float:
      STD_CUDA_CHECK(launch_as<float>(logits, sink, arrivals));
      break;
    case ScalarType::Half:
      STD_CUDA_CHECK(launch_as<__half>(logits, sink, arrivals));
      break;
    default:
      STD_CUDA_CHECK(launch_as<__nv_bfloat16>(logits, sink, arrivals));
  }
}

}  // namespace secondlook::cuda
