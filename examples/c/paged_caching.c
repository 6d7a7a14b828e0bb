/* Writes three tokens into a paged KV cache, in the four steps of the C ABI. With the prefix of the installed package:
 *
 *     export PKG_CONFIG_PATH=$(infiniop root)/lib/pkgconfig
 *     gcc paged_caching.c $(pkg-config --cflags --libs infiniop) -o paged_caching && ./paged_caching
 *
 * It prints:
 *
 *     block 0:   7.0   8.0   0.0   0.0
 *     block 1:   0.0   0.0   0.0   0.0
 *     block 2:   0.0   0.0   3.0   4.0
 *     refused: paged_caching: slot_mapping: expected values below 6, got 6 at [0]
 */
#include <infiniop.h>
#include <stdio.h>
#include <stdlib.h>

enum { NBLOCKS = 3, NKVH = 1, BLOCK_SIZE = 2, DH = 2, NTOK = 3 };

static void check(infiniStatus_t status) {
    if (status != INFINI_STATUS_SUCCESS) {
        fprintf(stderr, "%s\n", infiniopGetLastError());
        exit(1);
    }
}

int main(void) {
    float k_cache[NBLOCKS][NKVH][BLOCK_SIZE][DH] = {0}, v_cache[NBLOCKS][NKVH][BLOCK_SIZE][DH] = {0};
    const float k[NTOK][NKVH][DH] = {{{3, 4}}, {{5, 6}}, {{7, 8}}}, v[NTOK][NKVH][DH] = {{{0}}};
    int64_t slot_mapping[NTOK] = {5, -1, 0}; /* slot = block * BLOCK_SIZE + row; a negative one is padding */

    infiniopHandle_t handle;
    infiniopTensorDescriptor_t cache, rows, slots;
    check(infiniopCreateHandle(&handle)); /* for the current device: the CPU */
    check(infiniopCreateTensorDescriptor(&cache, 4, (size_t[]){NBLOCKS, NKVH, BLOCK_SIZE, DH}, NULL, INFINI_DTYPE_F32));
    check(infiniopCreateTensorDescriptor(&rows, 3, (size_t[]){NTOK, NKVH, DH}, NULL, INFINI_DTYPE_F32));
    check(infiniopCreateTensorDescriptor(&slots, 1, (size_t[]){NTOK}, NULL, INFINI_DTYPE_I64));

    /* 1: checks everything that does not depend on data, and picks the kernel. */
    infiniopPagedCachingDescriptor_t desc;
    check(infiniopCreatePagedCachingDescriptor(handle, &desc, cache, cache, rows, rows, slots));
    /* 2 */
    size_t workspace_size;
    check(infiniopGetPagedCachingWorkspaceSize(desc, &workspace_size));
    void *workspace = malloc(workspace_size);
    /* 3: as often as needed, with any memory of those shapes. */
    check(infiniopPagedCaching(desc, workspace, workspace_size, k_cache, v_cache, k, v, slot_mapping, NULL));
    for (int block = 0; block < NBLOCKS; ++block) {
        printf("block %d:", block);
        for (int i = 0; i < BLOCK_SIZE * DH; ++i) {
            printf(" %5.1f", (double)(&k_cache[block][0][0][0])[i]);
        }
        printf("\n");
    }
    slot_mapping[0] = NBLOCKS * BLOCK_SIZE;
    if (infiniopPagedCaching(desc, workspace, workspace_size, k_cache, v_cache, k, v, slot_mapping, NULL)) {
        printf("refused: %s\n", infiniopGetLastError());
    }
    /* 4 */
    check(infiniopDestroyPagedCachingDescriptor(desc));
    check(infiniopDestroyTensorDescriptor(cache));
    check(infiniopDestroyTensorDescriptor(rows));
    check(infiniopDestroyTensorDescriptor(slots));
    check(infiniopDestroyHandle(handle));
    free(workspace);
    return 0;
}
