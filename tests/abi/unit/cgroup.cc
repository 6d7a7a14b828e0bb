// Prints the CPU quota and the memory folders that a made-up machine below the argument grants.
#include "cgroup.h"

#include <cstdio>

int main(int, char **arguments) {
    using namespace infiniop::cpu;
    const std::string root = arguments[1];
    printf("%g\n", cpu_quota(root));
    for (const std::string &folder : find_cgroup("memory", root).folders) {
        puts(folder.c_str() + root.size());
    }
}
