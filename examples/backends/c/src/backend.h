/* What the files of this backend share. */
#pragma once

#include <infiniop/backend.h>

extern const infiniopHost *host; /* error messages and memory; set before any kernel runs */

/* Leaves the message for the caller; returns status. */
infiniStatus_t fail(infiniStatus_t status, const char *argument, const char *expected, const char *got);

/* Memory for a descriptor; destroy frees it. NULL: the caller has been told. */
void *new_state(size_t size);
void destroy(void *state);

/* One kernel of schema version 1 that takes every valid call. */
#define KERNEL(op, ctx) {sizeof(infiniopKernel), op, 1, NULL, create, calculate, destroy, ctx}

/* A static table per file; backend.c lists them. */
extern const infiniopKernel elementwise_kernels[6];
extern const infiniopKernel embedding_kernel, paged_caching_kernel, rearrange_kernel, rms_norm_kernel;
