// The rows of a warp's Gaussians between arrays in device memory and its threads, each of which has a row:
// where rows are long the lanes first fetch one row together, and in the end put rows together, so that
// neighbouring lanes are at neighbouring places.
#pragma once

#include "../adam.h"
#include "../arrays.h"
#include "gpu/device.h"

namespace gs {
namespace cuda {

// Numbers of a Gaussian in shared memory: its SH coefficients and then their gradients, and where parameters
// are stepped those of all others. The length is odd, so that lanes that read the same place of their rows do
// not wait for each other's banks.
constexpr int kShNumbers = 3 * kMaxShBases;
template <class T>
struct SharedRow {
    T of[kShNumbers + 11];
};

// Begins to copy the coefficients of the Gaussians `wanted` of a warp, from `first` on, but for the first
// ones: one Gaussian after the other, since lanes that read a row each would wait for 32 places.
template <class T>
__device__ void fetch_coefficients(const Gaussians<T>& g, int degree, int64_t first, unsigned wanted,
                                   SharedRow<T>* rows) {
    if (!g.sh_first || degree == 0) return;
    for (; wanted; wanted &= wanted - 1) {
        const int row = __ffs(wanted) - 1;
        const T* from = g.sh_rest + (first + row) * g.sh_rest_stride;
        for (int k = 3 + lane_index(); k < 3 * square(degree + 1); k += kWarp)
            copy_async(&from[k - 3], &rows[row].of[k]);
    }
}

// Coefficient j of channel c.
template <class T>
struct ShReader {
    const T *first, *row;
    GS_HD T operator()(int j, int c) const { return j == 0 ? first[c] : row[3 * j + c]; }
};

// The row of one Gaussian, for project.h.
template <class T>
struct Row {
    int64_t i;
    T* shared;  // SharedRow

    template <int kColumns>
    GS_HD void load(const T* array, T* to) const {
        for (int c = 0; c < kColumns; ++c) to[c] = array[kColumns * i + c];
    }

    GS_HD ShReader<T> sh(const Gaussians<T>& g, int) const {
        return {g.sh_first + i * g.sh_first_stride, shared};
    }

    template <int kColumns>
    GS_HD void put(const T* values, T* array) const {
        if (!array) return;
        for (int c = 0; c < kColumns; ++c) array[kColumns * i + c] = values[c];
    }

    template <class Places>
    GS_HD void put_sh(const Places&, const Gaussians<T>&, const T* basis, int bases, const T* color) const {
        for (int j = 0; j < bases; ++j)
            for (int c = 0; c < 3; ++c) shared[3 * j + c] = basis[j] * color[c];
    }

    template <int kColumns>
    GS_HD void clear(T* array) const {
        if (!array) return;
        for (int c = 0; c < kColumns; ++c) array[kColumns * i + c] = T(0);
    }
};

// Where the gradients of a parameter that is stepped are in a SharedRow. All that are stepped exist.
struct StepPlace {
    int offset;
    GS_HD explicit operator bool() const { return true; }
};

// Where gradients go by the names of Gradients, if the parameters are stepped at once.
struct StepPlaces {
    StepPlace sh_first{0}, sh_rest{3}, means{kShNumbers}, scales{kShNumbers + 3}, quats{kShNumbers + 6},
        opacities{kShNumbers + 10};
    float *means2d, *covariances, *colors, *importance, *carrier;
    struct {
        AdamStep step;
        StepPlace place;
    } steps[6];
    bool sparse;

    StepPlaces(const Steps& s, const Gradients<float>& other)
        : means2d(other.means2d),
          covariances(other.covariances),
          colors(other.colors),
          importance(other.importance),
          carrier(other.carrier),
          steps{{s.sh_first, sh_first}, {s.sh_rest, sh_rest}, {s.means, means},
                {s.scales, scales},     {s.quats, quats},     {s.opacities, opacities}},
          sparse(s.sparse) {}
};

// A row that leaves the gradients of what is stepped to put_rows.
struct StepRow : Row<float> {
    __device__ StepRow(int64_t i, float* shared) : Row<float>{i, shared} {}

    using Row<float>::put;
    template <int kColumns>
    GS_HD void put(const float* values, const StepPlace& place) const {
        for (int c = 0; c < kColumns; ++c) shared[place.offset + c] = values[c];
    }

