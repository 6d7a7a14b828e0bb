// infiniop._fast: an operator call whose descriptor is known. A key of the arrays, one dictionary lookup, one C call.
// Everything it does not know is left to infiniop/_call.py, which also fills the dictionaries.
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include <cstdint>

namespace {

constexpr Py_ssize_t kMaxTensors = 10, kMaxWords = 256;
constexpr int kNumpyAligned = 0x0100, kNumpyWriteable = 0x0400;
constexpr uint8_t kDLFloat = 2, kDLComplex = 5;

// The public layout of NumPy's arrays, the same in NumPy 1 and 2.
struct NumpyArray {
    PyObject head;
    char *data;
    int ndim;
    Py_ssize_t *shape, *strides;
    PyObject *base, *dtype;
    int flags;
};

// DLPack 1's tensor, and the head of its table of C functions.
struct DLTensor {
    char *data;
    int32_t device_type, device_id, ndim;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t byte_offset;
};

struct DLPackExchange {
    uint32_t major, minor;
    void *previous, *allocate, *from_object, *to_object;
    int (*borrow)(void *object, DLTensor *out);
};

PyTypeObject *tensor_type, *numpy_type;
PyTypeObject *torch_types[2]; // Tensor and Parameter; null until torch is there
int (*torch_borrow)(void *object, DLTensor *out);
PyObject *name_sig, *name_ptr, *name_plain, *name_scratch, *name_handle, *name_is_neg, *name_is_conj;
PyObject *void_pointer; // cffi's `void *`
char *(*cffi_to_pointer)(PyObject *, PyObject *);

// What a descriptor depends on, in words; in the order of the arguments.
struct Key {
    int64_t words[kMaxWords];
    Py_ssize_t count = 0;

