/* A program that knows nothing of plain_c but its name: infiniop finds the library through its manifest. Normalises two
 * rows and compares them with the formula. It prints:
 *
 *     plain_c 0.1.0 has 10 operators
 *     rms_norm on plain_c is right
 */
#include <infiniop.h>
#include <infiniop/registry.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 2, WIDTH = 3 };

static void check(infiniStatus_t status) {
    if (status != INFINI_STATUS_SUCCESS) {
        fprintf(stderr, "%s\n", infiniopGetLastError());
        exit(1);
    }
}

static void show(const char *name) {
    size_t count;
    check(infiniopGetBackendCount(&count));
    for (size_t i = 0; i < count; ++i) {
        infiniopBackendInfo info = {.struct_size = sizeof info};
        check(infiniopGetBackendInfo(i, &info));
        if (strcmp(info.name, name) == 0) {
            printf("%s %s has %zu operators\n", info.name, info.version, info.nkernels);
        }
    }
}

int main(void) {
    const float x[ROWS][WIDTH] = {{1, 2, 2}, {-3, 0, 4}}, w[WIDTH] = {1, 0.5f, 2};
    float y[ROWS][WIDTH];
    const float epsilon = 1e-6f;

    infiniopHandle_t handle;
    infiniopTensorDescriptor_t rows, weight;
    infiniopRMSNormDescriptor_t norm;
    show("plain_c");
    check(infiniopCreateHandleForBackend(&handle, "plain_c"));
    check(infiniopCreateTensorDescriptor(&rows, 2, (size_t[]){ROWS, WIDTH}, NULL, INFINI_DTYPE_F32));
    check(infiniopCreateTensorDescriptor(&weight, 1, (size_t[]){WIDTH}, NULL, INFINI_DTYPE_F32));
    check(infiniopCreateRMSNormDescriptor(handle, &norm, rows, rows, weight, epsilon));
    check(infiniopRMSNorm(norm, NULL, 0, y, x, w, NULL));

    for (int row = 0; row < ROWS; ++row) {
        double squares = 0;
        for (int i = 0; i < WIDTH; ++i) {
            squares += x[row][i] * x[row][i];
        }
        for (int i = 0; i < WIDTH; ++i) {
            const double expected = x[row][i] * w[i] / sqrt(squares / WIDTH + epsilon);
            if (fabs(y[row][i] - expected) > 1e-6) {
                printf("[%d, %d]: expected %g, got %g\n", row, i, expected, y[row][i]);
                return 1;
            }
        }
    }
    printf("rms_norm on plain_c is right\n");
    check(infiniopDestroyRMSNormDescriptor(norm));
    check(infiniopDestroyTensorDescriptor(rows));
    check(infiniopDestroyTensorDescriptor(weight));
    check(infiniopDestroyHandle(handle));
    return 0;
}
