// Which blocks of a tile see which of its splats, and how much of the Gaussian falls on each pixel.
#pragma once

#include "tile.h"

namespace gs {
namespace GS_ISA {

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

// The visits of a few entries of a tile's list to the blocks that they meet: entry after entry, block after
// block. What no visit changes for the next is computed for all of them before the first is blended: a
// processor keeps several of these short chains of operations going at once, but not of the long ones that
// blending makes of them.
template <class T>
class Visits {
public:
    static constexpr int kEntries = 16;  // at a time; what is kept of them fits into the first cache

    // Lists the first `count` <= kEntries of a list. blocks(e, splat): those that entry e visits.
    template <class Blocks>
    GS_INLINE Visits(const Splat<T>* splats, const uint32_t* list, int count, const TileArea& area,
                     const Blocks& blocks) {
        int n = 0;
        for (int e = 0; e < count; ++e) {
            start_[e] = n;
            splat_[e] = &splats[list[e]];
            n += append_set_bits(blocks(e, *splat_[e]), uint32_t(e * kBlock), visit_ + n);
        }
        start_[count] = n;
        for (int v = 0; v < n; ++v)
            for (int first = 0; first < kBlock; first += NativeWidth<T>::value) {
                const Splat<T>& s = *splat_[entry(v)];
                const Offsets<T> d = offsets(s, area, block(v), first);
                exp2_nonpositive(log2_gaussian(s, d.dx, d.dy)).store(gaussian_[v] + first);
            }
    }

    // The visits of entry e: begin(e) ... begin(e + 1) - 1.
    GS_INLINE int begin(int e) const { return start_[e]; }
    GS_INLINE int entry(int v) const { return int(visit_[v] / kBlock); }
    GS_INLINE int block(int v) const { return int(visit_[v] % kBlock); }
    GS_INLINE const Splat<T>& splat(int e) const { return *splat_[e]; }
    // G at the pixels of the pack that starts at lane `first` of the block.
    GS_INLINE Lanes<T> gaussian(int v, int first) const { return Lanes<T>::load(gaussian_[v] + first); }

private:
    int start_[kEntries + 1];
    const Splat<T>* splat_[kEntries];
    uint32_t visit_[(kEntries + 1) * kBlock];  // entry * kBlock + block, and room behind the last
    alignas(64) T gaussian_[kEntries * kBlock][kBlock];
};

// Entries first ... end - 1 of a list will be visited soon.
template <class T>
GS_INLINE void prefetch(const Splat<T>* splats, const uint32_t* list, int64_t first, int64_t end) {
    for (int64_t entry = first; entry < end; ++entry) __builtin_prefetch(&splats[list[entry]]);
}

}  // namespace GS_ISA
}  // namespace gs
