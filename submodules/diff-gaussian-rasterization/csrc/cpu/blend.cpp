// Per tile: front-to-back blending of its list, and the gradients back to front. A pack of lanes is a run of pixels in a row.
#include "parallel.h"
#include "packs.h"
#include "stages.h"

namespace gs {
namespace GS_ISA {
namespace {

constexpr int kPixels = kTile * kTile;
constexpr int kPrefetch = 4;  // list entries ahead

template <class T> using Lanes = Pack<T, NativeWidth<T>::value>;
template <class T> using LaneMask = Mask<T, NativeWidth<T>::value>;

// 0, 1, 2, ... in lanes.
template <class T> GS_INLINE Lanes<T> lane_numbers() {
    T n[NativeWidth<T>::value];
    for (int i = 0; i < NativeWidth<T>::value; ++i) n[i] = T(i);
    return Lanes<T>::load(n);
}

// The part of the image that a tile covers.
struct TileArea {
    int x, y, columns, rows;
    GS_INLINE TileArea(int tile, int tiles_x, int width, int height) {
        x = tile % tiles_x * kTile;
        y = tile / tiles_x * kTile;
        columns = width - x < kTile ? width - x : kTile;
        rows = height - y < kTile ? height - y : kTile;
    }
    GS_INLINE bool is_whole() const { return columns == kTile && rows == kTile; }  // a constant size is copied faster
};

template <class T> GS_INLINE void load_plane(const TileArea& area, int width, const T* image, T outside, T* tile) {
    const T* row = image + int64_t(area.y) * width + area.x;
    if (area.is_whole()) {
        for (int r = 0; r < kTile; ++r, row += width) memcpy(tile + r * kTile, row, kTile * sizeof(T));
        return;
    }
    for (int i = 0; i < kPixels; ++i) tile[i] = outside;
    for (int r = 0; r < area.rows; ++r, row += width) memcpy(tile + r * kTile, row, area.columns * sizeof(T));
}

template <class T> GS_INLINE void store_plane(const TileArea& area, int width, const T* tile, T* image) {
    T* row = image + int64_t(area.y) * width + area.x;
    if (area.is_whole()) {
        for (int r = 0; r < kTile; ++r, row += width) memcpy(row, tile + r * kTile, kTile * sizeof(T));
        return;
    }
    for (int r = 0; r < area.rows; ++r, row += width) memcpy(row, tile + r * kTile, area.columns * sizeof(T));
}

// Rows of the tile (bit r: row r) that the cut of a splat meets: on each, the exponent is largest where the row crosses the
// axis of the ellipse, or at the end of the row nearest to it.
template <class T> GS_INLINE uint32_t rows_met(const Splat<T>& s, const TileArea& area) {
    using P = Lanes<T>;
    constexpr int W = NativeWidth<T>::value;
    const T slack = T(1e-3);  // rounding; the blend tests each pixel exactly
    const P first(T(area.x) + T(0.5) - s.x), last(T(area.x + kTile) - T(0.5) - s.x);
    const P quad_u(s.quad_u), quad_v(s.quad_v), shear(s.shear), cut(s.log2_cut - slack);
    const P top = lane_numbers<T>() + P(T(area.y) + T(0.5) - s.y);
    uint32_t rows = 0;
    for (int r = 0; r < kTile; r += W) {
        const P dy = top + P(T(r));
        const P axis = shear * dy;
        const P u = min(max(axis, first), last) - axis;
        rows |= bits(fma(quad_u * u, u, quad_v * dy * dy) >= cut) << r;
    }
    return rows;
}

// What a row of pixels shares in one splat's exponent.
template <class T> struct RowExponent {
    Lanes<T> axis, base;
    GS_INLINE RowExponent(const Splat<T>& s, T dy) : axis(s.shear * dy), base(s.quad_v * dy * dy) {}
};

template <class T> GS_INLINE Lanes<T> gaussian_at(const Splat<T>& s, const RowExponent<T>& row, Lanes<T> dx) {
    const Lanes<T> u = dx - row.axis;
    return exp2_nonpositive(fma(Lanes<T>(s.quad_u) * u, u, row.base));
}

// ---------------------------------------------------------------------------------------------------------------------
// Forward

template <class T> struct ForwardTile {
    T transmittance[kPixels];  // negated once the pixel has ended; never positive outside the image
    T color[3][kPixels];
    T inv_depth[kPixels];
    T carrier[kPixels];
    int32_t blended[kPixels];
};

// Blends one splat into W pixels starting at `at`. Returns whether one of them ended.
template <class T, bool kWithCarrier>
GS_INLINE bool blend_pixels(const Splat<T>& s, Lanes<T> gaussian, int32_t entry, int at, ForwardTile<T>& tile) {
    using P = Lanes<T>;
    const P before = P::load(tile.transmittance + at);
    const P footprint = P(s.opacity) * gaussian;
    const LaneMask<T> seen = (footprint >= P(kMinAlpha<T>)) & (P(T(0)) < before);
    if (!any(seen)) return false;
    const P alpha = min(P(s.importance) * footprint, P(kMaxAlpha<T>));
    const P after = before * (P(T(1)) - alpha);  // the backward pass divides by the same number
    const LaneMask<T> ends = seen & (after < P(kMinTransmittance<T>));
    const LaneMask<T> blends = and_not(seen, ends);
    const P weight = zero_unless(blends, alpha * before);
    for (int c = 0; c < 3; ++c) fma(weight, P(s.color[c]), P::load(tile.color[c] + at)).store(tile.color[c] + at);
    fma(weight, P(s.inv_depth), P::load(tile.inv_depth + at)).store(tile.inv_depth + at);
    if (kWithCarrier) fma(weight, P(s.carrier), P::load(tile.carrier + at)).store(tile.carrier + at);
    select(ends, P(T(0)) - before, select(blends, after, before)).store(tile.transmittance + at);
    store_index(blends, entry + 1, tile.blended + at);
    return any(ends);
}

template <class T> GS_INLINE bool row_ended(const ForwardTile<T>& tile, int row) {
    using P = Lanes<T>;
    P top(T(-1));
    for (int c = 0; c < kTile; c += NativeWidth<T>::value) top = max(top, P::load(tile.transmittance + row * kTile + c));
    return !any(P(T(0)) < top);
}

template <class T, bool kWithCarrier>
void blend_list(const Splat<T>* splats, const uint32_t* list, int64_t length, const TileArea& area, ForwardTile<T>& tile) {
    using P = Lanes<T>;
    constexpr int W = NativeWidth<T>::value;
    uint32_t open_rows = (1u << area.rows) - 1;
    const P column = lane_numbers<T>() + P(T(area.x) + T(0.5));
    for (int64_t entry = 0; entry < length && open_rows; ++entry) {
        const Splat<T>& s = splats[list[entry]];
        if (entry + kPrefetch < length) __builtin_prefetch(&splats[list[entry + kPrefetch]]);
        const P dx = column - P(s.x);
        for (uint32_t rows = rows_met(s, area) & open_rows; rows; rows &= rows - 1) {
            const int r = __builtin_ctz(rows);
            const RowExponent<T> row(s, T(area.y + r) + T(0.5) - s.y);
            bool ended = false;
            for (int c = 0; c < kTile; c += W)
                ended |= blend_pixels<T, kWithCarrier>(s, gaussian_at(s, row, dx + P(T(c))), int32_t(entry), r * kTile + c, tile);
            if (ended && row_ended(tile, r)) open_rows &= ~(1u << r);
        }
    }
}

template <class T> GS_INLINE void open_tile(const TileArea& area, ForwardTile<T>& tile) {
    memset(&tile, 0, sizeof tile);
    for (int r = 0; r < kTile; ++r)
        for (int c = 0; c < kTile; ++c)
            tile.transmittance[r * kTile + c] = r < area.rows && c < area.columns ? T(1) : T(-1);
}

template <class T> GS_INLINE void store_tile(const TileArea& area, ForwardTile<T>& tile, const Picture<T>& out) {
    const int64_t plane = int64_t(out.width) * out.height;
    for (int i = 0; i < kPixels; ++i) tile.transmittance[i] = tile.transmittance[i] < 0 ? -tile.transmittance[i] : tile.transmittance[i];
    for (int c = 0; c < 3; ++c) {
        for (int i = 0; i < kPixels; ++i) tile.color[c][i] += tile.transmittance[i] * out.background[c];
        store_plane(area, out.width, tile.color[c], out.color + c * plane);
    }
    store_plane(area, out.width, tile.inv_depth, out.inv_depth);
    if (out.carrier) store_plane(area, out.width, tile.carrier, out.carrier);
    store_plane(area, out.width, tile.transmittance, out.transmittance);
    store_plane(area, out.width, tile.blended, out.blended);
}

template <class T> void blend(const Splat<T>* splats, const TileLists& lists, const Picture<T>& out, int threads) {
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

// ---------------------------------------------------------------------------------------------------------------------
// Backward

// Which gradients and sums a pass computes.
template <bool kCarrierGradient, bool kDepthGradient, bool kStatistics> struct Pass {
    static constexpr bool carrier = kCarrierGradient, depth = kDepthGradient, statistics = kStatistics;
};

template <class T> struct BackwardTile {
    T transmittance[kPixels];   // in front of the Gaussians done so far
    T behind[kPixels];          // sum over what lies behind of w times (feature . gradient), background included
    T behind_color[3][kPixels]; // sum of w c likewise, for the removal energy
    T grad_color[3][kPixels];
    T grad_inv_depth[kPixels];
    T grad_carrier[kPixels];
    int32_t blended[kPixels];
    int32_t row_blended[kTile];
};

// The sums over the pixels of one tile for one Gaussian (PairSum), in lanes.
template <class T> struct PairLanes {
    Lanes<T> sum[kAllSums];
    GS_INLINE void clear() { for (auto& s : sum) s = Lanes<T>(T(0)); }
    GS_INLINE void add(int which, Lanes<T> a, Lanes<T> b) { sum[which] = fma(a, b, sum[which]); }
};

template <class T, class Pass>
GS_INLINE void blend_pixels_backward(const Splat<T>& s, Lanes<T> gaussian, Lanes<T> dx, T dy, int32_t entry, int at,
                                     BackwardTile<T>& tile, PairLanes<T>& sums) {
    using P = Lanes<T>;
    const P footprint = P(s.opacity) * gaussian;
    const LaneMask<T> blends = (footprint >= P(kMinAlpha<T>)) & index_above(tile.blended + at, entry, P());
    if (!any(blends)) return;
    const P modulated = P(s.importance) * footprint;
    const P alpha = zero_unless(blends, min(modulated, P(kMaxAlpha<T>)));
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
            const P change = weight * P(s.color[c]) - alpha * inv * back;
            energy = fma(change, change, energy);
            fma(weight, P(s.color[c]), back).store(tile.behind_color[c] + at);
        }
        sums.sum[kEnergy] = sums.sum[kEnergy] + energy;
        sums.sum[kWeight] = sums.sum[kWeight] + weight;
        sums.sum[kPixelCount] = sums.sum[kPixelCount] + zero_unless(blends, P(T(1)));
        sums.sum[kWeightMax] = max(sums.sum[kWeightMax], weight);
    }
    const P grad_alpha = before * toward - behind * inv;
    fma(weight, toward, behind).store(tile.behind + at);
    before.store(tile.transmittance + at);

