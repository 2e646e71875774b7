// The gradients of the blend: one block a tile, one warp a chunk, one thread a pixel, front to back as in the
// forward pass, which has left word of the splats that each chunk met. What the pixels of a chunk add to a
// splat is summed over the warp, and then over the chunks in a fixed order: no atomics, and the same bits
// every time.
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

template <class T, class Pass>
__device__ PixelBehind<T> load_pixel(const Picture<T>& picture, const PictureGradients<T>& grad, int column,
                                     int row, const T* gathered) {
    PixelBehind<T> pixel = {T(column) + T(0.5), T(row) + T(0.5)};
    if (column >= picture.width || row >= picture.height) return pixel;
    const int64_t at = int64_t(row) * picture.width + column, plane = int64_t(picture.width) * picture.height;
    const T* its = gathered + threadIdx.x;
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

// Whether the pixel sees the splat; if so, G and importance * opacity * G there.
template <class T>
__device__ bool sees(const PixelBehind<T>& pixel, const Splat<T>& s, int entry, T& gaussian, T& modulated) {
    gaussian = gaussian_at(s, pixel.x - s.x, pixel.y - s.y);
    const T footprint = s.opacity * gaussian;
    modulated = s.importance * footprint;
    return entry < pixel.blended && footprint >= kMinAlpha<T>;
}

// What one pixel adds to a splat's sums; moves the pixel behind it. Returns the weight.
template <class T, class Pass>
__device__ T differentiate(const Splat<T>& s, T gaussian, T modulated, PixelBehind<T>& pixel, T* v) {
    using F = Folded<Pass>;
    const T alpha = clamped_alpha<T>(modulated), inv = reciprocal(1 - alpha);
    const T before = pixel.transmittance, weight = alpha * before;
    T toward = T(0);  // the pixel's gradient along the splat's features
    for (int c = 0; c < 3; ++c) {
        toward += s.color[c] * pixel.grad_color[c];
        v[F::place(kColor + c)] = weight * pixel.grad_color[c];
    }
    if constexpr (Pass::depth) {
        toward += s.inv_depth * pixel.grad_inv_depth;
        v[F::place(kInvDepth)] = weight * pixel.grad_inv_depth;
    }
    if constexpr (Pass::carrier) {
        toward += s.carrier * pixel.grad_carrier;
        v[F::place(kCarrier)] = weight * pixel.grad_carrier;
    }
    pixel.behind -= weight * toward;
    pixel.transmittance = transmittance_after(before, 1 - alpha);
    if constexpr (Pass::statistics) {
        T energy = 0;
        for (int c = 0; c < 3; ++c) {
            pixel.behind_color[c] -= weight * s.color[c];
            energy += square(change_if_removed(pixel.transmittance, s.color[c], pixel.behind_color[c]));
        }
        v[F::place(kEnergy)] = square(alpha * inv) * (energy * pixel.energy_weight);
        v[F::place(kWeight)] = weight;
    }
    if (!(modulated < kMaxAlpha<T>)) return weight;
    const T dx = pixel.x - s.x, dy = pixel.y - s.y;
    const T x = gaussian * alpha_gradient(before, toward, pixel.behind, inv);
    v[kX] = x;
    v[kXdx] = x * dx;
    v[kXdy] = x * dy;
    v[kXdxdx] = x * dx * dx;
    v[kXdxdy] = x * dx * dy;
    v[kXdydy] = x * dy * dy;
    return weight;
}

// Adds up what the pixels of one chunk give to one splat: sums (sum_count,). place: which of them is the
// lane's.
template <class T, class Pass>
__device__ void sum_chunk(const Splat<T>& s, int entry, int place, PixelBehind<T>& pixel, T* sums) {
    using F = Folded<Pass>;
    T v[F::kCount] = {}, gaussian, modulated, weight = T(0);
    const bool seen = sees(pixel, s, entry, gaussian, modulated);
    if (seen) weight = differentiate<T, Pass>(s, gaussian, modulated, pixel, v);
    const T sum = warp_sums(v);
    if (place >= 0) sums[place] = sum;
    if (!Pass::statistics) return;
    const unsigned pixels = __ballot_sync(kWholeWarp, seen);
    const T largest = warp_max(weight);
    if (lane_index() != 0) return;
    sums[kPixelCount] = T(__popc(pixels));
    sums[kWeightMax] = largest;
}

// The total of a sum, or the largest value, over the chunks that have met entry k of the bucket.
template <class T, int kWidth>
__device__ T over_chunks(const T (&of_chunks)[kChunks][kBucket][kWidth], const unsigned* met, int k,
                         int sum) {
    T total = T(0);
    for (int c = 0; c < kChunks; ++c) {
        if (!(met[c] >> k & 1)) continue;
        const T its = of_chunks[c][k][sum];
        total = sum == kWeightMax ? (its > total ? its : total) : total + its;
    }
    return total;
}

// pair_of: of the bucket's entries, of which there are `left` or all.
template <class T, class Pass, int kWidth>
__device__ void write_bucket(const T (&of_chunks)[kChunks][kBucket][kWidth], const unsigned* met,
                             const uint32_t* pair_of, int left, T* pair_sums) {
    const int entries = left < kBucket ? left : kBucket;
    constexpr int kRow = pair_width(Pass::statistics);
#pragma unroll 1  // it runs once or twice, and registers are short
    for (int e = int(threadIdx.x); e < entries * kRow; e += kTilePixels) {
        const int k = e / kRow, sum = e % kRow;
        pair_sums[int64_t(pair_of[k]) * kRow + sum] =
            Folded<Pass>::has(sum) ? over_chunks(of_chunks, met, k, sum) : T(0);
    }
}

template <class T, class Pass>
__global__ void __launch_bounds__(kTilePixels)
    blend_tile_backward(const Splat<T>* splats, Lists lists, Picture<T> picture, History<T> history,
                        PictureGradients<T> grad, T* pair_sums) {
    constexpr int kWidth = sum_count(Pass::statistics), kRow = pair_width(Pass::statistics);
    GS_SHARED(Splat<T>, bucket, [kBucket]);
    GS_SHARED(T, of_chunks, [kChunks][kBucket][kWidth]);
    GS_SHARED(unsigned, met, [kChunks]);
    const int64_t tile = blockIdx.x, begin = lists.tile_start[tile];
    const int length = int(lists.tile_start[tile + 1] - begin), lane = lane_index(), warp = warp_index();
    // Through a shuffle, so that the compiler keeps it instead of working it out again for every splat.
    const int place = __shfl_sync(kWholeWarp, Folded<Pass>::sum(sum_place<Folded<Pass>::kCount>(lane)), lane);
    const Chunk chunk(tile, lists.tiles_x, warp);
    PixelBehind<T> pixel =
        load_pixel<T, Pass>(picture, grad, chunk.column(lane), chunk.row(lane),
                            history.gathered + tile * channels(picture.carrier != nullptr) * kTilePixels);
    const int reach = warp_max(pixel.blended);  // entries up to the last one blended into the chunk

    int start = 0;
    for (; start < length; start += kBucket) {
        if (__syncthreads_and(start >= reach)) break;  // and nobody looks at the last bucket any more
        const int64_t number = lists.first_bucket(tile) + start / kBucket;
        const unsigned mine = start < reach ? history.met[number * kChunks + warp] : 0;
        if (lane == 0) met[warp] = mine;
        if (threadIdx.x < kBucket && start + int(threadIdx.x) < length)
            copy_aligned<sizeof(Splat<T>)>(&splats[lists.gaussians[begin + start + threadIdx.x]],
                                           &bucket[threadIdx.x]);
        __syncthreads();
        for (unsigned todo = mine; todo; todo &= todo - 1) {
            const int k = __ffs(todo) - 1;
            sum_chunk<T, Pass>(bucket[k], start + k, place, pixel, of_chunks[warp][k]);
        }
        __syncthreads();
        write_bucket<T, Pass>(of_chunks, met, lists.pair_of + begin + start, length - start, pair_sums);
    }
    // What lies behind is hidden.
#pragma unroll 1
    for (int64_t e = int64_t(start) * kRow + threadIdx.x; e < int64_t(length) * kRow; e += kTilePixels)
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
            GS_LAUNCH((blend_tile_backward<T, decltype(pass)>), lists.tiles(), kTilePixels, queue, splats,
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
