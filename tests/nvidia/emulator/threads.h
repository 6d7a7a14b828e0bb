// What the emulator's parts know of the threads: who runs, and what they did to memory (races.cc) and at which barriers
// (omissions.cc).
#pragma once

#include <cuda_runtime.h>

namespace emulator {

constexpr unsigned most_threads = 1024, no_thread = ~0u;
extern unsigned running; // number of the thread within its block; no_thread: the emulator itself, or the host

const void *stacks(); // of the threads
constexpr size_t stack_bytes = 128 << 10;

// False: threads waited for others that would never come, or accessed memory as they must not.
bool run_grid(const cudaLaunchConfig_t &config, const std::function<void()> &kernel);

// ---- accesses to memory and their order; all of it is called with the launch's lock held ---------------------------

void begin_launch();
void begin_block(unsigned threads, const void *shared, size_t bytes);
void order_block();                              // its threads have met at a barrier
void order_lanes(unsigned first, unsigned mask); // these of the warp that begins with thread `first` have
bool accesses_were_clean();                      // of this launch

// By the thread that runs.
void begin_copy(void *shared, const void *from, bool valid, const void *caller);
void end_copy(void *shared, const void *from, bool valid, const void *caller);

// ---- barriers and waits that tests leave out --------------------------------------------------------------

enum class Omission { none, whole, one_less };
void read_omissions();
Omission omitted(const void *caller); // what tests want of this one; takes down that it was met

} // namespace emulator
