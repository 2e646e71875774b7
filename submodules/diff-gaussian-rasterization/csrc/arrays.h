// What goes into a render and comes out of it: arrays in the memory of whatever device renders.
#pragma once

#include <stdint.h>

#include "splat_math.h"

namespace gs {

constexpr int kTile = 16;  // pixels

// N Gaussians in the world. Optional arrays are null.
template <class T>
struct Gaussians {
    int64_t count;
    const T* means;        // (N, 3)
    const T* scales;       // (N, 3)    or
    const T* quats;        // (N, 4)
    const T* covariances;  // (N, 6)  xx xy xz yy yz zz
    const T* sh_first;     // (N, 3) with stride     or
    const T* sh_rest;      // (N, K - 1, 3) with stride
    int64_t sh_first_stride, sh_rest_stride;
    int sh_bases;         // K
    const T* colors;      // (N, 3)
    const T* opacities;   // (N, 1)
    const T* importance;  // (N, 1)  optional
    const T* carrier;     // (N, 1)  optional
};

template <class T>
struct Picture {
    int width, height;
    const T* background;  // (3,)
    T* color;             // (3, H, W)
    T* inv_depth;         // (H, W)
    T* carrier;           // (H, W), null without a carrier
    T* transmittance;     // (H, W), after the last Gaussian
    int32_t* blended;     // (H, W), list entries up to the last one blended
};

template <class T>
struct PictureGradients {
    const T* color;           // (3, H, W)
    const T* inv_depth;       // (H, W) or null
    const T* carrier;         // (H, W) or null
    const T* energy_weights;  // (H, W) or null: 1, how much a pixel counts in removal energies
};

// Null: not asked for.
template <class T>
struct Gradients {
    T* means;    // (N, 3)
    T* means2d;  // (N, 3), NDC units, third column 0
    T* scales;
    T* quats;
    T* covariances;
    T* sh_first;
    T* sh_rest;
    T* colors;
    T* opacities;
    T* importance;
    T* carrier;
};

// (N,) each, over the view.
template <class T>
struct Statistics {
    T* weight_sum;
    T* weight_max;
    int32_t* pixels;
    T* removal_energy;
};

}  // namespace gs
