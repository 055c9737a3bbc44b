// secondlook::quantise_rows, unblock_bytes and scale_products on the CPU: what stands around a product of whole
// numbers of 8 bits.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <tuple>

#include "cpu/blocked_checks.h"
#include "cpu/elementwise.h"

namespace {

using namespace secondlook;
using torch::headeronly::ScalarType;
using torch::stable::parallel_for;
using torch::stable::Tensor;
using Index = std::int64_t;
typedef std::uint8_t SixteenBytes __attribute__((vector_size(kLanes)));

constexpr Index kGrain = 8192;  // elements

// Calls use(i, load) for every 16 elements of a row, with what loads them; what is beyond its end is zero.
template <typename Use>
SECONDLOOK_INLINE void for_sixteen(Index size, const Use& use) {
  Index i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    use(i, [](const auto* from) __attribute__((always_inline)) { return load(from); });
  }
  if (i == size) return;
  use(i, [rest = size - i](const auto* from) __attribute__((always_inline)) { return load_partial(from, rest, 0.0f); });
}

// Some rows [rows, size] as whole numbers from -127 to 127, and what these are multiples of.
template <typename T>
SECONDLOOK_INLINE void quantise(const T* x, Index stride, Index size, Index begin, Index end, std::int8_t* values,
                                float* scales) {
  for (Index row = begin; row < end; ++row) {
    const T* const from = x + row * stride;
    std::int8_t* const to = values + row * size;
    Floats most = {};
    Words nan = {};
    for_sixteen(size, [&](Index i, const auto& load_from) __attribute__((always_inline)) {
      const Floats value = load_from(from + i);
      nan |= nan_mask(value);
      most = maximum(most, reinterpret_bits<Floats>(reinterpret_bits<Words>(value) & 0x7fffffffu));
    });
    const float scale = maximum_lanes(most) / 127.0f;
    scales[row] = any_lane(nan) ? std::numeric_limits<float>::quiet_NaN() : scale;
    // What is smaller has few bits itself, and is nothing.
    const Floats divisor = broadcast(scale >= std::numeric_limits<float>::min() ? scale : 1.0f);
    for_sixteen(size, [&](Index i, const auto& load_from) __attribute__((always_inline)) {
      const Floats whole = load_from(from + i) / divisor + 0x1.8p23f;
      const auto bytes = __builtin_convertvector(reinterpret_bits<Words>(whole), SixteenBytes);
      if (i + kLanes <= size) {
        std::memcpy(to + i, &bytes, kLanes);
      } else {
        std::memcpy(to + i, &bytes, static_cast<std::size_t>(size - i));
      }
    });
  }
}

// to[r, o] = products[r, o] * rows[r] * columns[o] + bias[o].
template <typename T>
SECONDLOOK_INLINE void scale(const std::int32_t* products, const float* rows, const float* columns, const T* bias,
                             Index size, Index begin, Index end, T* to) {
  for (Index row = begin; row < end; ++row) {
    const Floats factor = broadcast(rows[row]);
    const std::int32_t* const from = products + row * size;
    T* const place = to + row * size;
    for_sixteen(size, [&](Index i, const auto& load_from) __attribute__((always_inline)) {
      const bool whole = i + kLanes <= size;
      Integers product = {};
      if (whole) {
        std::memcpy(&product, from + i, sizeof(product));
      } else {
        std::memcpy(&product, from + i, static_cast<std::size_t>(4 * (size - i)));
      }
      Floats value = __builtin_convertvector(product, Floats) * factor * load_from(columns + i);
      if (bias) value += load_from(bias + i);
      T rounded[kLanes];
      elementwise::store_rounded(rounded, elementwise::rounded_lanes<T>(value));
      if (whole) {
        std::memcpy(place + i, rounded, sizeof(rounded));
      } else {
        std::copy(rounded, rounded + (size - i), place + i);
      }
    });
  }
}

#define SECONDLOOK_DYNAMIC_PASSES(T)                                                                          \
  SECONDLOOK_CLONES void run_quantise(const T* x, Index stride, Index size, Index begin, Index end,           \
                                      std::int8_t* values, float* scales) {                                   \
    quantise(x, stride, size, begin, end, values, scales);                                                    \
  }                                                                                                           \
  SECONDLOOK_CLONES void run_scale(const std::int32_t* products, const float* rows, const float* columns,     \
                                   const T* bias, Index size, Index begin, Index end, T* to) {                \
    scale(products, rows, columns, bias, size, begin, end, to);                                               \
  }
SECONDLOOK_DYNAMIC_PASSES(float)
SECONDLOOK_DYNAMIC_PASSES(BFloat16)
#undef SECONDLOOK_DYNAMIC_PASSES

