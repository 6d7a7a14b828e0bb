/* paged_caching end to end on the CPU from C, and every way in which it can fail. */
#include <infiniop.h>
#include <infinirt.h>

#include "check.h"

enum { NBLOCKS = 4, NKVH = 2, BLOCK = 3, DH = 5, DV = 4, NTOK = 6 };

static infiniopHandle_t handle;

static infiniopTensorDescriptor_t tensor(infiniDtype_t dtype, size_t ndim, const size_t *shape,
                                         const ptrdiff_t *strides) {
    infiniopTensorDescriptor_t desc;
    OK(infiniopCreateTensorDescriptor(&desc, ndim, shape, strides, dtype));
    return desc;
}

/* The five descriptors of a good call; tests replace one of them. */
static void good(infiniopTensorDescriptor_t t[5]) {
    const size_t k_cache[4] = {NBLOCKS, NKVH, BLOCK, DH}, v_cache[4] = {NBLOCKS, NKVH, BLOCK, DV};
    const size_t k[3] = {NTOK, NKVH, DH}, v[3] = {NTOK, NKVH, DV}, slots[1] = {NTOK};
    t[0] = tensor(INFINI_DTYPE_F32, 4, k_cache, NULL);
    t[1] = tensor(INFINI_DTYPE_F32, 4, v_cache, NULL);
    t[2] = tensor(INFINI_DTYPE_F32, 3, k, NULL);
    t[3] = tensor(INFINI_DTYPE_F32, 3, v, NULL);
    t[4] = tensor(INFINI_DTYPE_I64, 1, slots, NULL);
}

static infiniStatus_t create(infiniopPagedCachingDescriptor_t *desc, infiniopTensorDescriptor_t t[5]) {
    return infiniopCreatePagedCachingDescriptor(handle, desc, t[0], t[1], t[2], t[3], t[4]);
}

static void destroy_all(infiniopTensorDescriptor_t t[5]) {
    for (int i = 0; i < 5; ++i) {
        OK(infiniopDestroyTensorDescriptor(t[i]));
    }
}

/* Create with one descriptor replaced must fail, name the argument and leave the out-parameter alone. */
static void refuses(infiniStatus_t status, const char *argument, int which, infiniopTensorDescriptor_t other) {
    infiniopPagedCachingDescriptor_t untouched = (infiniopPagedCachingDescriptor_t)&handle, desc = untouched;
    infiniopTensorDescriptor_t t[5], replaced;
    infiniopError error = {sizeof error, INFINI_STATUS_SUCCESS, NULL, NULL, NULL, NULL, NULL};
    good(t);
    replaced = t[which];
    t[which] = other;
    CHECK(create(&desc, t) == status);
    CHECK(desc == untouched);
    OK(infiniopGetLastErrorInfo(&error));
    CHECK(error.status == status && strcmp(error.op, "paged_caching") == 0);
    CHECK(strcmp(error.argument, argument) == 0);
    CHECK(*error.expected && *error.got && strstr(error.message, argument));
    OK(infiniopDestroyTensorDescriptor(replaced));
    t[which] = other;
    destroy_all(t);
}

