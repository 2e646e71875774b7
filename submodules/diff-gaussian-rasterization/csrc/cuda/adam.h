// One Adam step of many tensors in one launch.
#pragma once

#include <vector>

#include "../adam.h"
#include "gpu/device.h"

namespace gs {
namespace cuda {

// visible: (rows,), which rows to change; null: all.
void adam_step(int64_t rows, const bool* visible, const std::vector<AdamTensor>& tensors, const Queue& queue);

}  // namespace cuda
}  // namespace gs
