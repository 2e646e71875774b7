// The importance network on a GPU.
#pragma once

#include "../importance.h"
#include "gpu/device.h"

namespace gs {
namespace cuda {

template <class T>
void importance_forward(const ImportanceNetwork<T>&, const Gaussians<T>&, T* importance, const Queue&);
template <class T>
void importance_backward(const ImportanceNetwork<T>&, const Gaussians<T>&, const ImportanceGradients<T>&,
                         const Queue&);

}  // namespace cuda
}  // namespace gs
