#include "cuda/adam.h"

#include <algorithm>

namespace gs {
namespace cuda {
namespace {

constexpr int kThreads = 256, kEach = 4;  // numbers a thread has under way at once
constexpr int kBlock = kThreads * kEach;
constexpr int kMostTensors = 8;  // of one launch: they travel as a parameter of the kernel

struct Batch {
    int count;
    int64_t first_block[kMostTensors + 1];
    AdamTensor tensors[kMostTensors];
};

__global__ void __launch_bounds__(kThreads) step_tensors(int64_t rows, const bool* visible, Batch batch) {
    int which = 0;
    while (which + 1 < batch.count && int64_t(blockIdx.x) >= batch.first_block[which + 1]) ++which;
    const AdamTensor& t = batch.tensors[which];
    const int64_t first = (blockIdx.x - batch.first_block[which]) * kBlock + threadIdx.x;
    AdamNumber numbers[kEach];
    bool steps[kEach];
#pragma unroll
    for (int k = 0; k < kEach; ++k) {  // all loads before the first store: it might change what they read
        const int64_t i = first + k * kThreads;
        steps[k] = i < rows * t.columns && (!visible || visible[i / t.columns]);
        if (steps[k]) numbers[k] = load_number(t, i, t.grad[i]);
    }
#pragma unroll
    for (int k = 0; k < kEach; ++k)
        if (steps[k] && gs::adam_step(t, first + k * kThreads, numbers[k]) == kExponent)
            *t.unsound = 1;  // many threads may: they write the same
}

}  // namespace

void adam_step(int64_t rows, const bool* visible, const std::vector<AdamTensor>& tensors,
               const Queue& queue) {
    const OnDevice guard(queue.device);
    for (size_t begin = 0; begin < tensors.size(); begin += kMostTensors) {
        Batch batch = {};
        batch.count = int(std::min<size_t>(kMostTensors, tensors.size() - begin));
        for (int k = 0; k < batch.count; ++k) {
            batch.tensors[k] = tensors[begin + k];
            batch.first_block[k + 1] =
                batch.first_block[k] + blocks_for(rows * batch.tensors[k].columns, kBlock);
        }
        GS_LAUNCH(step_tensors, batch.first_block[batch.count], kThreads, queue, rows, visible, batch);
    }
}

}  // namespace cuda
}  // namespace gs
