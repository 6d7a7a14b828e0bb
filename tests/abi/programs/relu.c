/* Loads the plugin argv[1] and runs relu on the CPU: "ok" when backend argv[2] served it and was right. */
#include <infiniop.h>
#include <infinirt.h>

#include "check.h"

int main(int argc, char **argv) {
    const size_t shape[1] = {4};
    const float x[4] = {-1, 2, -3, 4};
    float y[4] = {0};
    const char *served;
    infiniopTensorDescriptor_t t;
    infiniopHandle_t handle;
    infiniopReluDescriptor_t desc;
    CHECK(argc == 3);
    OK(infiniopLoadBackend(argv[1]));
    OK(infiniopCreateHandle(&handle));
    OK(infiniopCreateTensorDescriptor(&t, 1, shape, NULL, INFINI_DTYPE_F32));
    OK(infiniopCreateReluDescriptor(handle, &desc, t, t));
    OK(infiniopGetDescriptorBackend(desc, &served));
    CHECK(strcmp(served, argv[2]) == 0);
    OK(infiniopRelu(desc, NULL, 0, y, x, NULL));
    CHECK(y[0] == 0 && y[1] == 2 && y[2] == 0 && y[3] == 4);
    OK(infiniopDestroyReluDescriptor(desc));
    OK(infiniopDestroyTensorDescriptor(t));
    OK(infiniopDestroyHandle(handle));
    puts("ok");
    return 0;
}
