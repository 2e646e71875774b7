// Front to back: one block a tile, one thread a pixel. Each warp first sorts out, one lane a splat, which of
// the next 32 splats meet its 8x4 pixels, and then blends only those.
#include "cuda/stages.h"
#include "cuda/tile.h"

namespace gs {
namespace cuda {
namespace {

constexpr int kBatch = kTilePixels;  // splats that a block fetches at a time

// What a pixel has gathered so far.
template <class T>
struct Pixel {
    T transmittance = 1;
    T color[3] = {0, 0, 0};
    T inv_depth = 0;
    T carrier = 0;
    int32_t blended = 0;  // list entries up to the last one blended
    bool ended = false;
};

template <class T>
__device__ void blend_splat(const Splat<T>& s, int column, int row, int32_t entry, Pixel<T>& pixel) {
    const T dx = T(column) + T(0.5) - s.x, dy = T(row) + T(0.5) - s.y;
    const T footprint = s.opacity * gaussian_at(s, dx, dy);
    if (!(footprint >= kMinAlpha<T>)) return;
    const T alpha = clamped_alpha<T>(s.importance * footprint);
    const T after = transmittance_after(pixel.transmittance, 1 - alpha);
    if (after < kMinTransmittance<T>) {
        pixel.ended = true;
        return;
    }
    const T weight = alpha * pixel.transmittance;
    for (int c = 0; c < 3; ++c) pixel.color[c] += weight * s.color[c];
    pixel.inv_depth += weight * s.inv_depth;
    pixel.carrier += weight * s.carrier;
    pixel.transmittance = after;
    pixel.blended = entry + 1;
}

// state: of one bucket or tile, (channels, 256).
template <class T, bool kCarrier>
__device__ void store_state(const Pixel<T>& pixel, T* state) {
    T* at = state + threadIdx.x;
    at[kTransmittance * kTilePixels] = pixel.transmittance;
    for (int c = 0; c < 3; ++c) at[(kRed + c) * kTilePixels] = pixel.color[c];
    at[kInverseDepth * kTilePixels] = pixel.inv_depth;
    if (kCarrier) at[kCarried * kTilePixels] = pixel.carrier;
}

template <class T>
__device__ void store_pixel(const Pixel<T>& pixel, int column, int row, const Picture<T>& out) {
    const int64_t at = int64_t(row) * out.width + column, plane = int64_t(out.width) * out.height;
    for (int c = 0; c < 3; ++c)
        out.color[at + c * plane] = pixel.color[c] + pixel.transmittance * out.background[c];
    out.inv_depth[at] = pixel.inv_depth;
    if (out.carrier) out.carrier[at] = pixel.carrier;
    out.transmittance[at] = pixel.transmittance;
    out.blended[at] = pixel.blended;
}

// The largest value of the block, in thread 0.
__device__ int block_max(int value) {
    GS_SHARED(int, of_warps, [kTilePixels / kWarp]);
    for (int other = kWarp / 2; other > 0; other /= 2) {
        const int its = __shfl_xor_sync(kWholeWarp, value, other);
        value = its > value ? its : value;
    }
    if (lane_index() == 0) of_warps[warp_index()] = value;
    __syncthreads();
    if (threadIdx.x == 0)
        for (int w = 0; w < kTilePixels / kWarp; ++w) value = of_warps[w] > value ? of_warps[w] : value;
    return value;
}

template <class T, bool kCarrier, bool kKeep>
__global__ void __launch_bounds__(kTilePixels)
    blend_tile(const Splat<T>* splats, Lists lists, Picture<T> out, History<T> history) {
    GS_SHARED(Splat<T>, batch, [kBatch]);
    const int64_t tile = blockIdx.x, begin = lists.tile_start[tile];
    const int64_t length = lists.tile_start[tile + 1] - begin;
    const int64_t state_size = channels(kCarrier) * kTilePixels;
    const int lane = lane_index();
    const Chunk chunk(tile, lists.tiles_x, warp_index());
    const int column = chunk.column(lane), row = chunk.row(lane);
    Pixel<T> pixel;
    pixel.ended = column >= out.width || row >= out.height;

    for (int64_t start = 0; start < length; start += kBatch) {
        if (__syncthreads_and(pixel.ended)) break;
        if (start + threadIdx.x < length)
            batch[threadIdx.x] = splats[lists.gaussians[begin + start + threadIdx.x]];
        __syncthreads();
        for (int group = 0; group < kBatch && start + group < length; group += kBucket) {
            if (!__ballot_sync(kWholeWarp, !pixel.ended)) break;
            if (kKeep) {
                const int64_t bucket = lists.first_bucket(tile) + (start + group) / kBucket;
                store_state<T, kCarrier>(pixel, history.before + bucket * state_size);
            }
            const bool meets = start + group + lane < length && chunk.meets(batch[group + lane]);
            for (unsigned todo = __ballot_sync(kWholeWarp, meets); todo; todo &= todo - 1) {
                const int next = group + __ffs(todo) - 1;
                if (!pixel.ended) blend_splat(batch[next], column, row, int32_t(start + next), pixel);
            }
        }
    }

    if (column < out.width && row < out.height) store_pixel(pixel, column, row, out);
    if (!kKeep) return;
    store_state<T, kCarrier>(pixel, history.at_end + tile * state_size);
    const int reach = block_max(pixel.blended);
    if (threadIdx.x == 0) history.reach[tile] = reach;
}

}  // namespace

template <class T>
void blend(const Splat<T>* splats, const Lists& lists, const Picture<T>& out, const History<T>* history,
           const Queue& queue) {
    const int64_t tiles = lists.tiles();
    const History<T> kept = history ? *history : History<T>{};
    if (history && out.carrier)
        GS_LAUNCH((blend_tile<T, true, true>), tiles, kTilePixels, queue, splats, lists, out, kept);
    else if (history)
        GS_LAUNCH((blend_tile<T, false, true>), tiles, kTilePixels, queue, splats, lists, out, kept);
    else
        GS_LAUNCH((blend_tile<T, true, false>), tiles, kTilePixels, queue, splats, lists, out, kept);
}

template void blend(const Splat<float>*, const Lists&, const Picture<float>&, const History<float>*,
                    const Queue&);
template void blend(const Splat<double>*, const Lists&, const Picture<double>&, const History<double>*,
                    const Queue&);

}  // namespace cuda
}  // namespace gs
