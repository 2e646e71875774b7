// Gaussians a block at a time, each in a lane of the packs.
#pragma once

#include "../arrays.h"
#include "parallel.h"
#include "rows.h"

namespace gs {
namespace GS_ISA {

constexpr int64_t kChunk = 256;  // that a thread takes at a time

// f(block) for blocks that together hold all Gaussians.
template <class T, class F>
void for_each_block(int64_t count, int threads, const F& f) {
    constexpr int W = NativeWidth<T>::value;
    const int64_t whole = count / W;
    parallel_for(whole, threads, [&](int64_t i) { f(Block<T, true>{i * W, W}); }, kChunk / W);
    FlushDenormals flush;
    if (count % W) f(Block<T, false>{whole * W, int(count % W)});
}

// The SH coefficients of a block.
template <class T>
struct ShLanes {
    Lanes<T> of[3 * kMaxShBases];
    GS_INLINE Lanes<T> operator()(int j, int c) const { return of[3 * j + c]; }
};

// The block's rows of every array, for project.h. seen: where gradients are not zero.
template <class T, class B>
struct BlockRows {
    B block;
    LaneMask<T> seen;

    template <int kColumns>
    GS_INLINE void load(const T* array, Lanes<T>* to) const {
        GS_ISA::load<kColumns>(array, block, to);
    }

    GS_INLINE ShLanes<T> sh(const Gaussians<T>& g, int bases) const {
        ShLanes<T> sh;
        load_columns(g.sh_first, g.sh_first_stride, 3, block, sh.of);
        load_columns(g.sh_rest, g.sh_rest_stride, 3 * (bases - 1), block, sh.of + 3);
        return sh;
    }

    template <int kColumns>
    GS_INLINE void put(const Lanes<T>* values, T* array) const {
        if (!array) return;
        Lanes<T> kept[kColumns];
        for (int c = 0; c < kColumns; ++c) kept[c] = zero_unless(seen, values[c]);
        store<kColumns>(kept, array, block);
    }

    GS_INLINE void put_sh(const Gradients<T>& grad, const Gaussians<T>& g, const Lanes<T>* basis, int bases,
                          const Lanes<T>* grad_color) const {
        Lanes<T> sh[3 * kMaxShBases];
        for (int j = 0; j < bases; ++j)
            for (int c = 0; c < 3; ++c) sh[3 * j + c] = zero_unless(seen, basis[j] * grad_color[c]);
        store_columns(sh, grad.sh_first, g.sh_first_stride, 3, block);
        store_columns(sh + 3, grad.sh_rest, g.sh_rest_stride, 3 * (bases - 1), block);
        clear_columns(grad.sh_rest, g.sh_rest_stride, 3 * (bases - 1), 3 * (g.sh_bases - 1));
    }

    template <int kColumns>
    GS_INLINE void clear(T* array) const {
        clear_columns(array, kColumns, 0, kColumns);
    }

    // Columns first ... end - 1 of an array, if there is one.
    GS_INLINE void clear_columns(T* array, int64_t stride, int first, int end) const {
        if (!array) return;
        for (int r = 0; r < block.rows(); ++r)
            for (int c = first; c < end; ++c) array[(block.first + r) * stride + c] = T(0);
    }
};

}  // namespace GS_ISA
}  // namespace gs
