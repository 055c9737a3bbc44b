// Work in phases, each of tasks that depend on no other of the same phase: whichever threads are there take
// them, one after the other, and go on to the next phase when all are done.
//
// Within phases no thread is waited for but those that have taken a task: one that comes late, because it slept or
// another process has its core, finds the others ahead, and a single one does it all. So threads are woken once for
// many phases, between which they wait for no more than the time of what is taken at once. A task must not throw:
// others would wait for it for ever.
//
// The first are taken many at a time, the last few, as by OpenMP's schedule(guided)
// (https://www.openmp.org/spec-html/5.2/openmpsu48.html): what follows each other in memory is best read by one
// thread, whose fetching ahead would end with each share.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

namespace secondlook {

class Phases {
 public:
  Phases(std::int64_t count, std::int64_t threads) : phases_(static_cast<std::size_t>(count)), threads_(threads) {}

  // What a thread does of a phase, to be called by each for all phases in the same order. use(begin, end) is called
  // for `least` of `tasks` at a time or up to kMost times as many, at last for what is left, the same numbers in
  // each thread; before its first call prepare() is, while the phase before is over and this one is not. Returns
  // when all tasks are done.
  template <typename Prepare, typename Use>
  void run(std::int64_t number, std::int64_t tasks, std::int64_t least, const Prepare& prepare, const Use& use) {
    Phase& phase = phases_[static_cast<std::size_t>(number)];
    bool prepared = false;
    for (;;) {
      std::int64_t begin = phase.taken.load(std::memory_order_relaxed), end = begin;
      do {
        const std::int64_t left = tasks - begin;
        end = begin + std::min(left, std::clamp(left / (2 * threads_), least, kMost * least));
      } while (begin < tasks && !phase.taken.compare_exchange_weak(begin, end, std::memory_order_relaxed));
      if (begin >= tasks) break;
      if (!prepared) prepare();
      prepared = true;
      use(begin, end);
      const auto some = static_cast<std::int32_t>(end - begin);
      if (phase.done.fetch_add(some, std::memory_order_acq_rel) + some == tasks) phase.done.notify_all();
    }
    wait(phase, static_cast<std::int32_t>(tasks));
  }

 private:
  struct alignas(64) Phase {
    std::atomic<std::int64_t> taken{0};
    alignas(64) std::atomic<std::int32_t> done{0};  // of 32 bits, which is waited for without a lock
  };

  static constexpr std::int64_t kMost = 16;  // lest one that loses its core had much that others could do
  static constexpr int kTurns = 1000;  // of a loop before a thread sleeps, some 20 to 50 microseconds

  static void wait(Phase& phase, std::int32_t tasks) {
    for (int turn = 0; turn < kTurns; ++turn) {
      if (phase.done.load(std::memory_order_acquire) >= tasks) return;
#if defined(__x86_64__)
      __builtin_ia32_pause();
#elif defined(__aarch64__)
      asm volatile("yield");
#endif
    }
    for (;;) {
      const std::int32_t done = phase.done.load(std::memory_order_acquire);
      if (done >= tasks) return;
      phase.done.wait(done, std::memory_order_acquire);
    }
  }

  std::vector<Phase> phases_;
  std::int64_t threads_;
};

}  // namespace secondlook
