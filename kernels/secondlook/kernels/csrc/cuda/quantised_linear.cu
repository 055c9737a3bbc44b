// secondlook::quantised_linear on CUDA: checks, memory, device and stream around the launches of
// quantised_linear.cuh; with many rows PyTorch multiplies by the weights that one of them writes.
#include "cuda/quantised_linear.cuh"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <cstdint>
#include <optional>

#include "checks.h"
#include "cuda/current_stream.h"

namespace {

namespace quantised = secondlook::quantised_linear;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

bool starts_at(const Tensor& tensor, std::uintptr_t multiple) {
  return reinterpret_cast<std::uintptr_t>(tensor.const_data_ptr()) % multiple == 0;
}

void check(const Tensor& input, const Tensor& values, const Tensor& scales, const std::optional<Tensor>& bias) {
  SECONDLOOK_CHECK_DIM(input, 2, "[B, inputs]");
  SECONDLOOK_CHECK_DIM(values, 2, "[outputs, inputs], or [outputs, inputs / 2] of 4 bits");
  SECONDLOOK_CHECK_DIM(scales, 2, "[outputs, groups]");
  const ScalarType type = input.scalar_type(), bits = values.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Half || type == ScalarType::BFloat16,
                  "input must be Float, Half or BFloat16, but is scalar type ", static_cast<int>(type));
  STD_TORCH_CHECK(bits == ScalarType::Byte || bits == ScalarType::Char || bits == ScalarType::Float8_e4m3fn,
                  "values must be Byte, Char or Float8_e4m3fn, but is scalar type ", static_cast<int>(bits));
  SECONDLOOK_CHECK_DTYPE(scales, Int);
  const std::int64_t inputs = input.size(1), outputs = values.size(0), groups = scales.size(1);
  STD_TORCH_CHECK(outputs >= 1, "values must have at least one output, but has none");
  SECONDLOOK_CHECK_SIZE(values, 1, bits == ScalarType::Byte ? inputs / 2 : inputs);
  SECONDLOOK_CHECK_SIZE(scales, 0, outputs);
  STD_TORCH_CHECK(groups >= 1 && inputs % (groups * quantised::kPiece) == 0 &&
                      inputs / groups >= quantised::kLeastGroup && inputs < quantised::kMostInputs,
                  "scales must be of groups of 16 inputs or more, a multiple of 8, fewer than 2^19 in all, but "
                  "there are ", groups, " group(s) of ", inputs, " inputs");
  SECONDLOOK_CHECK_LAST_STRIDE(input);
  STD_TORCH_CHECK(values.is_contiguous() && starts_at(values, 8),
                  "values must be contiguous and start at a multiple of 8 bytes");
  STD_TORCH_CHECK(scales.is_contiguous(), "scales must be contiguous");
  SECONDLOOK_CHECK_SAME_DEVICE(values, input);
  SECONDLOOK_CHECK_SAME_DEVICE(scales, input);
  if (!bias) return;
  STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == outputs && bias->is_contiguous() &&
                      bias->scalar_type() == type,
                  "bias must be [outputs], contiguous, of the dtype of input");
  STD_TORCH_CHECK(bias->get_device_index() == input.get_device_index() && bias->is_cuda() == input.is_cuda(),
                  "bias must be on the device of input");
}

// Of the same rows, those whose starts are multiples of 16 bytes.
Tensor aligned(const Tensor& input, std::int64_t size) {
  const bool rows = input.size(0) <= 1 || input.stride(0) * size % 16 == 0;
  return rows && starts_at(input, 16) ? input : torch::stable::clone(input);
}

Tensor linear(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias) {
  using torch::stable::detail::from;
  std::array<StableIValue, 3> stack{from(input), from(weight), from(bias)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::linear", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

template <typename T, typename Format>
Tensor run(const Tensor& given, const Tensor& values, const Tensor& scales, const std::optional<Tensor>& bias) {
  const bool few = given.size(0) <= quantised::kMostRows;
  const Tensor input = few ? aligned(given, sizeof(T)) : given;
  quantised::Call<T> call{};
  call.values = values.const_data_ptr();
  call.scales = static_cast<const unsigned*>(scales.const_data_ptr());
  call.rows = input.size(0);
  call.inputs = input.size(1);
  call.outputs = values.size(0);
  call.groups = scales.size(1);
  const cudaStream_t stream = secondlook::cuda::current_stream(input);
  if (!few) {
    Tensor weight = torch::stable::new_empty(input, {values.size(0), input.size(1)});
    STD_CUDA_CHECK((quantised::launch_dequantise<T, Format>(
        call, static_cast<T*>(weight.mutable_data_ptr()), stream)));
    return linear(input, weight, bias);
  }
  Tensor result = torch::stable::new_empty(input, {input.size(0), values.size(0)});
  if (call.rows == 0) return result;
  call.input = static_cast<const T*>(input.const_data_ptr());
  call.input_stride = input.stride(0);
  call.bias = bias ? static_cast<const T*>(bias->const_data_ptr()) : nullptr;
  call.result = static_cast<T*>(result.mutable_data_ptr());
  STD_CUDA_CHECK((quantised::launch<T, Format>(call, stream)));
  return result;
}

template <typename T>
Tensor run_format(const Tensor& input, const Tensor& values, const Tensor& scales,
                  const std::optional<Tensor>& bias) {
  switch (values.scalar_type()) {
    case ScalarType::Byte:
      return run<T, quantised::Int4>(input, values, scales, bias);
    case ScalarType::Char:
      return run<T, quantised::Int8>(input, values, scales, bias);
    default:
      return run<T, quantised::Float8>(input, values, scales, bias);
  }
}

Tensor quantised_linear(const Tensor& input, const Tensor& values, const Tensor& scales,
                        const std::optional<Tensor>& bias) {
  check(input, values, scales, bias);
  const torch::stable::accelerator::DeviceGuard guard(input.get_device_index());
  switch (input.scalar_type()) {
    case ScalarType::Float:
      return run_format<float>(input, values, scales, bias);
    case ScalarType::Half:
      return run_format<__half>(input, values, scales, bias);
    default:
      return run_format<__nv_bfloat16>(input, values, scales, bias);
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(secondlook, CUDA, m) { m.impl("quantised_linear", TORCH_BOX(&quantised_linear)); }