    using Row<float>::clear;
    template <int kColumns>
    GS_HD void clear(const StepPlace&) const {}
};

template <class T>
__device__ Row<T> row_of(const Gradients<T>&, int64_t i, T* shared) {
    return {i, shared};
}
__device__ inline StepRow row_of(const StepPlaces&, int64_t i, float* shared) { return {i, shared}; }

// Numbers of a tensor that a lane has under way at once.
template <class T>
struct Numbers {
    static constexpr int kCount = 4;
    int at[kCount];
    T gradient[kCount];
    bool exists[kCount], seen[kCount];
};

template <class T>
__device__ void put_numbers(const Numbers<T>& numbers, T* array) {
    for (int n = 0; n < Numbers<T>::kCount; ++n)
        if (numbers.exists[n]) array[numbers.at[n]] = numbers.gradient[n];
}

// A tensor whose gradients are steps.
struct StepTensor {
    AdamStep step;
    bool sparse;
};

__device__ inline void put_numbers(const Numbers<float>& numbers, const StepTensor& to) {
    constexpr int kCount = Numbers<float>::kCount;
    AdamNumber loaded[kCount];
    bool steps[kCount];
#pragma unroll
    for (int n = 0; n < kCount; ++n) {  // all loads before the first store: it might change what they read
        steps[n] = numbers.exists[n] && (numbers.seen[n] || !to.sparse);
        if (!steps[n]) continue;
        const float gradient = through_activation(to.step, numbers.at[n], numbers.gradient[n]);
        loaded[n] = load_number(to.step.tensor, numbers.at[n], gradient);
    }
#pragma unroll
    for (int n = 0; n < kCount; ++n)
        if (steps[n] && adam_step(to.step.tensor, numbers.at[n], loaded[n]) == kExponent)
            *to.step.tensor.unsound = 1;  // many threads may: they write the same
}

// Gaussians of a warp, and which of them are seen.
template <class T>
struct WarpRows {
    int64_t first;
    int count;
    unsigned seen;
    const SharedRow<T>* rows;
};

// Puts what the rows hold from `offset` on, `used` of `columns` numbers and zeros, neighbouring lanes at
// neighbouring places. place: where the first Gaussian's numbers are; those of the next are `stride` numbers
// on.
template <class T, class Place>
__device__ void put_rows(const WarpRows<T>& from, int offset, int used, int columns, int stride,
                         const Place& place) {
    if (columns == 0) return;
    const int rows_on = kWarp / columns, columns_on = kWarp % columns;
    int row = lane_index() / columns, column = lane_index() % columns;
    while (row < from.count) {
        Numbers<T> numbers;
#pragma unroll
        for (int n = 0; n < Numbers<T>::kCount; ++n) {
            numbers.at[n] = row * stride + column;
            numbers.exists[n] = row < from.count;
            numbers.seen[n] = numbers.exists[n] && (from.seen >> row & 1);
            numbers.gradient[n] =
                numbers.seen[n] && column < used ? from.rows[row].of[offset + column] : T(0);
            const bool wraps = column + columns_on >= columns;
            row += rows_on + wraps;
            column += columns_on - (wraps ? columns : 0);
        }
        put_numbers(numbers, place);
    }
}

template <class T>
__device__ void put_warp(const WarpRows<T>& from, const Gaussians<T>& g, int sh_used,
                         const Gradients<T>& to) {
    if (!to.sh_first) return;
    put_rows(from, 0, 3, 3, int(g.sh_first_stride), to.sh_first + from.first * g.sh_first_stride);
    put_rows(from, 3, sh_used - 3, 3 * g.sh_bases - 3, int(g.sh_rest_stride),
             to.sh_rest + from.first * g.sh_rest_stride);
}

__device__ inline void put_warp(const WarpRows<float>& from, const Gaussians<float>&, int sh_used,
                                const StepPlaces& to) {
#pragma unroll 1
    for (int n = 0; n < 6; ++n) {
        const int offset = to.steps[n].place.offset;
        const AdamStep step = from_number(to.steps[n].step, from.first * to.steps[n].step.tensor.columns);
        const int columns = int(step.tensor.columns);
        const int used = offset < kShNumbers && sh_used - offset < columns ? sh_used - offset : columns;
        put_rows(from, offset, used, columns, columns, StepTensor{step, to.sparse});
    }
}

}  // namespace cuda
}  // namespace gs
