// Barriers and waits that tests leave out, to see whether somebody notices. A place is that of the call in this
// library, in hexadecimal, as addr2line takes it: INFINIOP_EMULATOR_OMIT="1f3c,1fa0" leaves these out, "1f3c+" lets a
// wait for asynchronous copies end one group too early. INFINIOP_EMULATOR_MET names a file to which the places that a
// launch meets are added.
#include "threads.h"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>

#include "places.h"

namespace emulator {
namespace {

std::map<uint32_t, Omission> omissions;
std::set<uint32_t> met;
bool watched; // something of this is wanted

} // namespace

void read_omissions() {
    const char *text = getenv("INFINIOP_EMULATOR_OMIT"), *const file = getenv("INFINIOP_EMULATOR_MET");
    watched = text || file;
    omissions.clear();
    while (text && *text) {
        char *end;
        const uint32_t place = uint32_t(strtoul(text, &end, 16));
        omissions[place] = *end == '+' ? Omission::one_less : Omission::whole;
        text = end + strcspn(end, ",");
        text += *text == ',';
    }
    met.clear();
}

Omission omitted(const void *caller) {
    if (!watched) {
        return Omission::none;
    }
    const uint32_t place = call_place(caller);
    if (const char *const file = met.insert(place).second ? getenv("INFINIOP_EMULATOR_MET") : nullptr) {
        if (FILE *const out = fopen(file, "a")) {
            fprintf(out, "%x\n", place);
            fclose(out);
        }
    }
    const auto found = omissions.find(place);
    return found == omissions.end() ? Omission::none : found->second;
}

} // namespace emulator
