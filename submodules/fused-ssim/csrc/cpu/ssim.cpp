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

std::vector<SsimStrip> cut(int64_t planes, int64_t height, int64_t width) {
    std::vector<SsimStrip> strips;
    for (int64_t plane = 0; plane < planes; ++plane)
        for (int64_t y = 0; y < height; y += kStripHeight)
            for (int64_t x = 0; x < width; x += kStripWidth)
                strips.push_back(
                    {plane, y, std::min(y + kStripHeight, height), x, std::min(x + kStripWidth, width)});
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
    const std::vector<SsimStrip> strips = cut(problem.planes, problem.height, problem.width);
    std::vector<SsimSums> sums(strips.size());
    parallel_for(int64_t(strips.size()), threads, [&](int64_t i) { sums[i] = run(problem, strips[i]); });
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
