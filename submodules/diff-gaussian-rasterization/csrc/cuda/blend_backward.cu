// The gradients of the blend: one block a tile, one warp two chunks of it, one thread a pixel of each, front
// to back as in the forward pass, which has left word of the splats that each chunk met. What the pixels of a
// warp add to a splat is summed over its lanes, and then over the warps in a fixed order: no atomics, and the
// same bits every time. Summing costs as much as the pixels do, hence two chunks at a time.
#include "cuda/stages.h"
#include "cuda/tile.h"
#include "cuda/warp_sums.h"
#include "pass.h"

namespace gs {
namespace cuda {
namespace {

// The sums of a pass that are added up lane by lane, in the order of Sum without those that it leaves out.
template <class Pass>
struct Folded {
    static constexpr int kLast = Pass::statistics ? kEnergy : kInvDepth;
    static constexpr int kCount = kLast + 1 - !Pass::carrier - !Pass::depth;

    __device__ static constexpr int place(int sum) {
        return sum - (sum > kCarrier && !Pass::carrier) - (sum > kInvDepth && !Pass::depth);
    }
    __device__ static constexpr bool has(int sum) {
        return sum < sum_count(Pass::statistics) && (sum != kCarrier || Pass::carrier) &&
               (sum != kInvDepth || Pass::depth);
    }
    // The opposite of `place`.
    __device__ static constexpr int sum(int place) {
        if (place < 0) return place;
        const int at = place + (place >= kCarrier && !Pass::carrier);
        return at + (at >= kInvDepth && !Pass::depth);
    }
};

// What is known of a pixel, and what changes from splat to splat.
template <class T>
struct PixelBehind {
    T x, y;  // centre
    T grad_color[3] = {0, 0, 0};
    T grad_inv_depth = 0;
    T grad_carrier = 0;
    T energy_weight = 1;
    int32_t blended = 0;
    T transmittance = 1;
    T behind = 0;  // sum over what lies behind of w times (feature . gradient), background included
    T behind_color[3] = {0, 0, 0};  // sum of w c likewise, for the removal energy
};

// gathered: of the tile, (channels, 256).
template <class T, class Pass>
__device__ PixelBehind<T> load_pixel(const Picture<T>& picture, const PictureGradients<T>& grad,
                                     const Chunk& chunk, int lane, const T* gathered) {
    const int column = chunk.column(lane), row = chunk.row(lane);
    PixelBehind<T> pixel = {T(column) + T(0.5), T(row) + T(0.5)};
    if (column >= picture.width || row >= picture.height) return pixel;
    const int64_t at = int64_t(row) * picture.width + column, plane = int64_t(picture.width) * picture.height;
    const T* its = gathered + chunk.number * kWarp + lane;
    pixel.blended = picture.blended[at];
    for (int c = 0; c < 3; ++c) {
        pixel.grad_color[c] = grad.color[at + c * plane];
        pixel.behind_color[c] = its[c * kTilePixels] + picture.transmittance[at] * picture.background[c];
        pixel.behind += pixel.behind_color[c] * pixel.grad_color[c];
    }
    if (Pass::depth) {
        pixel.grad_inv_depth = grad.inv_depth[at];
        pixel.behind += its[kInverseDepth * kTilePixels] * pixel.grad_inv_depth;
    }
    if (Pass::carrier) {
        pixel.grad_carrier = grad.carrier[at];
        pixel.behind += its[kCarried * kTilePixels] * pixel.grad_carrier;
    }
    if (Pass::statistics && grad.energy_weights) pixel.energy_weight = grad.energy_weights[at];
    return pixel;
}

// What one pixel adds to a splat's sums, nothing where it does not see it; moves the pixel behind it. Lanes
// do alike whatever their pixels see: waiting for those that do more would cost as much.
template <class T, class Pass>
struct Share {
    bool seen;
    T weight;

