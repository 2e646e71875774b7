// A tile as its threads see it: 8 chunks of 8x4 pixels, two across and four down, one for each warp.
#pragma once

#include "cuda/stages.h"

namespace gs {
namespace cuda {

constexpr int kChunkWidth = 8, kChunkHeight = 4, kChunksAcross = kTile / kChunkWidth;
static_assert(kChunkWidth * kChunkHeight == kWarp, "a chunk has a pixel for each lane");

// The pixels of one chunk.
struct Chunk {
    int x, y;

    __device__ Chunk(int64_t tile, int tiles_x, int chunk)
        : x(int(tile % tiles_x) * kTile + chunk % kChunksAcross * kChunkWidth),
          y(int(tile / tiles_x) * kTile + chunk / kChunksAcross * kChunkHeight) {}

    __device__ int column(int lane) const { return x + lane % kChunkWidth; }
    __device__ int row(int lane) const { return y + lane / kChunkWidth; }

    // Whether the cut of a splat may meet a pixel's centre.
    template <class T>
    __device__ bool meets(const Splat<T>& s) const {
        const T slack = kSlack<T>;
        const T left_edge = T(x) + T(0.5) - s.x, right_edge = left_edge + T(kChunkWidth - 1);
        const T top = T(y) + T(0.5) - s.y, bottom = top + T(kChunkHeight - 1);
        if (s.half_height + slack < top || bottom < -s.half_height - slack) return false;
        T left, right;
        cut_in_band(s, top, bottom, left, right);
        return right + slack >= left_edge && right_edge + slack >= left;
    }
};

// G at an offset from the mean.
template <class T>
__device__ inline T gaussian_at(const Splat<T>& s, T dx, T dy) {
    return exp2(log2_gaussian(s, dx, dy));
}

// 1 / x within two units in the last place, for x that is neither tiny nor huge.
__device__ inline double reciprocal(double x) { return 1 / x; }
#if defined(GS_EMULATED)
inline float reciprocal(float x) { return 1 / x; }
#else
__device__ inline float reciprocal(float x) { return __fdividef(1.0f, x); }
#endif

}  // namespace cuda
}  // namespace gs
