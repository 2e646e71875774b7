#include "adam.h"

#include "parallel.h"

namespace gs {
namespace GS_ISA {
namespace {

void step(int64_t rows, const bool* visible, const AdamTensor& tensor, int threads) {
    parallel_ranges(rows, threads, [&](int64_t begin, int64_t end) {
        const AdamTensor t = tensor;
        uint32_t largest = 0;
        if (!visible) {
#pragma GCC ivdep  // the four tensors do not overlap
            for (int64_t i = begin * t.columns; i < end * t.columns; ++i)
                largest = gs::max(largest, adam_step(t, i, load_number(t, i, t.grad[i])));
        } else {
            for (int64_t row = begin; row < end; ++row)
                if (visible[row])
                    for (int64_t i = row * t.columns; i < (row + 1) * t.columns; ++i)
                        largest = gs::max(largest, adam_step(t, i, load_number(t, i, t.grad[i])));
        }
        if (largest == kExponent) __atomic_store_n(t.unsound, 1, __ATOMIC_RELAXED);
    });
}

}  // namespace

extern const AdamKernels adam = {step};

}  // namespace GS_ISA
}  // namespace gs
