// Threads as fibers, their barriers and exchanges, shared memory and asynchronous copies.
#include "threads.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <vector>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emulator {
namespace {

// ---- fibers ---------------------------------------------------------------------------------------------------

#if defined(__x86_64__)
// Saves the registers that a call preserves, and continues on another stack.
extern "C" void infiniop_emulator_switch(void **from, void *to);
asm(R"(
.text
.globl infiniop_emulator_switch
.hidden infiniop_emulator_switch
.type infiniop_emulator_switch, @function
infiniop_emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");

struct Context {
    void *stack = nullptr;

    void prepare(char *top, void (*entry)()) {
        void **at = reinterpret_cast<void **>(top) - 2; // the stack is 16 bytes off at a function's first instruction
        *at = reinterpret_cast<void *>(entry);
        stack = at - 6;
        std::fill(at - 6, at, nullptr);
    }
    static void change(Context &from, Context &to) { infiniop_emulator_switch(&from.stack, to.stack); }
};
#else
#include <ucontext.h>

struct Context {
    ucontext_t context;

    void prepare(char *top, void (*entry)());
    static void change(Context &from, Context &to) { swapcontext(&from.context, &to.context); }
};
#endif

constexpr size_t page = 4096;

#if !defined(__x86_64__)
void Context::prepare(char *top, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = top - stack_bytes + page;
    context.uc_stack.ss_size = stack_bytes - page;
    makecontext(&context, entry, 0);
}
#endif

} // namespace

// Each has a page below it that nobody may touch.
const void *stacks() {
    static const void *const all = [] {
        void *memory = mmap(nullptr, most_threads * stack_bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) {
            perror("emulator: stacks");
            abort();
        }
        for (unsigned k = 0; k < most_threads; k++) {
            mprotect(static_cast<char *>(memory) + k * stack_bytes, page, PROT_NONE);
        }
        return memory;
    }();
    return all;
}

unsigned running = no_thread;

namespace {

// ---- one block ------------------------------------------------------------------------------------------------

enum class State { ready, at_block, at_warp, done };

struct Copy { // 16 bytes
    void *to;
    const void *from;
    bool valid;
    unsigned group; // commits of the thread before it
};

struct Thread {
    Context context;
    State state;
    unsigned mask; // of the exchange that it waits in
    bool barrier;  // it is __syncwarp
    uint3 index;
    int value; // for block_sum
    alignas(16) char posted[64];
    std::vector<Copy> copies; // that have not arrived, the oldest first
    unsigned commits;
};

Context scheduler;
Thread threads[most_threads];
unsigned count; // threads of the block
const std::function<void()> *body;
bool reversed;
std::vector<char> shared_memory_storage;
char *shared_memory_start;

Thread &self() { return threads[running]; }

// What the emulator does in a thread's place.
struct Unwatched {
    const unsigned thread = running;

