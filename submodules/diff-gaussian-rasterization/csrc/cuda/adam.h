// One Adam step of many tensors in one launch.
#pragma once

#include <vector>

#include "gpu/device.h"

namespace gs {
namespace cuda {

// A tensor of (rows, columns) and its moments.
struct AdamTensor {
    int64_t columns;
    float* param;
    const float* grad;
    float *exp_avg, *exp_avg_sq;
    float rate;                  // of learning, over the first moment's bias
    float root_scale;            // of the root of the second moment: 1 over the root of its bias
    float eps;
    float keep1, take1, keep2, take2;  // beta and 1 - beta
};

// visible: (rows,), which rows to change; null: all.
void adam_step(int64_t rows, const bool* visible, const std::vector<AdamTensor>& tensors, const Queue& queue);

}  // namespace cuda
}  // namespace gs
