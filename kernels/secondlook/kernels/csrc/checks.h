// Checks of arguments that every binding makes: each message names the argument and what it was.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>

#define SECONDLOOK_CHECK_DIM(tensor, expected, shape)                                              \
  STD_TORCH_CHECK((tensor).dim() == (expected), #tensor " must be " shape ", but has ",           \
                  (tensor).dim(), " dimension(s)")

#define SECONDLOOK_CHECK_SIZE(tensor, dimension, expected)                                         \
  STD_TORCH_CHECK((tensor).size(dimension) == (expected), #tensor " must have size ", (expected), \
                  " in dimension ", (dimension), ", but has ", (tensor).size(dimension))

#define SECONDLOOK_CHECK_DTYPE(tensor, expected)                                                   \
  STD_TORCH_CHECK((tensor).scalar_type() == torch::headeronly::ScalarType::expected,              \
                  #tensor " must be " #expected ", but is scalar type ",                          \
                  static_cast<int>((tensor).scalar_type()))

#define SECONDLOOK_CHECK_LAST_STRIDE(tensor)                                                       \
  STD_TORCH_CHECK((tensor).size(-1) <= 1 || (tensor).stride(-1) == 1,                             \
                  #tensor " must be contiguous in its last dimension, but its stride is ",        \
                  (tensor).stride(-1))

#define SECONDLOOK_CHECK_SAME_DEVICE(tensor, other)                                                \
  STD_TORCH_CHECK((tensor).get_device_index() == (other).get_device_index() &&                    \
                      (tensor).is_cuda() == (other).is_cuda(),                                     \
                  #tensor " must be on the device of " #other)

namespace secondlook {

// Every element of a vector of int64 on the CPU is in [0, last].
inline void check_values(const torch::stable::Tensor& tensor, const char* name, std::int64_t last) {
  const auto* values = static_cast<const std::int64_t*>(tensor.const_data_ptr());
  for (std::int64_t b = 0; b < tensor.size(0); ++b) {
    const std::int64_t value = values[b * tensor.stride(0)];
    STD_TORCH_CHECK(0 <= value && value <= last, name, " must be in [0, ", last, "], but ", name, "[", b,
                    "] is ", value);
  }
}

}  // namespace secondlook
