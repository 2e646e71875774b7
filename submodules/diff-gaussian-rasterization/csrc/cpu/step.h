// Adam over consecutive numbers of a tensor, for the SIMD sources.
#pragma once

#include "../adam.h"
#include "packs.h"

namespace gs {
namespace GS_ISA {

// Steps numbers begin ... begin + count - 1. grads: of these. Returns the largest exponent of the new values.
GS_INLINE uint32_t step_numbers(const AdamTensor& t, int64_t begin, int64_t count, const float* grads) {
    uint32_t largest = 0;
#pragma GCC ivdep  // the tensors do not overlap
    for (int64_t i = 0; i < count; ++i)
        largest = gs::max(largest, adam_step(t, begin + i, load_number(t, begin + i, grads[i])));
    return largest;
}

GS_INLINE void tell_if_unsound(const AdamTensor& t, uint32_t largest) {
    if (largest == kExponent) __atomic_store_n(t.unsound, 1, __ATOMIC_RELAXED);
}

}  // namespace GS_ISA
}  // namespace gs
