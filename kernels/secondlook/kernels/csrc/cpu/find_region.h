// find_region on the CPU: one row at a time, by a summed-area table.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../find_region.h"

namespace secondlook::cpu {

// Memory of one thread, for maps of one size.
class RegionFinder {
 public:
  explicit RegionFinder(const region::Search& search)
      : search_(search),
        relative_(static_cast<size_t>(search.rows) * search.columns),
        table_((static_cast<size_t>(search.rows) + 1) * (search.columns + 1)),
        largest_(search.columns),
        place_(search.columns) {}

  // The box of one row; question and generic have rows * columns values.
  template <typename Value>
  region::Box find(const Value* question, const Value* generic, region::Image image) {
    if (!divide(question, generic) || !region::is_size(image)) return region::kNoRegion;
    const region::Window first = region::window_of(search_, image, search_.ratios[0]);
    if (region::covers(search_, first)) return {0, 0, image.width, image.height};
    sum();
    Best best{};
    for (int index = 0; index < search_.ratio_count; ++index) {
      const region::Window window = region::window_of(search_, image, search_.ratios[index]);
      if (region::covers(search_, window)) continue;
      const Place at = largest_window(window);
      const region::Sharpness sharpness =
          region::sharpness_of(table_.data(), search_, window, at.x, at.y);
      if (index == 0 || region::sharper(sharpness, best.sharpness)) {
        best = {sharpness, window, at, search_.ratios[index]};
      }
    }
    return region::box_of(search_, image, best.ratio, best.window, best.at.x, best.at.y);
  }

 private:
  struct Place {
    int x;
    int y;
  };

  struct Best {
    region::Sharpness sharpness;
    region::Window window;
    Place at;
    double ratio;
  };

  // Relative attention into relative_; false where a row is no attention.
  template <typename Value>
  bool divide(const Value* question, const Value* generic) {
    const size_t cells = relative_.size();
    bool valid = true;
    double floor = region::kInfinity;
    for (size_t cell = 0; cell < cells; ++cell) {
      const double seen = generic[cell];
      valid &= region::is_attention(question[cell]) & region::is_attention(seen);
      floor = std::min(floor, seen > 0 ? seen : region::kInfinity);
    }
    if (!valid) return false;
    if (floor == region::kInfinity) floor = 1;
    for (size_t cell = 0; cell < cells; ++cell) {
      relative_[cell] = region::relative_attention(question[cell], generic[cell], floor);
    }
    return true;
  }

  // The summed-area table of relative_ in steps, with a row and a column of zeros before it.
  void sum() {
    const double largest = *std::max_element(relative_.begin(), relative_.end());
    const region::Scale scale = region::scale_of(largest, search_.bits);
    const size_t columns = search_.columns;
    const double* cell = relative_.data();
    int64_t* above = table_.data();
    std::fill_n(above, columns + 1, 0);
    for (int row = 0; row < search_.rows; ++row, above += columns + 1, cell += columns) {
      int64_t* here = above + columns + 1;
      int64_t along = 0;
      here[0] = 0;
      for (size_t column = 0; column < columns; ++column) {
        along += region::in_steps(cell[column], scale);
        here[column + 1] = above[column + 1] + along;
      }
    }
  }

  // The first of the windows with the largest sum, x-major: the first best y of each x, then
  // the first best x.
  Place largest_window(region::Window window) {
    const int across = search_.columns - window.nx + 1;
    const int down = search_.rows - window.ny + 1;
    std::fill_n(largest_.begin(), across, -1);
    for (int y = 0; y < down; ++y) {
      for (int x = 0; x < across; ++x) {
        const int64_t sum = region::window_sum(table_.data(), search_.columns, window, x, y);
        place_[x] = sum > largest_[x] ? y : place_[x];
        largest_[x] = std::max(largest_[x], sum);
      }
    }
    const auto found = std::max_element(largest_.begin(), largest_.begin() + across);
    const auto x = static_cast<int>(found - largest_.begin());
    return {x, static_cast<int>(place_[x])};
  }

  const region::Search search_;
  std::vector<double> relative_;
  std::vector<int64_t> table_;
  std::vector<int64_t> largest_;  // of each x, the largest sum
  std::vector<int64_t> place_;    // and the first y that has it
};

}  // namespace secondlook::cpu
