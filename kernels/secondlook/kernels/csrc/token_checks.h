// Checks shared by the bindings of token_statistics and record_tokens, on every device.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include "checks.h"

namespace secondlook {

inline void check_logits(const torch::stable::Tensor& logits) {
  using torch::headeronly::ScalarType;
  SECONDLOOK_CHECK_DIM(logits, 2, "[B, V]");
  const ScalarType type = logits.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Half || type == ScalarType::BFloat16,
                  "logits must be float32, float16 or bfloat16, but is scalar type ", static_cast<int>(type));
  STD_TORCH_CHECK(logits.size(1) > 0, "logits must have at least one token, but its shape is [",
                  logits.size(0), ", 0]");
  SECONDLOOK_CHECK_LAST_STRIDE(logits);
}

}  // namespace secondlook
