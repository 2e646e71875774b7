// The gradients of the blend, parallel over Gaussians instead of pixels (the idea is that of Mallick et al.
// 2024, "Taming 3DGS", section 4.3): one warp takes one bucket of 32 entries of a tile's list, one lane an
// entry. The pixels of the tile walk through the lanes, front to back, each bringing what the forward pass
// had kept of it in front of the bucket, so that every lane adds up its own Gaussian alone: no atomics, and
// the same bits every time.
#include "cuda/stages.h"
#include "cuda/tile.h"
#include "pass.h"

namespace gs {
namespace cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;
constexpr int kRing = 2 * kWarp;  // pixels at hand: as many as lanes are under way, and the next chunk

// Two chunks of pixels. What a pixel brings along is that in front of the bucket. Where nothing was blended
// behind it, only the place and `blended` are set: the lanes hand on what stood there before, and use none of
// it.
template <class T>
struct Ring {
    T x[kRing], y[kRing];  // centre
    T transmittance[kRing];
    T behind[kRing];  // sum over what lies behind of w times (feature . gradient), background included
    T behind_color[3][kRing];  // sum of w c likewise, for the removal energy
    T grad_color[3][kRing];
    T grad_inv_depth[kRing];
    T grad_carrier[kRing];
    T energy_weight[kRing];
    int32_t blended[kRing];
};

// One bucket and the arrays that its pixels come from.
template <class T>
struct Bucket {
    int64_t tile;
    int32_t first_entry;
    int length;       // entries
    const T* before;  // (channels, 256)
    const T* at_end;  // likewise, of the tile
};

// The tile of a bucket's number: the last one whose buckets begin there or before.
__device__ int64_t tile_of_bucket(const Lists& lists, int64_t number) {
    int64_t low = 0, high = lists.tiles() - 1;
    while (low < high) {
        const int64_t middle = (low + high + 1) / 2;
        if (lists.first_bucket(middle) <= number)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

template <class T>
__device__ Bucket<T> find_bucket(const Lists& lists, const History<T>& history, int channels,
                                 int64_t number) {
    const int64_t tile = tile_of_bucket(lists, number);
    const int64_t first = (number - lists.first_bucket(tile)) * kBucket;
    const int64_t left = lists.tile_start[tile + 1] - lists.tile_start[tile] - first;
    const int64_t state_size = int64_t(channels) * kTilePixels;
    return {tile, int32_t(first), int(left < kBucket ? left : kBucket), history.before + number * state_size,
            history.at_end + tile * state_size};
}

template <class T, class Pass>
__device__ void load_pixel(const Bucket<T>& bucket, const Picture<T>& picture,
                           const PictureGradients<T>& grad, int pixel, int column, int row, int place,
                           Ring<T>& ring) {
    ring.x[place] = T(column) + T(0.5);
    ring.y[place] = T(row) + T(0.5);
    ring.blended[place] = 0;
    if (column >= picture.width || row >= picture.height) return;
    const int64_t at = int64_t(row) * picture.width + column, plane = int64_t(picture.width) * picture.height;
    ring.blended[place] = picture.blended[at];
    if (ring.blended[place] <= bucket.first_entry) return;  // nothing was kept

    const T* before = bucket.before + pixel;
    const T* at_end = bucket.at_end + pixel;
    const auto gathered_behind = [&](int c) { return at_end[c * kTilePixels] - before[c * kTilePixels]; };
    T behind = T(0);
    for (int c = 0; c < 3; ++c) {
        const T color =
            gathered_behind(kRed + c) + at_end[kTransmittance * kTilePixels] * picture.background[c];
        const T g = grad.color[at + c * plane];
        behind += color * g;
        ring.grad_color[c][place] = g;
        if (Pass::statistics) ring.behind_color[c][place] = color;
    }
    if (Pass::depth) {
        ring.grad_inv_depth[place] = grad.inv_depth[at];
        behind += gathered_behind(kInverseDepth) * grad.inv_depth[at];
    }
    if (Pass::carrier) {
        ring.grad_carrier[place] = grad.carrier[at];
        behind += gathered_behind(kCarried) * grad.carrier[at];
    }
    if (Pass::statistics) ring.energy_weight[place] = grad.energy_weights ? grad.energy_weights[at] : T(1);
    ring.transmittance[place] = before[kTransmittance * kTilePixels];
    ring.behind[place] = behind;
}

// What walks from lane to lane with a pixel.
template <class T>
struct Walker {
    T transmittance, behind, behind_color[3];
};

template <class T, class Pass>
__device__ Walker<T> next_walker(const Walker<T>& mine, const Ring<T>& ring, int place) {
    Walker<T> its;
    its.transmittance = __shfl_up_sync(kWholeWarp, mine.transmittance, 1);
    its.behind = __shfl_up_sync(kWholeWarp, mine.behind, 1);
    if (Pass::statistics)
        for (int c = 0; c < 3; ++c) its.behind_color[c] = __shfl_up_sync(kWholeWarp, mine.behind_color[c], 1);
    if (lane_index() > 0) return its;
    its.transmittance = ring.transmittance[place];
    its.behind = ring.behind[place];
    if (Pass::statistics)
        for (int c = 0; c < 3; ++c) its.behind_color[c] = ring.behind_color[c][place];
    return its;
}

// One pixel of one Gaussian: adds to its sums and moves the walker behind it.
template <class T, class Pass>
__device__ void differentiate(const Splat<T>& s, const Ring<T>& ring, int place, Walker<T>& w, T* sums) {
    const T dx = ring.x[place] - s.x, dy = ring.y[place] - s.y;
    const T gaussian = gaussian_at(s, dx, dy);
    const T footprint = s.opacity * gaussian;
    if (!(footprint >= kMinAlpha<T>)) return;
    const T modulated = s.importance * footprint;
    const T alpha = clamped_alpha<T>(modulated);
    const T inv = 1 / (1 - alpha), before = w.transmittance, weight = alpha * before;

    T toward = T(0);  // the pixel's gradient along this Gaussian's features
    for (int c = 0; c < 3; ++c) {
        const T g = ring.grad_color[c][place];
        toward += s.color[c] * g;
        sums[kColor + c] += weight * g;
    }
    if (Pass::depth) {
        toward += s.inv_depth * ring.grad_inv_depth[place];
        sums[kInvDepth] += weight * ring.grad_inv_depth[place];
    }
    if (Pass::carrier) {
        toward += s.carrier * ring.grad_carrier[place];
        sums[kCarrier] += weight * ring.grad_carrier[place];
    }
    w.behind -= weight * toward;
    w.transmittance = transmittance_after(before, 1 - alpha);
    if (Pass::statistics) {
        T energy = 0;
        for (int c = 0; c < 3; ++c) {
            w.behind_color[c] -= weight * s.color[c];
            energy += square(change_if_removed(w.transmittance, s.color[c], w.behind_color[c]));
        }
        sums[kEnergy] += square(alpha * inv) * (energy * ring.energy_weight[place]);
        sums[kWeight] += weight;
        sums[kPixelCount] += T(1);
        sums[kWeightMax] = weight > sums[kWeightMax] ? weight : sums[kWeightMax];
    }
    if (!(modulated < kMaxAlpha<T>)) return;
    const T x = gaussian * alpha_gradient(before, toward, w.behind, inv);
    sums[kX] += x;
    sums[kXdx] += x * dx;
    sums[kXdy] += x * dy;
    sums[kXdxdx] += x * dx * dx;
    sums[kXdxdy] += x * dx * dy;
    sums[kXdydy] += x * dy * dy;
}

// The chunks (bit c: chunk c) in which one of the bucket's Gaussians may meet a pixel that had not ended
// before it.
template <class T>
__device__ unsigned chunks_met(const Bucket<T>& bucket, const Lists& lists, const Picture<T>& picture,
                               const Splat<T>& splat, bool has_splat) {
    unsigned met = 0;
    for (int c = 0; c < kChunks; ++c) {
        const Chunk chunk(bucket.tile, lists.tiles_x, c);
        const int column = chunk.column(lane_index()), row = chunk.row(lane_index());
        const bool open = column < picture.width && row < picture.height &&
                          picture.blended[int64_t(row) * picture.width + column] > bucket.first_entry;
        if (__ballot_sync(kWholeWarp, open) && __ballot_sync(kWholeWarp, has_splat && chunk.meets(splat)))
            met |= 1u << c;
    }
    return met;
}

// Sends the pixels of the chunks through the warp.
template <class T, class Pass>
__device__ void walk_pixels(const Bucket<T>& bucket, const Lists& lists, const Picture<T>& picture,
                            const PictureGradients<T>& grad, const Splat<T>& splat, bool has_splat,
                            Ring<T>& ring, T* sums) {
    unsigned chunks = chunks_met(bucket, lists, picture, splat, has_splat);
    const int pixels = kWarp * __popc(chunks), lane = lane_index();
    const int32_t entry = bucket.first_entry + lane;
    Walker<T> walker = {};
    for (int step = 0; step < pixels + kWarp - 1; ++step) {
        if (step % kWarp == 0 && step < pixels) {
            const int c = __ffs(chunks) - 1;
            chunks &= chunks - 1;
            const Chunk chunk(bucket.tile, lists.tiles_x, c);
            __syncwarp();  // nobody looks at what is overwritten any more
            load_pixel<T, Pass>(bucket, picture, grad, c * kWarp + lane, chunk.column(lane), chunk.row(lane),
                                (step + lane) % kRing, ring);
            __syncwarp();
        }
        const int pixel = step - lane;
        const int place = pixel & (kRing - 1);
        const bool at_a_pixel = pixel >= 0 && pixel < pixels;
        walker = next_walker<T, Pass>(walker, ring, place);
        if (at_a_pixel && has_splat && entry < ring.blended[place])
            differentiate<T, Pass>(splat, ring, place, walker, sums);
    }
}

template <class T, class Pass>
__global__ void __launch_bounds__(kThreads)
    blend_bucket_backward(const Splat<T>* splats, Lists lists, Picture<T> picture, History<T> history,
                          PictureGradients<T> grad, T* pair_sums) {
    GS_SHARED(Ring<T>, rings, [kWarps]);
    const int64_t number = int64_t(blockIdx.x) * kWarps + warp_index();
    if (number >= lists.buckets()) return;
    const int kept_channels = channels(picture.carrier != nullptr);
    const Bucket<T> bucket = find_bucket(lists, history, kept_channels, number);
    if (bucket.length <= 0) return;
    const bool has_splat = lane_index() < bucket.length;
    const int64_t entry = lists.tile_start[bucket.tile] + bucket.first_entry + lane_index();
    T sums[kAllSums] = {};
    if (bucket.first_entry < history.reach[bucket.tile]) {
        Splat<T> splat = {};
        if (has_splat) splat = splats[lists.gaussians[entry]];
        walk_pixels<T, Pass>(bucket, lists, picture, grad, splat, has_splat, rings[warp_index()], sums);
    }
    if (!has_splat) return;
    constexpr int width = sum_count(Pass::statistics);
    T* out = pair_sums + int64_t(lists.pair_of[entry]) * width;
    for (int j = 0; j < width; ++j) out[j] = sums[j];
}

}  // namespace

template <class T>
void blend_backward(const Splat<T>* splats, const Lists& lists, const Picture<T>& picture,
                    const History<T>& history, const PictureGradients<T>& grad, bool statistics, T* pair_sums,
                    const Queue& queue) {
    if (lists.pairs == 0) return;
    with_pass(
        [&](auto pass) {
            GS_LAUNCH((blend_bucket_backward<T, decltype(pass)>), blocks_for(lists.buckets(), kWarps),
                      kThreads, queue, splats, lists, picture, history, grad, pair_sums);
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
