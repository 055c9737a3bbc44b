// record_tokens(logits, slots, end_tokens, limits, tokens!, measures!, means!, lengths!, finished!,
// next_tokens!, arrivals!) on the CPU, where arrivals are not needed.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <vector>

#include "cpu/token_rows.h"
#include "record_checks.h"

namespace {

using torch::stable::Tensor;

void record_tokens(const Tensor& logits, const Tensor& slots, const Tensor& end_tokens, const Tensor& limits,
                   const Tensor& tokens, const Tensor& measures, const Tensor& means, const Tensor& lengths,
                   const Tensor& finished, const Tensor& next_tokens, const Tensor& arrivals) {
  const secondlook::Record record = secondlook::checked_record(
      logits, slots, end_tokens, limits, tokens, measures, means, lengths, finished, next_tokens, arrivals);
  std::vector<std::int64_t> rows;
  for (std::int64_t row = 0; row < logits.size(0); ++row) {
    if (record.wants(row)) rows.push_back(row);
  }
  if (rows.empty()) return;
  const auto found = secondlook::row_statistics(logits, rows);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const secondlook::TokenStatistics& one = found[i];
    record.append(rows[i], one.token, one.min_entropy, one.shannon_entropy, one.margin);
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(secondlook, CPU, m) { m.impl("record_tokens", TORCH_BOX(&record_tokens)); }