static void errors_at_create(void) {
    const char *names[5] = {"k_cache", "v_cache", "k", "v", "slot_mapping"};
    const size_t shape4[4] = {NBLOCKS, NKVH, BLOCK, DH}, heads[3] = {NTOK, NKVH + 1, DV}, flat[2] = {NTOK, NKVH * DH};
    const size_t k[3] = {NTOK, NKVH, DH}, five[1] = {NTOK - 1}, slots[1] = {NTOK};
    const ptrdiff_t wide[3] = {NKVH * DH * 2, DH * 2, 2}, broadcast[4] = {0, BLOCK * DH, DH, 1}, two[1] = {2};
    const size_t huge[4] = {(size_t)1 << 40, (size_t)1 << 20, 3, 5};
    const ptrdiff_t far_away[3] = {PTRDIFF_MAX / 2, DH, 1};
    for (int i = 0; i < 5; ++i) {
        refuses(INFINI_STATUS_NULL_POINTER, names[i], i, NULL);
    }
    refuses(INFINI_STATUS_BAD_TENSOR_DTYPE, "k_cache", 0, tensor(INFINI_DTYPE_I32, 4, shape4, NULL));
    refuses(INFINI_STATUS_BAD_TENSOR_DTYPE, "k", 2, tensor(INFINI_DTYPE_F16, 3, k, NULL));
    refuses(INFINI_STATUS_BAD_TENSOR_DTYPE, "slot_mapping", 4, tensor(INFINI_DTYPE_I32, 1, slots, NULL));
    refuses(INFINI_STATUS_BAD_TENSOR_SHAPE, "k", 2, tensor(INFINI_DTYPE_F32, 2, flat, NULL));
    refuses(INFINI_STATUS_BAD_TENSOR_SHAPE, "v", 3, tensor(INFINI_DTYPE_F32, 3, heads, NULL));
    CHECK(strstr(infiniopGetLastError(), "[ntok=6, nkvh=2, dv=4]") && strstr(infiniopGetLastError(), "[6, 3, 4]"));
    refuses(INFINI_STATUS_BAD_TENSOR_SHAPE, "slot_mapping", 4, tensor(INFINI_DTYPE_I64, 1, five, NULL));
    refuses(INFINI_STATUS_BAD_TENSOR_SHAPE, "k_cache", 0, tensor(INFINI_DTYPE_F32, 4, huge, NULL));
    refuses(INFINI_STATUS_BAD_TENSOR_STRIDES, "k", 2, tensor(INFINI_DTYPE_F32, 3, k, wide));
    refuses(INFINI_STATUS_BAD_TENSOR_STRIDES, "k", 2, tensor(INFINI_DTYPE_F32, 3, k, far_away));
    refuses(INFINI_STATUS_BAD_TENSOR_STRIDES, "k_cache", 0, tensor(INFINI_DTYPE_F32, 4, shape4, broadcast));
    refuses(INFINI_STATUS_BAD_TENSOR_STRIDES, "slot_mapping", 4, tensor(INFINI_DTYPE_I64, 1, slots, two));
}

static void wrong_objects(void) {
    infiniopTensorDescriptor_t t[5];
    infiniopPagedCachingDescriptor_t desc, other;
    infiniopReluDescriptor_t relu;
    size_t size;
    int id;
    infiniDevice_t device;
    good(t);
    FAILS(NULL_POINTER, "handle", infiniopCreatePagedCachingDescriptor(NULL, &desc, t[0], t[1], t[2], t[3], t[4]));
    FAILS(NULL_POINTER, "desc_ptr", create(NULL, t));
    FAILS(BAD_PARAM, "handle",
          infiniopCreatePagedCachingDescriptor((infiniopHandle_t)t[0], &desc, t[0], t[1], t[2], t[3], t[4]));
    FAILS(BAD_PARAM, "k_cache",
          infiniopCreatePagedCachingDescriptor(handle, &desc, (infiniopTensorDescriptor_t)handle, t[1], t[2], t[3],
                                               t[4]));
    FAILS(NULL_POINTER, "desc", infiniopGetPagedCachingWorkspaceSize(NULL, &size));
    FAILS(NULL_POINTER, "desc", infiniopPagedCaching(NULL, NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL));
    OK(infiniopDestroyPagedCachingDescriptor(NULL));
    OK(create(&desc, t));
    OK(infiniopCreateReluDescriptor(handle, &relu, t[2], t[2]));
    other = (infiniopPagedCachingDescriptor_t)relu;
    FAILS(BAD_PARAM, "one of relu", infiniopPagedCaching(other, NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL));
    FAILS(BAD_PARAM, "one of relu", infiniopGetPagedCachingWorkspaceSize(other, &size));
    FAILS(BAD_PARAM, "one of relu", infiniopDestroyPagedCachingDescriptor(other));
    FAILS(NULL_POINTER, "size", infiniopGetPagedCachingWorkspaceSize(desc, NULL));
    FAILS(BAD_PARAM, "handle", infiniopDestroyHandle((infiniopHandle_t)desc));
    FAILS(BAD_PARAM, "desc", infiniopDestroyTensorDescriptor((infiniopTensorDescriptor_t)handle));
    OK(infiniopGetDescriptorDeviceType(desc, &device));
    OK(infiniopGetDescriptorDeviceId(desc, &id));
    CHECK(device == INFINI_DEVICE_CPU && id == 0);
    FAILS(NULL_POINTER, "device_type", infiniopGetDescriptorDeviceType(desc, NULL));
    FAILS(NULL_POINTER, "desc_ptr", infiniopGetDescriptorDeviceId(NULL, &id));
    OK(infiniopDestroyReluDescriptor(relu));
    OK(infiniopDestroyPagedCachingDescriptor(desc));
    destroy_all(t);
}

