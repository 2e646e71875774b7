// Front to back: one block a tile, one warp two chunks of it, one thread a pixel of each. Each warp first
// sorts out, one lane a splat, which of the next 32 splats meet its chunks, and then blends only those.
#include "cuda/stages.h"
#include "cuda/tile.h"

namespace gs {
namespace cuda {
namespace {

constexpr int kBatch = kTileThreads;  // splats that a block fetches at a time

// A splat in shared memory: without the padding, lanes that read one each would wait for the same banks.
template <class T>
struct Padded {
    Splat<T> splat;
    T padding[4];
};

// What a pixel has gathered so far. Lanes do alike whatever their pixels see: what some need not do costs
// less than asking.
template <class T>
struct Pixel {
    T x, y;  // centre
    T transmittance = 1;
    T color[3] = {0, 0, 0};
    T inv_depth = 0;
    T carrier = 0;
    T least = kMinAlpha<T>;  // that it sees of a splat; infinite when it has ended
    int32_t blended = 0;     // list entries up to the last one blended

    __device__ bool ended() const { return least > 1; }
    __device__ void end() { least = T(INFINITY); }

    // Returns whether the splat was blended.
    __device__ bool blend(const Splat<T>& s, int32_t entry) {
        const T footprint = s.opacity * gaussian_at(s, x - s.x, y - s.y);
        const T alpha = clamped_alpha<T>(s.importance * footprint);
        const T after = transmittance_after(transmittance, 1 - alpha);
        const bool seen = footprint >= least, last = seen && after < kMinTransmittance<T>;
        const bool blends = seen && !last;
        const T weight = blends ? alpha * transmittance : T(0);
        for (int c = 0; c < 3; ++c) color[c] += weight * s.color[c];
        inv_depth += weight * s.inv_depth;
        carrier += weight * s.carrier;
        transmittance = blends ? after : transmittance;
        blended = blends ? entry + 1 : blended;
        least = last ? T(INFINITY) : least;
        return blends;
    }
};

// gathered: where the pixel's numbers go, kTilePixels apart.
template <class T>
__device__ void store_gathered(const Pixel<T>& pixel, bool carrier, T* gathered) {
    for (int c = 0; c < 3; ++c) gathered[c * kTilePixels] = pixel.color[c];
    gathered[kInverseDepth * kTilePixels] = pixel.inv_depth;
    if (carrier) gathered[kCarried * kTilePixels] = pixel.carrier;
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
__global__ void __launch_bounds__(kTileThreads)
    blend_tile(const Splat<T>* splats, Lists lists, Picture<T> out, History<T> history) {
    GS_SHARED(Padded<T>, batch, [kBatch]);
    const int64_t tile = blockIdx.x, begin = lists.tile_start[tile];
    const int64_t length = lists.tile_start[tile + 1] - begin;
    const int lane = lane_index(), warp = warp_index();
    const Chunk chunks[kHalves] = {{tile, lists.tiles_x, warp, 0}, {tile, lists.tiles_x, warp, 1}};
    Pixel<T> pixels[kHalves];
    for (int half = 0; half < kHalves; ++half) {
        const int column = chunks[half].column(lane), row = chunks[half].row(lane);
        pixels[half].x = T(column) + T(0.5);
        pixels[half].y = T(row) + T(0.5);
        if (column >= out.width || row >= out.height) pixels[half].end();
    }

    for (int64_t start = 0; start < length; start += kBatch) {
        if (__syncthreads_and(pixels[0].ended() && pixels[1].ended())) break;
        if (start + threadIdx.x < length)
            copy_aligned<sizeof(Splat<T>)>(&splats[lists.gaussians[begin + start + threadIdx.x]],
                                           &batch[threadIdx.x].splat);
        __syncthreads();
        for (int group = 0; group < kBatch && start + group < length; group += kBucket) {
            const bool listed = start + group + lane < length;
            unsigned meeting[kHalves], met[kHalves] = {};
            bool ended = true;
            for (int half = 0; half < kHalves; ++half) {
                const bool all_ended = !__any_sync(kWholeWarp, !pixels[half].ended());
                const bool meets = listed && !all_ended && chunks[half].meets(batch[group + lane].splat);
                meeting[half] = __ballot_sync(kWholeWarp, meets);
                ended = ended && all_ended;
            }
            if (ended) break;
            for (unsigned todo = meeting[0] | meeting[1], bit; todo; todo ^= bit) {
                bit = todo & -todo;
                const int next = group + __ffs(bit) - 1;
                Splat<T> splat;
                copy_aligned<sizeof splat>(&batch[next].splat, &splat);
#pragma unroll
                for (int half = 0; half < kHalves; ++half)
                    if (meeting[half] & bit) {  // alike for all lanes
                        const bool blends = pixels[half].blend(splat, int32_t(start + next));
                        if (__any_sync(kWholeWarp, blends)) met[half] |= bit;
                    }
            }
            if (history.met && lane == 0) {
                const int64_t bucket = lists.first_bucket(tile) + (start + group) / kBucket;
                for (int half = 0; half < kHalves; ++half)
                    history.met[bucket * kChunks + chunks[half].number] = met[half];
            }
        }
    }

    const bool carrier = out.carrier != nullptr;
    for (int half = 0; half < kHalves; ++half) {
        const int column = chunks[half].column(lane), row = chunks[half].row(lane);
        if (column < out.width && row < out.height) store_pixel(pixels[half], column, row, out);
        if (!history.gathered) continue;
        T* gathered = history.gathered + tile * channels(carrier) * kTilePixels;
        store_gathered(pixels[half], carrier, gathered + chunks[half].number * kWarp + lane);
    }
}

}  // namespace

template <class T>
void blend(const Splat<T>* splats, const Lists& lists, const Picture<T>& out, const History<T>* history,
           const Queue& queue) {
    GS_LAUNCH(blend_tile<T>, lists.tiles(), kTileThreads, queue, splats, lists, out,
              history ? *history : History<T>{});
}

template void blend(const Splat<float>*, const Lists&, const Picture<float>&, const History<float>*,
                    const Queue&);
template void blend(const Splat<double>*, const Lists&, const Picture<double>&, const History<double>*,
                    const Queue&);

}  // namespace cuda
}  // namespace gs
