// Where in the sources an instruction of this library is.
#pragma once

#include <cstdint>
#include <string>

namespace emulator {

struct Range {
    uintptr_t from, to;

    bool has(uintptr_t at) const { return at >= from && at < to; }
};

Range image();   // this library's code and data
Range statics(); // the calling thread's thread_local variables in it

// The place of a call, from its return address, as a number that fits in little room; 0: outside.
uint32_t call_place(const void *caller);
// "function, file:line < the file:line it was inlined into …", by addr2line.
std::string describe(uint32_t place);

} // namespace emulator
