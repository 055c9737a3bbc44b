// Binding of find_region to the CPU; the schema is defined in find_region.py.
#include "find_region.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "../find_region_checks.h"

namespace {

using secondlook::region::Box;
using secondlook::region::Search;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kCellsOfOneTask = 4096;  // below that, a second thread is not worth its start

template <typename Value>
void find_rows(const Tensor& question, const Tensor& generic, const Tensor& sizes, const Search& search,
               Tensor& boxes) {
  const auto* question_data = static_cast<const Value*>(question.const_data_ptr());
  const auto* generic_data = static_cast<const Value*>(generic.const_data_ptr());
  const auto* size_data = static_cast<const int64_t*>(sizes.const_data_ptr());
  auto* box_data = static_cast<int64_t*>(boxes.mutable_data_ptr());
  const int64_t question_stride = question.stride(0);
  const int64_t generic_stride = generic.stride(0);
  const int64_t size_stride = sizes.stride(0);
  const int64_t grain = std::max<int64_t>(1, kCellsOfOneTask / (int64_t{search.rows} * search.columns));
  torch::stable::parallel_for(0, question.size(0), grain, [&](int64_t begin, int64_t end) {
    secondlook::cpu::RegionFinder finder(search);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t* size = size_data + row * size_stride;
      const Box box = finder.find(question_data + row * question_stride,
                                  generic_data + row * generic_stride, {size[0], size[1]});
      int64_t* out = box_data + row * 4;
      out[0] = box.left, out[1] = box.top, out[2] = box.right, out[3] = box.bottom;
    }
  });
}

Tensor find_region(const Tensor& question, const Tensor& generic, int64_t rows, int64_t columns,
                   const Tensor& sizes, int64_t crop_size, std::vector<double> ratios, int64_t min_cells) {
  const Search search = secondlook::region::checked_search(question, generic, rows, columns, sizes,
                                                           crop_size, ratios, min_cells);
  Tensor boxes = torch::stable::new_empty(question, {question.size(0), 4}, ScalarType::Long);
  if (question.size(0) == 0) return boxes;
  if (question.scalar_type() == ScalarType::Float) {
    find_rows<float>(question, generic, sizes, search, boxes);
  } else {
    find_rows<double>(question, generic, sizes, search, boxes);
  }
  return boxes;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(secondlook, CPU, m) { m.impl("find_region", TORCH_BOX(&find_region)); }
