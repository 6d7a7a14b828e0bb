// A plugin made of macros: the tests of loading compile one for each thing that can go wrong.
#include <infiniop/backend.h>

#include <cstdio>
#include <stdexcept>

#ifndef NAME
#define NAME "fine"
#endif
#ifndef DEVICE
#define DEVICE "cpu"
#endif
#ifndef INIT
#define INIT
#endif
#ifndef AT_LOAD
#define AT_LOAD 0
#endif
#ifndef OP
#define OP "relu"
#endif
#ifndef SCHEMA_VERSION
#define SCHEMA_VERSION 1
#endif
#ifndef CREATE
#define CREATE return INFINI_STATUS_SUCCESS
#endif
#ifndef DESTROY
#define DESTROY
#endif
#ifndef MAJOR
#define MAJOR INFINIOP_BACKEND_ABI_MAJOR
#endif

extern "C" int nobody_has_this();

namespace {

[[maybe_unused]] const int at_load = AT_LOAD;

infiniStatus_t create(void *, const infiniopCall *, void **, size_t *) { CREATE; }
infiniStatus_t calculate(void *, const infiniopRun *) { return INFINI_STATUS_SUCCESS; }
void destroy(void *) { DESTROY; }

const infiniopKernel kernel{sizeof(kernel), OP, SCHEMA_VERSION, nullptr, create, calculate, destroy, nullptr};
const infiniopKernel *const kernels[] = {&kernel};
const infiniopBackend backend{sizeof(backend), MAJOR, 0, NAME, DEVICE, "1.0", 900, 0, nullptr, nullptr, 1, kernels};

} // namespace

extern "C" __attribute__((visibility("default"))) const infiniopBackend *
infiniop_backend_init([[maybe_unused]] const infiniopHost *host) {
    INIT;
    return &backend;
}
