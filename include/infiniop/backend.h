/* The plugin ABI: what a backend gives to infiniop, and what it gets. docs/abi.md states its rules in full.
 *
 * A backend is one shared library that exports `infiniop_backend_init` (or one table handed to
 * infiniopRegisterBackend). It links nothing of ours. Every struct starts with its size; fields are only ever
 * appended; a field beyond the struct_size that the other side wrote is absent. Unknown flags mean nothing.
 *
 * Errors: a status, and a message left through host->set_error on the same thread. No exception and no abort
 * crosses this boundary, and a failed call leaves its out-parameters untouched.
 * Threads: create may run on many threads at once; calculate is re-entrant on distinct workspaces and streams,
 * allocates nothing and synchronises nothing. A plugin is never unloaded. Valid C11 and C++17. */
#ifndef INFINIOP_BACKEND_H
#define INFINIOP_BACKEND_H

#include "../infiniccl.h"
#include "../infinicore.h"
#include "../infinirt.h"

#ifdef __cplusplus
extern "C" {
#endif

#define INFINIOP_BACKEND_ABI_MAJOR 1
#define INFINIOP_BACKEND_ABI_MINOR 0

/* ---- values ------------------------------------------------------------------------------------------- */

/* What went wrong. Strings may be NULL where they say nothing; the host copies them. */
typedef struct infiniopError {
    size_t struct_size;
    infiniStatus_t status; /* the one that the function returns */
    const char *op;       /* operator, as in its file: "paged_caching" */
    const char *argument; /* "slot_mapping" */
    const char *expected; /* "values below 1024" */
    const char *got;      /* "1040 at [3]" */
    const char *message;  /* the whole sentence; NULL: the host composes it from the fields above */
} infiniopError;

/* One attribute; 8 bytes for ever. Integers, bool, char and enums travel in i; float and double in f; host arrays in p. */
typedef union infiniopValue {
    int64_t i;
    double f;
    const void *p;
} infiniopValue;

/* A tensor as the operator sees it: strides are in elements and signed. */
typedef struct infiniopTensorView {
    size_t struct_size;
    infiniDtype_t dtype;
    size_t ndim;
    const size_t *shape;
    const ptrdiff_t *strides;
} infiniopTensorView;

/* What create gets: already valid by the operator's schema. Valid during the call only: copy what you keep. */
typedef struct infiniopCall {
    size_t struct_size;
    const char *op;
    uint32_t schema_version;
    infiniDevice_t device;
    int device_id;
    size_t ntensors;
    const infiniopTensorView *const *tensors; /* schema order; NULL: an optional tensor left out */
    size_t nattrs;
    const infiniopValue *attrs; /* schema order; those given at run time are 0 here */
} infiniopCall;

/* What calculate gets. */
typedef struct infiniopRun {
    size_t struct_size;
    void *workspace; /* at least as large as create asked for, at a multiple of 16 bytes; its contents are rubbish */
    size_t workspace_size;
    void *const *data;          /* schema order; NULL: absent, or a tensor without elements; aligned to an element */
    const infiniopValue *attrs; /* schema order; those given at create are filled in too; arrays live until the return */
    infinirtStream_t stream;    /* NULL: the device's default stream */
} infiniopRun;

/* ---- what the host offers ----------------------------------------------------------------------------- */

typedef enum infiniopLogLevel {
    INFINIOP_LOG_DEBUG = 0,
    INFINIOP_LOG_INFO = 1,
    INFINIOP_LOG_WARNING = 2,
    INFINIOP_LOG_ERROR = 3,
    INFINIOP_LOG_ENUM_MAX = 0x7fffffff
} infiniopLogLevel;

typedef struct infiniopHost {
    size_t struct_size;
    uint32_t abi_major;
    uint32_t abi_minor;
    void (*set_error)(const infiniopError *error);         /* for the calling thread */
    void (*log)(infiniopLogLevel level, const char *text); /* to stderr, from INFINIOP_LOG_LEVEL upwards */
    void *(*alloc)(size_t size, size_t alignment);         /* host memory; alignment: a power of two; NULL: none left */
    void (*free)(void *ptr);                               /* what alloc gave */
} infiniopHost;

/* ---- what a backend gives ----------------------------------------------------------------------------- */

typedef struct infiniopKernel {
    size_t struct_size;
    const char *op;          /* the operator's name */
    uint32_t schema_version; /* of the operator, as registry.yaml locks it */
    /* (optional) SUCCESS: this call can be served; default: every valid call can. Must agree with create, change
     * nothing and keep nothing: it may be asked any number of times without a create. */
    infiniStatus_t (*supports)(void *ctx, const infiniopCall *call);
    /* Prepare: the state is this kernel's own (NULL is fine), the workspace is in bytes. */
    infiniStatus_t (*create)(void *ctx, const infiniopCall *call, void **state /* out */, size_t *workspace /* out */);
    infiniStatus_t (*calculate)(void *state, const infiniopRun *run);
    void (*destroy)(void *state); /* (optional) default: nothing to free */
    void *ctx;                    /* handed back to supports and create */
} infiniopKernel;

/* Memory, streams and events of a device: what infinirt calls, on the device that `device_id` names. One backend
 * per device brings it; a second backend for the same device leaves it out. Work on one stream is done in order;
 * a NULL stream is the device's default one everywhere. An event that was never recorded counts as passed. */
typedef struct infinirtRuntime {
    size_t struct_size;
    infiniStatus_t (*device_count)(int *count /* out */);
    infiniStatus_t (*set_device)(int device_id); /* (optional) make it current for the calling thread */
    infiniStatus_t (*synchronize)(int device_id);
    infiniStatus_t (*mem_info)(int device_id, size_t *free_bytes /* out */, size_t *total_bytes /* out */); /* (optional) */
    infiniStatus_t (*snapshot)(int device_id, infinirtDeviceResourceSnapshot_t *snapshot /* out */);        /* (optional) default: from mem_info */

    infiniStatus_t (*malloc)(int device_id, void **ptr /* out */, size_t size); /* at a multiple of 64 bytes; pointer + offset is valid */
    infiniStatus_t (*free)(int device_id, void *ptr);
    infiniStatus_t (*malloc_host)(int device_id, void **ptr /* out */, size_t size); /* (optional) default: plain host memory */
    infiniStatus_t (*free_host)(int device_id, void *ptr);                           /* (optional) goes with malloc_host */
    infiniStatus_t (*malloc_async)(int device_id, void **ptr /* out */, size_t size, infinirtStream_t stream); /* (optional) default: malloc */
    infiniStatus_t (*free_async)(int device_id, void *ptr, infinirtStream_t stream); /* (optional) default: synchronise the stream, then free */
    infiniStatus_t (*memcpy)(int device_id, void *dst, const void *src, size_t size, infinirtMemcpyKind_t kind);
    infiniStatus_t (*memcpy_async)(int device_id, void *dst, const void *src, size_t size, infinirtMemcpyKind_t kind, infinirtStream_t stream);
    infiniStatus_t (*memset)(int device_id, void *ptr, int value, size_t count);
    infiniStatus_t (*memset_async)(int device_id, void *ptr, int value, size_t count, infinirtStream_t stream);

    infiniStatus_t (*stream_create)(int device_id, infinirtStream_t *stream /* out */);
    infiniStatus_t (*stream_destroy)(infinirtStream_t stream);
    infiniStatus_t (*stream_synchronize)(int device_id, infinirtStream_t stream);
    infiniStatus_t (*stream_wait_event)(int device_id, infinirtStream_t stream, infinirtEvent_t event);
    infiniStatus_t (*event_create)(int device_id, infinirtEvent_t *event /* out */, uint32_t flags);
    infiniStatus_t (*event_record)(int device_id, infinirtEvent_t event, infinirtStream_t stream);
    infiniStatus_t (*event_query)(infinirtEvent_t event, infinirtEventStatus_t *status /* out */);
    infiniStatus_t (*event_synchronize)(infinirtEvent_t event);
    infiniStatus_t (*event_elapsed)(float *ms /* out */, infinirtEvent_t start, infinirtEvent_t end);
    infiniStatus_t (*event_destroy)(infinirtEvent_t event);

    /* (optional, all or none) Native graphs. Default: the core records the calls on a capturing stream and replays them. */
    infiniStatus_t (*begin_capture)(int device_id, infinirtStream_t stream, infinirtStreamCaptureMode_t mode);
    infiniStatus_t (*end_capture)(int device_id, infinirtStream_t stream, infinirtGraph_t *graph /* out */);
    infiniStatus_t (*graph_destroy)(infinirtGraph_t graph);
    infiniStatus_t (*graph_instantiate)(infinirtGraphExec_t *exec /* out */, infinirtGraph_t graph, infinirtGraphNode_t *node /* out, may be NULL */, char *log, size_t log_size);
    infiniStatus_t (*graph_exec_destroy)(infinirtGraphExec_t exec);
    infiniStatus_t (*graph_launch)(infinirtGraphExec_t exec, infinirtStream_t stream);
} infinirtRuntime;

/* Collectives of a device: what infiniccl calls. `comm` is the backend's own communicator. */
typedef struct infinicclCollectives {
    size_t struct_size;
    infiniStatus_t (*init_all)(void **comms /* out */, int ndevice, const int *device_ids);
    infiniStatus_t (*unique_id)(infinicclUniqueId_t *id /* out */);
    infiniStatus_t (*init_rank)(void **comm /* out */, int device_id, int nranks, infinicclUniqueId_t id, int rank);
    infiniStatus_t (*destroy)(void *comm);
    infiniStatus_t (*group_start)(void);
    infiniStatus_t (*group_end)(void);
    infiniStatus_t (*all_reduce)(void *send, void *recv, size_t count, infiniDtype_t dtype, infinicclReduceOp_t op, void *comm, infinirtStream_t stream);
    infiniStatus_t (*broadcast)(const void *send, void *recv, size_t count, infiniDtype_t dtype, int root, void *comm, infinirtStream_t stream);
    infiniStatus_t (*send)(const void *send, size_t count, infiniDtype_t dtype, int peer, void *comm, infinirtStream_t stream);
    infiniStatus_t (*recv)(void *recv, size_t count, infiniDtype_t dtype, int peer, void *comm, infinirtStream_t stream);
    infiniStatus_t (*all_gather)(void *send, void *recv, size_t send_count, infiniDtype_t dtype, void *comm, infinirtStream_t stream);
    infiniStatus_t (*all_gather_v)(void *send, void *recv, const size_t *recv_counts, int nranks, infiniDtype_t dtype, void *comm, infinirtStream_t stream);
    infiniStatus_t (*reduce_scatter)(void *send, void *recv, size_t recv_count, infiniDtype_t dtype, infinicclReduceOp_t op, void *comm, infinirtStream_t stream);
    infiniStatus_t (*reduce_scatter_v)(void *send, void *recv, const size_t *send_counts, int nranks, infiniDtype_t dtype, infinicclReduceOp_t op, void *comm, infinirtStream_t stream);
} infinicclCollectives;

/* Flags of a backend. A host ignores those that it does not know. */
#define INFINIOP_BACKEND_EXPLICIT_ONLY 1u /* never chosen unless it is named */

typedef struct infiniopBackend {
    size_t struct_size;
    uint32_t abi_major; /* INFINIOP_BACKEND_ABI_MAJOR of the header it was built with */
    uint32_t abi_minor;
    const char *name;        /* who computes: "cpu", "acme"; unique */
    const char *device_name; /* what memory lives on: "cpu", "nvidia", "opencl" */
    const char *version;     /* the backend's own, for people */
    int32_t priority;        /* among the backends of one device, the highest that supports a call serves it */
    uint32_t flags;
    const infinirtRuntime *runtime;           /* (optional) */
    const infinicclCollectives *collectives;  /* (optional) */
    size_t nkernels;
    const infiniopKernel *const *kernels;
} infiniopBackend;

/* Exported by a plugin under this name. The tables must live for the rest of the process; who calls again gets the
 * same ones. NULL: the plugin cannot run here, and host->set_error has said why. */
typedef const infiniopBackend *(*infiniopBackendInit_t)(const infiniopHost *host);
#define INFINIOP_BACKEND_INIT_SYMBOL "infiniop_backend_init"

/* ---- frozen: the last member of each struct, as of version 1.0 ---------------------------------------- */

#ifdef __cplusplus
#define INFINIOP_FROZEN(type, member, offset) static_assert(offsetof(type, member) == (offset), #type " is append-only")
#else
#define INFINIOP_FROZEN(type, member, offset) _Static_assert(offsetof(type, member) == (offset), #type " is append-only")
#endif

#if UINTPTR_MAX == 0xffffffffffffffffu
INFINIOP_FROZEN(infiniopError, message, 48);
INFINIOP_FROZEN(infiniopTensorView, strides, 32);
INFINIOP_FROZEN(infiniopCall, attrs, 56);
INFINIOP_FROZEN(infiniopRun, stream, 40);
INFINIOP_FROZEN(infiniopHost, free, 40);
INFINIOP_FROZEN(infiniopKernel, ctx, 56);
INFINIOP_FROZEN(infinirtRuntime, graph_launch, 248);
INFINIOP_FROZEN(infinicclCollectives, reduce_scatter_v, 112);
INFINIOP_FROZEN(infiniopBackend, kernels, 72);
#endif

#ifdef __cplusplus
}
#endif

#endif
