// Nearest neighbours on a GPU.
#pragma once

#include "gpu/device.h"

namespace gs {

// As mean_squared_distance of cpu/knn.h, with the arrays in device memory.
void mean_squared_distance(const float* points, int64_t count, float* mean_squares, const Queue& queue);

}  // namespace gs
