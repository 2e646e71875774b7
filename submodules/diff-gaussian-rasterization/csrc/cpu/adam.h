// One Adam step over the rows that were visible.
#pragma once

#include <stdint.h>

#include "isa.h"

namespace gs {

struct AdamStep {
    int64_t rows, columns;
    const bool* visible;  // (rows,)
    float* param;         // (rows, columns), as are the next three
    const float* grad;
    float* exp_avg;
    float* exp_avg_sq;
    float lr, eps;
    double beta1, beta2;  // 1 - beta in float would be wrong in its fifth digit
};

struct AdamKernels {
    void (*step)(const AdamStep&, int threads);
};
GS_DECLARE_KERNELS(AdamKernels, adam)

}  // namespace gs