    __device__ Share(const Splat<T>& s, int entry, PixelBehind<T>& pixel, T* v) {
        using F = Folded<Pass>;
        const T dx = pixel.x - s.x, dy = pixel.y - s.y, gaussian = gaussian_at(s, dx, dy);
        const T footprint = s.opacity * gaussian, modulated = s.importance * footprint;
        seen = entry < pixel.blended && footprint >= kMinAlpha<T>;
        const T alpha = seen ? clamped_alpha<T>(modulated) : T(0), inv = reciprocal(1 - alpha);
        const T before = pixel.transmittance;
        weight = alpha * before;
        T toward = T(0);  // the pixel's gradient along the splat's features
        for (int c = 0; c < 3; ++c) {
            toward += s.color[c] * pixel.grad_color[c];
            v[F::place(kColor + c)] += weight * pixel.grad_color[c];
        }
        if constexpr (Pass::depth) {
            toward += s.inv_depth * pixel.grad_inv_depth;
            v[F::place(kInvDepth)] += weight * pixel.grad_inv_depth;
        }
        if constexpr (Pass::carrier) {
            toward += s.carrier * pixel.grad_carrier;
            v[F::place(kCarrier)] += weight * pixel.grad_carrier;
        }
        pixel.behind -= weight * toward;
        pixel.transmittance = transmittance_after(before, 1 - alpha);
        if constexpr (Pass::statistics) {
            T energy = 0;
            for (int c = 0; c < 3; ++c) {
                pixel.behind_color[c] -= weight * s.color[c];
                energy += square(change_if_removed(pixel.transmittance, s.color[c], pixel.behind_color[c]));
            }
            v[F::place(kEnergy)] += square(alpha * inv) * (energy * pixel.energy_weight);
            v[F::place(kWeight)] += weight;
        }
        const bool moves = seen && modulated < kMaxAlpha<T>;  // a clamped alpha has no gradient
        const T x = moves ? gaussian * alpha_gradient(before, toward, pixel.behind, inv) : T(0);
        const T x_dx = x * dx, x_dy = x * dy;
        v[kX] += x;
        v[kXdx] += x_dx;
        v[kXdy] += x_dy;
        v[kXdxdx] += x_dx * dx;
        v[kXdxdy] += x_dx * dy;
        v[kXdydy] += x_dy * dy;
    }
};

// Adds up what the pixels of a warp give to one splat: sums (sum_count,). meets: which chunks do at all.
// place: which sum is the lane's.
template <class T, class Pass>
__device__ void sum_pixels(const Splat<T>& s, int entry, const bool (&meets)[kHalves], int place,
                           PixelBehind<T> (&pixels)[kHalves], T* sums) {
    using F = Folded<Pass>;
    T v[F::kCount] = {}, largest = T(0);
    int seen_by = 0;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
        if (!meets[half]) continue;  // alike for all lanes
        const Share<T, Pass> share(s, entry, pixels[half], v);
        if (!Pass::statistics) continue;
        seen_by += __popc(__ballot_sync(kWholeWarp, share.seen));
        largest = share.weight > largest ? share.weight : largest;
    }
    const T sum = warp_sums(v);
    if (place >= 0) sums[place] = sum;
    if (!Pass::statistics) return;
    largest = warp_max(largest);
    if (lane_index() != 0) return;
    sums[kPixelCount] = T(seen_by);
    sums[kWeightMax] = largest;
}

// What the warps have summed up for each entry of a bucket, and which of them have met it.
template <class T, class Pass>
struct WarpSums {
    T of[kTileWarps][kBucket][sum_count(Pass::statistics)];
    unsigned met[kTileWarps];

