// secondlook::rms_norm, rotate, gated_silu, quick_gelu and write_cache on the CPU.
#include "cpu/elementwise.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <cstring>

#include "checks.h"
#include "cpu/row_passes.h"
#include "cpu/tensors.h"

namespace {

using secondlook::BFloat16;
using secondlook::changed, secondlook::data, secondlook::with_type;
using torch::headeronly::ScalarType;
using torch::stable::parallel_for;
using torch::stable::Tensor;
using Index = std::int64_t;

// Clones are not made of templates, so that each has a function for each type.
#define SECONDLOOK_ELEMENTWISE_PASSES(T)                                                                      \
  SECONDLOOK_CLONES void run_rotate(const T* x, const Index* strides, Index heads, Index width,               \
                                    const T* cosine, const T* sine, Index begin, Index end, T* to) {          \
    for (Index row = begin; row < end; ++row) {                                                               \
      for (Index head = 0; head < heads; ++head) {                                                            \
        secondlook::elementwise::rotate(x + row * strides[0] + head * strides[1], cosine + row * width,       \
                                        sine + row * width, width, to + (row * heads + head) * width);        \
      }                                                                                                       \
    }                                                                                                         \
  }                                                                                                           \
  SECONDLOOK_CLONES void run_gate(const T* __restrict gate, const T* __restrict up, Index begin, Index end,   \
                                  T* __restrict to) {                                                         \
    const auto use = [](const auto& x, const auto& y) __attribute__((always_inline)) {                        \
      return secondlook::elementwise::rounded_lanes<T>(secondlook::elementwise::silu<T>(x) * y);              \
    };                                                                                                        \
    secondlook::elementwise::for_lanes(end - begin, use, to + begin, gate + begin, up + begin);               \
  }                                                                                                           \
  SECONDLOOK_CLONES void run_quick_gelu(const T* __restrict x, Index begin, Index end, T* __restrict to) {    \
    const auto use = [](const auto& value) __attribute__((always_inline)) {                                   \
      return secondlook::elementwise::quick_gelu<T>(value);                                                   \
    };                                                                                                        \
    secondlook::elementwise::for_lanes(end - begin, use, to + begin, x + begin);                              \
  }
SECONDLOOK_ELEMENTWISE_PASSES(float)
SECONDLOOK_ELEMENTWISE_PASSES(BFloat16)
#undef SECONDLOOK_ELEMENTWISE_PASSES

constexpr Index kGrain = 4096;  // elements

void check_dtype(const Tensor& tensor, const char* name) {
  const ScalarType type = tensor.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::BFloat16, name,
                  " must be Float or BFloat16, but is scalar type ", static_cast<int>(type));
}

Tensor rms_norm(const Tensor& input, const Tensor& weight, double epsilon) {
  check_dtype(input, "input");
  SECONDLOOK_CHECK_DIM(input, 2, "[R, D]");
  SECONDLOOK_CHECK_LAST_STRIDE(input);
  STD_TORCH_CHECK(epsilon >= 0, "epsilon must be 0 or more, but is ", epsilon);
  STD_TORCH_CHECK(weight.dim() == 1 && weight.size(0) == input.size(1) && weight.is_contiguous() &&
                      weight.scalar_type() == input.scalar_type(),
                  "weight must be [D], contiguous, of the dtype of input");
  Tensor result = torch::stable::new_empty(input, {input.size(0), input.size(1)});
  if (result.numel() == 0) return result;
  with_type(input, [&]<typename T>(T) {
    const Index size = input.size(1);
    parallel_for(0, input.size(0), 1 + kGrain / size, [&](Index begin, Index end) {
      const secondlook::Norm<T> norm{data<T>(weight), nullptr, static_cast<float>(epsilon)};
      secondlook::run_norm(data<T>(input), input.stride(0), size, norm, begin, end, size, changed<T>(result));
    });
  });
  return result;
}

Tensor rotate(const Tensor& input, const Tensor& cosine, const Tensor& sine) {
  check_dtype(input, "input");
  SECONDLOOK_CHECK_DIM(input, 3, "[R, H, W]");
  SECONDLOOK_CHECK_LAST_STRIDE(input);
  const Index rows = input.size(0), heads = input.size(1), width = input.size(2);
  STD_TORCH_CHECK(width % 2 == 0, "input must have an even number of elements in each head, but has ", width);
  for (const Tensor* one : {&cosine, &sine}) {
    STD_TORCH_CHECK(one->dim() == 2 && one->size(0) == rows && one->size(1) == width && one->is_contiguous() &&
                        one->scalar_type() == input.scalar_type(),
                    "cosine and sine must be [R, W], contiguous, of the dtype of input");
  }
  Tensor result = torch::stable::new_empty(input, {rows, heads, width});
  if (result.numel() == 0) return result;
  const Index strides[2] = {input.stride(0), input.stride(1)};
  with_type(input, [&]<typename T>(T) {
    parallel_for(0, rows, 1 + kGrain / (heads * width), [&](Index begin, Index end) {
      run_rotate(data<T>(input), strides, heads, width, data<T>(cosine), data<T>(sine), begin, end,
                 changed<T>(result));
    });
  });
  return result;
}

