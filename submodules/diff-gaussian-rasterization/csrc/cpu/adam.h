// One Adam step of one tensor.
#pragma once

#include "../adam.h"
#include "isa.h"

namespace gs {

struct AdamKernels {
    // visible: (rows,), which rows to change; null: all.
    void (*step)(int64_t rows, const bool* visible, const AdamTensor&, int threads);
};
GS_DECLARE_KERNELS(AdamKernels, adam)

}  // namespace gs
