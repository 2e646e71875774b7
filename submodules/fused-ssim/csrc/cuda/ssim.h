// Structural similarity on a GPU.
#pragma once

#include "gpu/device.h"
#include "ssim_problem.h"

namespace gs {

// Fills map, error and grad, and where `means` is not null, means[0] with the mean SSIM and means[1]
// with the mean of |x - y| if that counts. All arrays are in device memory. Sums run in a fixed order: the
// same bits every time.
template <class T>
void ssim(const SsimProblem<T>& problem, T* means, const Queue& queue);

}  // namespace gs