    const P x = zero_unless(blends & (modulated < P(kMaxAlpha<T>)), gaussian * grad_alpha);
    const P x_dx = x * dx;
    sums.sum[kX] = sums.sum[kX] + x;
    sums.sum[kXdx] = sums.sum[kXdx] + x_dx;
    sums.add(kXdxdx, x_dx, dx);
    sums.add(kXdy, x, P(dy));
    sums.add(kXdxdy, x_dx, P(dy));
    sums.add(kXdydy, x * P(dy), P(dy));
}

template <class T> GS_INLINE uint32_t rows_reaching(const BackwardTile<T>& tile, int32_t entry) {
    uint32_t rows = 0;
    for (int r = 0; r < kTile; r += NativeWidth<T>::value) rows |= bits(index_above(tile.row_blended + r, entry, Lanes<T>())) << r;
    return rows;
}

template <class T, class Pass> GS_INLINE void store_sums(PairLanes<T>& sums, T* out) {
    constexpr int width = pair_width(Pass::statistics);
    lane_sums<width>(sums.sum, out);
    if (Pass::statistics) out[kWeightMax] = lane_max(sums.sum[kWeightMax]);
}

template <class T, class Pass>
void blend_list_backward(const Splat<T>* splats, const uint32_t* list, int64_t length, const TileArea& area, BackwardTile<T>& tile,
                         T* pair_sums) {
    using P = Lanes<T>;
    constexpr int W = NativeWidth<T>::value;
    constexpr int width = pair_width(Pass::statistics);
    const P column = lane_numbers<T>() + P(T(area.x) + T(0.5));
    int32_t last = 0;
    for (int32_t b : tile.row_blended) last = b > last ? b : last;
    memset(pair_sums + int64_t(last) * width, 0, sizeof(T) * width * (length - last));
    for (int32_t entry = last - 1; entry >= 0; --entry) {
        const Splat<T>& s = splats[list[entry]];
        if (entry >= kPrefetch) __builtin_prefetch(&splats[list[entry - kPrefetch]]);
        const P first_dx = column - P(s.x);
        PairLanes<T> sums;
        sums.clear();
        for (uint32_t rows = rows_met(s, area) & rows_reaching(tile, entry); rows; rows &= rows - 1) {
            const int r = __builtin_ctz(rows);
            const T dy = T(area.y + r) + T(0.5) - s.y;
            const RowExponent<T> row(s, dy);
            for (int c = 0; c < kTile; c += W) {
                const P dx = first_dx + P(T(c));
                blend_pixels_backward<T, Pass>(s, gaussian_at(s, row, dx), dx, dy, entry, r * kTile + c, tile, sums);
            }
        }
        store_sums<T, Pass>(sums, pair_sums + int64_t(entry) * width);
    }
}

template <class T>
GS_INLINE void load_tile(const TileArea& area, const Picture<T>& picture, const PictureGradients<T>& grad, BackwardTile<T>& tile) {
    const int width = picture.width;
    const int64_t plane = int64_t(width) * picture.height;
    load_plane(area, width, picture.transmittance, T(1), tile.transmittance);
    load_plane(area, width, picture.blended, int32_t(0), tile.blended);
    for (int c = 0; c < 3; ++c) load_plane(area, width, grad.color + c * plane, T(0), tile.grad_color[c]);
    if (grad.inv_depth) load_plane(area, width, grad.inv_depth, T(0), tile.grad_inv_depth);
    if (grad.carrier) load_plane(area, width, grad.carrier, T(0), tile.grad_carrier);
    for (int i = 0; i < kPixels; ++i) {
        tile.behind[i] = 0;
        for (int c = 0; c < 3; ++c) {
            tile.behind_color[c][i] = tile.transmittance[i] * picture.background[c];
            tile.behind[i] += tile.behind_color[c][i] * tile.grad_color[c][i];
        }
    }
    for (int r = 0; r < kTile; ++r) {
        tile.row_blended[r] = 0;
        for (int c = 0; c < kTile; ++c)
            if (tile.blended[r * kTile + c] > tile.row_blended[r]) tile.row_blended[r] = tile.blended[r * kTile + c];
    }
}

template <class T, class Pass>
void blend_backward_pass(const Splat<T>* splats, const TileLists& lists, const Picture<T>& picture, const PictureGradients<T>& grad,
                         T* pair_sums, int threads) {
    parallel_for(int64_t(lists.tiles_x) * lists.tiles_y, threads, [&](int64_t t) {
        const TileArea area(int(t), lists.tiles_x, picture.width, picture.height);
        const int64_t start = lists.tile_start[t], length = lists.tile_start[t + 1] - start;
        if (length == 0) return;
        BackwardTile<T> tile;
        load_tile(area, picture, grad, tile);
        blend_list_backward<T, Pass>(splats, lists.gaussians + start, length, area, tile, pair_sums + start * pair_width(Pass::statistics));
    });
}

template <class T>
void blend_backward(const Splat<T>* splats, const TileLists& lists, const Picture<T>& picture, const PictureGradients<T>& grad,
                    bool statistics, T* pair_sums, int threads) {
    using Run = void (*)(const Splat<T>*, const TileLists&, const Picture<T>&, const PictureGradients<T>&, T*, int);
    const Run runs[2][2][2] = {
        {{blend_backward_pass<T, Pass<false, false, false>>, blend_backward_pass<T, Pass<false, false, true>>},
         {blend_backward_pass<T, Pass<false, true, false>>, blend_backward_pass<T, Pass<false, true, true>>}},
        {{blend_backward_pass<T, Pass<true, false, false>>, blend_backward_pass<T, Pass<true, false, true>>},
         {blend_backward_pass<T, Pass<true, true, false>>, blend_backward_pass<T, Pass<true, true, true>>}}};
    runs[grad.carrier != nullptr][grad.inv_depth != nullptr][statistics](splats, lists, picture, grad, pair_sums, threads);
}

}  // namespace

extern const BlendKernels<float> blend_float = {blend<float>, blend_backward<float>};
extern const BlendKernels<double> blend_double = {blend<double>, blend_backward<double>};

}  // namespace GS_ISA
}  // namespace gs
