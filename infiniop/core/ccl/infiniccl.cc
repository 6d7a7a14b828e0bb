// Collectives: checks once for all devices, then the device's own table.
#include <algorithm>
#include <array>
#include <atomic>
#include <vector>

#include "infiniccl.h"
#include "runtime/graph.hpp"

struct InfinicclComm {
    infiniDevice_t device;
    int device_id;
    void *native;
    int rank, world;
    const infini::Backend *backend;
    std::atomic<int> references{1}; // the caller's, and one per recorded call
};

namespace infini {
namespace {

constexpr std::array<int, 7> reducible{INFINI_DTYPE_F32, INFINI_DTYPE_F16, INFINI_DTYPE_BF16, INFINI_DTYPE_I32,
                                       INFINI_DTYPE_I64, INFINI_DTYPE_U32, INFINI_DTYPE_U64};

infiniStatus_t bad(const char *op, const char *argument, const std::string &expected, int64_t got) {
    return fail(INFINI_STATUS_BAD_PARAM, op, argument, expected, std::to_string(got));
}

infiniStatus_t not_implemented(const char *op, const Backend &backend) {
    return fail(INFINI_STATUS_NOT_IMPLEMENTED, op, "backend " + backend.name + " does not have it");
}

// Call a member of a backend's table; a failure gets a message in any case.
template <class Function, class... Args>
infiniStatus_t invoke(const char *op, const Backend &backend, Function infinicclCollectives::*member, Args... args) {
    const auto function = backend.collectives.*member;
    if (!function) {
        return not_implemented(op, backend);
    }
    expect_plugin();
    const infiniStatus_t status = function(args...);
    return raw(status) == INFINI_STATUS_SUCCESS ? status : plugin_failed(raw(status), op, backend.name);
}

infiniStatus_t release(InfinicclComm *comm) {
    if (comm->references.fetch_sub(1, std::memory_order_acq_rel) != 1) {
        return INFINI_STATUS_SUCCESS;
    }
    const std::unique_ptr<InfinicclComm> last(comm);
    return invoke("infinicclCommDestroy", *comm->backend, &infinicclCollectives::destroy, comm->native);
}

std::shared_ptr<InfinicclComm> hold(InfinicclComm *comm) {
    comm->references.fetch_add(1, std::memory_order_relaxed);
    return {comm, [](InfinicclComm *held) { release(held); }};
}

// The checks of one call, in order: the first that fails decides.
class Checked {
public:
    Checked(const char *op, infinicclComm_t comm) : op_(op), comm_(comm) {
        status_ = comm ? INFINI_STATUS_SUCCESS : fail_null(op, "comm");
    }
    Checked &buffer(const char *name, const void *pointer, size_t count = 1) {
        return check([&] { return count == 0 || pointer; }, [&] { return fail_null(op_, name); });
    }
    Checked &not_empty(size_t count) {
        return check([&] { return count > 0; }, [&] { return bad(op_, "count", "at least 1", 0); });
    }
    Checked &dtype(const infiniDtype_t &dtype) {
        return check([&] { return std::find(reducible.begin(), reducible.end(), raw(dtype)) != reducible.end(); },
                     [&] {
                         return fail(INFINI_STATUS_BAD_TENSOR_DTYPE, op_, "datatype",
                                     "F32, F16, BF16, I32, I64, U32 or U64", std::to_string(raw(dtype)));
                     });
    }
    Checked &reduction(const infinicclReduceOp_t &reduce) {
        return check([&] { return raw(reduce) >= INFINICCL_SUM && raw(reduce) <= INFINICCL_AVG; },
                     [&] { return bad(op_, "op", "0 to 4", raw(reduce)); });
    }
    Checked &rank(const char *name, int rank) {
        return check([&] { return rank >= 0 && rank < comm_->world; },
                     [&] { return bad(op_, name, "a rank below " + std::to_string(comm_->world), rank); });
    }
    Checked &counts(const char *name, const size_t *counts, int nranks) {
        return check([&] { return counts; }, [&] { return fail_null(op_, name); })
            .check([&] { return nranks == comm_->world; },
                   [&] { return bad(op_, "nranks", std::to_string(comm_->world), nranks); });
    }
    // All well: make the call `make()` gives, now or when the graph of a capturing stream is launched.
    template <class Make> infiniStatus_t submit(infinirtStream_t stream, Make &&make) {
        if (status_ != INFINI_STATUS_SUCCESS) {
            return status_;
        }
        if (!is_capturing(stream)) {
            return make()(stream);
        }
        return capture(op_, stream,
                       [comm = hold(comm_), call = make()](infinirtStream_t where) { return call(where); });
    }

private:
    template <class Holds, class Fail> Checked &check(Holds &&holds, Fail &&failure) {
        if (status_ == INFINI_STATUS_SUCCESS && !holds()) {
            status_ = failure();
        }
        return *this;
    }

