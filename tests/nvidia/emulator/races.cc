// Finds accesses to memory that no barrier orders. The compiler's instrumentation for ThreadSanitizer calls what stands
// at the end of this file before every load and store of a kernel; the library of that sanitizer is not used.
//
// Each byte remembers its last write and the reads (and, apart, the atomic accesses) since. Two accesses of one launch
// race if they are by different threads, one of them writes, not both are atomic, and none is ordered before the other:
//   - threads of a block by __syncthreads, lanes of a warp by __syncwarp: "Executing __syncwarp() guarantees memory
//     ordering among threads participating in the barrier" (CUDA C++ Programming Guide), other warp instructions do
//     not;
//   - blocks of a launch by nothing.
// Beside races it finds shared memory that is read before the block wrote it or before its asynchronous copy was waited
// for, and accesses whose address is no multiple of their size, for which a device has no instruction.
//
// Time within a launch: `now` grows at every block and at every barrier of it; between two barriers of the block each
// lane counts its __syncwarps and knows how many of the other lanes' it comes after (vector clocks).
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <unordered_map>
#include <vector>

#include "places.h"
#include "threads.h"

namespace emulator {
namespace {

unsigned self; // the thread whose access is looked at; what runs meanwhile is none

constexpr uint16_t many_warps = 0xffff;

struct Write {
    uint32_t when, place;
    uint16_t thread, clock;
};

// By one lane, several lanes of a warp, or several warps of a block.
struct Accesses {
    uint32_t when, place, lanes;
    uint16_t warp, clock; // the earliest of the lanes'
};

struct Byte {
    Write write;
    Accesses reads;
    bool copying; // the write is an asynchronous copy on its way
    bool atomics; // there are atomic accesses
};

// ---- the past -----------------------------------------------------------------------------------------------------

constexpr size_t page = 1024, most_pages = (512 << 20) / (page * sizeof(Byte));

struct Free {
    void operator()(void *p) const { free(p); }
};
using Page = std::unique_ptr<Byte[], Free>;

std::unordered_map<uintptr_t, Page> pages;
std::unordered_map<uintptr_t, Accesses> atomics; // of this launch

Byte *page_of(uintptr_t address) {
    struct Known {
        uintptr_t number;
        Byte *bytes;
    };
    static Known known[4096];
    static size_t generation = 0; // pages when `known` was last emptied
    if (pages.empty() && generation) {
        memset(known, 0, sizeof(known));
        generation = 0;
    }
    const uintptr_t number = address / page;
    Known &slot = known[number % 4096];
    if (slot.number != number || !slot.bytes) {
        Page &found = pages[number];
        if (!found) {
            found.reset(static_cast<Byte *>(calloc(page, sizeof(Byte))));
            generation++;
        }
        slot = {number, found.get()};
    }
    return slot.bytes;
}

// ---- time -----------------------------------------------------------------------------------------------------------

uint32_t now = 1, launch_began, block_began;
std::vector<uint3> blocks; // of this launch; block i began at block_starts[i]
std::vector<uint32_t> block_starts;
uint16_t clocks[most_threads / 32][32][32]; // of a warp's lane: what it knows of each lane's

uint16_t clock_of(unsigned thread) { return clocks[thread / 32][thread % 32][thread % 32]; }

// Whether the thread comes after what a thread did at `clock` of the time `when`.
bool after(uint32_t when, unsigned thread, uint16_t clock) {
    if (when < block_began) {
        return false;
    }
    if (when < now || thread == self) {
        return true;
    }
    return thread / 32 == self / 32 && clocks[self / 32][self % 32][thread % 32] >= clock;
}

bool after_lanes(const Accesses &past) {
    if (past.when < block_began) {
        return false;
    }
    if (past.when < now) {
        return true;
    }
    if (past.warp != self / 32) {
        return false;
    }
    for (unsigned lane = 0; lane < 32; lane++) {
        if (past.lanes >> lane & 1 && !after(past.when, past.warp * 32 + lane, past.clock)) {
            return false;
        }
    }
    return true;
}

// Adds the thread's. Older ones that a later write could race with stay.
void add(Accesses &past, uint32_t began, uint32_t place) {
    const bool live = past.when >= began;
    if (live && past.when < block_began) {
        return; // whoever writes in this block races with those of the other block
    }
    if (live && past.when == now && !after_lanes(past)) {
        past.lanes |= 1u << self % 32;
        if (past.warp != self / 32) {
            past.warp = many_warps;
        }
        past.clock = past.clock < clock_of(self) ? past.clock : clock_of(self);
        return;
    }
    past = {now, place, 1u << self % 32, uint16_t(self / 32), clock_of(self)};
}

// ---- reports --------------------------------------------------------------------------------------------------------

constexpr int most_reports = 3; // of a launch
int reports;
bool clean = true;
uintptr_t shared_from, shared_to;
Range own_image, own_statics, own_stacks;

std::string name(uintptr_t address) {
    char text[64];
    if (address >= shared_from && address < shared_to) {
        snprintf(text, sizeof(text), "dynamic shared memory at +%zu", size_t(address - shared_from));
    } else if (own_statics.has(address)) {
        snprintf(text, sizeof(text), "static shared memory at +%zu", size_t(address - own_statics.from));
    } else {
        snprintf(text, sizeof(text), "global memory at %#zx", size_t(address));
    }
    return text;
}

void report(const char *what, uintptr_t address, size_t size, uint32_t place, const std::string &other) {
    clean = false;
    if (reports++ < most_reports) {
        fprintf(stderr, "emulator: %s: %zu bytes of %s, block (%u, %u, %u), thread %u in %s%s\n", what, size,
                name(address).c_str(), blockIdx.x, blockIdx.y, blockIdx.z, self, describe(place).c_str(),
                other.c_str());
    }
}

std::string past(const char *did, uint32_t when, unsigned warp, uint32_t lanes, uint32_t place) {
    size_t block = block_starts.size() - 1;
    while (block > 0 && block_starts[block] > when) {
        block--;
    }
    const uint3 &at = blocks[block];
    char who[128];
    if (warp == many_warps) {
        snprintf(who, sizeof(who), "several warps");
    } else if (lanes & (lanes - 1)) {
        snprintf(who, sizeof(who), "lanes %#x of warp %u", lanes, warp);
    } else {
        snprintf(who, sizeof(who), "thread %u", warp * 32 + unsigned(__builtin_ctz(lanes)));
    }
    char text[256];
    snprintf(text, sizeof(text), "; %s of block (%u, %u, %u) %s it in ", who, at.x, at.y, at.z, did);
    return text + describe(place);
}

std::string past(const char *did, const Accesses &them) {
    return past(did, them.when, them.warp, them.lanes, them.place);
}

std::string past(const Write &write) {
    return past("wrote", write.when, write.thread / 32, 1u << write.thread % 32, write.place);
}

// ---- an access --------------------------------------------------------------------------------------------

enum class Kind { read, write, atomic, begin_copy, end_copy };

// The race of one byte, or that there is none.
bool check(Byte &byte, uintptr_t address, size_t size, Kind kind, uint32_t began, bool shared, uint32_t place) {
    const bool written = byte.write.when >= began, writes = kind != Kind::read;
    if (written && byte.copying && kind != Kind::end_copy) {
        const bool reads = kind == Kind::read || kind == Kind::atomic;
        report(reads ? "read before its asynchronous copy was waited for"
                     : "written while an asynchronous copy is on its way",
               address, size, place, past(byte.write));
        return false;
    }
    if (written && !after(byte.write.when, byte.write.thread, byte.write.clock)) {
        report(writes ? "race of two writes" : "race of a read with a write", address, size, place, past(byte.write));
        return false;
    }
    if (!written && shared && (kind == Kind::read || kind == Kind::atomic)) {
        report("read of shared memory that the block has not written", address, size, place, "");
        return false;
    }
    if (writes && byte.reads.when >= began && !after_lanes(byte.reads)) {
        report("race of a write with a read", address, size, place, past("read", byte.reads));
        return false;
    }
    if (kind != Kind::atomic && byte.atomics) {
        const auto found = atomics.find(address);
        if (found != atomics.end() && found->second.when >= began && !after_lanes(found->second)) {
            report("race with an atomic access", address, size, place, past("changed", found->second));
            return false;
        }
    }
    return true;
}

void access(const void *p, size_t size, Kind kind, const void *caller) {
    const uintptr_t from = reinterpret_cast<uintptr_t>(p);
    if (running == no_thread || own_stacks.has(from) || own_image.has(from)) {
        return;
    }
    self = running;
    running = no_thread;
    const bool shared = (from >= shared_from && from < shared_to) || own_statics.has(from);
    const uint32_t place = call_place(caller), began = shared ? block_began : launch_began;
    bool good = true;
    Byte *bytes = nullptr;
    for (uintptr_t at = from; at < from + size; at++) {
        if (!bytes || at % page == 0) {
            bytes = page_of(at);
        }
        Byte &byte = bytes[at % page];
        good = good && check(byte, at, size, kind, began, shared, place);
        if (kind == Kind::read) {
            add(byte.reads, began, place);
        } else if (kind == Kind::atomic) {
            byte.atomics = true;
            add(atomics[at], began, place);
        } else {
            byte = {{now, place, uint16_t(self), clock_of(self)}, {}, kind == Kind::begin_copy, false};
        }
    }
    running = self;
}

void aligned_access(const void *p, size_t size, Kind kind, const void *caller) {
    const uintptr_t from = reinterpret_cast<uintptr_t>(p);
    if (running != no_thread && from % size && !own_stacks.has(from)) {
        self = running;
        running = no_thread;
        report("misaligned access", from, size, call_place(caller), "");
        running = self;
    }
    access(p, size, kind, caller);
}

} // namespace

// ---- what the scheduler tells -----------------------------------------------------------------------------

void begin_launch() {
    if (pages.size() > most_pages || now > 0xf0000000u) { // what is past concerns nobody
        pages.clear();
        now = 1;
    }
    now++;
    launch_began = now;
    blocks.clear();
    block_starts.clear();
    atomics.clear();
    clean = true;
    reports = 0;
    own_image = image();
    own_statics = statics();
    own_stacks.from = reinterpret_cast<uintptr_t>(stacks());
    own_stacks.to = own_stacks.from + most_threads * stack_bytes;
}

void begin_block(unsigned threads, const void *shared, size_t bytes) {
    now++;
    block_began = now;
    blocks.push_back(blockIdx);
    block_starts.push_back(now);
    shared_from = reinterpret_cast<uintptr_t>(shared);
    shared_to = shared_from + bytes;
    memset(clocks, 0, (threads + 31) / 32 * sizeof(clocks[0]));
    for (unsigned i = 0; i < threads; i++) {
        clocks[i / 32][i % 32][i % 32] = 1;
    }
}

void order_block() { now++; }

void order_lanes(unsigned first, unsigned mask) {
    auto &warp = clocks[first / 32];
    uint16_t all[32] = {};
    for (unsigned lane = 0; lane < 32; lane++) {
        for (unsigned other = 0; mask >> lane & 1 && other < 32; other++) {
            all[other] = warp[lane][other] > all[other] ? warp[lane][other] : all[other];
        }
    }
    for (unsigned lane = 0; lane < 32; lane++) {
        if (mask >> lane & 1) {
            memcpy(warp[lane], all, sizeof(all));
            warp[lane][lane] += all[lane] < 0xffff; // a clock that stands hides races and invents none
        }
    }
}

bool accesses_were_clean() { return clean; }

void begin_copy(void *shared, const void *from, bool valid, const void *caller) {
    aligned_access(shared, 16, Kind::begin_copy, caller);
    if (valid) {
        aligned_access(from, 16, Kind::read, caller);
    }
}

void end_copy(void *shared, const void *from, bool valid, const void *caller) {
    access(shared, 16, Kind::end_copy, caller);
    if (valid) {
        access(from, 16, Kind::read, caller);
    }
}

void atomic_access(void *p, size_t bytes) { aligned_access(p, bytes, Kind::atomic, __builtin_return_address(0)); }

} // namespace emulator

