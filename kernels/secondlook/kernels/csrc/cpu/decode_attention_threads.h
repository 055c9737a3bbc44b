// The passes of decode_attention.h, one after the other, each in parallel.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <vector>

#include "cpu/decode_attention.h"

namespace secondlook::decode_attention {

// Args:
//   like: any tensor on the CPU, for memory to be made like it.
template <typename T>
void run(const Call<T>& call, const torch::stable::Tensor& like) {
  std::vector<std::int64_t> first_task{0};
  for (std::int64_t b = 0; b < call.batch; ++b) {
    first_task.push_back(first_task.back() + call.kv_heads * chunks(call, b));
  }
  const std::int64_t tasks = first_task.back(), size = partials_of_a_task(call);
  torch::stable::Tensor scratch =
      torch::stable::new_empty(like, {tasks * size}, torch::headeronly::ScalarType::Float);
  const Work work{first_task.data(), static_cast<float*>(scratch.mutable_data_ptr())};

  using torch::stable::parallel_for;
  using Index = std::int64_t;
  const Index rows = call.batch * call.heads;
  parallel_for(0, tasks, grain(kChunk * size / 4),
               [&](Index begin, Index end) { run_attend(call, work, begin, end); });
  parallel_for(0, rows, grain(tasks * size / rows),
               [&](Index begin, Index end) { run_merge(call, work, begin, end); });
}

}  // namespace secondlook::decode_attention