    const char *op_;
    infinicclComm_t comm_;
    infiniStatus_t status_;
};

infiniStatus_t backend_of(const char *op, int device, const Backend **backend) {
    const char *name = device_name(device);
    *backend = name ? collectives_backend(device) : nullptr;
    if (*backend) {
        return INFINI_STATUS_SUCCESS;
    }
    return name ? fail(INFINI_STATUS_DEVICE_TYPE_NOT_SUPPORTED, op,
                       std::string("no backend brings collectives for device '") + name + "'")
                : fail(INFINI_STATUS_DEVICE_TYPE_NOT_SUPPORTED, op, "device_type", "a known device type",
                       std::to_string(device));
}

infiniStatus_t current_backend(const char *op, Device *device, const Backend **backend) {
    const infiniStatus_t status = current_device(op, device);
    return status == INFINI_STATUS_SUCCESS ? backend_of(op, device->type, backend) : status;
}

infiniStatus_t init_all(const char *op, int device, infinicclComm_t *comms, int n, const int *ids) {
    if (!comms || !ids) {
        return fail_null(op, comms ? "device_ids" : "comms");
    }
    if (n <= 0) {
        return bad(op, "ndevice", "at least 1", n);
    }
    const Backend *backend;
    if (const infiniStatus_t status = backend_of(op, device, &backend)) {
        return status;
    }
    const size_t count = static_cast<size_t>(n);
    std::vector<std::unique_ptr<InfinicclComm>> made;
    for (int rank = 0; rank < n; ++rank) {
        made.emplace_back(new InfinicclComm{backend->device, ids[rank], nullptr, rank, n, backend});
    }
    std::vector<void *> natives(count);
    if (const infiniStatus_t status = invoke(op, *backend, &infinicclCollectives::init_all, natives.data(), n, ids)) {
        return status;
    }
    for (size_t i = 0; i < count; ++i) {
        made[i]->native = natives[i];
        comms[i] = made[i].release();
    }
    return INFINI_STATUS_SUCCESS;
}

infiniStatus_t init_rank(const char *op, infinicclComm_t *comm, int nranks, const infinicclUniqueId_t &id, int rank) {
    if (!comm) {
        return fail_null(op, "comm");
    }
    if (nranks <= 0) {
        return bad(op, "nranks", "at least 1", nranks);
    }
    if (rank < 0 || rank >= nranks) {
        return bad(op, "rank", "0 to " + std::to_string(nranks - 1), rank);
    }
    Device device;
    const Backend *backend;
    if (const infiniStatus_t status = current_backend(op, &device, &backend)) {
        return status;
    }
    std::unique_ptr<InfinicclComm> made(new InfinicclComm{device.type, device.id, nullptr, rank, nranks, backend});
    const infiniStatus_t status =
        invoke(op, *backend, &infinicclCollectives::init_rank, &made->native, device.id, nranks, id, rank);
    if (status == INFINI_STATUS_SUCCESS) {
        *comm = made.release();
    }
    return status;
}

infiniStatus_t group(const char *op, infinicclComm_t comm, infiniStatus_t (*infinicclCollectives::*member)()) {
    return guarded(op, [&] { return comm ? invoke(op, *comm->backend, member) : fail_null(op, "comm"); });
}

} // namespace
} // namespace infini