// ---- what the compiler and memcpy tell --------------------------------------------------------------------

using emulator::Kind;

#define CALLER __builtin_return_address(0)
#define ACCESS(size)                                                                                                   \
    void __tsan_read##size(void *p) { emulator::aligned_access(p, size, Kind::read, CALLER); }                         \
    void __tsan_write##size(void *p) { emulator::aligned_access(p, size, Kind::write, CALLER); }                       \
    void __tsan_unaligned_read##size(void *p) { emulator::access(p, size, Kind::read, CALLER); }                       \
    void __tsan_unaligned_write##size(void *p) { emulator::access(p, size, Kind::write, CALLER); }

extern "C" {
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
void __tsan_init() {}
void __tsan_read_range(void *p, ptrdiff_t size) { emulator::access(p, size_t(size), Kind::read, CALLER); }
void __tsan_write_range(void *p, ptrdiff_t size) { emulator::access(p, size_t(size), Kind::write, CALLER); }
// The host's, of a static's guard.
uint8_t __tsan_atomic8_load(const volatile void *p, int) { return *static_cast<const volatile uint8_t *>(p); }

// The linker sends the calls here (--wrap).
void *__real_memcpy(void *to, const void *from, size_t size);
void *__real_memmove(void *to, const void *from, size_t size);
void *__real_memset(void *to, int value, size_t size);
void *__wrap_memcpy(void *to, const void *from, size_t size) {
    emulator::access(from, size, Kind::read, CALLER);
    emulator::access(to, size, Kind::write, CALLER);
    return __real_memcpy(to, from, size);
}
void *__wrap_memmove(void *to, const void *from, size_t size) {
    emulator::access(from, size, Kind::read, CALLER);
    emulator::access(to, size, Kind::write, CALLER);
    return __real_memmove(to, from, size);
}
void *__wrap_memset(void *to, int value, size_t size) {
    emulator::access(to, size, Kind::write, CALLER);
    return __real_memset(to, value, size);
}
}
