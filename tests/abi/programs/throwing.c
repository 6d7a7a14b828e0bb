/* A backend that throws: argv[1] is its library, argv[2] its name. */
#include <infiniop.h>

#include "check.h"

int main(int argc, char **argv) {
    const size_t shape[1] = {4};
    infiniopTensorDescriptor_t t;
    infiniopHandle_t handle;
    infiniopReluDescriptor_t desc;
    CHECK(argc == 3);
    OK(infiniopLoadBackend(argv[1]));
    OK(infiniopCreateHandleForBackend(&handle, argv[2]));
    OK(infiniopCreateTensorDescriptor(&t, 1, shape, NULL, INFINI_DTYPE_F32));
    if (infiniopCreateReluDescriptor(handle, &desc, t, t) != INFINI_STATUS_SUCCESS) {
        printf("create: %s\n", infiniopGetLastError());
    } else {
        OK(infiniopDestroyReluDescriptor(desc));
        puts("destroyed");
    }
    OK(infiniopDestroyTensorDescriptor(t));
    OK(infiniopDestroyHandle(handle));
    return 0;
}
