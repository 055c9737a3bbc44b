// Products of bfloat16 as processors with AVX512_BF16 compute them: exactly, two to a lane, added up in
// float32. What uses this is called by functions of SECONDLOOK_BF16_DOT alone, where `has_bf16_dot` says so.
#pragma once

#include "cpu/vectorised.h"

// SECONDLOOK_WITHOUT_BF16_DOT is a test's, which so sees what other processors compute.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12 && \
    !defined(SECONDLOOK_WITHOUT_BF16_DOT)
#define SECONDLOOK_HAS_BF16_DOT 1
// Without the instructions themselves, which the compiler must not choose by itself.
#define SECONDLOOK_BF16_DOT __attribute__((target("arch=x86-64-v4")))
#else
#define SECONDLOOK_HAS_BF16_DOT 0
#define SECONDLOOK_BF16_DOT
#endif

namespace secondlook {

inline bool has_bf16_dot() {
#if SECONDLOOK_HAS_BF16_DOT
  static const bool has = __builtin_cpu_supports("x86-64-v4") && __builtin_cpu_supports("avx512bf16");
  return has;
#else
  return false;
#endif
}

// Two values in 32 bits, in every lane.
SECONDLOOK_INLINE Words broadcast_pair(const BFloat16* pair) {
  std::uint32_t bits, lanes[kLanes];
  std::memcpy(&bits, pair, sizeof(bits));
  for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = bits;
  Words words;
  std::memcpy(&words, lanes, sizeof(words));
  return words;
}

// sum + the products of both values of each lane.
SECONDLOOK_INLINE Floats add_dot(const Words& a, const Words& b, const Floats& sum) {
#if SECONDLOOK_HAS_BF16_DOT
  // As assembly, which any function may hold: inline functions of other targets could not be inlined. By
  // value, lest sums lie in memory.
  Floats more = sum;
  asm("vdpbf16ps %2, %1, %0" : "+v"(more) : "v"(a), "v"(b));
  return more;
#else
  return sum + even(a) * even(b) + odd(a) * odd(b);
#endif
}

// For each 16 bits of `at`, of which the lowest five count, those of the table there.
SECONDLOOK_INLINE Words look_up(const Words& table, const Words& at) {
  Words found;
#if SECONDLOOK_HAS_BF16_DOT
  asm("vpermw %1, %2, %0" : "=v"(found) : "v"(table), "v"(at));
#else
  std::uint16_t of[2 * kLanes], places[2 * kLanes], values[2 * kLanes];
  std::memcpy(of, &table, sizeof(of));
  std::memcpy(places, &at, sizeof(places));
  for (int lane = 0; lane < 2 * kLanes; ++lane) values[lane] = of[places[lane] & 31];
  std::memcpy(&found, values, sizeof(found));
#endif
  return found;
}

// To the nearest, to even between two.
SECONDLOOK_INLINE HalfWords to_bf16(const Floats& values) {
#if SECONDLOOK_HAS_BF16_DOT
  HalfWords words;
  asm("vcvtneps2bf16 %1, %0" : "=v"(words) : "v"(values));
  return words;
#else
  const Words bits = reinterpret_bits<Words>(values);
  return __builtin_convertvector((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16, HalfWords);
#endif
}

}  // namespace secondlook