using namespace infini;
using Table = infinicclCollectives;

infiniStatus_t infinicclCommInitAll(infiniDevice_t device_type, infinicclComm_t *comms, int ndevice,
                                    const int *device_ids) {
    return guarded(__func__,
                   [&] { return init_all("infinicclCommInitAll", raw(device_type), comms, ndevice, device_ids); });
}

infiniStatus_t infinicclGetUniqueId(infinicclUniqueId_t *unique_id) {
    return guarded(__func__, [&] {
        constexpr const char *op = "infinicclGetUniqueId";
        if (!unique_id) {
            return fail_null(op, "unique_id");
        }
        Device device;
        const Backend *backend;
        if (const infiniStatus_t status = current_backend(op, &device, &backend)) {
            return status;
        }
        infinicclUniqueId_t id{};
        const infiniStatus_t status = invoke(op, *backend, &Table::unique_id, &id);
        if (status == INFINI_STATUS_SUCCESS) {
            *unique_id = id;
        }
        return status;
    });
}

infiniStatus_t infinicclCommInitRank(infinicclComm_t *comm, int nranks, infinicclUniqueId_t comm_id, int rank) {
    return guarded(__func__, [&] { return init_rank("infinicclCommInitRank", comm, nranks, comm_id, rank); });
}

infiniStatus_t infinicclCommDestroy(infinicclComm_t comm) {
    return guarded(__func__, [&] { return comm ? release(comm) : INFINI_STATUS_SUCCESS; });
}

infiniStatus_t infinicclGroupStart(infinicclComm_t comm) { return group(__func__, comm, &Table::group_start); }

infiniStatus_t infinicclGroupEnd(infinicclComm_t comm) { return group(__func__, comm, &Table::group_end); }

infiniStatus_t infinicclAllReduce(void *sendbuf, void *recvbuf, size_t count, infiniDtype_t dataype,
                                  infinicclReduceOp_t op, infinicclComm_t comm, infinirtStream_t stream) {
    return guarded(__func__, [&, op_name = __func__] {
        return Checked(op_name, comm)
            .buffer("sendbuf", sendbuf, count)
            .buffer("recvbuf", recvbuf, count)
            .dtype(dataype)
            .reduction(op)
            .submit(stream, [&] {
                return [=](infinirtStream_t where) {
                    return invoke("infinicclAllReduce", *comm->backend, &Table::all_reduce, sendbuf, recvbuf, count,
                                  dataype, op, comm->native, where);
                };
            });
    });
}

infiniStatus_t infinicclBroadcast(const void *sendbuf, void *recvbuf, size_t count, infiniDtype_t datatype, int root,
                                  infinicclComm_t comm, infinirtStream_t stream) {
    return guarded(__func__, [&, op_name = __func__] {
        return Checked(op_name, comm)
            .buffer("sendbuf", sendbuf)
            .buffer("recvbuf", recvbuf)
            .not_empty(count)
            .dtype(datatype)
            .rank("root", root)
            .submit(stream, [&] {
                return [=](infinirtStream_t where) {
                    return invoke("infinicclBroadcast", *comm->backend, &Table::broadcast, sendbuf, recvbuf, count,
                                  datatype, root, comm->native, where);
                };
            });
    });
}

infiniStatus_t infinicclSend(const void *sendbuf, size_t count, infiniDtype_t datatype, int peer, infinicclComm_t comm,
                             infinirtStream_t stream) {
    return guarded(__func__, [&, op_name = __func__] {
        return Checked(op_name, comm)
            .buffer("sendbuf", sendbuf)
            .not_empty(count)
            .dtype(datatype)
            .rank("peer", peer)
            .submit(stream, [&] {
                return [=](infinirtStream_t where) {
                    return invoke("infinicclSend", *comm->backend, &Table::send, sendbuf, count, datatype, peer,
                                  comm->native, where);
                };
            });
    });
}