    Unwatched() { running = no_thread; }
    ~Unwatched() { running = thread; }
};

void wait(State state) {
    self().state = state;
    Context::change(self().context, scheduler);
}

[[noreturn]] void thread_main() {
    (*body)();
    wait(State::done);
    abort(); // a finished thread is never resumed
}

void resume(unsigned i) {
    running = i;
    threadIdx = threads[i].index;
    Context::change(scheduler, threads[i].context);
    running = no_thread;
}

void take_part(unsigned mask, bool barrier, size_t bytes) {
    if (!(mask >> running % 32 & 1) || bytes > sizeof(Thread::posted)) {
        fprintf(stderr, "emulator: lane %u takes part in an exchange of mask %08x, %zu bytes\n", running % 32, mask,
                bytes);
        abort();
    }
    self().mask = mask;
    self().barrier = barrier;
}

unsigned nth(unsigned i, unsigned n) { return reversed ? n - 1 - i : i; }

// Lets the lanes of a warp go on whose whole mask has arrived; false: none has.
bool release_warp(unsigned first) {
    for (unsigned i = first; i < std::min(first + 32, count); i++) {
        if (threads[i].state != State::at_warp) {
            continue;
        }
        const unsigned mask = threads[i].mask;
        const bool barrier = threads[i].barrier;
        bool complete = true;
        for (unsigned k = 0; k < 32; k++) {
            if (mask >> k & 1) {
                const Thread &other = threads[first + k];
                complete &= first + k < count && other.state == State::at_warp && other.mask == mask &&
                            other.barrier == barrier;
            }
        }
        if (complete) {
            if (barrier) {
                order_lanes(first, mask);
            }
            for (unsigned k = 0; k < 32; k++) {
                if (mask >> k & 1) {
                    threads[first + k].state = State::ready;
                }
            }
            return true;
        }
    }
    return false;
}

void run_warp(unsigned first) {
    do {
        const unsigned lanes = std::min(32u, count - first);
        for (unsigned i = 0; i < lanes; i++) {
            const unsigned which = first + nth(i, lanes);
            if (threads[which].state == State::ready) {
                resume(which);
            }
        }
    } while (release_warp(first));
}

// false: some threads wait for others that will never come.
bool run_block() {
    for (unsigned i = 0; i < count; i++) {
        char *const top = static_cast<char *>(const_cast<void *>(stacks())) + (i + 1) * stack_bytes;
        threads[i].context.prepare(top, thread_main);
        threads[i].state = State::ready;
        threads[i].copies.clear();
        threads[i].commits = 0;
    }
    const unsigned warps = (count + 31) / 32;
    for (;;) {
        for (unsigned w = 0; w < warps; w++) {
            run_warp(32 * nth(w, warps));
        }
        unsigned waiting = 0, done = 0;
        for (unsigned i = 0; i < count; i++) {
            waiting += threads[i].state == State::at_block;
            done += threads[i].state == State::done;
        }
        if (done == count) {
            return true;
        }
        if (waiting + done < count) {
            fprintf(stderr,
                    "emulator: block (%u, %u, %u): %u threads wait in a warp exchange for lanes that are "
                    "elsewhere or have finished\n",
                    blockIdx.x, blockIdx.y, blockIdx.z, count - waiting - done);
            return false;
        }
        for (unsigned i = 0; i < count; i++) {
            threads[i].state = threads[i].state == State::at_block ? State::ready : State::done;
        }
        order_block();
    }
}

} // namespace

bool run_grid(const cudaLaunchConfig_t &config, const std::function<void()> &kernel) {
    static std::mutex one_at_a_time;
    const std::lock_guard lock(one_at_a_time);
    const char *order = getenv("INFINIOP_EMULATOR_ORDER");
    reversed = order && strcmp(order, "reverse") == 0;
    body = &kernel;
    const dim3 block = config.blockDim, grid = config.gridDim;
    count = block.x * block.y * block.z;
    for (unsigned i = 0; i < count; i++) {
        threads[i].index = {i % block.x, i / block.x % block.y, i / block.x / block.y};
    }
    blockDim = block;
    gridDim = grid;
    read_omissions();
    begin_launch();
    const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
    for (uint64_t i = 0; i < blocks; i++) {
        const uint64_t b = reversed ? blocks - 1 - i : i;
        blockIdx = {unsigned(b % grid.x), unsigned(b / grid.x % grid.y), unsigned(b / grid.x / grid.y)};
        // A size of its own for each launch, so that a sanitizer sees the end; NaN, whatever floats it holds.
        shared_memory_storage.assign(config.dynamicSmemBytes + 16, char(0xFF));
        shared_memory_storage.shrink_to_fit();
        const uintptr_t start = reinterpret_cast<uintptr_t>(shared_memory_storage.data());
        shared_memory_start = shared_memory_storage.data() + (16 - start % 16) % 16;
        begin_block(count, shared_memory_start, config.dynamicSmemBytes);
        if (!run_block() || !accesses_were_clean()) {
            return false;
        }
    }
    return true;
}

void *dynamic_shared() { return shared_memory_start; }
unsigned lane() { return running % 32; }

void block_barrier() {
    if (omitted(__builtin_return_address(0)) == Omission::none) {
        wait(State::at_block);
    }
}

int block_sum(int value) {
    if (omitted(__builtin_return_address(0)) != Omission::none) {
        return value;
    }
    self().value = value;
    wait(State::at_block);
    int sum = 0;
    for (unsigned i = 0; i < count; i++) {
        sum += threads[i].state == State::done ? 0 : threads[i].value;
    }
    wait(State::at_block);
    return sum;
}

void warp_barrier(unsigned mask) {
    if (omitted(__builtin_return_address(0)) == Omission::none) {
        take_part(mask, true, 0);
        wait(State::at_warp);
    }
}

void exchange(unsigned mask, const void *mine, size_t bytes, void *all) {
    const unsigned first = running - lane();
    take_part(mask, false, bytes);
    memcpy(self().posted, mine, bytes);
    wait(State::at_warp);
    for (unsigned i = 0; i < 32; i++) {
        if (mask >> i & 1) {
            memcpy(static_cast<char *>(all) + i * bytes, threads[first + i].posted, bytes);
        }
    }
    wait(State::at_warp); // nobody posts again before all have read
}

void copy_async_16(void *shared, const void *from, bool valid) {
    begin_copy(shared, from, valid, __builtin_return_address(0));
    Thread &thread = self();
    const Unwatched unwatched;
    memset(shared, 0xFF, 16);
    thread.copies.push_back({shared, from, valid, thread.commits});
}

void copy_async_commit() { self().commits++; }

void copy_async_wait(unsigned newest) {
    const void *const caller = __builtin_return_address(0);
    const Omission omission = omitted(caller);
    if (omission == Omission::whole) {
        return;
    }
    newest += omission == Omission::one_less;
    Thread &thread = self();
    size_t arrived = 0;
    for (; arrived < thread.copies.size() && thread.copies[arrived].group + newest < thread.commits; arrived++) {
        const Copy &copy = thread.copies[arrived];
        end_copy(copy.to, copy.from, copy.valid, caller);
        const Unwatched unwatched;
        copy.valid ? memcpy(copy.to, copy.from, 16) : memset(copy.to, 0, 16);
    }
    const Unwatched unwatched;
    thread.copies.erase(thread.copies.begin(), thread.copies.begin() + ptrdiff_t(arrived));
}

} // namespace emulator
