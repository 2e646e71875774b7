// A tile is 4x4 blocks of 4x4 pixels, and its pixels are kept block after block: 16 neighbours are one
// AVX-512 register (or two or four smaller ones), so that a small Gaussian fills most of the lanes that it
// touches.
#pragma once

#include "packs.h"
#include "stages.h"

namespace gs {
namespace GS_ISA {

constexpr int kPixels = kTile * kTile;
constexpr int kSide = 4;               // pixels along a block
constexpr int kBlock = kSide * kSide;  // pixels in a block, and blocks in a tile
static_assert(kTile == kSide * kSide, "a tile has as many blocks as a block has pixels");

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

// Which of 4x4 squares of pixels (bit b: column b % 4, row b / 4) the cut of a splat meets. Each is `length`
// pixels wide, the first begins at pixel (first_x, first_y).
template <class T>
GS_INLINE uint32_t squares_met(const Splat<T>& s, int first_x, int first_y, int length) {
    using P = Lanes<T>;
    const P slack(kSlack<T>);
    const P side{T(length)}, last(T(length - 1));
    const P x(T(first_x) + T(0.5) - s.x), y(T(first_y) + T(0.5) - s.y),
        half_height(s.half_height + kSlack<T>);
    uint32_t squares = 0;
    for (int first = 0; first < kBlock; first += NativeWidth<T>::value) {
        const P left_edge = fma(lane_columns<T>(first), side, x), right_edge = left_edge + last;
        const P top = fma(lane_rows<T>(first), side, y), bottom = top + last;
        P left, right;
        cut_in_band(s, top, bottom, left, right);
        const LaneMask<T> in_columns = (right + slack >= left_edge) & (right_edge + slack >= left);
        const LaneMask<T> in_rows = (half_height >= top) & (bottom >= P(T(0)) - half_height);
        squares |= bits(in_columns & in_rows) << first;
    }
    return squares;
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

}  // namespace GS_ISA
}  // namespace gs
