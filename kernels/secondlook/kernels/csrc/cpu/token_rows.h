// Rows of a logits tensor shared out among threads, for the bindings of token_statistics and record_tokens.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <numeric>
#include <vector>

#include "cpu/token_statistics.h"
#include "token_checks.h"

namespace secondlook {

inline std::vector<std::int64_t> all_rows(std::int64_t rows) {
  std::vector<std::int64_t> chosen(static_cast<std::size_t>(rows));
  std::iota(chosen.begin(), chosen.end(), std::int64_t{0});
  return chosen;
}

template <typename T>
std::vector<TokenStatistics> row_statistics_of(const T* logits, std::int64_t stride, std::int64_t vocabulary,
                                               const std::vector<std::int64_t>& rows) {
  const std::int64_t segments = token_segments(vocabulary);
  const std::int64_t count = static_cast<std::int64_t>(rows.size());
  std::vector<TokenState> states(static_cast<std::size_t>(count * segments));
  // A grain of two segments takes about as long as waking a thread.
  torch::stable::parallel_for(0, count * segments, 2, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t task = begin; task < end; ++task) {
      const T* const row = logits + rows[static_cast<std::size_t>(task / segments)] * stride;
      const std::int64_t first = task % segments * kTokenSegment;
      const std::int64_t last = vocabulary - first < kTokenSegment ? vocabulary : first + kTokenSegment;
      TokenState state;
      read_segment(row, first, last, state);
      states[static_cast<std::size_t>(task)] = state;
    }
  });
  std::vector<TokenStatistics> found(rows.size());
  for (std::size_t row = 0; row < rows.size(); ++row) {
    found[row] = finish(states.data() + row * static_cast<std::size_t>(segments), segments);
  }
  return found;
}

// The statistics of the chosen rows of logits [B, V], which check_logits accepted.
inline std::vector<TokenStatistics> row_statistics(const torch::stable::Tensor& logits,
                                                   const std::vector<std::int64_t>& rows) {
  using torch::headeronly::ScalarType;
  const void* const data = logits.const_data_ptr();
  const std::int64_t stride = logits.stride(0), vocabulary = logits.size(1);
  switch (logits.scalar_type()) {
    case ScalarType::Float:
      return row_statistics_of(static_cast<const float*>(data), stride, vocabulary, rows);
    case ScalarType::Half:
      return row_statistics_of(static_cast<const Half*>(data), stride, vocabulary, rows);
    default:
      return row_statistics_of(static_cast<const BFloat16*>(data), stride, vocabulary, rows);
  }
}

}  // namespace secondlook
