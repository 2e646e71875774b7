// From projected Gaussians to one depth-ordered list per tile.
#pragma once

#include "array.h"
#include "stages.h"

namespace gs {

// More pairs than the memory of the machine holds.
struct OutOfMemory {
    int64_t pairs;
    double needed_gib, available_gib;
};

// Owns what TileLists and PairIndex point to.
class Bins {
public:
    // Throws OutOfMemory before allocating when the pairs, with `bytes_per_pair` more for the backward pass,
    // would not fit.
    template <class T>
    void build(const Projected<T>&, int64_t count, int width, int height, int bytes_per_pair, int threads);

    TileLists lists() const {
        return {tiles_x_, tiles_y_, tile_start_.data(), gaussians_.data(), blocks_.data()};
    }
    PairIndex index() const { return {first_pair_.data(), entry_of_.data()}; }
    int64_t pairs() const { return gaussians_.size(); }

private:
    int tiles_x_ = 0, tiles_y_ = 0;
    Array<int64_t> tile_start_, first_pair_, entry_of_;
    Array<uint32_t> gaussians_;
    Array<uint16_t> blocks_;
};

}  // namespace gs
