// The stages of one render on a GPU and what they hand to each other.
//
//     project -> bin -> blend                      forward
//     blend_backward -> project_backward           backward
//     blend_backward -> reduce                     where other splats are blended than were projected here
//
// Every output is written by one thread and every sum runs in a fixed order: the same bits on every run, as
// on the CPU. The host waits once, for the number of pairs.
#pragma once

#include "../adam.h"
#include "../arrays.h"
#include "../sums.h"
#include "gpu/device.h"

namespace gs {
namespace cuda {

constexpr int kTilePixels = kTile * kTile;
constexpr int kBucket = kWarp;  // entries of a tile's list that a warp looks at together
constexpr int kChunks = kTilePixels / kWarp;

// The camera; its matrices are in device memory.
template <class T>
struct Camera {
    const T *view, *proj, *campos;
    View<T> rest;  // everything else
};

// What the camera sees, (N,) each.
template <class T>
struct Visible {
    Splat<T>* splats;     // where seen
    T* depths;            // camera z
    int32_t* radii;       // pixels; 0: not seen
    int32_t* tile_count;  // tiles that the Gaussian meets; null before binning: nobody has counted them
};

// The pairs of each Gaussian, (N,).
struct PairIndex {
    const int32_t* count;
    const int64_t* first;  // they are numbered from here on; where there are any
};

// Where the gradients of splats are, (N,): in an array, or still in the sums of their pairs.
template <class T>
struct SplatGradients {
    const Splat<T>* array;  // or null
    PairIndex index;
    const T* pair_sums;  // (pairs, pair_width)
    bool statistics;     // whether the sums hold them
};

// Numbers of a pair's row of sums: as many as there are, rounded up to pieces of 16 bytes.
GS_HD constexpr int pair_width(bool statistics) { return (sum_count(statistics) + 3) / 4 * 4; }

// More pairs than the numbers of the sort can tell apart.
struct TooManyPairs {
    unsigned long long pairs;
};

// The pairs of a tile and a Gaussian, sorted by tile and then by depth: entries tile_start[t] ...
// tile_start[t + 1] are those of tile t. By another order a Gaussian's pairs are consecutive: entry e is pair
// pair_of[e].
struct Lists {
    int tiles_x, tiles_y;
    int64_t pairs;
    const int64_t* tile_start;  // (tiles + 1,)
    const uint32_t* gaussians;  // (pairs,)
    const uint32_t* pair_of;    // (pairs,)

    __host__ __device__ int64_t tiles() const { return int64_t(tiles_x) * tiles_y; }
    // Buckets are numbered so that those of one tile are consecutive; a few numbers are left out.
    __host__ __device__ int64_t buckets() const { return pairs / kBucket + tiles(); }
    __device__ int64_t first_bucket(int64_t tile) const { return tile_start[tile] / kBucket + tile; }
};

// Owns what Lists points to, and what a PairIndex does unless the tiles had been counted before.
struct Bins {
    Lists lists;
    PairIndex index;
    DeviceArray<int64_t> tile_start, first_pair;
    DeviceArray<uint32_t> gaussians, pair_of;
    DeviceArray<int32_t> tile_count;
};

// What the blend leaves for its backward pass, beside the picture's transmittance and `blended`.
template <class T>
struct History {
    T* gathered;    // (tiles, channels, 256) what each pixel gathered, without background
    uint32_t* met;  // (buckets, chunks) bit k: entry k of the bucket was blended into a pixel of the chunk.
                    // Not written where all pixels of the chunk had ended before the bucket
};

// Channels that a pixel gathers.
enum Channel { kInverseDepth = 3, kPlainChannels, kCarried = kPlainChannels };  // 0 to 2: color
GS_HD constexpr int channels(bool carrier) { return carrier ? kCarried + 1 : kPlainChannels; }

template <class T>
void project(const Camera<T>&, const Gaussians<T>&, const Visible<T>&, const Queue&);
template <class T>
Bins bin(const Visible<T>&, int64_t count, int width, int height, const Queue&);
// history: null when there will be no backward pass.
template <class T>
void blend(const Splat<T>*, const Lists&, const Picture<T>&, const History<T>* history, const Queue&);
// Writes all of pair_sums, (pairs, pair_width).
template <class T>
void blend_backward(const Splat<T>*, const Lists&, const Picture<T>&, const History<T>&,
                    const PictureGradients<T>&, bool statistics, T* pair_sums, const Queue&);
// steps: null, or what is stepped at once, in float32, in the place of writing its gradients.
template <class T>
void project_backward(const Camera<T>&, const Gaussians<T>&, const Visible<T>&, const SplatGradients<T>&,
                      const Gradients<T>&, const Statistics<T>&, const Steps* steps, const Queue&);
// Writes out the gradients of splats, and their statistics.
template <class T>
void reduce(const Visible<T>&, int64_t count, const SplatGradients<T>&, Splat<T>*, const Statistics<T>&,
            const Queue&);

}  // namespace cuda
}  // namespace gs
