// Memory of tensors, and for a call.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/blocked.h"

namespace secondlook {

// Null of what has no elements.
template <typename T>
const T* data(const torch::stable::Tensor& tensor) {
  return tensor.numel() == 0 ? nullptr : static_cast<const T*>(tensor.const_data_ptr());
}
template <typename T>
T* changed(const torch::stable::Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// Calls use(T{}) with the type of a tensor's elements, one of two.
template <typename Use>
void with_type(const torch::stable::Tensor& tensor, const Use& use) {
  if (tensor.scalar_type() == torch::headeronly::ScalarType::Float) {
    use(float{});
  } else {
    use(BFloat16{});
  }
}

// Memory for a call.
class Memory {
 public:
  explicit Memory(const torch::stable::Tensor& like) : like_(like) {}
  template <typename T>
  T* take(std::int64_t count) {
    const std::int64_t floats = (count * static_cast<std::int64_t>(sizeof(T)) + 3) / 4;
    held_.push_back(torch::stable::new_empty(like_, {floats}, torch::headeronly::ScalarType::Float));
    return changed<T>(held_.back());
  }
  // Rows of `size`, with zeros to an even number.
  template <typename T>
  T* take_inputs(std::int64_t rows, std::int64_t size) {
    const std::int64_t stride = blocked::row_stride(size);
    T* const x = take<T>(rows * stride);
    if (stride > size) std::fill(x, x + rows * stride, T{});
    return x;
  }

 private:
  const torch::stable::Tensor& like_;
  std::vector<torch::stable::Tensor> held_;
};

}  // namespace secondlook
