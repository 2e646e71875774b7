// A tile as its threads see it: 8 chunks of 8x4 pixels, two across and four down. A warp has two of them, one
// above the other, and a pixel of each for every lane.
#pragma once

#include "cuda/stages.h"

namespace gs {
namespace cuda {

constexpr int kChunkWidth = 8, kChunkHeight = 4, kChunksAcross = kTile / kChunkWidth;
static_assert(kChunkWidth * kChunkHeight == kWarp, "a chunk has a pixel for each lane");
constexpr int kHalves = 2;  // chunks of a warp
constexpr int kTileWarps = kChunks / kHalves, kTileThreads = kTileWarps * kWarp;

// The pixels of one chunk.
struct Chunk {
    int number, x, y;

    __device__ Chunk(int64_t tile, int tiles_x, int warp, int half) {
        const int across = warp % kChunksAcross, down = warp / kChunksAcross * kHalves + half;
        number = down * kChunksAcross + across;
        x = int(tile % tiles_x) * kTile + across * kChunkWidth;
        y = int(tile / tiles_x) * kTile + down * kChunkHeight;
    }

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

// One instruction each. Powers below 2^-126 become 0, of which no pixel sees anything; 1 / x is within an
// ulp.
__device__ inline double fast_exp2(double x) { return exp2(x); }
__device__ inline double reciprocal(double x) { return 1 / x; }
#if defined(GS_EMULATED)
inline float fast_exp2(float x) { return exp2(x); }
inline float reciprocal(float x) { return 1 / x; }
#else
__device__ inline float fast_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ inline float reciprocal(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
#endif

// G at an offset from the mean.
template <class T>
__device__ inline T gaussian_at(const Splat<T>& s, T dx, T dy) {
    return fast_exp2(log2_gaussian(s, dx, dy));
}

}  // namespace cuda
}  // namespace gs
