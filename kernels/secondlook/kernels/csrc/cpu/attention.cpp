// secondlook::attention on the CPU: checks, memory and threads around attention.h.
#include "cpu/attention.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cmath>
#include <cstdint>

#include "checks.h"

namespace secondlook::attention {

std::int64_t scratch_of_a_thread(const Call<float>& call) { return scratch_of_a_head<float>(call); }
std::int64_t scratch_of_a_thread(const Call<BFloat16>& call) {
  return has_bf16_dot() ? scratch_of_a_head<BFloat16>(call) : scratch_of_a_head<float>(call);
}

// By what multiplies their type fastest here.
void run(const Call<float>& call, std::int64_t begin, std::int64_t end, float* scratch) {
  run_attend(call, begin, end, scratch);
}
void run(const Call<BFloat16>& call, std::int64_t begin, std::int64_t end, float* scratch) {
  has_bf16_dot() ? run_attend_dot(call, begin, end, scratch) : run_attend(call, begin, end, scratch);
}

}  // namespace secondlook::attention

namespace {

using secondlook::BFloat16;
using secondlook::attention::Call;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

void check(const Tensor& query, const Tensor& keys, const Tensor& values, double scale, bool causal) {
  SECONDLOOK_CHECK_DIM(query, 4, "[N, H, L, D]");
  SECONDLOOK_CHECK_DIM(keys, 4, "[N, H_kv, S, D]");
  const ScalarType type = query.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::BFloat16,
                  "query must be Float or BFloat16, but is scalar type ", static_cast<int>(type));
  STD_TORCH_CHECK(keys.scalar_type() == type && values.scalar_type() == type,
                  "keys and values must have the dtype of query, scalar type ", static_cast<int>(type));
  SECONDLOOK_CHECK_DIM(values, 4, "[N, H_kv, S, D]");
  SECONDLOOK_CHECK_SIZE(keys, 0, query.size(0));
  SECONDLOOK_CHECK_SIZE(keys, 3, query.size(3));
  for (int dimension = 0; dimension < 4; ++dimension) {
    SECONDLOOK_CHECK_SIZE(values, dimension, keys.size(dimension));
  }
  STD_TORCH_CHECK(1 <= query.size(3) && query.size(3) <= secondlook::attention::kMostWidth,
                  "query must have size 1 to 256 in dimension 3, but has ", query.size(3));
  STD_TORCH_CHECK(keys.size(1) >= 1 && query.size(1) >= 1 && query.size(1) % keys.size(1) == 0,
                  "query must have a multiple of the heads of keys, ", keys.size(1), ", but has ",
                  query.size(1));
  STD_TORCH_CHECK(keys.size(2) >= 1, "keys must have at least one position, but has none");
  STD_TORCH_CHECK(!causal || query.size(2) <= keys.size(2),
                  "query must have at most as many rows as there are positions, ", keys.size(2),
                  ", where it is causal, but has ", query.size(2));
  SECONDLOOK_CHECK_LAST_STRIDE(query);
  SECONDLOOK_CHECK_LAST_STRIDE(keys);
  SECONDLOOK_CHECK_LAST_STRIDE(values);
  STD_TORCH_CHECK(std::isfinite(static_cast<float>(scale)), "scale must be finite in float32, but is ",
                  scale);
}

template <typename T>
void run_all(const Tensor& query, const Tensor& keys, const Tensor& values, double scale, bool causal,
         Tensor& result) {
  Call<T> call{};
  call.query = static_cast<const T*>(query.const_data_ptr());
  call.keys = static_cast<const T*>(keys.const_data_ptr());
  call.values = static_cast<const T*>(values.const_data_ptr());
  call.batch = query.size(0);
  call.heads = query.size(1);
  call.kv_heads = keys.size(1);
  call.rows = query.size(2);
  call.positions = keys.size(2);
  call.width = query.size(3);
  for (int i = 0; i < 3; ++i) {
    call.query_strides[i] = query.stride(i);
    call.keys_strides[i] = keys.stride(i);
    call.values_strides[i] = values.stride(i);
  }
  call.scale = static_cast<float>(scale);
  call.causal = causal;
  call.result = static_cast<T*>(result.mutable_data_ptr());
  const std::int64_t floats = secondlook::attention::scratch_of_a_thread(call);
  torch::stable::parallel_for(0, call.batch * call.heads, 1, [&](std::int64_t begin, std::int64_t end) {
    Tensor scratch = torch::stable::new_empty(query, {floats}, ScalarType::Float);
    secondlook::attention::run(call, begin, end, static_cast<float*>(scratch.mutable_data_ptr()));
  });
}

Tensor attention(const Tensor& query, const Tensor& keys, const Tensor& values, double scale, bool causal) {
  check(query, keys, values, scale, causal);
  Tensor result =
      torch::stable::new_empty(query, {query.size(0), query.size(2), query.size(1), query.size(3)});
  if (result.numel() == 0) return result;
  if (query.scalar_type() == ScalarType::Float) {
    run_all<float>(query, keys, values, scale, causal, result);
  } else {
    run_all<BFloat16>(query, keys, values, scale, causal, result);
  }
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(secondlook, CPU, m) { m.impl("attention", TORCH_BOX(&attention)); }
