// The stages of one render on the CPU and what they hand to each other.
//
//     project -> bin -> blend                      forward
//     blend_backward -> project_backward           backward
//     blend_backward -> reduce                     where other splats are blended than were projected here
//
// Every stage writes each of its outputs from exactly one thread, and sums run in an order that does not
// depend on the number of threads: the same bits on every run.
#pragma once

#include <stdint.h>

#include "../adam.h"
#include "../arrays.h"
#include "../sums.h"
#include "isa.h"

namespace gs {

// What the camera sees of them, (N,) each.
template <class T>
struct Projected {
    Splat<T>* splats;
    T* depths;       // camera z
    int32_t* radii;  // pixels; 0: not seen, and the splat is not set
};

// The tiles that a splat meets: bit b of `met` is the one in column `column + b % 4`, row `row + b / 4`. No
// bit is set where they do not fit into 4x4 tiles; then TileWalk finds them.
struct TileSet {
    uint16_t column, row, met;
};

// The Gaussians of each tile in depth order: entries tile_start[t] ... tile_start[t + 1] of `gaussians`.
struct TileLists {
    int tiles_x, tiles_y;
    const int64_t* tile_start;  // (tiles + 1,)
    const uint32_t* gaussians;  // (pairs,)
    uint16_t* blocks;  // (pairs,) of the tile that each may color (bit b: block b): for the backward pass
};

// The same pairs by Gaussian: those of Gaussian i stand in the tile lists at entry_of[first_pair[i]] ...
// [first_pair[i + 1] - 1].
struct PairIndex {
    const int64_t* first_pair;  // (N + 1,)
    const int64_t* entry_of;    // (pairs,)
};

// The sums of one pair. A cache line in float32, as they are read from all over the memory.
constexpr int kSumsStride = 16;
template <class T>
struct alignas(64) PairSums {
    T of[kSumsStride];
};
static_assert(kAllSums <= kSumsStride, "a row holds all sums");

// Where the gradients of splats are, (N,): in an array, or still in the sums of their pairs.
template <class T>
struct SplatGradients {
    const Splat<T>* array;  // or null
    PairIndex index;
    const PairSums<T>* pair_sums;
    bool statistics;  // whether the sums hold them
};

// The stages whose code is compiled once per instruction set.
template <class T>
struct ProjectKernels {
    void (*forward)(const View<T>&, const Gaussians<T>&, const Projected<T>&, int threads);
    void (*backward)(const View<T>&, const Gaussians<T>&, const Projected<T>&, const SplatGradients<T>&,
                     const Gradients<T>&, const Statistics<T>&, const Steps* steps, int threads);
    // Writes out the gradients of splats, and their statistics.
    void (*reduce)(const Projected<T>&, int64_t count, const SplatGradients<T>&, Splat<T>*,
                   const Statistics<T>&, int threads);
};
template <class T>
struct TileKernels {
    void (*find)(const Projected<T>&, int64_t count, int width, int height, TileSet*, int threads);
};
template <class T>
struct BlendKernels {
    void (*forward)(const Splat<T>*, const TileLists&, const Picture<T>&, int threads);
    void (*backward)(const Splat<T>*, const TileLists&, const Picture<T>&, const PictureGradients<T>&,
                     bool statistics, PairSums<T>*, int threads);
};
GS_DECLARE_KERNELS(ProjectKernels<float>, project_float)
GS_DECLARE_KERNELS(ProjectKernels<double>, project_double)
GS_DECLARE_KERNELS(TileKernels<float>, tiles_float)
GS_DECLARE_KERNELS(TileKernels<double>, tiles_double)
GS_DECLARE_KERNELS(BlendKernels<float>, blend_float)
GS_DECLARE_KERNELS(BlendKernels<double>, blend_double)

}  // namespace gs