Tensor gated_silu(const Tensor& gate, const Tensor& up) {
  check_dtype(gate, "gate");
  SECONDLOOK_CHECK_DIM(gate, 2, "[R, D]");
  STD_TORCH_CHECK(gate.is_contiguous(), "gate must be contiguous");
  STD_TORCH_CHECK(up.dim() == 2 && up.size(0) == gate.size(0) && up.size(1) == gate.size(1) &&
                      up.is_contiguous() && up.scalar_type() == gate.scalar_type(),
                  "up must be contiguous, of the shape and dtype of gate");
  Tensor result = torch::stable::new_empty(gate, {gate.size(0), gate.size(1)});
  with_type(gate, [&]<typename T>(T) {
    parallel_for(0, gate.numel(), kGrain, [&](Index begin, Index end) {
      run_gate(data<T>(gate), data<T>(up), begin, end, changed<T>(result));
    });
  });
  return result;
}

Tensor quick_gelu(const Tensor& input) {
  check_dtype(input, "input");
  STD_TORCH_CHECK(input.is_contiguous(), "input must be contiguous");
  Tensor result = torch::stable::empty_like(input);
  with_type(input, [&]<typename T>(T) {
    parallel_for(0, input.numel(), kGrain, [&](Index begin, Index end) {
      run_quick_gelu(data<T>(input), begin, end, changed<T>(result));
    });
  });
  return result;
}

void write_rows(const Tensor& rows, const Tensor& slots, const Tensor& places, Tensor& cache) {
  const std::size_t bytes = rows.scalar_type() == ScalarType::Float ? 4 : 2;
  const auto* from = static_cast<const char*>(rows.const_data_ptr());
  auto* to = static_cast<char*>(cache.mutable_data_ptr());
  const Index *slot = data<Index>(slots), *place = data<Index>(places);
  for (Index row = 0; row < rows.size(0); ++row) {
    const Index first =
        slot[row * slots.stride(0)] * cache.stride(0) + place[row * places.stride(0)] * cache.stride(2);
    for (Index head = 0; head < rows.size(1); ++head) {
      std::memcpy(to + (first + head * cache.stride(1)) * bytes,
                  from + (row * rows.stride(0) + head * rows.stride(1)) * bytes, rows.size(2) * bytes);
    }
  }
}

void write_cache(Tensor keys, Tensor values, const Tensor& new_keys, const Tensor& new_values,
                 const Tensor& slots, const Tensor& places) {
  check_dtype(keys, "keys");
  SECONDLOOK_CHECK_DIM(keys, 4, "[S, H, T, W]");
  for (const Tensor* one : {&keys, &values}) {
    bool alike = one->dim() == 4 && one->scalar_type() == keys.scalar_type();
    for (int dimension = 0; alike && dimension < 4; ++dimension) {
      alike = one->size(dimension) == keys.size(dimension);
    }
    STD_TORCH_CHECK(alike, "values must be of the shape and dtype of keys");
    SECONDLOOK_CHECK_LAST_STRIDE(*one);
  }
  for (const Tensor* one : {&new_keys, &new_values}) {
    STD_TORCH_CHECK(one->dim() == 3 && one->size(0) == slots.size(0) && one->size(1) == keys.size(1) &&
                        one->size(2) == keys.size(3) && one->scalar_type() == keys.scalar_type(),
                    "new_keys and new_values must be [B, H, W] of the dtype of keys");
    SECONDLOOK_CHECK_LAST_STRIDE(*one);
  }
  for (const Tensor* one : {&slots, &places}) {
    SECONDLOOK_CHECK_DTYPE(*one, Long);
    STD_TORCH_CHECK(one->dim() == 1 && one->size(0) == slots.size(0), "slots and places must be [B]");
  }
  secondlook::check_values(slots, "slots", keys.size(0) - 1);
  secondlook::check_values(places, "places", keys.size(2) - 1);
  write_rows(new_keys, slots, places, keys);
  write_rows(new_values, slots, places, values);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(secondlook, CPU, m) {
  m.impl("rms_norm", TORCH_BOX(&rms_norm));
  m.impl("rotate", TORCH_BOX(&rotate));
  m.impl("gated_silu", TORCH_BOX(&gated_silu));
  m.impl("quick_gelu", TORCH_BOX(&quick_gelu));
  m.impl("write_cache", TORCH_BOX(&write_cache));
}
