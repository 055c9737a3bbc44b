// secondlook::decode_attention on the CPU: checks, memory and threads around the passes of
// decode_attention.h.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/decode_attention.h"
#include "cpu/phases.h"
#include "decode_attention_checks.h"

namespace {

using secondlook::check_values;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename T>
void run(const secondlook::decode_attention::Call<T>& call, const Tensor& like) {
  using Index = std::int64_t;
  std::vector<Index> first_task{0};
  for (Index b = 0; b < call.batch; ++b) {
    first_task.push_back(first_task.back() + call.kv_heads * chunks(call, b));
  }
  const Index tasks = first_task.back(), size = partials_of_a_task(call), rows = call.batch * call.heads;
  Tensor scratch = torch::stable::new_empty(like, {tasks * size}, ScalarType::Float);
  const secondlook::decode_attention::Work work{first_task.data(), static_cast<float*>(scratch.mutable_data_ptr())};
  const Index together = secondlook::grain(secondlook::decode_attention::kChunk * size / 4);
  const Index threads = std::clamp<Index>(tasks / together, 1, torch::stable::get_num_threads());
  secondlook::Phases phases(2, threads);
  torch::stable::parallel_for(0, threads, 1, [&](Index, Index) {
    phases.run(0, tasks, together, [] {}, [&](Index begin, Index end) { run_attend(call, work, begin, end); });
    phases.run(1, rows, secondlook::grain(tasks * size / rows), [] {},
               [&](Index begin, Index end) { run_merge(call, work, begin, end); });
  });
}

Tensor decode_attention(const Tensor& query, const Tensor& keys, const Tensor& values, const Tensor& slots,
                        const Tensor& lengths, double scale) {
  secondlook::decode_attention::check(query, keys, values, slots, lengths, scale);
  check_values(slots, "slots", keys.size(0) - 1);
  check_values(lengths, "lengths", keys.size(2));
  Tensor result = torch::stable::new_empty(query, {query.size(0), query.size(1), query.size(2)});
  if (result.numel() == 0) return result;
  const auto run_as = [&]<typename T>(T) {
    run(secondlook::decode_attention::call_of<T>(query, keys, values, slots, lengths, scale, result), query);
  };
  switch (query.scalar_type()) {
    case ScalarType::Float:
      run_as(float{});
      break;
    case ScalarType::Half:
      run_as(secondlook::Half{});
      break;
    default:
      run_as(secondlook::BFloat16{});
  }
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(secondlook, CPU, m) { m.impl("decode_attention", TORCH_BOX(&decode_attention)); }
