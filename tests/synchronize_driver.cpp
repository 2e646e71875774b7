// Queues a memset, on a GPU that fails where the host waits: prints the error, if it shows, and the one that
// is left for the next launch. Compiled by test_emulation.py against fake_cuda/.
#include <stdio.h>

#include "gpu/device.h"

int main() {
    const gs::Queue queue = {0, nullptr, nullptr};
    try {
        gs::set_zero(queue, nullptr, 4);
    } catch (const std::runtime_error& error) {
        fprintf(stderr, "%s", error.what());
    }
    printf("left for the next launch: %d\n", int(cudaGetLastError()));
    return 0;
}
