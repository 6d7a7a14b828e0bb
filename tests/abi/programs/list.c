/* Prints the backends that were discovered: name, device, priority, error, notes. */
#include "check.h"

int main(void) {
    size_t count;
    infiniopBackendInfo info;
    OK(infiniopGetBackendCount(&count));
    for (size_t i = 0; i < count; ++i) {
        info.struct_size = sizeof info;
        OK(infiniopGetBackendInfo(i, &info));
        printf("%s\t%s\t%d\t%s\t%s\n", info.name, info.device_name, (int)info.priority, info.error, info.notes);
    }
    CHECK(infiniopGetLastError()[0] == '\0'); /* what could not be discovered is no failure of the caller's */
    return 0;
}
