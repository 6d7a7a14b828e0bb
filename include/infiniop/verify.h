/* Shadow mode: every call is made once more on other backends, and the first that differs is reported.
 *
 * INFINIOP_VERIFY=reference (several: by comma) turns it on for the whole process; so does infiniopSetVerify, for
 * descriptors that are created afterwards. docs/verify.md. Valid C11 and C++17. */
#ifndef INFINIOP_VERIFY_H
#define INFINIOP_VERIFY_H

#include "backend.h"

typedef struct infiniopVerifyOptions {
    size_t struct_size;
    const char *against; /* backends, by comma; NULL or "": verify nothing */
    int keep_going;      /* 0: a call that differs answers INTERNAL_ERROR; else it is reported and counted */
    double tolerance;    /* factor on the operators' tolerances; 0 counts as 1 */
    const char *folder;  /* where the first call of each operator that differs is kept; NULL or "": infiniop-verify in the working directory */
} infiniopVerifyOptions;

/* NULL: as INFINIOP_VERIFY, INFINIOP_VERIFY_MODE (stop, report), INFINIOP_VERIFY_TOLERANCE and INFINIOP_VERIFY_DIR say. */
INFINI_API infiniStatus_t infiniopSetVerify(const infiniopVerifyOptions *options);

typedef struct infiniopVerifyCounts {
    size_t struct_size;
    uint64_t verified;   /* calls that agreed with every backend that they were made on */
    uint64_t differing;  /* calls that did not */
    uint64_t unverified; /* calls and descriptors that could not be compared; the summary at exit says why */
} infiniopVerifyCounts;

/* Set counts->struct_size first. */
INFINI_API infiniStatus_t infiniopGetVerifyCounts(infiniopVerifyCounts *counts);

/* A call whose outputs are not within the operator's tolerances, of an operator with a comparison of its own (which of
 * two equal values comes first, what a quantised weight may add). Pointers are host memory, in schema order, NULL where
 * `tensors` is. */
typedef struct infiniopVerifyCase {
    size_t struct_size;
    const char *op;
    size_t ntensors;
    const infiniopTensorView *const *tensors;
    void *const *before;   /* what the call found */
    void *const *expected; /* after the call on the other backend */
    void *const *actual;   /* after the call itself */
    const infiniopValue *attrs;
} infiniopVerifyCase;

/* SUCCESS: as good as expected. Else set_error has said what differs. */
typedef infiniStatus_t (*infiniopVerifyJudge_t)(const infiniopVerifyCase *one);
/* The operators' own comparisons are written in Python, which sets this; without it such a call counts as unverified. */
INFINI_API infiniStatus_t infiniopSetVerifyJudge(infiniopVerifyJudge_t judge);

#endif
