// The tiles that each splat meets, 4x4 of them at a time.
#include "parallel.h"
#include "tile.h"

namespace gs {
namespace GS_ISA {
namespace {

constexpr int kWindow = 4;  // tiles along a set

template <class T>
GS_INLINE TileSet tile_set(const Splat<T>& s, int width, int height) {
    int x0, x1, y0, y1;
    pixel_range(s.x - s.half_width, s.x + s.half_width, width, x0, x1);
    pixel_range(s.y - s.half_height, s.y + s.half_height, height, y0, y1);
    if (x0 > x1 || y0 > y1) return {};
    const int column = x0 / kTile, row = y0 / kTile;
    const int columns = x1 / kTile - column + 1, rows = y1 / kTile - row + 1;
    if (columns > kWindow || rows > kWindow) return {};
    const uint32_t box = (0xfu >> (kWindow - columns)) * 0x1111u & 0xffffu >> kWindow * (kWindow - rows);
    const uint32_t met = squares_met(s, column * kTile, row * kTile, kTile) & box;
    return {uint16_t(column), uint16_t(row), uint16_t(met)};
}

template <class T>
void find(const Projected<T>& seen, int64_t count, int width, int height, TileSet* sets, int threads) {
    parallel_ranges(count, threads, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
            if (seen.radii[i] > 0) sets[i] = tile_set(seen.splats[i], width, height);
    });
}

}  // namespace

extern const TileKernels<float> tiles_float = {find<float>};
extern const TileKernels<double> tiles_double = {find<double>};

}  // namespace GS_ISA
}  // namespace gs
