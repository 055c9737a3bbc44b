// CUDA's model of execution on the CPU: a block's threads are fibers that take turns in a random order, two
// blocks at a time. Compiled without sanitizers. With -DRACES, ThreadSanitizer is told of the fibers, and of
// what orders memory, as CUDA documents it: barriers, __syncwarp, fences with atomics; not shuffles, nor turns.
#include <cuda_runtime.h>

#include <sched.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

#ifdef RACES
#include <sanitizer/tsan_interface.h>
constexpr bool kRaces = true;
#else
constexpr bool kRaces = false;
static void* __tsan_get_current_fiber() { return nullptr; }
static void* __tsan_create_fiber(unsigned) { return nullptr; }
static void __tsan_destroy_fiber(void*) {}
static void __tsan_switch_to_fiber(void*, unsigned) {}
static void __tsan_acquire(void*) {}
static void __tsan_release(void*) {}
constexpr unsigned __tsan_switch_to_fiber_no_sync = 1;
#endif

namespace emulation {
namespace {

constexpr std::size_t kStack = 64 * 1024;
constexpr unsigned kAtOnce = 2;  // blocks

struct Warp {
  std::uint64_t given[2][32];  // in turns: a lane may be at the next exchange before another has read
  char order[2];
  unsigned arrived = 0, exited = 0;
  Where where;
};

enum class State { ready, at_barrier, in_warp, done };

struct Fiber {
  ucontext_t context;
  void* place[5];  // where it goes on
  bool started = false;
  void* tsan;
  State state;
  Where where;
  unsigned barriers, exchanges;
  // For `fence`: the last one, and how many additions to a number had been made when this fiber made its own.
  void* fence = nullptr;
  int *seen_at = nullptr, seen = 0;
};

// What runs the blocks of one of the system's threads, one after another.
struct Block {
  dim3 grid, size;
  const std::function<void()>& body;
  std::vector<Fiber> fibers;
  uint3 index{};
  std::vector<Warp> warps{};
  std::vector<unsigned> ready{};
  unsigned running = 0, live = 0, waiting = 0;
  bool all = true, said[2] = {};
  char order[2] = {}, end = 0;
  Where where{};
  std::minstd_rand random{};
  void* place[5] = {};  // of what gives the turns
  void* tsan = nullptr;
};

thread_local Block* block = nullptr;
cudaError_t last_error = cudaSuccess;

Fiber& self() { return block->fibers[block->running]; }

[[noreturn]] __attribute__((noinline)) void go_on(void** place) { __builtin_longjmp(place, 1); }

__attribute__((noinline)) void leave() {
  __tsan_switch_to_fiber(block->tsan, __tsan_switch_to_fiber_no_sync);
  if (__builtin_setjmp(self().place) == 0) go_on(block->place);
}

__attribute__((noinline)) void enter(Fiber& fiber) {
  __tsan_switch_to_fiber(fiber.tsan, fiber.started ? __tsan_switch_to_fiber_no_sync : 0);
  if (__builtin_setjmp(block->place) != 0) return;
  if (fiber.started) go_on(fiber.place);
  fiber.started = true;
  setcontext(&fiber.context);
}

void wake(unsigned n) {
  block->fibers[n].state = State::ready;
  block->ready.push_back(n);
}

void open_barrier() {
  block->waiting = 0;
  for (unsigned n = 0; n < block->fibers.size(); ++n) {
    if (block->fibers[n].state == State::at_barrier) wake(n);
  }
}

// A fiber, for one block after another.
void fiber_main() {
  for (;;) {
    block->body();
    const unsigned n = block->running;
    Warp& warp = block->warps[n / 32];
    if (warp.arrived > 0) fail("a lane exits that its warp waits for");
    warp.exited |= 1u << n % 32;
    self().state = State::done;
    __tsan_release(&block->end);
    if (--block->live == block->waiting && block->waiting > 0) open_barrier();
    leave();
  }
}

void make_fibers(Block& of, char* stacks) {
  for (Fiber& fiber : of.fibers) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = stacks;
    fiber.context.uc_stack.ss_size = kStack;
    makecontext(&fiber.context, fiber_main, 0);
    fiber.tsan = __tsan_create_fiber(0);
    stacks += kStack;
  }
  of.tsan = __tsan_get_current_fiber();
  block = &of;
}

void run(uint3 index, unsigned seed) {
  block->index = index;
  block->random.seed(seed);
  block->live = block->size.x;
  block->warps.assign(block->size.x / 32, {});
  for (unsigned n = 0; n < block->size.x; ++n) {
    block->fibers[n].barriers = block->fibers[n].exchanges = 0;
    wake(n);
  }
  const unsigned order = block->random() % 3;  // any fiber, or the one that has waited longest, or shortest
  while (!block->ready.empty()) {
    const std::size_t count = block->ready.size();
    const std::size_t at = order == 0 ? block->random() % count : order == 1 ? 0 : count - 1;
    block->running = block->ready[at];
    block->ready.erase(block->ready.begin() + static_cast<std::ptrdiff_t>(at));
    enter(self());
  }
  if (block->live > 0) fail("a deadlock");
}

}  // namespace

uint3 thread_index() { return {block->running, 0, 0}; }
uint3 block_index() { return block->index; }
dim3 block_size() { return block->size; }
dim3 grid_size() { return block->grid; }

void fail(const char* what) {
  const auto [x, y, z] = block->index;
  std::fprintf(stderr, "emulation: %s, in thread %u of block (%u, %u)\n", what, block->running, x, y);
  for (unsigned n = 0; n < block->fibers.size(); ++n) {
    const auto& [state, where] = std::tie(block->fibers[n].state, block->fibers[n].where);
    if (state != State::at_barrier && state != State::in_warp) continue;
    std::fprintf(stderr, "thread %u waits at %s:%u\n", n, where.file_name(), where.line());
  }
  std::abort();
}

