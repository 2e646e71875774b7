// Nearest neighbours on the CPU.
#pragma once

#include <stdint.h>

namespace gs {

// mean_squares[i] = mean squared distance of point i to its three nearest others, to as many as there are if
// fewer, and 0 for a point alone. points: (count, 3), finite, count < 2^31. The same bits for every number of
// threads.
void mean_squared_distance(const float* points, int64_t count, float* mean_squares, int threads);

}  // namespace gs
