// Sums of several numbers over a warp, in fewer shuffles than one number after the other: with each halving
// of the lanes a lane keeps one half of the numbers and hands the other half to its partner.
#pragma once

#include "gpu/device.h"

namespace gs {
namespace cuda {

// The sum over all lanes of v[sum_place(lane)], where that is not -1.
template <int kCount, int kPartner = kWarp / 2, class T>
__device__ inline T warp_sums(const T (&v)[kCount]) {
    if constexpr (kPartner == 0) {
        static_assert(kCount == 1, "at most as many numbers as lanes");
        return v[0];
    } else {
        constexpr int kKept = (kCount + 1) / 2;
        const bool upper = lane_index() & kPartner;
        T kept[kKept];
        for (int j = 0; j < kKept; ++j) {
            const bool has_pair =
                j + kKept < kCount;  // or both halves keep the same, and one of them for nothing
            const T above = has_pair ? v[j + kKept] : v[j];
            kept[j] = (upper ? above : v[j]) + __shfl_xor_sync(kWholeWarp, upper ? v[j] : above, kPartner);
        }
        return warp_sums<kKept, kPartner / 2>(kept);
    }
}

// Which of kCount sums a lane ends up with; -1: none.
template <int kCount, int kPartner = kWarp / 2>
__device__ inline int sum_place(int lane) {
    if constexpr (kPartner == 0) {
        return 0;
    } else {
        constexpr int kKept = (kCount + 1) / 2;
        const int within = sum_place<kKept, kPartner / 2>(lane);
        const int place = within + (lane & kPartner ? kKept : 0);
        return within < 0 || place >= kCount ? -1 : place;
    }
}

template <class T>
__device__ inline T warp_max(T value) {
    for (int other = kWarp / 2; other > 0; other /= 2) {
        const T its = __shfl_xor_sync(kWholeWarp, value, other);
        value = its > value ? its : value;
    }
    return value;
}

}  // namespace cuda
}  // namespace gs
