/* Collectives. Calls are asynchronous on the given stream; counts are elements, not bytes.
 * Valid C11 and C++17. */
#ifndef INFINICCL_H
#define INFINICCL_H

#include "infinirt.h"

typedef enum infinicclReduceOp_t {
    INFINICCL_SUM = 0,
    INFINICCL_PROD = 1,
    INFINICCL_MAX = 2,
    INFINICCL_MIN = 3,
    INFINICCL_AVG = 4,
    INFINICCL_REDUCE_OP_ENUM_MAX = 0x7fffffff
} infinicclReduceOp_t;

typedef struct InfinicclComm *infinicclComm_t;

/* Passed by value, as upstream does. */
typedef struct infinicclUniqueId_t {
    char internal[128];
} infinicclUniqueId_t;

INFINI_API infiniStatus_t infinicclCommInitAll(
    infiniDevice_t device_type, infinicclComm_t *comms, int ndevice, const int *device_ids);
INFINI_API infiniStatus_t infinicclGetUniqueId(infinicclUniqueId_t *unique_id);
INFINI_API infiniStatus_t infinicclCommInitRank(
    infinicclComm_t *comm, int nranks, infinicclUniqueId_t comm_id, int rank);
INFINI_API infiniStatus_t infinicclCommDestroy(infinicclComm_t comm);
INFINI_API infiniStatus_t infinicclGroupStart(infinicclComm_t comm);
INFINI_API infiniStatus_t infinicclGroupEnd(infinicclComm_t comm);
INFINI_API infiniStatus_t infinicclAllReduce(
    void *sendbuf, void *recvbuf, size_t count, infiniDtype_t dataype, infinicclReduceOp_t op, infinicclComm_t comm, infinirtStream_t stream);
INFINI_API infiniStatus_t infinicclBroadcast(
    const void *sendbuf, void *recvbuf, size_t count, infiniDtype_t datatype, int root, infinicclComm_t comm, infinirtStream_t stream);
INFINI_API infiniStatus_t infinicclSend(
    const void *sendbuf, size_t count, infiniDtype_t datatype, int peer, infinicclComm_t comm, infinirtStream_t stream);
INFINI_API infiniStatus_t infinicclRecv(
    void *recvbuf, size_t count, infiniDtype_t datatype, int peer, infinicclComm_t comm, infinirtStream_t stream);
INFINI_API infiniStatus_t infinicclAllGather(
    void *sendbuf, void *recvbuf, size_t send_count, infiniDtype_t dataype, infinicclComm_t comm, infinirtStream_t stream);
INFINI_API infiniStatus_t infinicclAllGatherV(
    void *sendbuf, void *recvbuf, const size_t *recv_counts, int nranks, infiniDtype_t dataype, infinicclComm_t comm, infinirtStream_t stream);
INFINI_API infiniStatus_t infinicclReduceScatter(
    void *sendbuf, void *recvbuf, size_t recv_count, infiniDtype_t dataype, infinicclReduceOp_t op, infinicclComm_t comm, infinirtStream_t stream);
INFINI_API infiniStatus_t infinicclReduceScatterV(
    void *sendbuf, void *recvbuf, const size_t *send_counts, int nranks, infiniDtype_t dataype, infinicclReduceOp_t op, infinicclComm_t comm, infinirtStream_t stream);
#endif
