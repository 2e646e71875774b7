// Divides the planes into strips and the strips among threads.
#include "cpu/ssim.h"

#include <algorithm>
#include <vector>

#include "parallel.h"

namespace gs {
namespace {

// Long enough that the rows which neighbouring strips compute twice do not count, short enough to feed many
// cores.
constexpr int64_t kStripHeight = 256;

// Those of the first plane.
std::vector<SsimStrip> cut(int64_t height, int64_t width) {
    std::vector<SsimStrip> strips;
    for (int64_t y = 0; y < height; y += kStripHeight)
        for (int64_t x = 0; x < width; x += kStripWidth)
            strips.push_back({0, y, std::min(y + kStripHeight, height), x, std::min(x + kStripWidth, width)});
    return strips;
}

SsimSums run(const SsimProblem<float>& problem, const SsimStrip& strip) {
    return GS_SELECT_KERNELS(ssim_kernels).strip_f32(problem, strip);
}

SsimSums run(const SsimProblem<double>& problem, const SsimStrip& strip) {
    return GS_SELECT_KERNELS(ssim_kernels).strip_f64(problem, strip);
}

}  // namespace

template <class T>
SsimSums ssim(const SsimProblem<T>& problem, int threads) {
    cpu_isa();  // throws here, not in a thread
    const std::vector<SsimStrip> strips = cut(problem.height, problem.width);
    const int64_t count = int64_t(strips.size()), in_turn = problem.planes_in_turn();
    std::vector<SsimSums> sums(problem.planes * count);
    parallel_for(problem.planes / in_turn * count, threads, [&](int64_t i) {
        SsimStrip strip = strips[i % count];
        for (int64_t plane = i / count * in_turn; plane < (i / count + 1) * in_turn; ++plane) {
            strip.plane = plane;
            sums[plane * count + i % count] = run(problem, strip);
        }
    });
    SsimSums total;
    for (const SsimSums& sum : sums) {
        total.similarity += sum.similarity;
        total.difference += sum.difference;
    }
    return total;
}

template SsimSums ssim(const SsimProblem<float>&, int);
template SsimSums ssim(const SsimProblem<double>&, int);

}  // namespace gs