    bool put(int64_t kind, int64_t detail, int64_t ndim, const int64_t *shape, const int64_t *strides) {
        if (count + 3 + 2 * ndim > kMaxWords || (ndim > 0 && strides == nullptr)) {
            return false;
        }
        words[count++] = kind | ndim << 32;
        words[count++] = detail;
        for (int64_t i = 0; i < ndim; i++) {
            words[count++] = shape[i];
            words[count++] = strides[i];
        }
        return true;
    }
};

// The address in a cffi pointer that is an object's attribute.
bool pointer_in(PyObject *object, PyObject *name, void **pointer) {
    PyObject *found = PyObject_GetAttr(object, name);
    if (found == nullptr) {
        return false;
    }
    *pointer = cffi_to_pointer(found, void_pointer);
    Py_DECREF(found);
    return *pointer != nullptr || PyErr_Occurred() == nullptr;
}

bool add_tensor(PyObject *array, Key &key, void **pointer) {
    PyObject *signature = PyObject_GetAttr(array, name_sig); // interned: its address says all
    if (signature == nullptr) {
        return false;
    }
    const bool fits = key.put(1, reinterpret_cast<intptr_t>(signature), 0, nullptr, nullptr);
    Py_DECREF(signature);
    return fits && pointer_in(array, name_ptr, pointer);
}

bool add_numpy(PyObject *object, Key &key, void **pointer) {
    static_assert(sizeof(Py_ssize_t) == sizeof(int64_t), "extents are 64 bits");
    const auto *array = reinterpret_cast<const NumpyArray *>(object);
    *pointer = array->data;
    return (array->flags & kNumpyAligned) &&
           key.put((array->flags & kNumpyWriteable) ? 2 : 3, reinterpret_cast<intptr_t>(array->dtype), array->ndim,
                   reinterpret_cast<const int64_t *>(array->shape), reinterpret_cast<const int64_t *>(array->strides));
}

// Whether torch says so; an answer that is none is yes, for the general path to tell.
bool says(PyObject *array, PyObject *method) {
    PyObject *answer = PyObject_CallMethodObjArgs(array, method, nullptr);
    const bool yes = answer != Py_False;
    Py_XDECREF(answer);
    PyErr_Clear();
    return yes;
}

// Whether torch has put off a conjugation or a negation, which the memory does not show. It may only have for complex
// numbers and views of their parts, which have no odd stride.
bool is_put_off(PyObject *array, const DLTensor &view) {
    bool odd = false;
    for (int32_t i = 0; i < view.ndim; i++) {
        odd |= view.shape[i] > 1 && view.strides[i] % 2 != 0;
    }
    const bool complex = view.code == kDLComplex;
    return ((complex || (view.code == kDLFloat && !odd)) && says(array, name_is_neg)) ||
           (complex && says(array, name_is_conj));
}

bool add_torch(PyObject *array, Key &key, void **pointer) {
    DLTensor view;
    if (torch_borrow(array, &view) != 0 || is_put_off(array, view)) {
        return false; // the general path says what is wrong, if anything is
    }
    *pointer = view.data == nullptr ? nullptr : view.data + view.byte_offset;
    if (view.bits < 8 || reinterpret_cast<uintptr_t>(*pointer) % (view.bits / 8) != 0) {
        return false;
    }
    const int64_t dtype = view.code | view.bits << 8 | static_cast<int64_t>(view.lanes) << 16;
    return key.put(4 | view.device_type << 8, dtype << 32 | static_cast<uint32_t>(view.device_id), view.ndim,
                   view.shape, view.strides);
}

bool add_any(PyObject *array, Key &key, void **pointer) {
    PyTypeObject *type = Py_TYPE(array);
    if (type == tensor_type) {
        return add_tensor(array, key, pointer);
    }
    if (type == numpy_type) {
        return add_numpy(array, key, pointer);
    }
    if (type == torch_types[0] || type == torch_types[1]) {
        return add_torch(array, key, pointer);
    }
    *pointer = nullptr;
    return array == Py_None && key.put(0, 0, 0, nullptr, nullptr);
}

// The dictionary key of attributes and arrays, and the arrays' addresses; null, without an exception, where unknown.
PyObject *key_of(PyObject *attrs, PyObject *const *arrays, Py_ssize_t count, void **pointers) {
    Key key;
    bool known = count <= kMaxTensors;
    for (Py_ssize_t i = 0; known && i < count; i++) {
        known = add_any(arrays[i], key, pointers + i);
    }
    PyObject *bytes = nullptr, *found = nullptr;
    if (known) {
        bytes = PyBytes_FromStringAndSize(reinterpret_cast<const char *>(key.words), key.count * sizeof(int64_t));
    }
    if (bytes != nullptr) {
        found = PyTuple_Size(attrs) == 0 ? Py_NewRef(bytes) : PyTuple_Pack(2, attrs, bytes);
    }
    Py_XDECREF(bytes);
    PyErr_Clear();
    return found;
}

using P = void *;

// The operators' C functions take addresses and one size_t, which travel alike; the callee takes its own off the front.
int invoke(P f, P *a) {
    using Function = int (*)(P, P, P, P, P, P, P, P, P, P, P, P, P, P);
    return reinterpret_cast<Function>(f)(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11],
                                         a[12], a[13]);
}

// The status of a plan's call; -1 when the calling thread's lane needs more than a handle and scratch memory.
int run(PyObject *plan, P *pointers, Py_ssize_t count) {
    PyObject *size = PyTuple_GetItem(plan, 2), *lane = PyTuple_GetItem(plan, 3);
    PyObject *plain = PyObject_GetAttr(lane, name_plain);
    Py_XDECREF(plain);
    if (plain != Py_True) {
        return -1;
    }
    P arguments[kMaxTensors + 4] = {PyLong_AsVoidPtr(PyTuple_GetItem(plan, 1))};
    Py_ssize_t used = 1;
    if (size != Py_None) {
        arguments[2] = PyLong_AsVoidPtr(size);
        if (arguments[2] != nullptr && !pointer_in(lane, name_scratch, &arguments[1])) {
            return -1;
        }
        used = 3;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        arguments[used++] = pointers[i];
    }
    if (!pointer_in(lane, name_handle, &arguments[used])) {
        return -1;
    }
    P function = PyLong_AsVoidPtr(PyTuple_GetItem(plan, 0));
    int status;
    Py_BEGIN_ALLOW_THREADS;
    status = invoke(function, arguments);
    Py_END_ALLOW_THREADS;
    return status;
}

