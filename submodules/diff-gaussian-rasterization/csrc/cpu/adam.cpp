#include "adam.h"

#include "parallel.h"
#include "step.h"

namespace gs {
namespace GS_ISA {
namespace {

void step(int64_t rows, const bool* visible, const AdamTensor& tensor, int threads) {
    parallel_ranges(rows, threads, [&](int64_t begin, int64_t end) {
        const AdamTensor t = tensor;
        const auto step_rows = [&](int64_t first, int64_t last) {
            return step_numbers(t, first * t.columns, (last - first) * t.columns, t.grad + first * t.columns);
        };
        uint32_t largest = visible ? 0 : step_rows(begin, end);
        for (int64_t row = begin; visible && row < end; ++row)
            if (visible[row]) largest = gs::max(largest, step_rows(row, row + 1));
        tell_if_unsound(t, largest);
    });
}

}  // namespace

extern const AdamKernels adam = {step};

}  // namespace GS_ISA
}  // namespace gs
