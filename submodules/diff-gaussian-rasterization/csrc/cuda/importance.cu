// The importance of Gaussians, one thread each, and what its gradient says to the network and the latents:
// blocks go over the Gaussians in turns that do not depend on the device, and each thread keeps some of the
// sums.
#include "cuda/importance.h"

#include "cuda/rows.h"

namespace gs {
namespace cuda {
namespace {

// Of a block; shared memory holds fewer rows of doubles.
template <class T>
constexpr int kThreads = sizeof(T) == sizeof(float) ? 64 : 32;
constexpr int64_t kBlocks = 1024;  // of the backward pass, each with sums of its own
constexpr int kWeights = kUnits * kInputs;
// Each thread keeps the sums of so many units and inputs, squares that cover them all.
constexpr int kSide = 5, kAcross = (kInputs + kSide - 1) / kSide, kDown = (kUnits + kSide) / kSide;

// The network in shared memory.
template <class T>
struct SharedNetwork {
    T weights[kWeights], out[kUnits], bias;

    __device__ void load(const ImportanceNetwork<T>& net) {
        for (int n = int(threadIdx.x); n < kWeights; n += kThreads<T>) weights[n] = net.weights[n];
        for (int n = int(threadIdx.x); n < kUnits; n += kThreads<T>) out[n] = net.out[n];
        if (threadIdx.x == 0) bias = net.bias[0];
        __syncthreads();
    }
};

// Rows of the coefficients, and then of the inputs; the odd lengths keep lanes out of each other's banks.
template <class T>
union InputRow {
    SharedRow<T> coefficients;
    T x[kAcross * kSide];
};
static_assert(sizeof(InputRow<float>) / sizeof(float) % 2 == 1, "an odd length");
static_assert(sizeof(InputRow<float>) == sizeof(SharedRow<float>), "as far apart as those that are fetched");

// Fetches a warp's coefficients and sets what the network sees of each thread's Gaussian; a whole warp calls
// it.
template <class T>
__device__ void load_inputs(const ImportanceNetwork<T>& net, const Gaussians<T>& g, int64_t i,
                            InputRow<T>* of_warp, T* x) {
    const bool exists = i < g.count;
    int degree = 0;
    while (square(degree + 2) <= g.sh_bases) ++degree;
    fetch_coefficients(g, degree, i - lane_index(), __ballot_sync(kWholeWarp, exists),
                       &of_warp->coefficients);
    wait_for_copies();
    if (exists) importance_inputs(net, g, Row<T>{i, of_warp[lane_index()].coefficients.of}, x);
}

// Returns the importance; keep(u, value) gets what enters each unit.
template <class T, class Keep>
__device__ T importance_of(const SharedNetwork<T>& net, const T* x, const Keep& keep) {
    T logit = net.bias;
#pragma unroll 1
    for (int u = 0; u < kUnits; u += kUnitsAtOnce) {
        T units[kUnitsAtOnce];
        unit_inputs(&net.weights[u * kInputs], x, units);
        for (int n = 0; n < kUnitsAtOnce; ++n) {
            logit = fused(net.out[u + n], max(units[n], T(0)), logit);
            keep(u + n, units[n]);
        }
    }
    return logistic(logit);
}

template <class T>
__global__ void __launch_bounds__(kThreads<T>)
    evaluate_importance(ImportanceNetwork<T> net, Gaussians<T> g, T* importance) {
    GS_SHARED(SharedNetwork<T>, shared_net);
    GS_SHARED(InputRow<T>, rows, [kThreads<T>]);
    shared_net.load(net);
    const int64_t i = global_index();
    T x[kInputs];
    load_inputs(net, g, i, &rows[warp_index() * kWarp], x);
    if (i < g.count) importance[i] = importance_of(shared_net, x, [](int, T) {});
}

// Puts dL/d(logit) where each unit is on, and for none of them, and the gradients of the latents.
template <class T>
__device__ void differentiate(const SharedNetwork<T>& net, const ImportanceGradients<T>& grad, int64_t i,
                              const T* x, T* on) {
    const T importance = importance_of(net, x, [&](int u, T value) { on[u] = value; });
    const T of_logit = logit_gradient(importance, grad.importance[i]);
    T latents[kLatents] = {};
#pragma unroll 1
    for (int u = 0; u < kUnits; ++u) {
        on[u] = on[u] > T(0) ? of_logit : T(0);
        for (int j = 0; j < kLatents; ++j)
            latents[j] += on[u] * net.out[u] * net.weights[u * kInputs + kFeatures + j];
    }
    on[kUnits] = of_logit;
    if (grad.latents)
        for (int j = 0; j < kLatents; ++j) grad.latents[kLatents * i + j] = latents[j];
}

// The sums of a square over some Gaussians.
template <class T>
struct Square {
    int unit, input;  // of its first corner
    T sums[kSide][kSide] = {};