// call(plans, attrs, *arrays): the C function's status; -1: not known here.
PyObject *call(PyObject *, PyObject *const *args, Py_ssize_t count) {
    P pointers[kMaxTensors];
    PyObject *key = key_of(args[1], args + 2, count - 2, pointers);
    int status = -1;
    if (key != nullptr) {
        PyObject *plan = PyDict_GetItemWithError(args[0], key);
        Py_DECREF(key);
        if (plan != nullptr) {
            Py_INCREF(plan); // a Python kernel's own calls may drop it from the dictionary
            status = run(plan, pointers, count - 2);
            Py_DECREF(plan);
        }
        PyErr_Clear();
    }
    return PyLong_FromLong(status);
}

// key(attrs, *arrays): under which `call` looks for a plan (function, descriptor, size or None, lane, ...); or None.
PyObject *key(PyObject *, PyObject *const *args, Py_ssize_t count) {
    P pointers[kMaxTensors];
    PyObject *found = key_of(args[0], args + 1, count - 1, pointers);
    return found != nullptr ? found : Py_NewRef(Py_None);
}

// use_torch(Tensor, Parameter, exchange): whether arrays of torch may come in from now on.
PyObject *use_torch(PyObject *, PyObject *args) {
    PyObject *tensor, *parameter, *capsule;
    if (!PyArg_ParseTuple(args, "OOO", &tensor, &parameter, &capsule)) {
        return nullptr;
    }
    auto *table = static_cast<DLPackExchange *>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
    if (table == nullptr) {
        return nullptr;
    }
    if (table->major == 1) {
        torch_borrow = table->borrow;
        torch_types[0] = reinterpret_cast<PyTypeObject *>(Py_NewRef(tensor));
        torch_types[1] = reinterpret_cast<PyTypeObject *>(Py_NewRef(parameter));
    }
    return PyBool_FromLong(table->major == 1);
}

// use(Tensor, ndarray, cffi's C functions, cffi's void pointer): before the first call.
PyObject *use(PyObject *, PyObject *args) {
    PyObject *tensor, *numpy, *capsule;
    if (!PyArg_ParseTuple(args, "OOOO", &tensor, &numpy, &capsule, &void_pointer)) {
        return nullptr;
    }
    auto **functions = static_cast<void **>(PyCapsule_GetPointer(capsule, "cffi"));
    if (functions == nullptr) {
        return nullptr;
    }
    cffi_to_pointer = reinterpret_cast<char *(*)(PyObject *, PyObject *)>(functions[11]); // _cffi_to_c_pointer
    tensor_type = reinterpret_cast<PyTypeObject *>(Py_NewRef(tensor));
    numpy_type = reinterpret_cast<PyTypeObject *>(Py_NewRef(numpy));
    Py_INCREF(void_pointer);
    return Py_NewRef(Py_None);
}

PyMethodDef methods[] = {
    {"call", reinterpret_cast<PyCFunction>(reinterpret_cast<void *>(call)), METH_FASTCALL, nullptr},
    {"key", reinterpret_cast<PyCFunction>(reinterpret_cast<void *>(key)), METH_FASTCALL, nullptr},
    {"use_torch", use_torch, METH_VARARGS, nullptr},
    {"use", use, METH_VARARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "_fast", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

} // namespace

PyMODINIT_FUNC PyInit__fast() {
    name_sig = PyUnicode_InternFromString("_sig");
    name_ptr = PyUnicode_InternFromString("_ptr");
    name_plain = PyUnicode_InternFromString("plain");
    name_scratch = PyUnicode_InternFromString("scratch");
    name_handle = PyUnicode_InternFromString("handle");
    name_is_neg = PyUnicode_InternFromString("is_neg");
    name_is_conj = PyUnicode_InternFromString("is_conj");
    return PyModule_Create(&module);
}
