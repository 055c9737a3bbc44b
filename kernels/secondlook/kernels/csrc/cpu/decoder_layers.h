// What a decoder's layers do to a few rows between their products.
#pragma once

#include <cstdint>

#include "cpu/elementwise.h"

namespace secondlook::decoder_layers {

// Queries, keys and values of one key head and its group of query heads, of one row: normed where there are
// weights for that, rotated, rounded.
template <typename T>
struct Heads {
  float *query, *key, *value;  // [group, width], [width], [width]
  std::int64_t group, width;
  const T *query_norm, *key_norm;  // [width], or null
  float epsilon;
  const T *cosine, *sine;      // [width]
  T *queries, *keys, *values;  // the results, as above
};

template <typename T>
SECONDLOOK_INLINE void turn_one(float* x, const T* norm, const Heads<T>& heads, T* to) {
  if (norm) elementwise::normalise(x, norm, heads.width, heads.epsilon, x);
  elementwise::rotate(x, heads.cosine, heads.sine, heads.width, to);
}

template <typename T>
SECONDLOOK_INLINE void turn(const Heads<T>& heads) {
  const std::int64_t width = heads.width;
  for (std::int64_t head = 0; head < heads.group; ++head) {
    turn_one(heads.query + head * width, heads.query_norm, heads, heads.queries + head * width);
  }
  turn_one(heads.key, heads.key_norm, heads, heads.keys);
  for (std::int64_t i = 0; i < width; ++i) round_to(heads.value[i], heads.values[i]);
}

// Clones are not made of templates, so that each has a function for each type.
#define SECONDLOOK_DECODER_LAYERS_PASSES(T)                                                                  \
  SECONDLOOK_CLONES static void run_turn(const Heads<T>& heads) { turn(heads); }
SECONDLOOK_DECODER_LAYERS_PASSES(float)
SECONDLOOK_DECODER_LAYERS_PASSES(BFloat16)
#undef SECONDLOOK_DECODER_LAYERS_PASSES

}  // namespace secondlook::decoder_layers
