// token_statistics(Tensor logits) -> (token, min_entropy, shannon_entropy, margin), on the CPU.
#include "cpu/token_statistics.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <tuple>

#include "cpu/token_rows.h"
#include "token_checks.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

std::tuple<Tensor, Tensor, Tensor, Tensor> token_statistics(const Tensor& logits) {
  secondlook::check_logits(logits);
  const std::int64_t rows = logits.size(0);
  Tensor token = torch::stable::new_empty(logits, {rows}, ScalarType::Long);
  Tensor min_entropy = torch::stable::new_empty(logits, {rows}, ScalarType::Float);
  Tensor shannon_entropy = torch::stable::new_empty(logits, {rows}, ScalarType::Float);
  Tensor margin = torch::stable::new_empty(logits, {rows}, ScalarType::Float);
  if (rows == 0) return {token, min_entropy, shannon_entropy, margin};

  const auto found = secondlook::row_statistics(logits, secondlook::all_rows(rows));
  std::int64_t* const tokens = token.mutable_data_ptr<std::int64_t>();
  float* const out[3] = {min_entropy.mutable_data_ptr<float>(), shannon_entropy.mutable_data_ptr<float>(),
                         margin.mutable_data_ptr<float>()};
  for (std::int64_t row = 0; row < rows; ++row) {
    const secondlook::TokenStatistics& one = found[static_cast<std::size_t>(row)];
    tokens[row] = one.token;
    out[0][row] = one.min_entropy;
    out[1][row] = one.shannon_entropy;
    out[2][row] = one.margin;
  }
  return {token, min_entropy, shannon_entropy, margin};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(secondlook, CPU, m) { m.impl("token_statistics", TORCH_BOX(&token_statistics)); }
