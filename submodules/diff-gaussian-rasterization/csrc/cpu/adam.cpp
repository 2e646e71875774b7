#include "adam.h"

#include <math.h>

#include "parallel.h"

namespace gs {
namespace GS_ISA {
namespace {

// Adam (Kingma and Ba 2015) without bias correction, as the sparse optimisers of this field have it (Mallick
// et al. 2024): a row's step count is not the iteration count.
void step_row(const AdamStep& s, int64_t row) {
    const float keep1 = float(s.beta1), take1 = float(1 - s.beta1), keep2 = float(s.beta2),
                take2 = float(1 - s.beta2);
    const int64_t end = (row + 1) * s.columns;
    for (int64_t i = row * s.columns; i < end; ++i) {
        const float g = s.grad[i];
        const float m = keep1 * s.exp_avg[i] + take1 * g;
        const float v = keep2 * s.exp_avg_sq[i] + take2 * g * g;
        s.exp_avg[i] = m;
        s.exp_avg_sq[i] = v;
        s.param[i] -= s.lr * m / (sqrtf(v) + s.eps);
    }
}

void step(const AdamStep& s, int threads) {
    parallel_ranges(s.rows, threads, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row)
            if (s.visible[row]) step_row(s, row);
    });
}

}  // namespace

extern const AdamKernels adam = {step};

}  // namespace GS_ISA
}  // namespace gs
