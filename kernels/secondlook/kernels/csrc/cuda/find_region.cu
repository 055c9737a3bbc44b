// Binding of find_region to CUDA; the schema is defined in find_region.py.
#include "find_region.cuh"

#include <cstdint>
#include <optional>
#include <vector>

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "../find_region_checks.h"
#include "current_stream.h"

namespace {

using secondlook::region::Search;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename Value>
cudaError_t launch(const Tensor& question, const Tensor& generic, const Tensor& sizes, const Search& search,
                   void* scratch, Tensor& boxes, cudaStream_t stream) {
  return secondlook::cuda::launch_find_region(
      static_cast<const Value*>(question.const_data_ptr()), question.stride(0),
      static_cast<const Value*>(generic.const_data_ptr()), generic.stride(0),
      static_cast<const int64_t*>(sizes.const_data_ptr()), sizes.stride(0), question.size(0), search,
      scratch, static_cast<int64_t*>(boxes.mutable_data_ptr()), stream);
}

Tensor find_region(const Tensor& question, const Tensor& generic, int64_t rows, int64_t columns,
                   const Tensor& sizes, int64_t crop_size, std::vector<double> ratios, int64_t min_cells) {
  const Search search = secondlook::region::checked_search(question, generic, rows, columns, sizes,
                                                           crop_size, ratios, min_cells);
  const int64_t batch = question.size(0);
  STD_TORCH_CHECK(batch <= INT32_MAX, "question must have at most ", INT32_MAX, " rows, but has ", batch);
  const torch::stable::accelerator::DeviceGuard guard(question.get_device_index());
  Tensor boxes = torch::stable::new_empty(question, {batch, 4}, ScalarType::Long);
  if (batch == 0) return boxes;
  std::optional<Tensor> scratch;
  void* scratch_data = nullptr;
  if (const size_t bytes = secondlook::cuda::region_scratch_bytes(search, batch); bytes > 0) {
    scratch = torch::stable::new_empty(question, {static_cast<int64_t>(bytes)}, ScalarType::Byte);
    scratch_data = scratch->mutable_data_ptr();
  }
  const auto launcher = question.scalar_type() == ScalarType::Float ? &launch<float> : &launch<double>;
  STD_CUDA_CHECK(launcher(question, generic, sizes, search, scratch_data, boxes,
                          secondlook::cuda::current_stream(question)));
  return boxes;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(secondlook, CUDA, m) { m.impl("find_region", TORCH_BOX(&find_region)); }
