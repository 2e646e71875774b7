// Nearest neighbours of 5,000 points by the CUDA kernels of simple-knn, emulated: prints the results, or what
// the emulation found. Compiled by test_emulation.py together with those kernels, whole or with a bug planted
// in them.
#include <stdio.h>

#include <vector>

#include "cuda/knn.h"

int main() {
    const int64_t count = 5000;
    std::vector<float> points(3 * count), result(count, -1.0f);
    uint32_t random = 1;
    for (float& p : points) p = float((random = random * 1664525u + 1013904223u) >> 8) / float(1 << 24);
    const gs::Queue queue = {0, nullptr, [](size_t bytes) {
                                 return gs::Memory(new char[bytes],
                                                   [](void* p) { delete[] static_cast<char*>(p); });
                             }};
    try {
        gs::mean_squared_distance(points.data(), count, result.data(), queue);
    } catch (const std::runtime_error& error) {
        fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    for (float r : result) printf("%.9g\n", double(r));
    return 0;
}
