#include "binning.h"

#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "parallel.h"
#include "../tiles.h"

namespace gs {
namespace {

constexpr int64_t kPrefetch = 8;  // Gaussians ahead: in depth order they lie anywhere in memory

template <class T>
const TileKernels<T>& tile_kernels();
template <>
const TileKernels<float>& tile_kernels() {
    return GS_SELECT_KERNELS(tiles_float);
}
template <>
const TileKernels<double>& tile_kernels() {
    return GS_SELECT_KERNELS(tiles_double);
}

// Calls f(tile) for the tiles that the cut ellipse of a splat meets, row by row.
template <class T, class F>
void for_each_tile(const TileSet& set, const Splat<T>& s, int width, int height, int tiles_x, const F& f) {
    if (set.met) {
        const int64_t first = int64_t(set.row) * tiles_x + set.column;
        for (uint32_t met = set.met; met; met &= met - 1) {
            const int b = __builtin_ctz(met);
            f(first + b / 4 * tiles_x + b % 4);
        }
        return;
    }
    const TileWalk<T> walk(s, width, height);
    for (int row = walk.first_row(); row <= walk.last_row(); ++row) {
        int first, last;
        walk.columns(row, first, last);
        for (int column = first; column <= last; ++column) f(int64_t(row) * tiles_x + column);
    }
}

// Positive floats order as their bits.
uint32_t order_bits(float x) {
    uint32_t b;
    memcpy(&b, &x, sizeof b);
    return b;
}
uint64_t order_bits(double x) {
    uint64_t b;
    memcpy(&b, &x, sizeof b);
    return b;
}

template <class Key>
struct Item {
    Key depth;
    uint32_t gaussian;
};

// Stable least-significant-digit radix sort of the first `count` items: equal depths keep their order.
template <class Key>
void sort_by_depth(Array<Item<Key>>& items, int64_t count) {
    constexpr int kDigit = 11, kBuckets = 1 << kDigit;
    Array<Item<Key>> other(count);
    for (int shift = 0; shift < int(8 * sizeof(Key)); shift += kDigit) {
        int64_t start[kBuckets + 1] = {};
        for (int64_t i = 0; i < count; ++i) ++start[((items[i].depth >> shift) & (kBuckets - 1)) + 1];
        for (int b = 0; b < kBuckets; ++b) start[b + 1] += start[b];
        for (int64_t i = 0; i < count; ++i)
            other[start[(items[i].depth >> shift) & (kBuckets - 1)]++] = items[i];
        std::swap(items, other);
    }
}

// The Gaussians that are seen, the nearest first.
template <class T>
Array<uint32_t> depth_order(const Projected<T>& seen, int64_t count) {
    Array<Item<decltype(order_bits(T()))>> items(count);
    int64_t visible = 0;
    for (int64_t i = 0; i < count; ++i)
        if (seen.radii[i] > 0) items[visible++] = {order_bits(seen.depths[i]), uint32_t(i)};
    sort_by_depth(items, visible);
    Array<uint32_t> order(visible);
    for (int64_t r = 0; r < visible; ++r) order[r] = items[r].gaussian;
    return order;
}

// The number behind `format` in a file of the kernel's, or `otherwise`.
double read_number(const char* path, const char* format, double otherwise) {
    double value = otherwise;
    if (FILE* f = fopen(path, "r")) {
        char line[128];
        while (fgets(line, sizeof line, f))
            if (sscanf(line, format, &value) == 1) break;
        fclose(f);
    }
    return value;
}

// Bytes that this process can still get, of the machine and of its container; unlimited where nobody says.
double available_memory() {
    const double machine = 1024 * read_number("/proc/meminfo", "MemAvailable: %lf", 1e18);
    const double limit = read_number("/sys/fs/cgroup/memory.max", "%lf", 1e21);
    return std::min(machine, limit - read_number("/sys/fs/cgroup/memory.current", "%lf", 0));
}

void check_memory(int64_t pairs, int bytes_per_pair) {
    const double needed =
        double(pairs) * (bytes_per_pair + sizeof(uint32_t) + sizeof(uint16_t) + sizeof(int64_t));
    if (needed < double(1 << 28)) return;  // not worth asking
    const double available = available_memory(), gib = double(1 << 30);
    if (needed > available) throw OutOfMemory{pairs, needed / gib, available / gib};
}

}  // namespace

// A counting sort by tile over the Gaussians in depth order: within a tile they stay in depth order. Each
// thread counts and places one consecutive share of the Gaussians; where a pair ends up does not depend on
// how they are shared out.
template <class T>
void Bins::build(const Projected<T>& seen, int64_t count, int width, int height, int bytes_per_pair,
                 int threads) {
    tiles_x_ = (width + kTile - 1) / kTile;
    tiles_y_ = (height + kTile - 1) / kTile;
    const int64_t tiles = int64_t(tiles_x_) * tiles_y_;
    const Array<TileSet> sets(count);
    tile_kernels<T>().find(seen, count, width, height, sets.data(), threads);
    const Array<uint32_t> order = depth_order(seen, count);
    const int64_t visible = order.size();
    const int64_t shares = std::max<int64_t>(1, std::min<int64_t>(threads, visible));
    auto share_start = [&](int64_t c) { return visible * c / shares; };
    auto for_each_tile_of = [&](int64_t r, const auto& f) {
        if (r + kPrefetch < visible) __builtin_prefetch(&sets[order[r + kPrefetch]]);
        for_each_tile(sets[order[r]], seen.splats[order[r]], width, height, tiles_x_, f);
    };

    first_pair_ = Array<int64_t>(count + 1);
    std::fill(first_pair_.begin(), first_pair_.end(), 0);
    std::vector<std::vector<int64_t>> cursor(shares, std::vector<int64_t>(tiles, 0));
    parallel_for(shares, threads, [&](int64_t c) {
        for (int64_t r = share_start(c); r < share_start(c + 1); ++r) {
            int64_t n = 0;
            for_each_tile_of(r, [&](int64_t t) {
                ++cursor[c][t];
                ++n;
            });
            first_pair_[order[r] + 1] = n;
        }
    });
    for (int64_t i = 0; i < count; ++i) first_pair_[i + 1] += first_pair_[i];
    const int64_t pairs = first_pair_[count];
    check_memory(pairs, bytes_per_pair);

    tile_start_ = Array<int64_t>(tiles + 1);
    int64_t next = 0;
    for (int64_t t = 0; t < tiles; ++t) {
        tile_start_[t] = next;
        for (auto& share : cursor) {
            const int64_t n = share[t];
            share[t] = next;
            next += n;
        }
    }
    tile_start_[tiles] = next;

    gaussians_ = Array<uint32_t>(pairs);
    blocks_ = Array<uint16_t>(pairs);
    entry_of_ = Array<int64_t>(pairs);
    parallel_for(shares, threads, [&](int64_t c) {
        for (int64_t r = share_start(c); r < share_start(c + 1); ++r) {
            int64_t p = first_pair_[order[r]];
            for_each_tile_of(r, [&](int64_t t) {
                const int64_t entry = cursor[c][t]++;
                gaussians_[entry] = order[r];
                entry_of_[p++] = entry;
            });
        }
    });
}

template void Bins::build(const Projected<float>&, int64_t, int, int, int, int);
template void Bins::build(const Projected<double>&, int64_t, int, int, int, int);

}  // namespace gs
