// The stages of one render on the CPU and what they hand to each other.
//
//     project -> bin -> blend                      forward
//     blend_backward -> project_backward           backward
//
// Every stage writes each of its outputs from exactly one thread, and sums run in an order that does not
// depend on the number of threads: the same bits on every run.
#pragma once

#include <stdint.h>

#include "../splat_math.h"
#include "isa.h"

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

// What the camera sees of them, (N,) each.
template <class T>
struct Projected {
    Splat<T>* splats;
    T* depths;       // camera z
    int32_t* radii;  // pixels; 0: not seen, and the splat is not set
};

// The Gaussians of each tile in depth order: entries tile_start[t] ... tile_start[t + 1] of `gaussians`.
struct TileLists {
    int tiles_x, tiles_y;
    const int64_t* tile_start;  // (tiles + 1,)
    const uint32_t* gaussians;  // (pairs,)
};

// The same pairs by Gaussian: those of Gaussian i stand in the tile lists at entry_of[first_pair[i]] ...
// [first_pair[i + 1] - 1].
struct PairIndex {
    const int64_t* first_pair;  // (N + 1,)
    const int64_t* entry_of;    // (pairs,)
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
    const T* color;      // (3, H, W)
    const T* inv_depth;  // (H, W) or null
    const T* carrier;    // (H, W) or null
};

// What a tile adds up for one of its Gaussians, X = G dL/d(importance * opacity * G):
enum Sum {
    kX,
    kXdx,
    kXdy,
    kXdxdx,
    kXdxdy,
    kXdydy,
    kColor,
    kCarrier = kColor + 3,
    kInvDepth,  // sum of w times the pixel's gradient
    kGradientSums,
    kWeight = kGradientSums,  // from here on: with statistics alone
    kEnergy,
    kPixelCount,
    kWeightMax,
    kAllSums
};

// The sums of one pair. A cache line in float32, as they are read from all over the memory.
constexpr int kSumsStride = 16;
template <class T>
struct alignas(64) PairSums {
    T of[kSumsStride];
};
static_assert(kAllSums <= kSumsStride, "a row holds all sums");

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

// The stages whose code is compiled once per instruction set.
template <class T>
struct ProjectKernels {
    void (*forward)(const View<T>&, const Gaussians<T>&, const Projected<T>&, int threads);
    void (*backward)(const View<T>&, const Gaussians<T>&, const Projected<T>&, const PairIndex&,
                     const PairSums<T>*, bool statistics, const Gradients<T>&, const Statistics<T>&,
                     int threads);
};
template <class T>
struct BlendKernels {
    void (*forward)(const Splat<T>*, const TileLists&, const Picture<T>&, int threads);
    void (*backward)(const Splat<T>*, const TileLists&, const Picture<T>&, const PictureGradients<T>&,
                     bool statistics, PairSums<T>*, int threads);
};
GS_DECLARE_KERNELS(ProjectKernels<float>, project_float)
GS_DECLARE_KERNELS(ProjectKernels<double>, project_double)
GS_DECLARE_KERNELS(BlendKernels<float>, blend_float)
GS_DECLARE_KERNELS(BlendKernels<double>, blend_double)

}  // namespace gs
