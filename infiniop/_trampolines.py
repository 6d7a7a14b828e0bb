"""What C calls in Python: the functions of every Python kernel, deleters of exported tensors, the judge of calls."""

from __future__ import annotations

from collections.abc import Mapping

TRAMPOLINES: Mapping[str, str] = {
    "infiniop_py_supports": "infiniStatus_t {}(void *ctx, const infiniopCall *call)",
    "infiniop_py_create": "infiniStatus_t {}(void *ctx, const infiniopCall *call, void **state, size_t *workspace)",
    "infiniop_py_calculate": "infiniStatus_t {}(void *state, const infiniopRun *run)",
    "infiniop_py_destroy": "void {}(void *state)",
    "infiniop_py_judge": "infiniStatus_t {}(const infiniopVerifyCase *one)",
    "infiniop_py_dlpack_delete": "void {}(DLManagedTensor *self)",
    "infiniop_py_dlpack_delete_versioned": "void {}(DLManagedTensorVersioned *self)",
}
