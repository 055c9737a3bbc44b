// What the CPU and the CUDA version of find_region share: the windows, their sharpness and the box, exactly.
//
// Zhang et al., arXiv 2502.17422 (ViCrop), section 4. Cells are int64 multiples of one step; sums, and the
// comparison of sharpness as fractions, are exact. Bounds: a map of N cells is rounded to steps of 2^-bits of
// the power of two above its largest cell, bits = 61 - (length of N in bits), so that all cells together are
// below N * 2^bits < 2^61, four times a sum below 2^63, and a lead (below 2^63) times the parts of another
// window (at most 4 * 65536 = 2^18) below 2^81, which is why products are 128 bits wide.
//
// Float64 expressions here are those of the specification, in its order. No product may be fused with the
// addition after it, hence `product`.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "host_device.h"

namespace secondlook::region {

inline constexpr int64_t kMostCells = 65536;
inline constexpr int kMostRatios = 32;
inline constexpr int64_t kMostPixels = 2147483647;
inline constexpr double kLargest = std::numeric_limits<double>::max();
inline constexpr double kInfinity = std::numeric_limits<double>::infinity();

// What windows are tried, and on what grid; all values checked by the binding.
struct Search {
  int rows;
  int columns;
  int bits;  // of a step: 61 - (length of rows * columns in bits)
  int ratio_count;
  int64_t crop_size;
  int64_t min_cells;
  double ratios[kMostRatios];
};

struct Image {
  int64_t width;
  int64_t height;
};

struct Window {
  int nx;
  int ny;
};

// lead / parts: how far the sum of a window is above the mean of its neighbours' sums, per cell.
struct Sharpness {
  uint64_t lead;
  uint64_t parts;
};

struct Span {
  int64_t start;
  int64_t stop;
};

struct Box {
  int64_t left, top, right, bottom;
};

inline constexpr Box kNoRegion{-1, -1, -1, -1};

// a * b, rounded to float64 before anything else happens to it.
SECONDLOOK_HOST_DEVICE double product(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dmul_rn(a, b);
#else
  volatile double rounded = a * b;
  return rounded;
#endif
}

SECONDLOOK_HOST_DEVICE bool is_attention(double value) {
  return value >= 0 && value <= kLargest;  // neither NaN nor infinite
}

SECONDLOOK_HOST_DEVICE bool is_size(Image image) {
  return image.width >= 1 && image.width <= kMostPixels && image.height >= 1 &&
         image.height <= kMostPixels;
}

// A(question) / A(generic), `floor` standing in for a generic zero, and the largest float64 for infinity.
SECONDLOOK_HOST_DEVICE double relative_attention(double question, double generic, double floor) {
  const double ratio = question / (generic > 0 ? generic : floor);
  return ratio < kLargest ? ratio : kLargest;
}

// Two factors whose product 2^(bits - exponent) scales a map to steps; alone it may overflow. The first step
// loses nothing of cells that round to anything but zero.
struct Scale {
  double first;
  double second;
};

SECONDLOOK_HOST_DEVICE Scale scale_of(double largest, int bits) {
  if (!(largest > 0)) return {0, 0};
  int exponent = 0;
  std::frexp(largest, &exponent);
  const int shift = bits - exponent;
  return {std::ldexp(1.0, shift / 2), std::ldexp(1.0, shift - shift / 2)};
}

// To the nearest integer, halves to even. 0 <= the scaled value <= 2^bits <= 2^60.
SECONDLOOK_HOST_DEVICE int64_t in_steps(double value, Scale scale) {
  const double scaled = value * scale.first * scale.second;
#if defined(__CUDA_ARCH__)
  return __double2ll_rn(scaled);
#else
  constexpr double kWhole = 4503599627370496.0;  // 2^52: from here on float64 holds integers only
  return static_cast<int64_t>(scaled < kWhole ? (scaled + kWhole) - kWhole : scaled);
#endif
}

// The crop size, grown where a window of it would have fewer than min_cells cells. Products are below 2^62.
SECONDLOOK_HOST_DEVICE double crop_size_of(const Search& search, Image image) {
  const int64_t wide = (search.min_cells * image.width + search.columns - 1) / search.columns;
  const int64_t high = (search.min_cells * image.height + search.rows - 1) / search.rows;
  int64_t crop_size = search.crop_size;
  if (wide > crop_size) crop_size = wide;
  if (high > crop_size) crop_size = high;
  return static_cast<double>(crop_size);
}

SECONDLOOK_HOST_DEVICE int cells_of(double exact, int64_t least, int most) {
  int64_t cells = exact < most ? static_cast<int64_t>(exact) : most;
  if (cells < least) cells = least;
  return static_cast<int>(cells < most ? cells : most);
}

SECONDLOOK_HOST_DEVICE Window window_of(const Search& search, Image image, double ratio) {
  const double side = product(crop_size_of(search, image), ratio);
  const double cell_width = static_cast<double>(image.width) / search.columns;
  const double cell_height = static_cast<double>(image.height) / search.rows;
  return {cells_of(side / cell_width, search.min_cells, search.columns),
          cells_of(side / cell_height, search.min_cells, search.rows)};
}

SECONDLOOK_HOST_DEVICE bool covers(const Search& search, Window window) {
  return window.nx == search.columns && window.ny == search.rows;
}

// The sum of the window at x, y; table [rows + 1, columns + 1] has the sums of everything above and left.
template <typename Cell>
SECONDLOOK_HOST_DEVICE Cell window_sum(const Cell* table, int columns, Window window, int x, int y) {
  const Cell* above = table + y * (columns + 1) + x;
  const Cell* below = above + window.ny * (columns + 1);
  return below[window.nx] - above[window.nx] - below[0] + above[0];
}

// Of the window with the largest sum; it does not cover the map, so that it has a neighbour.
template <typename Cell>
SECONDLOOK_HOST_DEVICE Sharpness sharpness_of(const Cell* table, const Search& search, Window window, int x,
                                              int y) {
  const int last_x = search.columns - window.nx;
  const int last_y = search.rows - window.ny;
  const Cell here = window_sum(table, search.columns, window, x, y);
  Cell lead = 0;
  int neighbours = 0;
  if (x > 0) lead += here - window_sum(table, search.columns, window, x - 1, y), ++neighbours;
  if (x < last_x) lead += here - window_sum(table, search.columns, window, x + 1, y), ++neighbours;
  if (y > 0) lead += here - window_sum(table, search.columns, window, x, y - 1), ++neighbours;
  if (y < last_y) lead += here - window_sum(table, search.columns, window, x, y + 1), ++neighbours;
  const uint64_t cells = static_cast<uint64_t>(window.nx) * static_cast<uint64_t>(window.ny);
  return {static_cast<uint64_t>(lead), static_cast<uint64_t>(neighbours) * cells};
}

SECONDLOOK_HOST_DEVICE bool sharper(Sharpness one, Sharpness other) {
  return static_cast<unsigned __int128>(one.lead) * other.parts >
         static_cast<unsigned __int128>(other.lead) * one.parts;
}

// [start, stop) of a window of `side` pixels, moved into [0, length), or all of it when that is shorter.
SECONDLOOK_HOST_DEVICE Span span_of(int place, int cells, double cell_size, double side, int64_t length) {
  const double exact = product(place, cell_size) + product(cell_size, cells) / 2;
  const double halved = std::floor(side / 2);
  int64_t half = halved < static_cast<double>(length) ? static_cast<int64_t>(halved) : length;
  if (half < 1) half = 1;
  int64_t centre = static_cast<int64_t>(exact);
  if (centre < half) centre = half;
  if (centre > length - half) centre = length - half;
  return {centre > half ? centre - half : 0, centre + half < length ? centre + half : length};
}

SECONDLOOK_HOST_DEVICE Box box_of(const Search& search, Image image, double ratio, Window window, int x,
                                  int y) {
  const double side = product(crop_size_of(search, image), ratio);
  const double cell_width = static_cast<double>(image.width) / search.columns;
  const double cell_height = static_cast<double>(image.height) / search.rows;
  const Span across = span_of(x, window.nx, cell_width, side, image.width);
  const Span down = span_of(y, window.ny, cell_height, side, image.height);
  return {across.start, down.start, across.stop, down.stop};
}

}  // namespace secondlook::region
