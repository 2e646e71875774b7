// Sums and stable sorts over device memory: cub's on a GPU, plain loops under emulation.
#pragma once

#include "gpu/device.h"

#if defined(GS_EMULATED)
#include <algorithm>
#include <numeric>
#include <vector>
#else
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>
#endif

namespace gs {

// Sorts by the lowest `bits` bits of the keys; equal keys keep their order.
template <class Key>
void sort_pairs(const Queue& queue, const Key* keys, Key* sorted_keys, const uint32_t* values,
                uint32_t* sorted_values, int64_t count, int bits) {
    if (count == 0) return;
#if defined(GS_EMULATED)
    const Key mask = bits < int(8 * sizeof(Key)) ? (Key(1) << bits) - 1 : ~Key(0);
    std::vector<int64_t> order(count);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return (keys[a] & mask) < (keys[b] & mask); });
    for (int64_t i = 0; i < count; ++i) {
        sorted_keys[i] = keys[order[i]];
        sorted_values[i] = values[order[i]];
    }
    (void)queue;
#else
    size_t bytes = 0;
    check(cub::DeviceRadixSort::SortPairs(nullptr, bytes, keys, sorted_keys, values, sorted_values, count, 0,
                                          bits, queue.stream),
          "size of SortPairs");
    const DeviceArray<char> temporary(queue, int64_t(bytes));
    check_queued(queue,
                 cub::DeviceRadixSort::SortPairs(temporary.get(), bytes, keys, sorted_keys, values,
                                                 sorted_values, count, 0, bits, queue.stream),
                 "SortPairs");
#endif
}

// sums[i] = values[0] + ... + values[i]; may be the same array.
template <class T>
void inclusive_sum(const Queue& queue, const T* values, T* sums, int64_t count) {
    if (count == 0) return;
#if defined(GS_EMULATED)
    std::partial_sum(values, values + count, sums);
    (void)queue;
#else
    size_t bytes = 0;
    check(cub::DeviceScan::InclusiveSum(nullptr, bytes, values, sums, count, queue.stream),
          "size of InclusiveSum");
    const DeviceArray<char> temporary(queue, int64_t(bytes));
    check_queued(queue,
                 cub::DeviceScan::InclusiveSum(temporary.get(), bytes, values, sums, count, queue.stream),
                 "InclusiveSum");
#endif
}

}  // namespace gs
