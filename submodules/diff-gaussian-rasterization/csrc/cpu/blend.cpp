// Per tile: front-to-back blending of its list, and the gradients back to front.
#include "parallel.h"
#include "../pass.h"
#include "visits.h"

namespace gs {
namespace GS_ISA {
namespace {

// ----------------------------------------------------------------------------------------------------
// Forward

template <class T>
struct ForwardTile {
    T transmittance[kPixels];  // negated once the pixel has ended; never positive outside the image
    T color[3][kPixels];
    T inv_depth[kPixels];
    T carrier[kPixels];
    int32_t blended[kPixels];
};

// Blends one splat into the pixels of a pack that starts at `at`.
template <class T, bool kWithCarrier>
GS_INLINE void blend_pixels(const Splat<T>& s, Lanes<T> gaussian, int32_t entry, int at,
                            ForwardTile<T>& tile) {
    using P = Lanes<T>;
    const P before = P::load(tile.transmittance + at);
    const P footprint = P(s.opacity) * gaussian;
    const LaneMask<T> seen = (footprint >= P(kMinAlpha<T>)) & (P(T(0)) < before);
    const P alpha = clamped_alpha<T>(P(s.importance) * footprint);
    const P after = transmittance_after(before, P(T(1)) - alpha);
    const LaneMask<T> ends = seen & (after < P(kMinTransmittance<T>));
    const LaneMask<T> blends = and_not(seen, ends);
    const P weight = zero_unless(blends, alpha * before);
    for (int c = 0; c < 3; ++c)
        fma(weight, P(s.color[c]), P::load(tile.color[c] + at)).store(tile.color[c] + at);
    fma(weight, P(s.inv_depth), P::load(tile.inv_depth + at)).store(tile.inv_depth + at);
    if (kWithCarrier) fma(weight, P(s.carrier), P::load(tile.carrier + at)).store(tile.carrier + at);
    select(ends, P(T(0)) - before, select(blends, after, before)).store(tile.transmittance + at);
    store_index(blends, entry + 1, tile.blended + at);
}

// Blocks of the tile (bit b: block b) in which a pixel has not ended.
template <class T>
GS_INLINE uint32_t open_blocks(const ForwardTile<T>& tile) {
    using P = Lanes<T>;
    uint32_t open = 0;
    for (int b = 0; b < kBlock; ++b) {
        P top(T(-1));
        for (int i = 0; i < kBlock; i += NativeWidth<T>::value)
            top = max(top, P::load(tile.transmittance + b * kBlock + i));
        open |= uint32_t(any(P(T(0)) < top)) << b;
    }
    return open;
}

template <class T, bool kWithCarrier>
void blend_list(const Splat<T>* splats, const uint32_t* list, uint16_t* met, int64_t length,
                const TileArea& area, ForwardTile<T>& tile) {
    constexpr int64_t kEntries = Visits<T>::kEntries;
    uint32_t open = open_blocks(tile);
    for (int64_t start = 0; start < length && open; start += kEntries, open = open_blocks(tile)) {
        const int64_t end = gs::min(start + kEntries, length);
        prefetch(splats, list, end, gs::min(end + kEntries, length));
        const Visits<T> visits(splats, list + start, int(end - start), area,
                               [&](int e, const Splat<T>& s) __attribute__((always_inline)) {
                                   met[start + e] = uint16_t(squares_met(s, area.x, area.y, kSide));
                                   return met[start + e] & open;
                               });
        for (int v = 0; v < visits.begin(int(end - start)); ++v) {
            const int e = visits.entry(v);
            for (int first = 0; first < kBlock; first += NativeWidth<T>::value)
                blend_pixels<T, kWithCarrier>(visits.splat(e), visits.gaussian(v, first), int32_t(start + e),
                                              visits.block(v) * kBlock + first, tile);
        }
    }
}

template <class T>
GS_INLINE void open_tile(const TileArea& area, ForwardTile<T>& tile) {
    memset(&tile, 0, sizeof tile);
    for (T& t : tile.transmittance) t = T(-1);
    for (int r = 0; r < area.rows; ++r)
        for_each_run(area, r, [&](int place, int, int length) {
            for (int i = 0; i < length; ++i) tile.transmittance[place + i] = T(1);
        });
}

template <class T>
GS_INLINE void store_tile(const TileArea& area, ForwardTile<T>& tile, const Picture<T>& out) {
    const int64_t plane = int64_t(out.width) * out.height;
    for (int i = 0; i < kPixels; ++i)
        tile.transmittance[i] = tile.transmittance[i] < 0 ? -tile.transmittance[i] : tile.transmittance[i];
    for (int c = 0; c < 3; ++c) {
        for (int i = 0; i < kPixels; ++i) tile.color[c][i] += tile.transmittance[i] * out.background[c];
        store_plane(area, out.width, tile.color[c], out.color + c * plane);
    }
    store_plane(area, out.width, tile.inv_depth, out.inv_depth);
    if (out.carrier) store_plane(area, out.width, tile.carrier, out.carrier);
    store_plane(area, out.width, tile.transmittance, out.transmittance);
    store_plane(area, out.width, tile.blended, out.blended);
}

template <class T>
void blend(const Splat<T>* splats, const TileLists& lists, const Picture<T>& out, int threads) {
    parallel_for(int64_t(lists.tiles_x) * lists.tiles_y, threads, [&](int64_t t) {
        const TileArea area(int(t), lists.tiles_x, out.width, out.height);
        const uint32_t* list = lists.gaussians + lists.tile_start[t];
        uint16_t* met = lists.blocks + lists.tile_start[t];
        const int64_t length = lists.tile_start[t + 1] - lists.tile_start[t];
        ForwardTile<T> tile;
        open_tile(area, tile);
        if (out.carrier)
            blend_list<T, true>(splats, list, met, length, area, tile);
        else
            blend_list<T, false>(splats, list, met, length, area, tile);
        store_tile(area, tile, out);
    });
}

// ----------------------------------------------------------------------------------------------------
// Backward

template <class T>
struct BackwardTile {
    T transmittance[kPixels];  // in front of the Gaussians done so far
    T behind[kPixels];  // sum over what lies behind of w times (feature . gradient), background included
    T behind_color[3][kPixels];  // sum of w c likewise, for the removal energy
    T grad_color[3][kPixels];
    T grad_inv_depth[kPixels];
    T grad_carrier[kPixels];
    T energy_weights[kPixels];
    int32_t blended[kPixels];
    int32_t block_blended[kBlock];  // the largest of each block
};

// The sums over the pixels of one tile for one Gaussian (PairSum), in lanes.
template <class T>
struct PairLanes {
    Lanes<T> sum[kAllSums];
    GS_INLINE void clear() {
        for (auto& s : sum) s = Lanes<T>(T(0));
    }
    GS_INLINE void add(int which, Lanes<T> a, Lanes<T> b) { sum[which] = fma(a, b, sum[which]); }
};

template <class T, class Pass>
GS_INLINE void blend_pixels_backward(const Splat<T>& s, const Offsets<T>& d, Lanes<T> gaussian, int32_t entry,
                                     int at, BackwardTile<T>& tile, PairLanes<T>& sums) {
    using P = Lanes<T>;
    const P footprint = P(s.opacity) * gaussian;
    const LaneMask<T> blends = (footprint >= P(kMinAlpha<T>)) & index_above(tile.blended + at, entry, P());
    const P modulated = P(s.importance) * footprint;
    const P alpha = zero_unless(blends, clamped_alpha<T>(modulated));
    const P behind = P::load(tile.behind + at), after = P::load(tile.transmittance + at);
    const P inv = reciprocal(P(T(1)) - alpha);
    const P before = after * inv;
    const P weight = alpha * before;

    P grad[3], toward = P(T(0));  // the pixel's gradient along this Gaussian's features
    for (int c = 0; c < 3; ++c) {
        grad[c] = P::load(tile.grad_color[c] + at);
        toward = fma(P(s.color[c]), grad[c], toward);
        sums.add(kColor + c, weight, grad[c]);
    }
    if (Pass::depth) {
        const P g = P::load(tile.grad_inv_depth + at);
        toward = fma(P(s.inv_depth), g, toward);
        sums.add(kInvDepth, weight, g);
    }
    if (Pass::carrier) {
        const P g = P::load(tile.grad_carrier + at);
        toward = fma(P(s.carrier), g, toward);
        sums.add(kCarrier, weight, g);
    }
    if (Pass::statistics) {
        P energy = P(T(0));
        for (int c = 0; c < 3; ++c) {
            const P back = P::load(tile.behind_color[c] + at);
            const P change = change_if_removed(after, P(s.color[c]), back);
            energy = fma(change, change, energy);
            fma(weight, P(s.color[c]), back).store(tile.behind_color[c] + at);
        }
        sums.add(kEnergy, energy * P::load(tile.energy_weights + at), square(alpha * inv));
        sums.sum[kWeight] = sums.sum[kWeight] + weight;
        sums.sum[kPixelCount] = sums.sum[kPixelCount] + zero_unless(blends, P(T(1)));
        sums.sum[kWeightMax] = max(sums.sum[kWeightMax], weight);
    }
    const P grad_alpha = alpha_gradient(before, toward, behind, inv);
    fma(weight, toward, behind).store(tile.behind + at);
    before.store(tile.transmittance + at);

    const P x = zero_unless(blends & (modulated < P(kMaxAlpha<T>)), gaussian * grad_alpha);
    const P x_dx = x * d.dx, x_dy = x * d.dy;
    sums.sum[kX] = sums.sum[kX] + x;
    sums.sum[kXdx] = sums.sum[kXdx] + x_dx;
    sums.sum[kXdy] = sums.sum[kXdy] + x_dy;
    sums.add(kXdxdx, x_dx, d.dx);
    sums.add(kXdxdy, x_dx, d.dy);
    sums.add(kXdydy, x_dy, d.dy);
}

template <class T>
GS_INLINE uint32_t blocks_reaching(const BackwardTile<T>& tile, int32_t entry) {
    uint32_t blocks = 0;
    for (int b = 0; b < kBlock; b += NativeWidth<T>::value)
        blocks |= bits(index_above(tile.block_blended + b, entry, Lanes<T>())) << b;
    return blocks;
}

template <class T, class Pass>
GS_INLINE void store_sums(PairLanes<T>& sums, PairSums<T>& out) {
    lane_sums<Pass::statistics ? kAllSums : kGradientSums>(sums.sum, out.of);
    if (Pass::statistics) out.of[kWeightMax] = lane_max(sums.sum[kWeightMax]);
}

template <class T, class Pass>
void blend_list_backward(const Splat<T>* splats, const uint32_t* list, const uint16_t* met, int64_t length,
                         const TileArea& area, BackwardTile<T>& tile, PairSums<T>* pair_sums) {
    int32_t last = 0;
    for (int32_t b : tile.block_blended) last = b > last ? b : last;
    memset(pair_sums + last, 0, sizeof(PairSums<T>) * (length - last));
    constexpr int32_t kEntries = Visits<T>::kEntries;
    for (int32_t end = last; end > 0; end -= kEntries) {
        const int32_t start = gs::max(end - kEntries, 0);
        prefetch(splats, list, gs::max(start - kEntries, 0), start);
        const Visits<T> visits(splats, list + start, end - start, area,
                               [&](int e, const Splat<T>&) __attribute__((always_inline)) {
                                   return met[start + e] & blocks_reaching(tile, start + e);
                               });
        for (int e = end - start - 1; e >= 0; --e) {
            const Splat<T>& s = visits.splat(e);
            PairLanes<T> sums;
            sums.clear();
            for (int v = visits.begin(e); v < visits.begin(e + 1); ++v)
                for (int first = 0; first < kBlock; first += NativeWidth<T>::value)
                    blend_pixels_backward<T, Pass>(s, offsets(s, area, visits.block(v), first),
                                                   visits.gaussian(v, first), start + e,
                                                   visits.block(v) * kBlock + first, tile, sums);
            store_sums<T, Pass>(sums, pair_sums[start + e]);
        }
    }
}

template <class T>
GS_INLINE void load_tile(const TileArea& area, const Picture<T>& picture, const PictureGradients<T>& grad,
                         BackwardTile<T>& tile) {
    const int width = picture.width;
    const int64_t plane = int64_t(width) * picture.height;
    if (area.columns * area.rows < kPixels)
        memset(&tile, 0, sizeof tile);  // nothing was blended into pixels outside the image
    memset(tile.behind, 0, sizeof tile.behind);
    memset(tile.block_blended, 0, sizeof tile.block_blended);
    load_plane(area, width, picture.transmittance, tile.transmittance);
    load_plane(area, width, picture.blended, tile.blended);
    for (int c = 0; c < 3; ++c) load_plane(area, width, grad.color + c * plane, tile.grad_color[c]);
    if (grad.inv_depth) load_plane(area, width, grad.inv_depth, tile.grad_inv_depth);
    if (grad.carrier) load_plane(area, width, grad.carrier, tile.grad_carrier);
    for (T& weight : tile.energy_weights) weight = T(1);
    if (grad.energy_weights) load_plane(area, width, grad.energy_weights, tile.energy_weights);
    for (int i = 0; i < kPixels; ++i)
        for (int c = 0; c < 3; ++c) {
            tile.behind_color[c][i] = tile.transmittance[i] * picture.background[c];
            tile.behind[i] += tile.behind_color[c][i] * tile.grad_color[c][i];
        }
    for (int i = 0; i < kPixels; ++i)
        tile.block_blended[i / kBlock] = gs::max(tile.block_blended[i / kBlock], tile.blended[i]);
}

template <class T, class Pass>
void blend_backward_pass(const Splat<T>* splats, const TileLists& lists, const Picture<T>& picture,
                         const PictureGradients<T>& grad, PairSums<T>* pair_sums, int threads) {
    parallel_for(int64_t(lists.tiles_x) * lists.tiles_y, threads, [&](int64_t t) {
        const TileArea area(int(t), lists.tiles_x, picture.width, picture.height);
        const int64_t start = lists.tile_start[t], length = lists.tile_start[t + 1] - start;
        if (length == 0) return;
        BackwardTile<T> tile;
        load_tile(area, picture, grad, tile);
        blend_list_backward<T, Pass>(splats, lists.gaussians + start, lists.blocks + start, length, area,
                                     tile, pair_sums + start);
    });
}

template <class T>
void blend_backward(const Splat<T>* splats, const TileLists& lists, const Picture<T>& picture,
                    const PictureGradients<T>& grad, bool statistics, PairSums<T>* pair_sums, int threads) {
    with_pass(
        [&](auto pass) {
            blend_backward_pass<T, decltype(pass)>(splats, lists, picture, grad, pair_sums, threads);
        },
        grad.carrier != nullptr, grad.inv_depth != nullptr, statistics);
}

}  // namespace

extern const BlendKernels<float> blend_float = {blend<float>, blend_backward<float>};
extern const BlendKernels<double> blend_double = {blend<double>, blend_backward<double>};

}  // namespace GS_ISA
}  // namespace gs
