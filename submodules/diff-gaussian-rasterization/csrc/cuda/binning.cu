// From projected Gaussians to one depth-ordered list per tile: the visible ones are sorted by depth, their
// pairs are written in that order, one thread a pair, and sorted by tile alone. That sort is stable, so that
// each tile's stay in depth order, and its keys are short.
#include <string.h>

#include "cuda/stages.h"
#include "gpu/sort.h"
#include "tiles.h"

namespace gs {
namespace cuda {
namespace {

constexpr int kThreads = 256;

// Positive floats order as their bits.
template <class T>
struct DepthKey;
template <>
struct DepthKey<float> {
    using type = uint32_t;
};
template <>
struct DepthKey<double> {
    using type = uint64_t;
};

struct Totals {
    unsigned long long pairs, visible;
};

template <class T>
__global__ void count_tiles(Visible<T> seen, int64_t count, int width, int height, int32_t* tile_count) {
    const int64_t i = global_index();
    if (i < count) tile_count[i] = seen.radii[i] > 0 ? TileWalk<T>(seen.splats[i], width, height).count() : 0;
}

__global__ void __launch_bounds__(kThreads)
    flag_visible(const int32_t* tile_count, int64_t count, uint32_t* flags, Totals* totals) {
    GS_SHARED(Totals, of_block);  // so that a block asks for the totals' one place twice, not every warp
    if (threadIdx.x == 0) of_block = {};
    __syncthreads();
    const int64_t i = global_index();
    const int tiles = i < count ? tile_count[i] : 0;
    if (i < count) flags[i] = tiles > 0;
    const unsigned long long pairs = warp_sum((unsigned long long)(tiles));
    const unsigned seen = __ballot_sync(kWholeWarp, tiles > 0);
    if (lane_index() == 0 && seen) {
        atomicAdd(&of_block.pairs, pairs);
        atomicAdd(&of_block.visible, (unsigned long long)(__popc(seen)));
    }
    __syncthreads();
    if (threadIdx.x != 0 || of_block.visible == 0) return;
    atomicAdd(&totals->pairs, of_block.pairs);
    atomicAdd(&totals->visible, of_block.visible);
}

// ranks: how many are visible up to and including each.
template <class T>
__global__ void gather_visible(Visible<T> seen, int64_t count, const uint32_t* ranks,
                               typename DepthKey<T>::type* keys, uint32_t* gaussians) {
    const int64_t i = global_index();
    if (i >= count || seen.tile_count[i] == 0) return;
    const uint32_t rank = ranks[i] - 1;
    memcpy(&keys[rank], &seen.depths[i], sizeof(T));
    gaussians[rank] = uint32_t(i);
}

__global__ void gather_counts(const int32_t* tile_count, const uint32_t* order, int64_t visible,
                              int64_t* counts) {
    const int64_t r = global_index();
    if (r < visible) counts[r] = tile_count[order[r]];
}

// The first place in low .. high, which must exist, where the ends exceed p.
__device__ int64_t first_above(const int64_t* ends, int64_t low, int64_t high, int64_t p) {
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (ends[middle] > p)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

// The same by a whole warp, which looks at 32 places at once: of millions, five times one after the other.
__device__ int64_t first_above_by_warp(const int64_t* ends, int64_t low, int64_t high, int64_t p) {
    while (low < high) {
        const int64_t step = (high - low) / kWarp + 1;
        const int64_t last = low + (lane_index() + 1) * step - 1;  // of the lane's share
        const unsigned above = __ballot_sync(kWholeWarp, last >= high || ends[last] > p);
        const int share = __ffs(above) - 1;
        low += share * step;
        high = low + step - 1 < high ? low + step - 1 : high;
    }
    return low;
}

// The tile of a splat's pair number `place`: the walk meets the tiles that were counted.
template <class T>
__device__ int64_t tile_of_pair(const Splat<T>& splat, int64_t place, int width, int height, int tiles_x) {
    const TileWalk<T> walk(splat, width, height);
    for (int row = walk.first_row(); row <= walk.last_row(); ++row) {
        int first, last;
        walk.columns(row, first, last);
        const int columns = last >= first ? last - first + 1 : 0;
        if (place < columns) return int64_t(row) * tiles_x + first + place;
        place -= columns;
    }
    GS_FAIL("a Gaussian meets fewer tiles than were counted");
    return 0;
}

// One thread a pair: however large a Gaussian is, its pairs are shared out evenly.
template <class T, class Key>
__global__ void __launch_bounds__(kThreads)
    write_pairs(Visible<T> seen, const uint32_t* order, const int64_t* pair_ends, int64_t visible,
                int64_t pairs, int width, int height, int tiles_x, int64_t* first_pair, Key* tiles,
                uint32_t* owners, uint32_t* numbers) {
    GS_SHARED(int64_t, first_rank);
    if (warp_index() == 0) {
        const int64_t rank = first_above_by_warp(pair_ends, 0, visible - 1, int64_t(blockIdx.x) * kThreads);
        if (lane_index() == 0) first_rank = rank;
    }
    __syncthreads();
    const int64_t p = global_index();
    if (p >= pairs) return;
    // Every visible Gaussian has a pair, so that a block meets at most as many as it has threads.
    const int64_t most = first_rank + kThreads < visible - 1 ? first_rank + kThreads : visible - 1;
    const int64_t rank = first_above(pair_ends, first_rank, most, p);
    const int64_t first = rank > 0 ? pair_ends[rank - 1] : 0;
    const uint32_t owner = order[rank];
    if (p == first) first_pair[owner] = first;
    tiles[p] = Key(tile_of_pair(seen.splats[owner], p - first, width, height, tiles_x));
    owners[p] = owner;
    numbers[p] = uint32_t(p);
}

template <class Key>
__global__ void find_tiles(const Key* sorted_tiles, int64_t pairs, int64_t tiles, const uint32_t* owners,
                           const uint32_t* pair_of, int64_t* tile_start, uint32_t* gaussians) {
    const int64_t e = global_index();
    if (e >= pairs) return;
    gaussians[e] = owners[pair_of[e]];
    const int64_t tile = sorted_tiles[e], before = e > 0 ? int64_t(sorted_tiles[e - 1]) : -1;
    for (int64_t t = before + 1; t <= tile; ++t) tile_start[t] = e;
    if (e == pairs - 1)
        for (int64_t t = tile + 1; t <= tiles; ++t) tile_start[t] = pairs;
}

int bits_for(int64_t values) {
    int bits = 1;
    while ((int64_t(1) << bits) < values) ++bits;
    return bits;
}

// The visible Gaussians from near to far, those at one depth in input order. Leaves the totals on the host.
template <class T>
DeviceArray<uint32_t> depth_order(const Visible<T>& seen, int64_t count, Totals& totals, const Queue& queue) {
    using Key = typename DepthKey<T>::type;
    DeviceArray<Totals> on_device;
    DeviceArray<uint32_t> ranks, gaussians, order;
    DeviceArray<Key> keys, sorted_keys;
    allocate_together(queue, {1, count, count, count, count, count}, on_device, ranks, gaussians, order, keys,
                      sorted_keys);
    set_zero(queue, on_device.get(), sizeof totals);
    const int64_t blocks = blocks_for(count, kThreads);
    GS_LAUNCH(flag_visible, blocks, kThreads, queue, seen.tile_count, count, ranks.get(), on_device.get());
    inclusive_sum(queue, ranks.get(), ranks.get(), count);
    GS_LAUNCH(gather_visible<T>, blocks, kThreads, queue, seen, count, ranks.get(), keys.get(),
              gaussians.get());
    read_back(queue, &totals, on_device.get(), sizeof totals);
    sort_pairs(queue, keys.get(), sorted_keys.get(), gaussians.get(), order.get(), int64_t(totals.visible),
               int(8 * sizeof(Key)));
    return order;
}

template <class T, class Key>
void sort_into_tiles(const Visible<T>& seen, const Totals& totals, const uint32_t* order, int width,
                     int height, const Queue& queue, Bins& bins) {
    const int64_t pairs = int64_t(totals.pairs), visible = int64_t(totals.visible),
                  tiles = bins.lists.tiles();
    DeviceArray<int64_t> pair_ends;
    DeviceArray<Key> keys, sorted_keys;
    DeviceArray<uint32_t> owners, numbers;
    allocate_together(queue, {visible, pairs, pairs, pairs, pairs}, pair_ends, keys, sorted_keys, owners,
                      numbers);
    GS_LAUNCH(gather_counts, blocks_for(visible, kThreads), kThreads, queue, seen.tile_count, order, visible,
              pair_ends.get());
    inclusive_sum(queue, pair_ends.get(), pair_ends.get(), visible);

    const int64_t blocks = blocks_for(pairs, kThreads);
    GS_LAUNCH((write_pairs<T, Key>), blocks, kThreads, queue, seen, order, pair_ends.get(), visible, pairs,
              width, height, bins.lists.tiles_x, bins.first_pair.get(), keys.get(), owners.get(),
              numbers.get());
    sort_pairs(queue, keys.get(), sorted_keys.get(), numbers.get(), bins.pair_of.get(), pairs,
               bits_for(tiles));
    GS_LAUNCH(find_tiles<Key>, blocks, kThreads, queue, sorted_keys.get(), pairs, tiles, owners.get(),
              bins.pair_of.get(), bins.tile_start.get(), bins.gaussians.get());
}

}  // namespace

template <class T>
Bins bin(const Visible<T>& given, int64_t count, int width, int height, const Queue& queue) {
    Visible<T> seen = given;
    DeviceArray<int32_t> tile_count;
    if (!seen.tile_count) {
        tile_count = {queue, count};
        seen.tile_count = tile_count.get();
        GS_LAUNCH(count_tiles<T>, blocks_for(count, kThreads), kThreads, queue, seen, count, width, height,
                  seen.tile_count);
    }
    Totals totals;
    const DeviceArray<uint32_t> order = depth_order(seen, count, totals, queue);
    if (totals.pairs >> 32) throw TooManyPairs{totals.pairs};
    const int64_t pairs = int64_t(totals.pairs);
    const int tiles_x = (width + kTile - 1) / kTile, tiles_y = (height + kTile - 1) / kTile;
    const int64_t tiles = int64_t(tiles_x) * tiles_y;
    Bins bins;
    allocate_together(queue, {tiles + 1, count, pairs, pairs}, bins.tile_start, bins.first_pair,
                      bins.gaussians, bins.pair_of);
    bins.tile_count = tile_count;
    bins.index = {seen.tile_count, bins.first_pair.get()};
    bins.lists = {tiles_x, tiles_y, pairs, bins.tile_start.get(), bins.gaussians.get(), bins.pair_of.get()};
    if (pairs == 0)
        set_zero(queue, bins.tile_start.get(), sizeof(int64_t) * (tiles + 1));
    else if (tiles <= 1 << 16)
        sort_into_tiles<T, uint16_t>(seen, totals, order.get(), width, height, queue, bins);
    else
        sort_into_tiles<T, uint32_t>(seen, totals, order.get(), width, height, queue, bins);
    return bins;
}

template Bins bin(const Visible<float>&, int64_t, int, int, const Queue&);
template Bins bin(const Visible<double>&, int64_t, int, int, const Queue&);

}  // namespace cuda
}  // namespace gs
