// The arguments of record_tokens, checked and as raw pointers; the same on every device.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include "checks.h"
#include "record.h"
#include "token_checks.h"

#define SECONDLOOK_CHECK_RECORD(tensor, type, dimensions, shape)                                          \
  do {                                                                                                    \
    SECONDLOOK_CHECK_DIM(tensor, dimensions, shape);                                                      \
    SECONDLOOK_CHECK_DTYPE(tensor, type);                                                                 \
    SECONDLOOK_CHECK_SAME_DEVICE(tensor, logits);                                                         \
    STD_TORCH_CHECK((tensor).is_contiguous(), #tensor " must be contiguous, but its first stride is ",    \
                    (tensor).stride(0));                                                                  \
  } while (false)

namespace secondlook {

inline Record checked_record(const torch::stable::Tensor& logits, const torch::stable::Tensor& slots,
                             const torch::stable::Tensor& end_tokens, const torch::stable::Tensor& limits,
                             const torch::stable::Tensor& tokens, const torch::stable::Tensor& measures,
                             const torch::stable::Tensor& means, const torch::stable::Tensor& lengths,
                             const torch::stable::Tensor& finished,
                             const torch::stable::Tensor& next_tokens,
                             const torch::stable::Tensor& arrivals) {
  check_logits(logits);
  SECONDLOOK_CHECK_RECORD(slots, Long, 1, "[B]");
  SECONDLOOK_CHECK_RECORD(end_tokens, Long, 1, "[E]");
  SECONDLOOK_CHECK_RECORD(limits, Long, 1, "[S]");
  SECONDLOOK_CHECK_RECORD(tokens, Long, 2, "[S, T]");
  SECONDLOOK_CHECK_RECORD(measures, Float, 3, "[S, T, 3]");
  SECONDLOOK_CHECK_RECORD(means, Float, 2, "[S, 3]");
  SECONDLOOK_CHECK_RECORD(lengths, Long, 1, "[S]");
  SECONDLOOK_CHECK_RECORD(finished, Bool, 1, "[S]");
  SECONDLOOK_CHECK_RECORD(next_tokens, Long, 1, "[B]");
  SECONDLOOK_CHECK_RECORD(arrivals, Int, 1, "[B]");
  const std::int64_t rows = logits.size(0), count = tokens.size(0), capacity = tokens.size(1);
  SECONDLOOK_CHECK_SIZE(slots, 0, rows);
  SECONDLOOK_CHECK_SIZE(next_tokens, 0, rows);
  SECONDLOOK_CHECK_SIZE(arrivals, 0, rows);
  SECONDLOOK_CHECK_SIZE(limits, 0, count);
  SECONDLOOK_CHECK_SIZE(measures, 0, count);
  SECONDLOOK_CHECK_SIZE(measures, 1, capacity);
  SECONDLOOK_CHECK_SIZE(measures, 2, 3);
  SECONDLOOK_CHECK_SIZE(means, 0, count);
  SECONDLOOK_CHECK_SIZE(means, 1, 3);
  SECONDLOOK_CHECK_SIZE(lengths, 0, count);
  SECONDLOOK_CHECK_SIZE(finished, 0, count);
  return {.slots = slots.const_data_ptr<std::int64_t>(),
          .end_tokens = end_tokens.const_data_ptr<std::int64_t>(),
          .limits = limits.const_data_ptr<std::int64_t>(),
          .tokens = tokens.mutable_data_ptr<std::int64_t>(),
          .measures = measures.mutable_data_ptr<float>(),
          .means = means.mutable_data_ptr<float>(),
          .lengths = lengths.mutable_data_ptr<std::int64_t>(),
          .finished = finished.mutable_data_ptr<bool>(),
          .next_tokens = next_tokens.mutable_data_ptr<std::int64_t>(),
          .slot_count = count,
          .end_count = end_tokens.size(0),
          .capacity = capacity};
}

}  // namespace secondlook
