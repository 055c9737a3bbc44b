// Work in phases, each of tasks that depend on no other of the same phase: whichever threads are there take
// them, one after the other, and go on to the next phase when all are done.
//
// Within phases no thread is waited for but those that have taken a task: one that comes late, because it slept or
// another process has its core, finds the others ahead, and a single one does it all. So threads are woken once for
// many phases, between which they wait for no more than a task's time. A task must not throw: others would wait for
// it for ever.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

namespace secondlook {

class Phases {
 public:
  explicit Phases(std::int64_t count) : phases_(static_cast<std::size_t>(count)) {}

  // What a thread does of a phase, to be called by each for all phases in the same order. use(begin, end) is
  // called for up to `together` of `tasks` at a time, the same numbers in each thread; before its first call
  // prepare() is, while the phase before is over and this one is not. Returns when all tasks are done.
  template <typename Prepare, typename Use>
  void run(std::int64_t number, std::int64_t tasks, std::int64_t together, const Prepare& prepare, const Use& use) {
    Phase& phase = phases_[static_cast<std::size_t>(number)];
    const std::int64_t shares = (tasks + together - 1) / together;
    bool prepared = false;
    for (;;) {
      const std::int64_t share = phase.taken.fetch_add(1, std::memory_order_relaxed);
      if (share >= shares) break;
      if (!prepared) prepare();
      prepared = true;
      use(share * together, std::min(tasks, (share + 1) * together));
      if (phase.done.fetch_add(1, std::memory_order_acq_rel) + 1 == shares) phase.done.notify_all();
    }
    wait(phase, static_cast<std::int32_t>(shares));
  }

 private:
  struct alignas(64) Phase {
    std::atomic<std::int32_t> taken{0};
    alignas(64) std::atomic<std::int32_t> done{0};
  };

  static constexpr int kTurns = 1000;  // of a loop before a thread sleeps, some 20 to 50 microseconds

  static void wait(Phase& phase, std::int32_t shares) {
    for (int turn = 0; turn < kTurns; ++turn) {
      if (phase.done.load(std::memory_order_acquire) >= shares) return;
#if defined(__x86_64__)
      __builtin_ia32_pause();
#elif defined(__aarch64__)
      asm volatile("yield");
#endif
    }
    for (;;) {
      const std::int32_t done = phase.done.load(std::memory_order_acquire);
      if (done >= shares) return;
      phase.done.wait(done, std::memory_order_acquire);
    }
  }

  std::vector<Phase> phases_;
};

}  // namespace secondlook
