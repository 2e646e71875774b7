// Which tiles a splat meets.
#pragma once

#include "arrays.h"

namespace gs {

// The tiles that the cut ellipse of a visible splat meets: in each of some rows, some consecutive columns.
template <class T>
class TileWalk {
public:
    GS_HD TileWalk(const Splat<T>& s, int width, int height) : s_(s), width_(width) {
        pixel_range(s.x - s.half_width, s.x + s.half_width, width, x0_, x1_);
        pixel_range(s.y - s.half_height, s.y + s.half_height, height, y0_, y1_);
        box_is_tight_ = x0_ / kTile == x1_ / kTile || y0_ / kTile == y1_ / kTile;
    }

    GS_HD int first_row() const { return y0_ / kTile; }
    GS_HD int last_row() const { return y1_ / kTile; }

    // first > last when there are none.
    GS_HD void columns(int row, int& first, int& last) const {
        int x0 = x0_, x1 = x1_;
        if (!box_is_tight_) {
            const int top = y0_ > row * kTile ? y0_ : row * kTile;
            const int bottom = y1_ < row * kTile + kTile - 1 ? y1_ : row * kTile + kTile - 1;
            T left, right;
            cut_in_band(s_, T(top) + T(0.5) - s_.y, T(bottom) + T(0.5) - s_.y, left, right);
            pixel_range(s_.x + left, s_.x + right, width_, x0, x1);
        }
        first = x0 / kTile;
        last = x0 <= x1 ? x1 / kTile : first - 1;
    }

    GS_HD int count() const {
        int count = 0;
        for (int row = first_row(); row <= last_row(); ++row) {
            int first, last;
            columns(row, first, last);
            if (first <= last) count += last - first + 1;
        }
        return count;
    }

private:
    const Splat<T>& s_;
    int width_, x0_, x1_, y0_, y1_;
    bool box_is_tight_;
};

}  // namespace gs
