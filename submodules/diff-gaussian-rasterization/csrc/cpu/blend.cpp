// Per tile: front-to-back blending of its list, and the gradients back to front.
//
// A tile is 4x4 blocks of 4x4 pixels, and its pixels are kept block after block: 16 neighbours are one
// AVX-512 register (or two or four smaller ones), so that a small Gaussian fills most of the lanes that it
// touches.
#include "parallel.h"
#include "../pass.h"
#include "packs.h"
#include "stages.h"

namespace gs {
namespace GS_ISA {
namespace {

constexpr int kPixels = kTile * kTile;
constexpr int kSide = 4;               // pixels along a block
constexpr int kBlock = kSide * kSide;  // pixels in a block, and blocks in a tile
constexpr int kPrefetch = 4;           // list entries ahead
static_assert(kTile == kSide * kSide, "a tile has as many blocks as a block has pixels");

// The part of the image that a tile covers.
struct TileArea {
    int x, y, columns, rows;
    GS_INLINE TileArea(int tile, int tiles_x, int width, int height) {
        x = tile % tiles_x * kTile;
        y = tile / tiles_x * kTile;
        columns = width - x < kTile ? width - x : kTile;
        rows = height - y < kTile ? height - y : kTile;
    }
};

// Calls f(place in the tile, column, length) for the runs of pixels in row r of the tile that lie in one
// block.
template <class F>
GS_INLINE void for_each_run(const TileArea& area, int r, const F& f) {
    const int start = r / kSide * kSide * kBlock + r % kSide * kSide, whole = area.columns / kSide;
    for (int b = 0; b < whole; ++b) f(start + b * kBlock, b * kSide, kSide);
    if (area.columns % kSide) f(start + whole * kBlock, whole * kSide, area.columns % kSide);
}

template <class T>
GS_INLINE void copy_run(const T* from, int length, T* to) {
    if (length == kSide)
        memcpy(to, from, kSide * sizeof(T));
    else
        for (int i = 0; i < length; ++i) to[i] = from[i];
}

// Pixels of the tile outside the image are left alone.
template <class T>
GS_INLINE void load_plane(const TileArea& area, int width, const T* image, T* tile) {
    for (int r = 0; r < area.rows; ++r) {
        const T* row = image + int64_t(area.y + r) * width + area.x;
        for_each_run(area, r, [&](int place, int c, int length) { copy_run(row + c, length, tile + place); });
    }
}

template <class T>
GS_INLINE void store_plane(const TileArea& area, int width, const T* tile, T* image) {
    for (int r = 0; r < area.rows; ++r) {
        T* row = image + int64_t(area.y + r) * width + area.x;
        for_each_run(area, r, [&](int place, int c, int length) { copy_run(tile + place, length, row + c); });
    }
}

// For each lane of a pack that starts at lane `first` of 16: its column (or row) of four.
template <class T>
GS_INLINE Lanes<T> lane_columns(int first) {
    T n[NativeWidth<T>::value];
    for (int i = 0; i < NativeWidth<T>::value; ++i) n[i] = T((first + i) % kSide);
    return Lanes<T>::load(n);
}
template <class T>
GS_INLINE Lanes<T> lane_rows(int first) {
    T n[NativeWidth<T>::value];
    for (int i = 0; i < NativeWidth<T>::value; ++i) n[i] = T((first + i) / kSide);
    return Lanes<T>::load(n);
}

// Blocks of the tile (bit b: block b) that the cut of a splat meets.
template <class T>
GS_INLINE uint32_t blocks_met(const Splat<T>& s, const TileArea& area) {
    using P = Lanes<T>;
    const P slack(kSlack<T>);
    const P side{T(kSide)}, last(T(kSide - 1));
    const P x(T(area.x) + T(0.5) - s.x), y(T(area.y) + T(0.5) - s.y), half_height(s.half_height + kSlack<T>);
    uint32_t blocks = 0;
    for (int first = 0; first < kBlock; first += NativeWidth<T>::value) {
        const P left_edge = fma(lane_columns<T>(first), side, x), right_edge = left_edge + last;
        const P top = fma(lane_rows<T>(first), side, y), bottom = top + last;
        P left, right;
        cut_in_band(s, top, bottom, left, right);
        const LaneMask<T> in_columns = (right + slack >= left_edge) & (right_edge + slack >= left);
        const LaneMask<T> in_rows = (half_height >= top) & (bottom >= P(T(0)) - half_height);
        blocks |= bits(in_columns & in_rows) << first;
    }
    return blocks;
}

// Where the pixels of a pack lie relative to a splat's mean.
template <class T>
struct Offsets {
    Lanes<T> dx, dy;
};

// The pack that starts at lane `first` of a block; what does not depend on the block, a compiler keeps out of
// loops over blocks.
template <class T>
GS_INLINE Offsets<T> offsets(const Splat<T>& s, const TileArea& area, int block, int first) {
    static constexpr T kStart[kSide] = {0, kSide, 2 * kSide, 3 * kSide};
    const Lanes<T> dx = lane_columns<T>(first) + Lanes<T>(T(area.x) + T(0.5) - s.x);
    const Lanes<T> dy = lane_rows<T>(first) + Lanes<T>(T(area.y) + T(0.5) - s.y);
    return {dx + Lanes<T>(kStart[block % kSide]), dy + Lanes<T>(kStart[block / kSide])};
}

template <class T>
GS_INLINE Lanes<T> gaussian_at(const Splat<T>& s, const Offsets<T>& d) {
    return exp2_nonpositive(log2_gaussian(s, d.dx, d.dy));
}

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

// Blends one splat into W pixels starting at `at`. Returns whether one of them ended.
template <class T, bool kWithCarrier>
GS_INLINE bool blend_pixels(const Splat<T>& s, Lanes<T> gaussian, int32_t entry, int at,
                            ForwardTile<T>& tile) {
    using P = Lanes<T>;
    const P before = P::load(tile.transmittance + at);
    const P footprint = P(s.opacity) * gaussian;
    const LaneMask<T> seen = (footprint >= P(kMinAlpha<T>)) & (P(T(0)) < before);
    if (!any(seen)) return false;
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
    return any(ends);
}

template <class T>
GS_INLINE bool block_ended(const ForwardTile<T>& tile, int block) {
    using P = Lanes<T>;
    P top(T(-1));
    for (int i = 0; i < kBlock; i += NativeWidth<T>::value)
        top = max(top, P::load(tile.transmittance + block * kBlock + i));
    return !any(P(T(0)) < top);
}

template <class T, bool kWithCarrier>
void blend_list(const Splat<T>* splats, const uint32_t* list, int64_t length, const TileArea& area,
                ForwardTile<T>& tile) {
    uint32_t open_blocks = 0;
    for (int b = 0; b < kBlock; ++b) open_blocks |= uint32_t(!block_ended(tile, b)) << b;
    for (int64_t entry = 0; entry < length && open_blocks; ++entry) {
        const Splat<T>& s = splats[list[entry]];
        if (entry + kPrefetch < length) __builtin_prefetch(&splats[list[entry + kPrefetch]]);
        for (uint32_t blocks = blocks_met(s, area) & open_blocks; blocks; blocks &= blocks - 1) {
            const int b = __builtin_ctz(blocks);
            bool ended = false;
            for (int first = 0; first < kBlock; first += NativeWidth<T>::value) {
                const Lanes<T> gaussian = gaussian_at(s, offsets(s, area, b, first));
                ended |= blend_pixels<T, kWithCarrier>(s, gaussian, int32_t(entry), b * kBlock + first, tile);
            }
            if (ended && block_ended(tile, b)) open_blocks &= ~(1u << b);
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
        const int64_t length = lists.tile_start[t + 1] - lists.tile_start[t];
        ForwardTile<T> tile;
        open_tile(area, tile);
        if (out.carrier)
            blend_list<T, true>(splats, list, length, area, tile);
        else
            blend_list<T, false>(splats, list, length, area, tile);
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
GS_INLINE void blend_pixels_backward(const Splat<T>& s, const Offsets<T>& d, int32_t entry, int at,
                                     BackwardTile<T>& tile, PairLanes<T>& sums) {
    using P = Lanes<T>;
    const P gaussian = gaussian_at(s, d);
    const P footprint = P(s.opacity) * gaussian;
    const LaneMask<T> blends = (footprint >= P(kMinAlpha<T>)) & index_above(tile.blended + at, entry, P());
    if (!any(blends)) return;
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
            const P change = change_if_removed(weight, P(s.color[c]), alpha, back, inv);
            energy = fma(change, change, energy);
            fma(weight, P(s.color[c]), back).store(tile.behind_color[c] + at);
        }
        sums.sum[kEnergy] = sums.sum[kEnergy] + energy;
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
void blend_list_backward(const Splat<T>* splats, const uint32_t* list, int64_t length, const TileArea& area,
                         BackwardTile<T>& tile, PairSums<T>* pair_sums) {
    int32_t last = 0;
    for (int32_t b : tile.block_blended) last = b > last ? b : last;
    memset(pair_sums + last, 0, sizeof(PairSums<T>) * (length - last));
    for (int32_t entry = last - 1; entry >= 0; --entry) {
        const Splat<T>& s = splats[list[entry]];
        if (entry >= kPrefetch) __builtin_prefetch(&splats[list[entry - kPrefetch]]);
        PairLanes<T> sums;
        sums.clear();
        for (uint32_t blocks = blocks_met(s, area) & blocks_reaching(tile, entry); blocks;
             blocks &= blocks - 1) {
            const int b = __builtin_ctz(blocks);
            for (int first = 0; first < kBlock; first += NativeWidth<T>::value)
                blend_pixels_backward<T, Pass>(s, offsets(s, area, b, first), entry, b * kBlock + first, tile,
                                               sums);
        }
        store_sums<T, Pass>(sums, pair_sums[entry]);
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
        blend_list_backward<T, Pass>(splats, lists.gaussians + start, length, area, tile, pair_sums + start);
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
