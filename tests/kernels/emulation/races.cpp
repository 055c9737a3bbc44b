// A few calls of one kernel, for ThreadSanitizer: -DTOKENS, -DROW, -DDECODE, -DLINEAR or -DREGION. And,
// without it, -DTWO_ROWS: rows that name one slot, as no caller should, may lose a token, but neither hang nor write past
// its end.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "cuda/warp.cuh"

using Count = std::int64_t;

static void require(bool holds, const char* what) {
  if (holds) return;
  std::printf("not so: %s\n", what);
  std::exit(1);
}

// Aligned to 16 bytes, as a tensor's memory is.
template <typename T>
struct Memory {
  explicit Memory(std::size_t count) : count(count), data(new(std::align_val_t{16}) T[count]()) {}
  ~Memory() { ::operator delete[](data, std::align_val_t{16}); }
  Memory(const Memory&) = delete;
  std::size_t count;
  T* data;
};

static void set(float& to, float value) { to = value; }
[[maybe_unused]] static void set(double& to, float value) { to = value; }
[[maybe_unused]] static void set(__half& to, float value) { to = __float2half_rn(value); }
[[maybe_unused]] static void set(__nv_bfloat16& to, float value) { to = __float2bfloat16_rn(value); }

template <typename T>
struct Noise : Memory<T> {
  explicit Noise(std::size_t count) : Memory<T>(count) {
    std::minstd_rand random(7);
    for (std::size_t n = 0; n < count; ++n) set(this->data[n], random() % 1000 / 500.0f + 0.01f);
  }
};

#if defined(TOKENS) || defined(TWO_ROWS)
#include "cuda/token_statistics.cuh"
#include "record.h"

// Every row appends to the slot that `slots` names; each time from the start.
template <typename T>
void record(std::vector<Count> slots, Count vocabulary, Count limit, int times) {
  using namespace secondlook::cuda;
  const Count rows = static_cast<Count>(slots.size());
  const Noise<T> logits(static_cast<std::size_t>(rows * (vocabulary + 3)) + 1);
  Memory<char> workspace(token_workspace(rows, vocabulary) + 1);
  Memory<int> arrivals(slots.size());
  std::vector<Count> limits(slots.size(), limit), tokens(slots.size() * 4, -7), next(slots.size());
  std::vector<float> measures(tokens.size() * 3), means(slots.size() * 3);
  const Count end = -1;
  for (int time = 0; time < times; ++time) {
    std::vector<Count> lengths(slots.size());
    Memory<bool> finished(slots.size());
    const secondlook::Record record{
        slots.data(), &end,           limits.data(), tokens.data(), measures.data(),
        means.data(), lengths.data(), finished.data, next.data(),   rows, 1, 4};
    const cudaError_t error = token_launch<T>(logits.data + 1, rows, vocabulary + 3, vocabulary, record,
                                              workspace.data, arrivals.data, nullptr);
    require(error == cudaSuccess, "the launch succeeds");
    for (Count row = 0; row < rows; ++row) {
      require(arrivals.data[row] == 0, "arrivals are left zero");
      require(lengths[row] <= limit, "no slot is longer than its limit");
      for (Count at = limit; at < 4; ++at) require(tokens[row * 4 + at] == -7, "nothing is past the end");
    }
  }
}
#endif

#if defined(TWO_ROWS)
int main() { record<float>({0, 0}, 9000, 1, 300); }
#elif defined(TOKENS)
int main() {
  record<float>({1, -1, 0}, 33, 4, 1);
  record<float>({0}, 4100, 4, 2);
  record<__nv_bfloat16>({1, -1}, 4100, 4, 1);
}
#elif defined(ROW)
#include "cuda/attention_row.cuh"
using namespace secondlook::attention_row;

template <typename T>
void run(Count batch, Count heads, Count kv_heads, Count size, Count width) {
  const Noise<T> query(batch * heads * width), keys(batch * kv_heads * size * width);
  Memory<float> result(batch * size);
  std::vector<Count> lengths;
  for (Count b = 0; b < batch; ++b) lengths.push_back(size / (b + 1));
  Call<T> call{};
  call.query = query.data, call.keys = keys.data, call.lengths = lengths.data(), call.result = result.data;
  call.batch = batch, call.heads = heads, call.kv_heads = kv_heads, call.positions = size, call.width = width;
  call.query_batch_stride = heads * width, call.query_head_stride = width;
  call.keys_batch_stride = kv_heads * size * width, call.keys_head_stride = size * width;
  call.keys_position_stride = width, call.lengths_stride = 1;
  call.start = 5, call.stop = std::min(size, Count{40}), call.scale = 0.2f;
  const Plan made = plan(call);
  Memory<float> scratch(made.scratch_floats());
  call.scratch = scratch.data;
  require(launch(call, made, nullptr) == cudaSuccess, "the launch succeeds");
}

