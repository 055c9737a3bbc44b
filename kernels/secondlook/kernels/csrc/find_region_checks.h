// The arguments of find_region, checked alike by the CPU and the CUDA binding.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "checks.h"
#include "find_region.h"

namespace secondlook::region {

inline void check_range(const char* name, int64_t value, int64_t most) {
  STD_TORCH_CHECK(value >= 1 && value <= most, name, " must be from 1 to ", most, ", not ", value);
}

// Raises unless all arguments fit each other; returns those that are not tensors.
inline Search checked_search(const torch::stable::Tensor& question, const torch::stable::Tensor& generic,
                             int64_t rows, int64_t columns, const torch::stable::Tensor& sizes,
                             int64_t crop_size, const std::vector<double>& ratios, int64_t min_cells) {
  using torch::headeronly::ScalarType;
  check_range("rows", rows, kMostCells);
  check_range("columns", columns, kMostCells);
  check_range("rows * columns", rows * columns, kMostCells);
  check_range("crop_size", crop_size, kMostPixels);
  check_range("min_cells", min_cells, kMostPixels);
  const auto count = static_cast<int64_t>(ratios.size());
  check_range("the number of ratios", count, kMostRatios);

  SECONDLOOK_CHECK_DIM(question, 2, "[B, rows * columns]");
  SECONDLOOK_CHECK_DIM(generic, 2, "[B, rows * columns]");
  SECONDLOOK_CHECK_DIM(sizes, 2, "[B, 2]");
  SECONDLOOK_CHECK_SIZE(question, 1, rows * columns);
  SECONDLOOK_CHECK_SIZE(generic, 0, question.size(0));
  SECONDLOOK_CHECK_SIZE(generic, 1, rows * columns);
  SECONDLOOK_CHECK_SIZE(sizes, 0, question.size(0));
  SECONDLOOK_CHECK_SIZE(sizes, 1, 2);
  const ScalarType dtype = question.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                  "question must be float32 or float64, but is scalar type ", static_cast<int>(dtype));
  STD_TORCH_CHECK(generic.scalar_type() == dtype, "generic must be scalar type ", static_cast<int>(dtype),
                  " as question is, but is ", static_cast<int>(generic.scalar_type()));
  SECONDLOOK_CHECK_DTYPE(sizes, Long);
  SECONDLOOK_CHECK_LAST_STRIDE(question);
  SECONDLOOK_CHECK_LAST_STRIDE(generic);
  SECONDLOOK_CHECK_LAST_STRIDE(sizes);
  SECONDLOOK_CHECK_SAME_DEVICE(generic, question);
  SECONDLOOK_CHECK_SAME_DEVICE(sizes, question);

  Search search{};
  search.rows = static_cast<int>(rows);
  search.columns = static_cast<int>(columns);
  search.bits = 61 - static_cast<int>(std::bit_width(static_cast<uint64_t>(rows * columns)));
  search.ratio_count = static_cast<int>(count);
  search.crop_size = crop_size;
  search.min_cells = min_cells;
  double last = 0;
  for (int64_t index = 0; index < count; ++index) {
    const double ratio = ratios[index];
    STD_TORCH_CHECK(ratio >= 1 && ratio > last && std::isfinite(ratio),
                    "ratios must be ascending numbers of at least 1, but ratios[", index, "] is ", ratio);
    search.ratios[index] = last = ratio;
  }
  return search;
}

}  // namespace secondlook::region
