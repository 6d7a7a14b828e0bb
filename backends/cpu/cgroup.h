// The cgroups that this process is in, versions 1 and 2: what a container may use is less than what the machine has.
#pragma once

#include <string>
#include <vector>

namespace infiniop::cpu {

// The folders of the process's own cgroup and of those above it, own first; empty without cgroups.
struct Cgroup {
    int version = 0; // 1 or 2
    std::vector<std::string> folders;
};

// Of one controller ("cpu", "memory"). `root` stands before every path that is read.
Cgroup find_cgroup(const std::string &controller, const std::string &root = "");

// The least CPU quota of these cgroups, in CPUs; 0: none.
double cpu_quota(const std::string &root = "");

} // namespace infiniop::cpu