    __device__ explicit Square(int number)
        : unit(number / kAcross * kSide), input(number % kAcross * kSide) {}

    __device__ void add(const T* on, const T* x) {
        for (int u = 0; u < kSide; ++u)
            for (int i = 0; i < kSide; ++i) sums[u][i] += on[unit + u] * x[input + i];
    }

    __device__ void store(T* out) const {
        for (int u = 0; u < kSide; ++u)
            for (int i = 0; i < kSide; ++i)
                if (unit + u <= kUnits && input + i < kInputs)
                    out[(unit + u) * kInputs + input + i] = sums[u][i];
    }
};

// of_blocks: (blocks, kNetworkSums).
template <class T>
__global__ void __launch_bounds__(kThreads<T>)
    differentiate_importance(ImportanceNetwork<T> net, Gaussians<T> g, ImportanceGradients<T> grad,
                             T* of_blocks) {
    GS_SHARED(SharedNetwork<T>, shared_net);
    GS_SHARED(InputRow<T>, rows, [kThreads<T>]);
    GS_SHARED(T, on, [kThreads<T>][kDown * kSide]);
    shared_net.load(net);
    const int thread = int(threadIdx.x);
    constexpr int kSquares = (kDown * kAcross + kThreads<T> - 1) / kThreads<T>;
    static_assert(kSquares <= 2, "a thread has one square or two");
    Square<T> squares[2] = {Square<T>(thread), Square<T>(thread + kThreads<T>)};
    const int64_t turn = int64_t(gridDim.x) * kThreads<T>;
    for (int64_t first = int64_t(blockIdx.x) * kThreads<T>; first < g.count; first += turn) {
        const int64_t i = first + thread;
        T x[kInputs];
        load_inputs(net, g, i, &rows[warp_index() * kWarp], x);
        if (i < g.count) {
            differentiate(shared_net, grad, i, x, on[thread]);
            for (int k = 0; k < kInputs; ++k) rows[thread].x[k] = x[k];
        }
        __syncthreads();
        const int count = int(g.count - first < kThreads<T> ? g.count - first : kThreads<T>);
        for (int n = 0; n < count; ++n)
            for (int k = 0; k < kSquares; ++k)
                if (squares[k].unit <= kUnits) squares[k].add(on[n], rows[n].x);
        __syncthreads();
    }
    for (int k = 0; k < kSquares; ++k) squares[k].store(of_blocks + int64_t(blockIdx.x) * kNetworkSums);
}

template <class T>
__global__ void add_blocks(const T* of_blocks, int64_t blocks, T* sums) {
    const int64_t n = global_index();
    if (n >= kNetworkSums) return;
    T total = T(0);
    for (int64_t b = 0; b < blocks; ++b) total += of_blocks[b * kNetworkSums + n];
    sums[n] = total;
}

}  // namespace

template <class T>
void importance_forward(const ImportanceNetwork<T>& net, const Gaussians<T>& g, T* importance,
                        const Queue& queue) {
    const OnDevice guard(queue.device);
    GS_LAUNCH(evaluate_importance<T>, blocks_for(g.count, kThreads<T>), kThreads<T>, queue, net, g,
              importance);
}

template <class T>
void importance_backward(const ImportanceNetwork<T>& net, const Gaussians<T>& g,
                         const ImportanceGradients<T>& grad, const Queue& queue) {
    const OnDevice guard(queue.device);
    const int64_t all = blocks_for(g.count, kThreads<T>), blocks = all < kBlocks ? all : kBlocks;
    const DeviceArray<T> of_blocks(queue, blocks * kNetworkSums);
    GS_LAUNCH(differentiate_importance<T>, blocks, kThreads<T>, queue, net, g, grad, of_blocks.get());
    GS_LAUNCH(add_blocks<T>, blocks_for(kNetworkSums, kWarp), kWarp, queue, of_blocks.get(), blocks,
              grad.sums);
}

#define GS_INSTANTIATE(T)                                                                                 \
    template void importance_forward(const ImportanceNetwork<T>&, const Gaussians<T>&, T*, const Queue&); \
    template void importance_backward(const ImportanceNetwork<T>&, const Gaussians<T>&,                   \
                                      const ImportanceGradients<T>&, const Queue&);
GS_INSTANTIATE(float)
GS_INSTANTIATE(double)

}  // namespace cuda
}  // namespace gs
