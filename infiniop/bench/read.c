// The fastest read of memory that the compiler makes for this machine: what `limits.py` calls bandwidth.
#include <stddef.h>
#include <stdint.h>

typedef uint64_t Vector __attribute__((vector_size(64)));

enum { streams = 8 };

uint64_t read_bytes(const void *memory, size_t size, size_t times) {
    const Vector *v = (const Vector *)memory;
    const size_t n = size / sizeof(Vector);
    Vector sums[streams] = {0};
    for (size_t t = 0; t < times; t++) {
        for (size_t i = 0; i + streams <= n; i += streams) {
            for (int j = 0; j < streams; j++) {
                sums[j] += v[i + j];
            }
        }
    }
    uint64_t total = 0;
    for (int j = 0; j < streams; j++) {
        total += sums[j][0];
    }
    return total;
}
