// The importance network on the CPU.
#pragma once

#include "../importance.h"
#include "isa.h"

namespace gs {

// Gaussians whose sums are added up before they meet those of others.
constexpr int64_t kImportanceShare = 4096;

template <class T>
struct ImportanceKernels {
    void (*forward)(const ImportanceNetwork<T>&, const Gaussians<T>&, T* importance, int threads);
    // of_shares: scratch memory, kNetworkSums for each share of the Gaussians.
    void (*backward)(const ImportanceNetwork<T>&, const Gaussians<T>&, const ImportanceGradients<T>&,
                     T* of_shares, int threads);
};
GS_DECLARE_KERNELS(ImportanceKernels<float>, importance_float)
GS_DECLARE_KERNELS(ImportanceKernels<double>, importance_double)

}  // namespace gs
