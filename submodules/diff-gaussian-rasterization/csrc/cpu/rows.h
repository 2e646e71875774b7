// Between arrays of rows, as torch has them, and packs: W rows side by side, a pack for each column.
#pragma once

#include "packs.h"
#include "simd.h"

namespace gs {
namespace GS_ISA {

// Rows first ... first + count - 1 of every array: as many as a pack has lanes, or fewer at the end.
template <class T, bool kWhole>
struct Block {
    static constexpr bool whole = kWhole;
    int64_t first;
    int count;

    // The row of a lane; the first for lanes without one.
    GS_INLINE int64_t row(int lane) const { return first + (whole || lane < count ? lane : 0); }
    GS_INLINE int rows() const { return whole ? NativeWidth<T>::value : count; }
};

// Whether a pack is one register of simd.h.
template <class T>
constexpr bool kIsVec = kLanes<T> == NativeWidth<T>::value;

// Asks for rows first ... end - 1 of an array whose rows are `stride` numbers apart, if there is one.
template <bool kWrite = false, class T>
GS_INLINE void prefetch(const T* array, int64_t stride, int64_t first, int64_t end) {
    if (!array) return;
    const T* last = array + end * stride;
    for (const T* at = array + first * stride; at < last; at += 64 / sizeof(T))
        __builtin_prefetch(at, kWrite);
}
template <class T>
GS_INLINE void prefetch_to_write(const T* array, int64_t stride, int64_t first, int64_t end) {
    prefetch<true>(array, stride, first, end);
}

// Row r, column c becomes row c, column r.
template <class T>
GS_INLINE void transpose(Vec<T> (&rows)[kLanes<T>]) {
    constexpr int W = kLanes<T>;
    for (int round = 1; round < W; round *= 2) {  // each moves one bit of the place from row to column
        Vec<T> zipped[W];
        for (int i = 0; i < W / 2; ++i) {
            zipped[2 * i] = zip<T, 0>(rows[i], rows[i + W / 2], LaneIndices<T>());
            zipped[2 * i + 1] = zip<T, 1>(rows[i], rows[i + W / 2], LaneIndices<T>());
        }
        for (int i = 0; i < W; ++i) rows[i] = zipped[i];
    }
}

// Calls f(column) where squares of W columns start that together cover `columns` >= W: the last may overlap.
template <int W, class F>
GS_INLINE void for_each_square(int columns, const F& f) {
    for (int column = 0; column + W <= columns; column += W) f(column);
    if (columns % W) f(columns - W);
}

// Columns 0 ... columns - 1 of an array whose rows are `stride` numbers apart.
template <class T, bool kWhole>
GS_INLINE void load_columns(const T* array, int64_t stride, int columns, Block<T, kWhole> b, Lanes<T>* to) {
    constexpr int W = NativeWidth<T>::value;
    if constexpr (kIsVec<T>) {
        if (columns >= W) {
            for_each_square<W>(columns, [&](int column) __attribute__((always_inline)) {
                Vec<T> square[W];
                for (int r = 0; r < W; ++r) square[r] = load(array + b.row(r) * stride + column);
                transpose<T>(square);
                for (int c = 0; c < W; ++c) to[column + c] = Lanes<T>(square[c]);
            });
            return;
        }
    }
    for (int c = 0; c < columns; ++c) {
        T lanes[W];
        for (int r = 0; r < W; ++r) lanes[r] = array[b.row(r) * stride + c];
        to[c] = Lanes<T>::load(lanes);
    }
}

template <class T, bool kWhole>
GS_INLINE void store_columns(const Lanes<T>* from, T* array, int64_t stride, int columns,
                             Block<T, kWhole> b) {
    constexpr int W = NativeWidth<T>::value;
    if constexpr (kIsVec<T>) {
        if (columns >= W) {
            for_each_square<W>(columns, [&](int column) __attribute__((always_inline)) {
                Vec<T> square[W];
                for (int c = 0; c < W; ++c) square[c] = from[column + c].lanes;
                transpose<T>(square);
                for (int r = 0; r < b.rows(); ++r)
                    store<T>(array + (b.first + r) * stride + column, square[r]);
            });
            return;
        }
    }
    for (int c = 0; c < columns; ++c) {
        T lanes[W];
        from[c].store(lanes);
        for (int r = 0; r < b.rows(); ++r) array[(b.first + r) * stride + c] = lanes[r];
    }
}

// An array (N, columns) without gaps.
template <int kColumns, class T, bool kWhole>
GS_INLINE void load(const T* array, Block<T, kWhole> b, Lanes<T>* to) {
    constexpr int n = kColumns;
    if constexpr (kWhole && kColumns == 1) {
        *to = Lanes<T>::load(array + b.first);
    } else if constexpr (kWhole && kIsVec<T> && (n == 3 || n == 4)) {
        Vec<T> columns[n];
        deinterleave(array + n * b.first, columns);
        for (int c = 0; c < n; ++c) to[c] = Lanes<T>(columns[c]);
    } else {
        load_columns(array, n, n, b, to);
    }
}

template <int kColumns, class T, bool kWhole>
GS_INLINE void store(const Lanes<T>* from, T* array, Block<T, kWhole> b) {
    constexpr int n = kColumns;
    if constexpr (kWhole && kColumns == 1) {
        from->store(array + b.first);
    } else if constexpr (kWhole && kIsVec<T> && (n == 3 || n == 4)) {
        Vec<T> columns[n];
        for (int c = 0; c < n; ++c) columns[c] = from[c].lanes;
        interleave(columns, array + n * b.first);
    } else {
        store_columns(from, array, n, n, b);
    }
}

}  // namespace GS_ISA
}  // namespace gs