infiniStatus_t infinicclRecv(void *recvbuf, size_t count, infiniDtype_t datatype, int peer, infinicclComm_t comm,
                             infinirtStream_t stream) {
    return guarded(__func__, [&, op_name = __func__] {
        return Checked(op_name, comm)
            .buffer("recvbuf", recvbuf)
            .not_empty(count)
            .dtype(datatype)
            .rank("peer", peer)
            .submit(stream, [&] {
                return [=](infinirtStream_t where) {
                    return invoke("infinicclRecv", *comm->backend, &Table::recv, recvbuf, count, datatype, peer,
                                  comm->native, where);
                };
            });
    });
}

infiniStatus_t infinicclAllGather(void *sendbuf, void *recvbuf, size_t send_count, infiniDtype_t dataype,
                                  infinicclComm_t comm, infinirtStream_t stream) {
    return guarded(__func__, [&, op_name = __func__] {
        return Checked(op_name, comm)
            .buffer("sendbuf", sendbuf, send_count)
            .buffer("recvbuf", recvbuf, send_count)
            .dtype(dataype)
            .submit(stream, [&] {
                return [=](infinirtStream_t where) {
                    return invoke("infinicclAllGather", *comm->backend, &Table::all_gather, sendbuf, recvbuf,
                                  send_count, dataype, comm->native, where);
                };
            });
    });
}

infiniStatus_t infinicclAllGatherV(void *sendbuf, void *recvbuf, const size_t *recv_counts, int nranks,
                                   infiniDtype_t dataype, infinicclComm_t comm, infinirtStream_t stream) {
    return guarded(__func__, [&, op_name = __func__] {
        return Checked(op_name, comm)
            .counts("recv_counts", recv_counts, nranks)
            .buffer("sendbuf", sendbuf)
            .buffer("recvbuf", recvbuf)
            .dtype(dataype)
            .submit(stream, [&] {
                return [=, counts = std::vector(recv_counts, recv_counts + nranks)](infinirtStream_t where) {
                    return invoke("infinicclAllGatherV", *comm->backend, &Table::all_gather_v, sendbuf, recvbuf,
                                  counts.data(), nranks, dataype, comm->native, where);
                };
            });
    });
}

infiniStatus_t infinicclReduceScatter(void *sendbuf, void *recvbuf, size_t recv_count, infiniDtype_t dataype,
                                      infinicclReduceOp_t op, infinicclComm_t comm, infinirtStream_t stream) {
    return guarded(__func__, [&, op_name = __func__] {
        return Checked(op_name, comm)
            .buffer("sendbuf", sendbuf, recv_count)
            .buffer("recvbuf", recvbuf, recv_count)
            .dtype(dataype)
            .reduction(op)
            .submit(stream, [&] {
                return [=](infinirtStream_t where) {
                    return invoke("infinicclReduceScatter", *comm->backend, &Table::reduce_scatter, sendbuf, recvbuf,
                                  recv_count, dataype, op, comm->native, where);
                };
            });
    });
}

infiniStatus_t infinicclReduceScatterV(void *sendbuf, void *recvbuf, const size_t *send_counts, int nranks,
                                       infiniDtype_t dataype, infinicclReduceOp_t op, infinicclComm_t comm,
                                       infinirtStream_t stream) {
    return guarded(__func__, [&, op_name = __func__] {
        return Checked(op_name, comm)
            .counts("send_counts", send_counts, nranks)
            .buffer("sendbuf", sendbuf)
            .buffer("recvbuf", recvbuf)
            .dtype(dataype)
            .reduction(op)
            .submit(stream, [&] {
                return [=, counts = std::vector(send_counts, send_counts + nranks)](infinirtStream_t where) {
                    return invoke("infinicclReduceScatterV", *comm->backend, &Table::reduce_scatter_v, sendbuf, recvbuf,
                                  counts.data(), nranks, dataype, op, comm->native, where);
                };
            });
    });
}
