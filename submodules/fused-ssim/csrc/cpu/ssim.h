// Structural similarity on the CPU.
#pragma once

#include <stdint.h>

#include "isa.h"
#include "ssim_problem.h"

namespace gs {

// A part of a plane: rows y0 .. y1, columns x0 .. x1, x1 - x0 <= kStripWidth.
struct SsimStrip {
    int64_t plane, y0, y1, x0, x1;
};

// With a radius on each side a multiple of 64 columns, and a working set that the second-level cache holds.
constexpr int64_t kStripWidth = 310;

// Fills the strip's part of map, error and grad, returns its sums.
struct SsimKernels {
    SsimSums (*strip_f32)(const SsimProblem<float>&, const SsimStrip&);
    SsimSums (*strip_f64)(const SsimProblem<double>&, const SsimStrip&);
};
GS_DECLARE_KERNELS(SsimKernels, ssim_kernels)

// Fills map, error and grad, returns the sums. The same bits for every number of threads.
template <class T>
SsimSums ssim(const SsimProblem<T>& problem, int threads);

}  // namespace gs