int main() {
  run<float>(1, 9, 1, 70, 64);
  run<__half>(1, 2, 1, 66, 80);
  run<float>(2, 2, 2, 10, 7);
}
#elif defined(DECODE)
#include "cuda/decode_attention.cuh"
using namespace secondlook::decode_attention;

template <typename T>
void run(Count batch, Count heads, Count kv_heads, Count size, Count width) {
  const Noise<T> query(batch * heads * width), cache(2 * kv_heads * size * width);
  Memory<T> result(batch * heads * width);
  std::vector<Count> lengths, slots;
  for (Count b = 0; b < batch; ++b) lengths.push_back(size / (b + 1)), slots.push_back(b % 2);
  Call<T> call{};
  call.query = query.data, call.keys = call.values = cache.data, call.result = result.data;
  call.slots = slots.data(), call.lengths = lengths.data(), call.slots_stride = call.lengths_stride = 1;
  call.batch = batch, call.heads = heads, call.kv_heads = kv_heads, call.width = width;
  call.cache_slots = 2, call.positions = size, call.scale = 0.2f;
  call.query_batch_stride = heads * width, call.query_head_stride = width;
  call.keys_slot_stride = call.values_slot_stride = kv_heads * size * width;
  call.keys_head_stride = call.values_head_stride = size * width;
  call.keys_position_stride = call.values_position_stride = width;
  const Plan made = plan(call);
  Memory<float> scratch(made.scratch_floats(batch * heads));
  require(launch(call, made, scratch.data, nullptr) == cudaSuccess, "the launch succeeds");
  if constexpr (sizeof(T) == 2) {  // one block for several chunks, as where there are very many rows
    emulation::configured(attend_chunks<T, 8, 16, 1>, {1, 1}, 256, 0, nullptr)(call, made, scratch.data);
    require(cudaGetLastError() == cudaSuccess, "the launch succeeds");
  }
}

int main() {
  run<float>(1, 9, 1, 70, 64);
  run<__half>(1, 3, 1, 130, 80);
  run<float>(2, 1, 1, 10, 7);
}
#elif defined(LINEAR)
#include "cuda/quantised_linear.cuh"
using namespace secondlook::quantised_linear;

template <typename T, typename Format>
void run(Count rows, Count outputs, Count inputs, Count groups) {
  const Noise<T> input(rows * inputs);
  const Memory<std::uint64_t> values(outputs * inputs / 8);
  Memory<unsigned> scales(outputs * groups);
  Memory<T> result(rows * outputs), weights(outputs * inputs);
  std::fill_n(scales.data, scales.count, 0x3f800000u | 120u);  // 1, and a zero of -8
  Call<T> call{};
  call.input = input.data, call.values = values.data, call.scales = scales.data, call.result = result.data;
  call.rows = rows, call.inputs = inputs, call.outputs = outputs, call.groups = groups;
  call.input_stride = inputs;
  require(launch<T, Format>(call, nullptr) == cudaSuccess, "the launch succeeds");
  require(launch_dequantise<T, Format>(call, weights.data, nullptr) == cudaSuccess, "the launch succeeds");
}

int main() {
  run<float, Int4>(1, 5, 2080, 65);
  run<__half, Int8>(11, 3, 48, 3);
  run<__nv_bfloat16, Float8>(2, 4, 1024, 1);
}
#elif defined(REGION)
#include "cuda/find_region.cuh"
using namespace secondlook;

template <typename T>
void run(int rows, int columns, int batch, Count crop_size) {
  const int cells = rows * columns;
  const Noise<T> question(batch * cells), generic(batch * cells);
  const std::vector<Count> sizes{1000, 700, 640, 480};
  std::vector<Count> boxes(batch * 4);
  region::Search search{rows, columns, 45, 3, crop_size, 1, {1.0, 1.4, 2.0}};
  Memory<long long> scratch(cuda::region_scratch_bytes(search, batch) / sizeof(long long));
  const cudaError_t error =
      cuda::launch_find_region(question.data, cells, generic.data, cells, sizes.data(), 2, batch, search,
                               scratch.data, boxes.data(), nullptr);
  require(error == cudaSuccess, "the launch succeeds");
  require(boxes[0] >= 0 && boxes[2] <= 1000, "the box is in the picture");
}

int main() {
  run<float>(12, 12, 2, 224);
  run<double>(7, 31, 1, 100);
  run<float>(90, 90, 1, 80);
}
#endif
