// What shadow mode was asked for, by the environment or by the program.
#pragma once

#include <memory>
#include <string>
#include <vector>

namespace [[gnu::visibility("default")]] infini {

struct Verification {
    std::vector<std::string> against; // backends
    bool keep_going = false;
    double tolerance = 1;
    std::string folder = "infiniop-verify";
};

std::shared_ptr<const Verification> verification(); // nullptr: off
void set_verification(std::shared_ptr<const Verification> wanted);
std::shared_ptr<const Verification> wanted_by_environment();

} // namespace infini