static void tensor_descriptors(void) {
    infiniopTensorDescriptor_t desc;
    const size_t shape[2] = {2, 3};
    FAILS(NULL_POINTER, "desc_ptr", infiniopCreateTensorDescriptor(NULL, 2, shape, NULL, INFINI_DTYPE_F32));
    FAILS(NULL_POINTER, "shape", infiniopCreateTensorDescriptor(&desc, 2, NULL, NULL, INFINI_DTYPE_F32));
    FAILS(BAD_TENSOR_DTYPE, "dtype", infiniopCreateTensorDescriptor(&desc, 2, shape, NULL, (infiniDtype_t)20));
    FAILS(BAD_TENSOR_DTYPE, "dtype", infiniopCreateTensorDescriptor(&desc, 2, shape, NULL, (infiniDtype_t)-1));
    FAILS(BAD_TENSOR_SHAPE, "ndim", infiniopCreateTensorDescriptor(&desc, 65, shape, NULL, INFINI_DTYPE_F32));
    OK(infiniopCreateTensorDescriptor(&desc, 0, NULL, NULL, INFINI_DTYPE_F32));
    OK(infiniopDestroyTensorDescriptor(desc));
    OK(infiniopDestroyTensorDescriptor(NULL));
    FAILS(NULL_POINTER, "handle_ptr", infiniopCreateHandle(NULL));
    OK(infiniopDestroyHandle(NULL));
}

struct data {
    float k_cache[NBLOCKS][NKVH][BLOCK][DH], v_cache[NBLOCKS][NKVH][BLOCK][DV], k[NTOK][NKVH][DH], v[NTOK][NKVH][DV];
    int64_t slots[NTOK];
};

static void fill(struct data *d) {
    const int64_t slots[NTOK] = {11, 0, -1, 4, 5, 7};
    memset(d, 0, sizeof *d);
    for (int i = 0; i < NTOK * NKVH * DH; ++i) {
        (&d->k[0][0][0])[i] = 1.0f + (float)i;
    }
    for (int i = 0; i < NTOK * NKVH * DV; ++i) {
        (&d->v[0][0][0])[i] = -1.0f - (float)i;
    }
    memcpy(d->slots, slots, sizeof slots);
}

static void compare(const struct data *d) {
    for (int slot = 0; slot < NBLOCKS * BLOCK; ++slot) {
        int token = -1;
        for (int n = 0; n < NTOK; ++n) {
            token = d->slots[n] == slot ? n : token;
        }
        for (int h = 0; h < NKVH; ++h) {
            for (int j = 0; j < DH; ++j) {
                CHECK(d->k_cache[slot / BLOCK][h][slot % BLOCK][j] == (token < 0 ? 0.0f : d->k[token][h][j]));
            }
            for (int j = 0; j < DV; ++j) {
                CHECK(d->v_cache[slot / BLOCK][h][slot % BLOCK][j] == (token < 0 ? 0.0f : d->v[token][h][j]));
            }
        }
    }
}