    // The total of a sum, or the largest value, over the warps that have met entry k.
    __device__ T total(int k, int sum) const {
        T total = T(0);
        for (int w = 0; w < kTileWarps; ++w) {
            if (!(met[w] >> k & 1)) continue;
            const T its = of[w][k][sum];
            total = sum == kWeightMax ? (its > total ? its : total) : total + its;
        }
        return total;
    }
};

// pair_of: of the bucket's entries, of which there are `left` or all.
template <class T, class Pass>
__device__ void write_bucket(const WarpSums<T, Pass>& sums, const uint32_t* pair_of, int left, T* pair_sums) {
    const int entries = left < kBucket ? left : kBucket;
    constexpr int kRow = pair_width(Pass::statistics);
#pragma unroll 1  // it runs three or four times, and registers are short
    for (int e = int(threadIdx.x); e < entries * kRow; e += kTileThreads) {
        const int k = e / kRow, sum = e % kRow;
        pair_sums[int64_t(pair_of[k]) * kRow + sum] = Folded<Pass>::has(sum) ? sums.total(k, sum) : T(0);
    }
}

template <class T, class Pass>
__global__ void __launch_bounds__(kTileThreads)
    blend_tile_backward(const Splat<T>* splats, Lists lists, Picture<T> picture, History<T> history,
                        PictureGradients<T> grad, T* pair_sums) {
    constexpr int kRow = pair_width(Pass::statistics);
    using Sums = WarpSums<T, Pass>;
    GS_SHARED(Splat<T>, bucket, [kBucket]);
    GS_SHARED(Sums, sums);
    const int64_t tile = blockIdx.x, begin = lists.tile_start[tile];
    const int length = int(lists.tile_start[tile + 1] - begin), lane = lane_index(), warp = warp_index();
    // Through a shuffle, so that the compiler keeps it instead of working it out again for every splat.
    const int place = __shfl_sync(kWholeWarp, Folded<Pass>::sum(sum_place<Folded<Pass>::kCount>(lane)), lane);
    const T* gathered = history.gathered + tile * channels(picture.carrier != nullptr) * kTilePixels;
    PixelBehind<T> pixels[kHalves];
    int reach[kHalves], chunk_number[kHalves];  // reach: entries up to the last one blended into the chunk
    for (int half = 0; half < kHalves; ++half) {
        const Chunk chunk(tile, lists.tiles_x, warp, half);
        pixels[half] = load_pixel<T, Pass>(picture, grad, chunk, lane, gathered);
        reach[half] = warp_max(pixels[half].blended);
        chunk_number[half] = chunk.number;
    }

    int start = 0;
    for (; start < length; start += kBucket) {
        if (__syncthreads_and(start >= reach[0] && start >= reach[1])) break;  // and nobody looks any more
        const uint32_t* met = history.met + (lists.first_bucket(tile) + start / kBucket) * kChunks;
        unsigned mine[kHalves];
        for (int half = 0; half < kHalves; ++half)
            mine[half] = start < reach[half] ? met[chunk_number[half]] : 0;
        const unsigned either = mine[0] | mine[1];
        if (lane == 0) sums.met[warp] = either;
        if (threadIdx.x < kBucket && start + int(threadIdx.x) < length)
            copy_aligned<sizeof(Splat<T>)>(&splats[lists.gaussians[begin + start + threadIdx.x]],
                                           &bucket[threadIdx.x]);
        __syncthreads();
        for (unsigned todo = either, bit; todo; todo ^= bit) {
            bit = todo & -todo;
            const int k = __ffs(bit) - 1;
            const bool meets[kHalves] = {bool(mine[0] & bit), bool(mine[1] & bit)};
            Splat<T> splat;
            copy_aligned<sizeof splat>(&bucket[k], &splat);
            sum_pixels<T, Pass>(splat, start + k, meets, place, pixels, sums.of[warp][k]);
        }
        __syncthreads();
        write_bucket(sums, lists.pair_of + begin + start, length - start, pair_sums);
    }
    // What lies behind is hidden.
#pragma unroll 1
    for (int64_t e = int64_t(start) * kRow + threadIdx.x; e < int64_t(length) * kRow; e += kTileThreads)
        pair_sums[int64_t(lists.pair_of[begin + e / kRow]) * kRow + e % kRow] = T(0);
}

}  // namespace

template <class T>
void blend_backward(const Splat<T>* splats, const Lists& lists, const Picture<T>& picture,
                    const History<T>& history, const PictureGradients<T>& grad, bool statistics, T* pair_sums,
                    const Queue& queue) {
    if (lists.pairs == 0) return;
    with_pass(
        [&](auto pass) {
            GS_LAUNCH((blend_tile_backward<T, decltype(pass)>), lists.tiles(), kTileThreads, queue, splats,
                      lists, picture, history, grad, pair_sums);
        },
        grad.carrier != nullptr, grad.inv_depth != nullptr, statistics);
}

template void blend_backward(const Splat<float>*, const Lists&, const Picture<float>&, const History<float>&,
                             const PictureGradients<float>&, bool, float*, const Queue&);
template void blend_backward(const Splat<double>*, const Lists&, const Picture<double>&,
                             const History<double>&, const PictureGradients<double>&, bool, double*,
                             const Queue&);

}  // namespace cuda
}  // namespace gs
