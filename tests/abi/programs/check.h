/* Checks that end the program with the place and the last error. Valid C11 and C++17. */
#ifndef INFINIOP_TESTS_CHECK_H
#define INFINIOP_TESTS_CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <infiniop/registry.h>

static inline void check_at(const char *file, int line, int holds, const char *text) {
    if (!holds) {
        fprintf(stderr, "%s:%d: %s does not hold; last error: %s\n", file, line, text, infiniopGetLastError());
        exit(1);
    }
}

/* The status is as expected, and a failure's message contains `part`. */
static inline void status_at(const char *file, int line, infiniStatus_t got, infiniStatus_t expected, const char *text,
                             const char *part) {
    if (got != expected) {
        fprintf(stderr, "%s:%d: %s gave %d, expected %d; last error: %s\n", file, line, text, (int)got, (int)expected,
                infiniopGetLastError());
        exit(1);
    }
    if (expected != INFINI_STATUS_SUCCESS && !strstr(infiniopGetLastError(), part)) {
        fprintf(stderr, "%s:%d: %s: no \"%s\" in the message \"%s\"\n", file, line, text, part, infiniopGetLastError());
        exit(1);
    }
}

#define CHECK(condition) check_at(__FILE__, __LINE__, !!(condition), #condition)
#define OK(call) status_at(__FILE__, __LINE__, (call), INFINI_STATUS_SUCCESS, #call, "")
#define FAILS(status, part, call) status_at(__FILE__, __LINE__, (call), INFINI_STATUS_##status, #call, part)

#endif
