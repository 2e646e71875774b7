// The binning of one Gaussian, emulated: prints its tiles, or what the emulation found. The argument is how
// many tiles the projection is said to have counted. Compiled by test_emulation.py.
#include <stdio.h>
#include <stdlib.h>

#include "cuda/stages.h"

namespace {

// An ellipse around the centre of a picture of three by three tiles, which leaves out two of the corners.
gs::Splat<float> ellipse() {
    gs::Splat<float> splat = {};
    gs::set_footprint(splat, gs::Sym2<float>{10, 6, 10}, 1.0f);
    splat.x = splat.y = 24;
    return splat;
}

void print_tiles(const gs::cuda::Lists& lists) {
    for (int64_t tile = 0; tile < lists.tiles(); ++tile)
        if (lists.tile_start[tile] < lists.tile_start[tile + 1]) printf("%d\n", int(tile));
}

}  // namespace

int main(int, char** arguments) {
    gs::Splat<float> splat = ellipse();
    float depth = 1;
    int32_t radius = 1, tiles = atoi(arguments[1]);
    const gs::Queue queue = {0, nullptr, [](size_t bytes) { return gs::Memory(malloc(bytes), free); }};
    try {
        const gs::cuda::Visible<float> visible = {&splat, &depth, &radius, &tiles};
        const gs::cuda::Bins bins = gs::cuda::bin(visible, 1, 48, 48, queue);
        print_tiles(bins.lists);
    } catch (const std::exception& error) {
        fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}