bool barrier(bool yes, Where where) {
  Fiber& fiber = self();
  const unsigned turn = fiber.barriers++ % 2;
  __tsan_release(&block->order[turn]);
  if (block->waiting == 0) {
    block->where = where;
    block->all = true;
  }
  fiber.where = where;
  if (block->where.line() != where.line()) fail("a block's threads are at different barriers");
  block->said[turn] = block->all = block->all && yes;
  fiber.state = State::at_barrier;
  if (++block->waiting == block->live) open_barrier();
  leave();
  __tsan_acquire(&block->order[turn]);
  return block->said[turn];
}

std::uint64_t exchange(unsigned mask, std::uint64_t bits, unsigned from, bool orders, Where where) {
  Fiber& fiber = self();
  const unsigned n = block->running, turn = fiber.exchanges++ % 2;
  Warp& warp = block->warps[n / 32];
  if (mask != ~0u) fail("a mask of less than a warp, which is not emulated");
  if (warp.exited != 0) fail("a lane has exited that its warp waits for");
  if (warp.arrived == 0) warp.where = where;
  fiber.where = where;
  if (warp.where.line() != where.line()) fail("a warp's lanes are at different places");
  if (orders) __tsan_release(&warp.order[turn]);
  warp.given[turn][n % 32] = bits;
  fiber.state = State::in_warp;
  if (++warp.arrived == 32) {
    warp.arrived = 0;
    for (unsigned lane = 0; lane < 32; ++lane) wake(n / 32 * 32 + lane);
  }
  leave();
  if (orders) __tsan_acquire(&warp.order[turn]);
  return warp.given[turn][from];
}

// What is before a thread's fence, before its atomic, is before what follows another's next fence, if that
// one's atomic came later at the same address. No memory is allocated here: ThreadSanitizer would see that.
static std::atomic_flag busy;
static struct { int* at; void* fence; } additions[1 << 14];
static int addition_count = 0;
static std::uint64_t fences[1 << 14];
static int fence_count = 0;

struct Alone {
  Alone() { while (busy.test_and_set()) sched_yield(); }
  ~Alone() { busy.clear(); }
};

void fence() {
  if (!kRaces) return;
  const Alone alone;
  Fiber& fiber = self();
  for (int n = 0; n < fiber.seen; ++n) {
    if (additions[n].at == fiber.seen_at) __tsan_acquire(additions[n].fence);
  }
  fiber.fence = &fences[fence_count++];
  __tsan_release(fiber.fence);
}

int add(int* to, int value) {
  const Alone alone;
  const int before = *to;
  *to = before + value;
  if (kRaces) {
    Fiber& fiber = self();
    fiber.seen_at = to;
    fiber.seen = addition_count;
    if (fiber.fence != nullptr) additions[addition_count++] = {to, fiber.fence};
  }
  return before;
}

cudaError_t take_error() { return std::exchange(last_error, cudaSuccess); }

void launch(dim3 grid, unsigned threads, std::size_t shared_bytes, const std::function<void()>& body) {
  static std::atomic<unsigned> launches{0};
  const bool sized = grid.x > 0 && grid.x <= 0x7fffffffu && grid.y > 0 && grid.y <= 65535;
  if (!sized || threads == 0 || threads > 1024 || threads % 32 != 0 || shared_bytes > 48 * 1024) {
    last_error = cudaErrorInvalidConfiguration;
    return;
  }
  const unsigned total = grid.x * grid.y, seed = ++launches;
  std::vector<unsigned> order(total);
  std::iota(order.begin(), order.end(), 0u);
  std::shuffle(order.begin(), order.end(), std::minstd_rand(seed));
  // For ThreadSanitizer each block has a thread and stacks of its own: nothing orders it after another.
  const unsigned workers = kRaces ? total : std::min(total, kAtOnce);
  const std::size_t bytes = std::size_t{threads} * kStack;
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* const memory = mmap(nullptr, workers * bytes, PROT_READ | PROT_WRITE, kFlags, -1, 0);
  if (memory == MAP_FAILED) std::abort();
  std::atomic<unsigned> ended{0};
  const auto work = [&](unsigned worker) {
    Block own{grid, threads, body, std::vector<Fiber>(threads)};
    make_fibers(own, static_cast<char*>(memory) + worker * bytes);
    for (unsigned n = worker; n < total; n += workers) {
      run({order[n] % grid.x, order[n] / grid.x, 0}, seed * 7919 + n);
    }
    for (Fiber& fiber : own.fibers) __tsan_destroy_fiber(fiber.tsan);
    __tsan_acquire(&own.end);
    ++ended;
  };
  std::vector<std::thread> pool;
  for (unsigned worker = 0; worker < workers; ++worker) {
    while (ended.load() + kAtOnce <= worker) sched_yield();
    pool.emplace_back(work, worker);
  }
  for (std::thread& thread : pool) thread.join();
  munmap(memory, workers * bytes);
}

}  // namespace emulation

// What the bindings call of a PyTorch for CUDA.
extern "C" {
int aoti_torch_get_current_cuda_stream(std::int32_t, void** stream) { return *stream = nullptr, 0; }
int aoti_torch_create_device_guard(std::int32_t, void** guard) { return *guard = nullptr, 0; }
int aoti_torch_delete_device_guard(void*) { return 0; }
int torch_c10_cuda_check_msg(int error, const char*, const char*, unsigned, bool, char** message) {
  *message = error == 0 ? nullptr : strdup(("CUDA error " + std::to_string(error)).c_str());
  return 0;
}
void torch_c10_cuda_free_error_msg(char* message) { std::free(message); }
}
