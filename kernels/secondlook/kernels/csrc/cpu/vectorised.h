// Vector code without -ffast-math, without -march and without intrinsics: NaN and infinity keep their
// meaning, and one library serves every machine.
//
// How to use it: mark the outermost function of a hot loop SECONDLOOK_CLONES and what it calls
// SECONDLOOK_INLINE, so that every clone gets its own copy. Write the loop in `Floats`, 16 at a time, which
// the compiler splits where registers are narrower. (Plain loops with conditionals are not reliable: GCC
// turns `x < a ? a : x` into jumps.)
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define SECONDLOOK_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SECONDLOOK_CLONES
#endif

#define SECONDLOOK_INLINE inline __attribute__((always_inline))

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"  // how vectors are returned does not matter: all of it is inlined
#endif

namespace secondlook {

inline constexpr int kLanes = 16;
typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef std::uint32_t Words __attribute__((vector_size(4 * kLanes)));
typedef std::int32_t Integers __attribute__((vector_size(4 * kLanes)));
typedef std::uint16_t HalfWords __attribute__((vector_size(2 * kLanes)));

// 16-bit floats as their bits, so that no framework's types are needed here.
struct Half {
  std::uint16_t bits;
};
struct BFloat16 {
  std::uint16_t bits;
};

template <typename To, typename From>
SECONDLOOK_INLINE To reinterpret_bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

// All ones where x < bound, else zero; NaN is not below anything.
SECONDLOOK_INLINE std::uint32_t mask_below(float x, float bound) {
  return 0u - static_cast<std::uint32_t>(x < bound);
}
SECONDLOOK_INLINE Words mask_below(const Floats& x, float bound) {
  return reinterpret_bits<Words>(x < bound);
}

SECONDLOOK_INLINE std::uint32_t shift_signed(std::uint32_t x) {
  return static_cast<std::uint32_t>(static_cast<std::int32_t>(x) >> 1);
}
SECONDLOOK_INLINE Words shift_signed(const Words& x) {
  return reinterpret_bits<Words>(reinterpret_bits<Integers>(x) >> 1);
}

namespace vector_detail {

template <typename Float, typename Word>
SECONDLOOK_INLINE Float exp_nonpositive(const Float& x) {
  const Word mask = ~mask_below(x, -104.0f);  // exp(-104) rounds to 0
  const Float t = reinterpret_bits<Float>(reinterpret_bits<Word>(x) & mask);
  const float shift = 0x1.8p23f;  // adding it rounds to an integer, which is then in the low bits
  const Float shifted = t * 0x1.715476p0f + shift;
  const Float n = shifted - shift;
  const Float r = (t - n * 0x1.63p-1f) - n * -0x1.bd0106p-13f;
  Float p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const Word whole = reinterpret_bits<Word>(shifted) - 0x4b400000u;
  const Word half = shift_signed(whole);
  const Float first = reinterpret_bits<Float>((half + 127u) << 23);
  const Float second = reinterpret_bits<Float>((whole - half + 127u) << 23);
  return reinterpret_bits<Float>(reinterpret_bits<Word>(p * first * second) & mask);
}

// Exact for every half: a multiplication moves the exponent, which is right for subnormals too; infinity and
// NaN get the largest exponent.
template <typename Float, typename Word>
SECONDLOOK_INLINE Float half_to_float(const Word& bits) {
  const Word magnitude = (bits & 0x7fffu) << 13;
  const Float scaled = reinterpret_bits<Float>(magnitude) * 0x1p112f;
  // The sum reaches bit 31 where the half's exponent is the largest.
  const Word special = (((magnitude + 0x70800000u) >> 31) * 0xffu) << 23;
  return reinterpret_bits<Float>(reinterpret_bits<Word>(scaled) | special | ((bits & 0x8000u) << 16));
}

}  // namespace vector_detail

// exp(x) for x <= 0, within 2 ulp for x in [-104, 0] (subnormal results included; 1.01 ulp was the most
// measured), exactly 1 at 0, 0 below and for -inf; NaN stays NaN. Without branches, calls or tables.
//
// x = n ln 2 + r with |r| <= ln 2 / 2; exp(r) by Cephes' polynomial (expf); ln 2 in two parts of which n
// times the first is exact; 2^n in two factors, so that a subnormal result is rounded once.
SECONDLOOK_INLINE float exp_nonpositive(float x) {
  return vector_detail::exp_nonpositive<float, std::uint32_t>(x);
}
SECONDLOOK_INLINE Floats exp_nonpositive(const Floats& x) {
  return vector_detail::exp_nonpositive<Floats, Words>(x);
}

// The same for 16 bits of precision: a relative error of 3e-6, and 0 for what is below 2^-126.
SECONDLOOK_INLINE Floats rough_exp_nonpositive(const Floats& x) {
  const Words mask = ~mask_below(x, -87.3f);
  const Floats t = reinterpret_bits<Floats>(reinterpret_bits<Words>(x) & mask) * 0x1.715476p0f;
  const float shift = 0x1.8p23f;
  const Floats shifted = t + shift;
  const Floats f = t - (shifted - shift);  // of |f| <= 1/2, 2^f by its minimax polynomial
  Floats p = f * 9.582853e-3f + 5.5906426e-2f;
  p = p * f + 2.4024099e-1f;
  p = p * f + 6.931242e-1f;
  p = p * f + 1.0f;
  const Words power = reinterpret_bits<Words>(p) + (reinterpret_bits<Words>(shifted) << 23);
  return reinterpret_bits<Floats>(power & mask);
}

SECONDLOOK_INLINE float to_float(float value) { return value; }
SECONDLOOK_INLINE float to_float(BFloat16 value) {
  return reinterpret_bits<float>(static_cast<std::uint32_t>(value.bits) << 16);
}
SECONDLOOK_INLINE float to_float(Half value) {
  return vector_detail::half_to_float<float, std::uint32_t>(value.bits);
}

// 16 values from any address, as floats.
SECONDLOOK_INLINE Floats load(const float* from) {
  Floats values;
  std::memcpy(&values, from, sizeof(values));
  return values;
}
// Of an expression in one value GCC 12 makes 16 instructions in a clone, of this loop one.
SECONDLOOK_INLINE Floats broadcast(float value) {
  float lanes[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = value;
  return load(lanes);
}
SECONDLOOK_INLINE Words load_words(const void* from) {
  HalfWords words;
  std::memcpy(&words, from, sizeof(words));
  return __builtin_convertvector(words, Words);
}
SECONDLOOK_INLINE Floats load(const BFloat16* from) {
  return reinterpret_bits<Floats>(load_words(from) << 16);
}
SECONDLOOK_INLINE Floats load(const Half* from) {
  return vector_detail::half_to_float<Floats, Words>(load_words(from));
}

// 32 values of which the even ones and the odd ones between them are to be had apart.
SECONDLOOK_INLINE Words load_pairs(const BFloat16* from) {
  Words pairs;
  std::memcpy(&pairs, from, sizeof(pairs));
  return pairs;
}
SECONDLOOK_INLINE Floats even(const Words& pairs) { return reinterpret_bits<Floats>(pairs << 16); }
SECONDLOOK_INLINE Floats odd(const Words& pairs) { return reinterpret_bits<Floats>(pairs & 0xffff0000u); }

// The first `count` < 16 values, and `fill` after them.
template <typename T>
SECONDLOOK_INLINE Floats load_partial(const T* from, std::int64_t count, float fill) {
  float lanes[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = lane < count ? to_float(from[lane]) : fill;
  return load(lanes);
}

SECONDLOOK_INLINE void store(float* to, const Floats& values) { std::memcpy(to, &values, sizeof(values)); }

// The greater of two in every lane; the first where either is NaN.
SECONDLOOK_INLINE Floats maximum(const Floats& a, const Floats& b) { return a < b ? b : a; }

// All ones where a value is NaN.
SECONDLOOK_INLINE Words nan_mask(const Floats& values) { return reinterpret_bits<Words>(values != values); }

// The lanes' sum and maximum, always in the same order.
SECONDLOOK_INLINE float sum_lanes(const Floats& values) {
  float lanes[kLanes];
  store(lanes, values);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  return lanes[0];
}
SECONDLOOK_INLINE float maximum_lanes(const Floats& values) {
  float lanes[kLanes];
  store(lanes, values);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int lane = 0; lane < width; ++lane) {
      lanes[lane] = lanes[lane] < lanes[lane + width] ? lanes[lane + width] : lanes[lane];
    }
  }
  return lanes[0];
}
SECONDLOOK_INLINE bool any_lane(const Words& mask) {
  std::uint32_t any = 0;
  for (int lane = 0; lane < kLanes; ++lane) any |= mask[lane];
  return any != 0;
}

}  // namespace secondlook
