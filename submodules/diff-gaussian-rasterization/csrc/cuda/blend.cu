// Front to back: one block a tile, one thread a pixel. Each warp first sorts out, one lane a splat, which of
// the next 32 splats meet its 8x4 pixels, and then blends only those.
#include "cuda/stages.h"
#include "cuda/tile.h"

namespace gs {
namespace cuda {
namespace {

constexpr int kBatch = kTilePixels;  // splats that a block fetches at a time

// A splat in shared memory: without the padding, lanes that read one each would wait for the same banks.
template <class T>
struct Padded {
    Splat<T> splat;
    T padding[4];
};

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

// Returns whether it was blended.
template <class T>
__device__ bool blend_splat(const Splat<T>& s, int column, int row, int32_t entry, Pixel<T>& pixel) {
    const T dx = T(column) + T(0.5) - s.x, dy = T(row) + T(0.5) - s.y;
    const T footprint = s.opacity * gaussian_at(s, dx, dy);
    if (!(footprint >= kMinAlpha<T>)) return false;
    const T alpha = clamped_alpha<T>(s.importance * footprint);
    const T after = transmittance_after(pixel.transmittance, 1 - alpha);
    if (after < kMinTransmittance<T>) {
        pixel.ended = true;
        return false;
    }
    const T weight = alpha * pixel.transmittance;
    for (int c = 0; c < 3; ++c) pixel.color[c] += weight * s.color[c];
    pixel.inv_depth += weight * s.inv_depth;
    pixel.carrier += weight * s.carrier;
    pixel.transmittance = after;
    pixel.blended = entry + 1;
    return true;
}

// gathered: of one tile, (channels, 256).
template <class T>
__device__ void store_gathered(const Pixel<T>& pixel, bool carrier, T* gathered) {
    T* at = gathered + threadIdx.x;
    for (int c = 0; c < 3; ++c) at[c * kTilePixels] = pixel.color[c];
    at[kInverseDepth * kTilePixels] = pixel.inv_depth;
    if (carrier) at[kCarried * kTilePixels] = pixel.carrier;
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

// history: null pointers when there will be no backward pass.
template <class T>
__global__ void __launch_bounds__(kTilePixels)
    blend_tile(const Splat<T>* splats, Lists lists, Picture<T> out, History<T> history) {
    GS_SHARED(Padded<T>, batch, [kBatch]);
    const int64_t tile = blockIdx.x, begin = lists.tile_start[tile];
    const int64_t length = lists.tile_start[tile + 1] - begin;
    const int lane = lane_index(), warp = warp_index();
    const Chunk chunk(tile, lists.tiles_x, warp);
    const int column = chunk.column(lane), row = chunk.row(lane);
    Pixel<T> pixel;
    pixel.ended = column >= out.width || row >= out.height;

    for (int64_t start = 0; start < length; start += kBatch) {
        if (__syncthreads_and(pixel.ended)) break;
        if (start + threadIdx.x < length)
            copy_aligned<sizeof(Splat<T>)>(&splats[lists.gaussians[begin + start + threadIdx.x]],
                                           &batch[threadIdx.x].splat);
        __syncthreads();
        for (int group = 0; group < kBatch && start + group < length; group += kBucket) {
            if (!__ballot_sync(kWholeWarp, !pixel.ended)) break;
            unsigned met = 0;
            const bool meets = start + group + lane < length && chunk.meets(batch[group + lane].splat);
            for (unsigned todo = __ballot_sync(kWholeWarp, meets); todo; todo &= todo - 1) {
                const int k = __ffs(todo) - 1, next = group + k;
                const bool blends =
                    !pixel.ended && blend_splat(batch[next].splat, column, row, int32_t(start + next), pixel);
                if (__ballot_sync(kWholeWarp, blends)) met |= 1u << k;
            }
            if (history.met && lane == 0) {
                const int64_t bucket = lists.first_bucket(tile) + (start + group) / kBucket;
                history.met[bucket * kChunks + warp] = met;
            }
        }
    }

    if (column < out.width && row < out.height) store_pixel(pixel, column, row, out);
    if (!history.gathered) return;
    const bool carrier = out.carrier != nullptr;
    store_gathered(pixel, carrier, history.gathered + tile * channels(carrier) * kTilePixels);
}

}  // namespace

template <class T>
void blend(const Splat<T>* splats, const Lists& lists, const Picture<T>& out, const History<T>* history,
           const Queue& queue) {
    GS_LAUNCH(blend_tile<T>, lists.tiles(), kTilePixels, queue, splats, lists, out,
              history ? *history : History<T>{});
}

template void blend(const Splat<float>*, const Lists&, const Picture<float>&, const History<float>*,
                    const Queue&);
template void blend(const Splat<double>*, const Lists&, const Picture<double>&, const History<double>*,
                    const Queue&);

}  // namespace cuda
}  // namespace gs
