#include "collectives.h"

#include <dlfcn.h>

#include <memory>
#include <string>

#include "library.h"
#include "nvidia.h"

namespace infiniop::nvidia {
namespace {

// ---- NCCL's ABI (version 2) -----------------------------------------------------------------------------------

using NcclComm = void *;
using NcclResult = int; // 0: success
static_assert(sizeof(infinicclUniqueId_t) == 128, "NCCL's unique id travels in ours");

struct Nccl {
    const char *(*error_string)(NcclResult);
    NcclResult (*unique_id)(infinicclUniqueId_t *);
    NcclResult (*init_rank)(NcclComm *, int nranks, infinicclUniqueId_t, int rank);
    NcclResult (*init_all)(NcclComm *, int ndevice, const int *devices);
    NcclResult (*destroy)(NcclComm);
    NcclResult (*group_start)();
    NcclResult (*group_end)();
    NcclResult (*all_reduce)(const void *, void *, size_t, int dtype, int op, NcclComm, cudaStream_t);
    NcclResult (*broadcast)(const void *, void *, size_t, int dtype, int root, NcclComm, cudaStream_t);
    NcclResult (*reduce)(const void *, void *, size_t, int dtype, int op, int root, NcclComm, cudaStream_t);
    NcclResult (*all_gather)(const void *, void *, size_t, int dtype, NcclComm, cudaStream_t);
    NcclResult (*reduce_scatter)(const void *, void *, size_t, int dtype, int op, NcclComm, cudaStream_t);
    NcclResult (*send)(const void *, size_t, int dtype, int peer, NcclComm, cudaStream_t);
    NcclResult (*recv)(void *, size_t, int dtype, int peer, NcclComm, cudaStream_t);
};

struct Found {
    Nccl nccl = {};
    std::string why; // empty: all of it is there
};

Found find_nccl() {
    Found found;
    void *library = open_library("INFINIOP_NCCL", "libnccl.so.2", {"nvidia/nccl/lib"}, found.why);
    if (!library) {
        return found;
    }
    found.why.clear();
    Nccl &n = found.nccl;
    const auto load = [&](auto &function, const char *name) {
        function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
        if (!function) {
            found.why += std::string(found.why.empty() ? "it lacks " : ", ") + name;
        }
    };
    load(n.error_string, "ncclGetErrorString");
    load(n.unique_id, "ncclGetUniqueId");
    load(n.init_rank, "ncclCommInitRank");
    load(n.init_all, "ncclCommInitAll");
    load(n.destroy, "ncclCommDestroy");
    load(n.group_start, "ncclGroupStart");
    load(n.group_end, "ncclGroupEnd");
    load(n.all_reduce, "ncclAllReduce");
    load(n.broadcast, "ncclBroadcast");
    load(n.reduce, "ncclReduce");
    load(n.all_gather, "ncclAllGather");
    load(n.reduce_scatter, "ncclReduceScatter");
    load(n.send, "ncclSend");
    load(n.recv, "ncclRecv");
    return found;
}

Status say(Status status, const std::string &sentence) {
    const infiniopError failure = {sizeof(failure), status, nullptr, nullptr, nullptr, nullptr, sentence.c_str()};
    host->set_error(&failure);
    return status;
}

// Calls f(nccl), which answers an NcclResult.
template <class F> Status with_nccl(const char *doing, F &&f) {
    static const Found found = find_nccl();
    if (!found.why.empty()) {
        return say(INFINI_STATUS_DEVICE_NOT_INITIALIZED,
                   "collectives on nvidia need NCCL: install it (pip install nvidia-nccl-cu13) or name its library in "
                   "INFINIOP_NCCL; " +
                       found.why);
    }
    const NcclResult result = f(found.nccl);
    return result == 0 ? INFINI_STATUS_SUCCESS
                       : say(INFINI_STATUS_INTERNAL_ERROR,
                             std::string("NCCL, ") + doing + ": " + found.nccl.error_string(result));
}

// ---- our communicator -----------------------------------------------------------------------------------------

struct Comm {
    NcclComm native;
    int device_id;
};

// Calls f(nccl, native communicator, stream) with the communicator's device current.
template <class F> Status on(void *comm, infinirtStream_t stream, const char *doing, F &&f) {
    const Comm &ours = *static_cast<const Comm *>(comm);
    const OnDevice device(ours.device_id);
    return device.status() != INFINI_STATUS_SUCCESS
               ? device.status()
               : with_nccl(doing, [&](const Nccl &n) { return f(n, ours.native, static_cast<cudaStream_t>(stream)); });
}

// NCCL's number of a dtype; the core has checked it.
int number(infiniDtype_t dtype) {
    switch (dtype) {
    case INFINI_DTYPE_I8:
        return 0;
    case INFINI_DTYPE_U8:
    case INFINI_DTYPE_BYTE:
    case INFINI_DTYPE_BOOL:
        return 1;
    case INFINI_DTYPE_I32:
        return 2;
    case INFINI_DTYPE_U32:
        return 3;
    case INFINI_DTYPE_I64:
        return 4;
    case INFINI_DTYPE_U64:
        return 5;
    case INFINI_DTYPE_F16:
        return 6;
    case INFINI_DTYPE_F32:
        return 7;
    case INFINI_DTYPE_F64:
        return 8;
    default:
        return 9; // BF16
    }
}

// ncclSum, Prod, Max, Min, Avg, in the order of infinicclReduceOp_t.
int number(infinicclReduceOp_t op) { return int(op); }

// Memory for communicators; the host reports failures of `new` itself.
void *wrap(NcclComm native, int device_id) { return new Comm{native, device_id}; }

Status init_all(void **comms, int ndevice, const int *device_ids) {
    std::vector<NcclComm> native(size_t(ndevice), nullptr);
    const Status status = with_nccl("creating communicators",
                                    [&](const Nccl &n) { return n.init_all(native.data(), ndevice, device_ids); });
    for (int i = 0; status == INFINI_STATUS_SUCCESS && i < ndevice; i++) {
        comms[i] = wrap(native[size_t(i)], device_ids[i]);
    }
    return status;
}

Status unique_id(infinicclUniqueId_t *id) {
    return with_nccl("making a unique id", [&](const Nccl &n) { return n.unique_id(id); });
}

Status init_rank(void **comm, int device_id, int nranks, infinicclUniqueId_t id, int rank) {
    const OnDevice device(device_id);
    if (device.status() != INFINI_STATUS_SUCCESS) {
        return device.status();
    }
    NcclComm native = nullptr;
    const Status status =
        with_nccl("creating a communicator", [&](const Nccl &n) { return n.init_rank(&native, nranks, id, rank); });
    if (status == INFINI_STATUS_SUCCESS) {
        *comm = wrap(native, device_id);
    }
    return status;
}

Status destroy(void *comm) {
    const std::unique_ptr<Comm> ours(static_cast<Comm *>(comm));
    return on(ours.get(), nullptr, "destroying a communicator",
              [](const Nccl &n, NcclComm native, cudaStream_t) { return n.destroy(native); });
}

Status group_start() {
    return with_nccl("starting a group", [](const Nccl &n) { return n.group_start(); });
}

Status group_end() {
    return with_nccl("ending a group", [](const Nccl &n) { return n.group_end(); });
}

Status all_reduce(void *send, void *recv, size_t count, infiniDtype_t dtype, infinicclReduceOp_t op, void *comm,
                  infinirtStream_t stream) {
    return on(comm, stream, "all-reduce", [=](const Nccl &n, NcclComm c, cudaStream_t s) {
        return n.all_reduce(send, recv, count, number(dtype), number(op), c, s);
    });
}

Status broadcast(const void *send, void *recv, size_t count, infiniDtype_t dtype, int root, void *comm,
                 infinirtStream_t stream) {
    return on(comm, stream, "broadcast", [=](const Nccl &n, NcclComm c, cudaStream_t s) {
        return n.broadcast(send, recv, count, number(dtype), root, c, s);
    });
}

Status send_to(const void *send, size_t count, infiniDtype_t dtype, int peer, void *comm, infinirtStream_t stream) {
    return on(comm, stream, "send", [=](const Nccl &n, NcclComm c, cudaStream_t s) {
        return n.send(send, count, number(dtype), peer, c, s);
    });
}

Status receive(void *recv, size_t count, infiniDtype_t dtype, int peer, void *comm, infinirtStream_t stream) {
    return on(comm, stream, "receive", [=](const Nccl &n, NcclComm c, cudaStream_t s) {
        return n.recv(recv, count, number(dtype), peer, c, s);
    });
}

Status all_gather(void *send, void *recv, size_t count, infiniDtype_t dtype, void *comm, infinirtStream_t stream) {
    return on(comm, stream, "all-gather", [=](const Nccl &n, NcclComm c, cudaStream_t s) {
        return n.all_gather(send, recv, count, number(dtype), c, s);
    });
}

Status reduce_scatter(void *send, void *recv, size_t count, infiniDtype_t dtype, infinicclReduceOp_t op, void *comm,
                      infinirtStream_t stream) {
    return on(comm, stream, "reduce-scatter", [=](const Nccl &n, NcclComm c, cudaStream_t s) {
        return n.reduce_scatter(send, recv, count, number(dtype), number(op), c, s);
    });
}

// One call per rank in one group; f(rank, byte offset of its part). The first error wins.
template <class F> NcclResult each_part(const Nccl &n, const size_t *counts, int nranks, size_t element, F &&f) {
    NcclResult result = n.group_start();
    size_t offset = 0;
    for (int rank = 0; result == 0 && rank < nranks; rank++) {
        result = counts[rank] ? f(rank, offset) : 0;
        offset += counts[rank] * element;
    }
    const NcclResult ended = n.group_end();
    return result ? result : ended;
}

Status all_gather_v(void *send, void *recv, const size_t *counts, int nranks, infiniDtype_t dtype, void *comm,
                    infinirtStream_t stream) {
    return on(comm, stream, "all-gather", [=](const Nccl &n, NcclComm c, cudaStream_t s) {
        return each_part(n, counts, nranks, element_size(dtype), [&](int rank, size_t offset) {
            return n.broadcast(send, static_cast<char *>(recv) + offset, counts[rank], number(dtype), rank, c, s);
        });
    });
}

Status reduce_scatter_v(void *send, void *recv, const size_t *counts, int nranks, infiniDtype_t dtype,
                        infinicclReduceOp_t op, void *comm, infinirtStream_t stream) {
    return on(comm, stream, "reduce-scatter", [=](const Nccl &n, NcclComm c, cudaStream_t s) {
        return each_part(n, counts, nranks, element_size(dtype), [&](int rank, size_t offset) {
            return n.reduce(static_cast<char *>(send) + offset, recv, counts[rank], number(dtype), number(op), rank, c,
                            s);
        });
    });
}

} // namespace

const infinicclCollectives collectives = {
    sizeof(infinicclCollectives),
    init_all,
    unique_id,
    init_rank,
    destroy,
    group_start,
    group_end,
    all_reduce,
    broadcast,
    send_to,
    receive,
    all_gather,
    all_gather_v,
    reduce_scatter,
    reduce_scatter_v,
};

} // namespace infiniop::nvidia
