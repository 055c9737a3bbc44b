// Norms, rotations and gates of a decoder and of a vision encoder. Rounded to T wherever PyTorch's operations
// would write a tensor of T, so that nothing differs from those but the order of sums, and of exponentials what is
// beyond a T's bits.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "cpu/rows.h"

namespace secondlook::elementwise {

// The root mean square norm of Zhang & Sennrich, arXiv 1910.07467: to[i] = weight[i] * x[i] / rms(x).
template <typename T, typename X, typename To>
SECONDLOOK_INLINE void normalise(const X* x, const T* __restrict weight, std::int64_t size, float epsilon,
                                 To* to) {
  float lanes[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const float value = to_float(x[i + lane]);
      lanes[lane] += value * value;
    }
  }
  for (; i < size; ++i) lanes[0] += to_float(x[i]) * to_float(x[i]);
  const Four sum = sum_to_four(lanes);
  const float mean = ((sum[0] + sum[2]) + (sum[1] + sum[3])) / static_cast<float>(size);
  const float factor = 1.0f / std::sqrt(mean + epsilon);
  for (i = 0; i < size; ++i) {
    round_to(rounded<T>(to_float(weight[i]) * rounded<T>(to_float(x[i]) * factor)), to[i]);
  }
}

// The norm of Ba et al., arXiv 1607.06450: to[i] = weight[i] * (x[i] - mean(x)) / deviation(x) + bias[i], rounded once,
// as PyTorch's.
template <typename T>
SECONDLOOK_INLINE void centre(const T* x, const T* weight, const T* bias, std::int64_t size, float epsilon, T* to) {
  const auto sum_of = [&](const auto& use) __attribute__((always_inline)) {
    Floats sum{};
    std::int64_t i = 0;
    for (; i + kLanes <= size; i += kLanes) sum += use(load(x + i));
    float rest = 0.0f;
    for (; i < size; ++i) rest += use(Floats{to_float(x[i])})[0];
    return sum_lanes(sum) + rest;
  };
  const float count = static_cast<float>(size);
  const float mean = sum_of([](const Floats& value) __attribute__((always_inline)) { return value; }) / count;
  const float square = sum_of([&](const Floats& value) __attribute__((always_inline)) {
    const Floats apart = value - mean;
    return apart * apart;
  });
  const float factor = 1.0f / std::sqrt(square / count + epsilon);
  for (std::int64_t i = 0; i < size; ++i) {
    round_to((to_float(x[i]) - mean) * factor * to_float(weight[i]) + to_float(bias[i]), to[i]);
  }
}

// A head's rotation (Su et al., arXiv 2104.09864), its halves paired: to = x * cosine + (-high, low) * sine.
template <typename T, typename X>
SECONDLOOK_INLINE void rotate(const X* __restrict x, const T* __restrict cosine, const T* __restrict sine,
                              std::int64_t width, T* __restrict to) {
  const std::int64_t half = width / 2;
  for (std::int64_t i = 0; i < half; ++i) {
    const float low = to_float(x[i]), high = to_float(x[half + i]);
    round_to(rounded<T>(low * to_float(cosine[i])) + rounded<T>(-high * to_float(sine[i])), to[i]);
    round_to(rounded<T>(high * to_float(cosine[half + i])) + rounded<T>(low * to_float(sine[half + i])),
             to[half + i]);
  }
}

// 16 values as they are after they were written as a T. A NaN stays one, unless its last 16 bits are set, which
// those of widened 16-bit floats and of arithmetic are not.
template <typename T>
SECONDLOOK_INLINE Floats rounded_lanes(const Floats& values) {
  if constexpr (sizeof(T) == sizeof(float)) {
    return values;
  } else {
    const Words bits = reinterpret_bits<Words>(values);
    return reinterpret_bits<Floats>((bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u);
  }
}
SECONDLOOK_INLINE void store_rounded(float* to, const Floats& rounded) { store(to, rounded); }
SECONDLOOK_INLINE void store_rounded(BFloat16* to, const Floats& rounded) {
  const HalfWords words = __builtin_convertvector(reinterpret_bits<Words>(rounded) >> 16, HalfWords);
  std::memcpy(to, &words, sizeof(words));
}

// 1 / (1 + exp(-x)), within a few ulp of float32; for BFloat16 of 18 bits, and 0 below -87.3.
template <typename T>
SECONDLOOK_INLINE Floats logistic(const Floats& x) {
  const Words below = mask_below(x, 0.0f), one = reinterpret_bits<Words>(Floats{} + 1.0f);
  const Floats minus = reinterpret_bits<Floats>(reinterpret_bits<Words>(x) | 0x80000000u);
  const Floats e = sizeof(T) == sizeof(float) ? exp_nonpositive(minus) : rough_exp_nonpositive(minus);
  const Floats over = reinterpret_bits<Floats>(one ^ ((one ^ reinterpret_bits<Words>(e)) & below));
  return over / (e + 1.0f);
}
template <typename T>
SECONDLOOK_INLINE Floats silu(const Floats& x) {
  return rounded_lanes<T>(x * logistic<T>(x));
}
// PyTorch's operations round 1.702 x and its logistic, too; this does not, and is so much nearer.
template <typename T>
SECONDLOOK_INLINE Floats quick_gelu(const Floats& x) {
  return rounded_lanes<T>(x * logistic<T>(x * 1.702f));
}
// x (1 + tanh(y)) / 2 is x logistic(2 y).
template <typename T>
SECONDLOOK_INLINE Floats gelu_tanh(const Floats& x) {
  constexpr float root = 1.5957691216f;  // 2 sqrt(2 / pi)
  return rounded_lanes<T>(x * logistic<T>((x * x * x * 0.044715f + x) * root));
}

// to[i] = use(from[i]...) for `count` values, 16 at a time, of 16 bits 32; what is beyond them is read as zeros.
template <typename Use, typename To, typename... From>
SECONDLOOK_INLINE void for_lanes(std::int64_t count, const Use& use, To* to, const From*... from) {
  std::int64_t i = 0;
  if constexpr (sizeof(To) == 2 && (... && (sizeof(From) == 2))) {
    for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
      const Words first = reinterpret_bits<Words>(use(even(load_pairs(from + i))...));
      const Words second = reinterpret_bits<Words>(use(odd(load_pairs(from + i))...));
      const Words pairs = first >> 16 | second;
      std::memcpy(to + i, &pairs, sizeof(pairs));
    }
  }
  for (; i + kLanes <= count; i += kLanes) store_rounded(to + i, use(load(from + i)...));
  if (i < count) {
    To rest[kLanes];
    store_rounded(rest, use(load_partial(from + i, count - i, 0.0f)...));
    std::copy(rest, rest + (count - i), to + i);
  }
}

}  // namespace secondlook::elementwise