// Values of some blocks of 8 bits, see low_bit.h, as they were: to [inputs, outputs].
SECONDLOOK_CLONES void run_unblock(const std::uint8_t* blocks, Index stride, Index inputs, Index outputs, Index begin,
                                   Index end, std::int8_t* to) {
  for (Index block = begin; block < end; ++block) {
    const std::uint8_t* row = blocks + block * stride + low_bit::kWords * low_bit::kWidth;
    const Index first = block * low_bit::kWidth;
    for (Index k = 0; k < inputs; ++k, row += low_bit::kWidth) {
      const Words words = low_bit::load_32(row) ^ 0x80808080u;
      for (int v = 0; v < low_bit::kVectors; ++v) {
        const Index output = first + v * kLanes, count = std::min<Index>(kLanes, outputs - output);
        if (count <= 0) break;
        const auto bytes = __builtin_convertvector(words >> 8 * v & 0xffu, SixteenBytes);
        std::memcpy(to + k * outputs + output, &bytes, static_cast<std::size_t>(count));
      }
    }
  }
}

bool is_float(ScalarType type) { return type == ScalarType::Float || type == ScalarType::BFloat16; }

std::tuple<Tensor, Tensor> quantise_rows(const Tensor& input) {
  SECONDLOOK_CHECK_DIM(input, 2, "[R, D]");
  SECONDLOOK_CHECK_LAST_STRIDE(input);
  STD_TORCH_CHECK(is_float(input.scalar_type()), "input must be Float or BFloat16, but is scalar type ",
                  static_cast<int>(input.scalar_type()));
  const Index rows = input.size(0), size = input.size(1);
  Tensor values = torch::stable::new_empty(input, {rows, size}, ScalarType::Char);
  Tensor scales = torch::stable::new_empty(input, {rows}, ScalarType::Float);
  const auto run = [&]<typename T>(T) {
    parallel_for(0, rows, 1 + kGrain / (size + 1), [&](Index begin, Index end) {
      run_quantise(static_cast<const T*>(input.const_data_ptr()), input.stride(0), size, begin, end,
                   static_cast<std::int8_t*>(values.mutable_data_ptr()),
                   static_cast<float*>(scales.mutable_data_ptr()));
    });
  };
  input.scalar_type() == ScalarType::Float ? run(float{}) : run(BFloat16{});
  return {values, scales};
}

void unblock_bytes(const Tensor& weight, const Tensor& result) {
  STD_TORCH_CHECK(weight.scalar_type() == ScalarType::Char && weight.dim() == 4 && weight.size(1) == 1,
                  "weight must be of 8 bits, in blocks, of one group");
  STD_TORCH_CHECK(result.scalar_type() == ScalarType::Char && result.dim() == 2 && result.is_contiguous(),
                  "result must be Char [inputs, outputs] and contiguous");
  blocked::check_low_bit(weight, "weight", result.size(1), result.size(0));
  parallel_for(0, weight.size(0), 1 + kGrain / (result.size(0) * low_bit::kWidth), [&](Index begin, Index end) {
    run_unblock(static_cast<const std::uint8_t*>(weight.const_data_ptr()), weight.stride(0), result.size(0),
                result.size(1), begin, end, static_cast<std::int8_t*>(result.mutable_data_ptr()));
  });
}

Tensor scale_products(const Tensor& products, const Tensor& rows, const Tensor& columns,
                      const std::optional<Tensor>& bias, ScalarType dtype) {
  SECONDLOOK_CHECK_DIM(products, 2, "[R, O]");
  SECONDLOOK_CHECK_DTYPE(products, Int);
  STD_TORCH_CHECK(products.is_contiguous(), "products must be contiguous");
  STD_TORCH_CHECK(is_float(dtype), "dtype must be Float or BFloat16, but is scalar type ", static_cast<int>(dtype));
  const Index count = products.size(0), size = products.size(1);
  const auto check = [](const Tensor& one, const char* name, Index expected, ScalarType type) {
    STD_TORCH_CHECK(one.dim() == 1 && one.size(0) == expected && one.is_contiguous() && one.scalar_type() == type,
                    name, " must be [", expected, "], contiguous, of scalar type ", static_cast<int>(type));
  };
  check(rows, "rows", count, ScalarType::Float);
  check(columns, "columns", size, ScalarType::Float);
  if (bias) check(*bias, "bias", size, dtype);
  Tensor result = torch::stable::new_empty(products, {count, size}, dtype);
  const auto run = [&]<typename T>(T) {
    parallel_for(0, count, 1 + kGrain / (size + 1), [&](Index begin, Index end) {
      run_scale(static_cast<const std::int32_t*>(products.const_data_ptr()),
                static_cast<const float*>(rows.const_data_ptr()), static_cast<const float*>(columns.const_data_ptr()),
                bias ? static_cast<const T*>(bias->const_data_ptr()) : nullptr, size, begin, end,
                static_cast<T*>(result.mutable_data_ptr()));
    });
  };
  dtype == ScalarType::Float ? run(float{}) : run(BFloat16{});
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(secondlook, CPU, m) {
  m.impl("quantise_rows", TORCH_BOX(&quantise_rows));
  m.impl("unblock_bytes", TORCH_BOX(&unblock_bytes));
  m.impl("scale_products", TORCH_BOX(&scale_products));
}
