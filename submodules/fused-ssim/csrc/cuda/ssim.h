// Structural similarity on a GPU.
#pragma once

#include "gpu/device.h"
#include "ssim_problem.h"

namespace gs {

// Fills map and grad, and *mean with the mean SSIM where that is not null. All arrays are in device memory.
// Sums run in a fixed order: the same bits every time.
template <class T>
void ssim(const SsimProblem<T>& problem, T* mean, const Queue& queue);

}  // namespace gs