static void end_to_end(void) {
    static struct data d;
    infiniopTensorDescriptor_t t[5];
    infiniopPagedCachingDescriptor_t desc;
    infiniopHandle_t second;
    size_t size = 77;
    void *workspace = NULL;
    good(t);
    OK(infiniopCreateHandle(&second));
    OK(infiniopCreatePagedCachingDescriptor(second, &desc, t[0], t[1], t[2], t[3], t[4]));
    destroy_all(t); /* neither is needed any more */
    OK(infiniopDestroyHandle(second));
    OK(infiniopGetPagedCachingWorkspaceSize(desc, &size));
    OK(infinirtMalloc(&workspace, size));
    fill(&d);
    OK(infiniopPagedCaching(desc, workspace, size, d.k_cache, d.v_cache, d.k, d.v, d.slots, NULL));
    compare(&d);

    FAILS(NULL_POINTER, "k_cache",
          infiniopPagedCaching(desc, workspace, size, NULL, d.v_cache, d.k, d.v, d.slots, NULL));
    FAILS(NULL_POINTER, "v_cache",
          infiniopPagedCaching(desc, workspace, size, d.k_cache, NULL, d.k, d.v, d.slots, NULL));
    FAILS(NULL_POINTER,
          "k:", infiniopPagedCaching(desc, workspace, size, d.k_cache, d.v_cache, NULL, d.v, d.slots, NULL));
    FAILS(NULL_POINTER,
          "v:", infiniopPagedCaching(desc, workspace, size, d.k_cache, d.v_cache, d.k, NULL, d.slots, NULL));
    FAILS(NULL_POINTER, "slot_mapping",
          infiniopPagedCaching(desc, workspace, size, d.k_cache, d.v_cache, d.k, d.v, NULL, NULL));
    FAILS(BAD_PARAM, "v_cache",
          infiniopPagedCaching(desc, workspace, size, d.k_cache, d.k_cache, d.k, d.v, d.slots, NULL));
    FAILS(BAD_PARAM, "beside k", infiniopPagedCaching(desc, workspace, size, d.k, d.v_cache, d.k, d.v, d.slots, NULL));
    if (size > 0) {
        FAILS(INSUFFICIENT_WORKSPACE, "workspace",
              infiniopPagedCaching(desc, workspace, size - 1, d.k_cache, d.v_cache, d.k, d.v, d.slots, NULL));
        FAILS(NULL_POINTER, "workspace",
              infiniopPagedCaching(desc, NULL, size, d.k_cache, d.v_cache, d.k, d.v, d.slots, NULL));
    }
    compare(&d); /* no failure has written anything */

    d.slots[5] = NBLOCKS * BLOCK;
    memset(d.k_cache, 0, sizeof d.k_cache);
    FAILS(BAD_PARAM, "slot_mapping",
          infiniopPagedCaching(desc, workspace, size, d.k_cache, d.v_cache, d.k, d.v, d.slots, NULL));
    for (size_t i = 0; i < sizeof d.k_cache / sizeof(float); ++i) {
        CHECK((&d.k_cache[0][0][0][0])[i] == 0.0f);
    }
    OK(infinirtFree(workspace));
    OK(infiniopDestroyPagedCachingDescriptor(desc));
}

static void no_tokens(void) {
    static struct data d;
    const size_t k[3] = {0, NKVH, DH}, v[3] = {0, NKVH, DV}, slots[1] = {0};
    infiniopTensorDescriptor_t t[5];
    infiniopPagedCachingDescriptor_t desc;
    size_t size;
    good(t);
    for (int i = 2; i < 5; ++i) {
        OK(infiniopDestroyTensorDescriptor(t[i]));
    }
    t[2] = tensor(INFINI_DTYPE_F32, 3, k, NULL);
    t[3] = tensor(INFINI_DTYPE_F32, 3, v, NULL);
    t[4] = tensor(INFINI_DTYPE_I64, 1, slots, NULL);
    OK(create(&desc, t));
    OK(infiniopGetPagedCachingWorkspaceSize(desc, &size));
    CHECK(size == 0);
    OK(infiniopPagedCaching(desc, NULL, 0, d.k_cache, d.v_cache, NULL, NULL, NULL, NULL));
    OK(infiniopDestroyPagedCachingDescriptor(desc));
    destroy_all(t);
}

int main(void) {
    OK(infiniopCreateHandle(&handle));
    tensor_descriptors();
    errors_at_create();
    wrong_objects();
    end_to_end();
    no_tokens();
    OK(infiniopDestroyHandle(handle));
    puts("ok");
    return 0;
}
