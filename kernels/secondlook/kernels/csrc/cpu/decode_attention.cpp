// secondlook::decode_attention on the CPU: checks, memory and threads around the passes of
// decode_attention.h.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#include "cpu/decode_attention_threads.h"
#include "decode_attention_checks.h"

namespace {

using secondlook::check_values;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

Tensor decode_attention(const Tensor& query, const Tensor& keys, const Tensor& values, const Tensor& slots,
                        const Tensor& lengths, double scale) {
  secondlook::decode_attention::check(query, keys, values, slots, lengths, scale);
  check_values(slots, "slots", keys.size(0) - 1);
  check_values(lengths, "lengths", keys.size(2));
  Tensor result = torch::stable::new_empty(query, {query.size(0), query.size(1), query.size(2)});
  if (result.numel() == 0) return result;
  const auto run_as = [&]<typename T>(T) {
    secondlook::decode_attention::run(
        secondlook::decode_attention::call_of<T>(query, keys, values, slots, lengths, scale, result), query);
  };
  switch (query.scalar_type()) {
    case ScalarType::Float:
      run_as(float{});
      break;
    case ScalarType::Half:
      run_as(secondlook::Half{});
      break;
    default:
      run_as(secondlook::BFloat16{});
  }
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(secondlook, CPU, m) { m.impl("decode_attention", TORCH_BOX(&decode_attention)); }
