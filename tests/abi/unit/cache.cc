// Prints the bytes of the largest cache of a made-up machine below the argument.
#include "cache.h"

#include <cstdio>

int main(int, char **arguments) { printf("%zu\n", infiniop::cpu::largest_cache(arguments[1])); }
