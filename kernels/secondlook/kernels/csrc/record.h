// What record_tokens does with one row once its token and measures are known; the same on every device.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace secondlook {

// B rows of a batch, S slots of at most T tokens, E end tokens; all arrays are contiguous.
struct Record {
  const std::int64_t* slots;       // [B]
  const std::int64_t* end_tokens;  // [E]
  const std::int64_t* limits;      // [S]
  std::int64_t* tokens;            // [S, T]
  float* measures;                 // [S, T, 3]
  float* means;                    // [S, 3]
  std::int64_t* lengths;           // [S]
  bool* finished;                  // [S]
  std::int64_t* next_tokens;       // [B]
  std::int64_t slot_count, end_count, capacity;

  SECONDLOOK_HOST_DEVICE std::int64_t limit(std::int64_t slot) const {
    return limits[slot] < capacity ? limits[slot] : capacity;
  }

  // Whether the row's slot takes another token. A slot outside [0, S) is padding.
  SECONDLOOK_HOST_DEVICE bool wants(std::int64_t row) const {
    const std::int64_t slot = slots[row];
    if (slot < 0 || slot >= slot_count || finished[slot]) return false;
    return lengths[slot] >= 0 && lengths[slot] < limit(slot);
  }

  // Append to the slot of a row that wants it. (Asked again, so that no slot is written past its end even
  // where two rows name the same one.)
  SECONDLOOK_HOST_DEVICE void append(std::int64_t row, std::int64_t token, float min_entropy,
                                  float shannon_entropy, float margin) const {
    if (!wants(row)) return;
    const std::int64_t slot = slots[row];
    const std::int64_t at = lengths[slot];
    const float values[3] = {min_entropy, shannon_entropy, margin};
    const float share = 1.0f / static_cast<float>(at + 1);
    tokens[slot * capacity + at] = token;
    for (int measure = 0; measure < 3; ++measure) {
      measures[(slot * capacity + at) * 3 + measure] = values[measure];
      float& mean = means[slot * 3 + measure];
      mean += (values[measure] - mean) * share;
    }
    bool ended = at + 1 >= limit(slot);
    for (std::int64_t end = 0; end < end_count; ++end) ended = ended || end_tokens[end] == token;
    lengths[slot] = at + 1;
    finished[slot] = ended;
    next_tokens[row] = token;
  }
};

}  // namespace secondlook
