// The importance of Gaussians, and what its gradient says to the network and the latents.
#include "importance.h"

#include "gaussian_rows.h"

namespace gs {
namespace GS_ISA {
namespace {

constexpr int kTogether = 4;  // blocks of which a sum is loaded and stored once

template <class T>
struct Inputs {
    Lanes<T> x[kInputs];
};

template <class T>
struct Evaluated {
    Lanes<T> importance, unit[kUnits];  // what enters each unit
};

template <class T>
GS_INLINE void evaluate(const ImportanceNetwork<T>& net, const Inputs<T>& inputs, Evaluated<T>& out) {
    using P = Lanes<T>;
    P logit(net.bias[0]);
    for (int u = 0; u < kUnits; u += kUnitsAtOnce)
        unit_inputs(net.weights + u * kInputs, inputs.x, out.unit + u);
    for (int u = 0; u < kUnits; ++u) logit = fused(P(net.out[u]), max(out.unit[u], P(T(0))), logit);
    out.importance = logistic(logit);
}

template <class T>
void forward(const ImportanceNetwork<T>& net, const Gaussians<T>& g, T* importance, int threads) {
    for_each_block<T>(g.count, threads, [&](auto b) {
        Inputs<T> inputs;
        Evaluated<T> found;
        importance_inputs(net, g, BlockRows<T, decltype(b)>{b, {}}, inputs.x);
        evaluate(net, inputs, found);
        store<1>(&found.importance, importance, b);
    });
}

// The sums of some Gaussians, lane by lane.
template <class T>
struct Sums {
    Lanes<T> of[kUnits + 1][kInputs];

    Sums() {
        for (auto& unit : of)
            for (auto& sum : unit) sum = Lanes<T>(T(0));
    }

    GS_INLINE void add(const Inputs<T>* inputs, const Lanes<T> (*on)[kUnits + 1]) {
        constexpr int kAtOnce = 3;
        static_assert((kUnits + 1) % kAtOnce == 0, "no unit is left over");
        for (int u = 0; u <= kUnits; u += kAtOnce)
            for (int i = 0; i < kInputs; ++i)
                for (int n = 0; n < kAtOnce; ++n) {
                    Lanes<T> sum = of[u + n][i];
                    for (int k = 0; k < kTogether; ++k) sum = fused(on[k][u + n], inputs[k].x[i], sum);
                    of[u + n][i] = sum;
                }
    }
};

// One block: its inputs, dL/d(logit) for each unit that is on, and the gradients of its latents.
template <class T, class B>
GS_INLINE void differentiate(const ImportanceNetwork<T>& net, const Gaussians<T>& g,
                             const ImportanceGradients<T>& grad, const B& block, Inputs<T>& inputs,
                             Lanes<T>* on) {
    using P = Lanes<T>;
    const BlockRows<T, B> rows{block, {}};
    Evaluated<T> found;
    importance_inputs(net, g, rows, inputs.x);
    evaluate(net, inputs, found);
    P gradient, latents[kLatents];
    rows.template load<1>(grad.importance, &gradient);
    T exists[NativeWidth<T>::value];
    for (int r = 0; r < NativeWidth<T>::value; ++r) exists[r] = T(r < block.rows());
    on[kUnits] = logit_gradient(found.importance, gradient) * P::load(exists);
    for (P& latent : latents) latent = P(T(0));
    for (int u = 0; u < kUnits; ++u) {
        on[u] = zero_unless(found.unit[u] > P(T(0)), on[kUnits]);
        for (int j = 0; j < kLatents; ++j)
            latents[j] = fused(on[u], P(net.out[u] * net.weights[u * kInputs + kFeatures + j]), latents[j]);
    }
    if (grad.latents) store<kLatents>(latents, grad.latents, block);
}

// Adds up Gaussians first ... end - 1.
template <class T>
void sum_share(const ImportanceNetwork<T>& net, const Gaussians<T>& g, const ImportanceGradients<T>& grad,
               int64_t first, int64_t end, T* out) {
    constexpr int W = NativeWidth<T>::value;
    Sums<T> sums;
    Inputs<T> inputs[kTogether];
    Lanes<T> on[kTogether][kUnits + 1];
    for (int64_t i = first; i < end; i += kTogether * W) {
        for (int k = 0; k < kTogether; ++k) {
            const int64_t at = i + k * W;
            if (at + W <= end) {
                differentiate(net, g, grad, Block<T, true>{at, W}, inputs[k], on[k]);
            } else if (at < end) {
                differentiate(net, g, grad, Block<T, false>{at, int(end - at)}, inputs[k], on[k]);
            } else {
                for (Lanes<T>& x : inputs[k].x) x = Lanes<T>(T(0));
                for (Lanes<T>& unit : on[k]) unit = Lanes<T>(T(0));
            }
        }
        sums.add(inputs, on);
    }
    for (int u = 0; u <= kUnits; ++u)
        for (int i = 0; i < kInputs; ++i) {
            T lanes[W], total = T(0);
            sums.of[u][i].store(lanes);
            for (T lane : lanes) total += lane;
            out[u * kInputs + i] = total;
        }
}

template <class T>
void backward(const ImportanceNetwork<T>& net, const Gaussians<T>& g, const ImportanceGradients<T>& grad,
              T* of_shares, int threads) {
    constexpr int64_t kShare = kImportanceShare;
    const int64_t shares = (g.count + kShare - 1) / kShare;
    parallel_for(shares, threads, [&](int64_t s) {
        const int64_t first = s * kShare, end = gs::min(first + kShare, g.count);
        sum_share(net, g, grad, first, end, of_shares + s * kNetworkSums);
    });
    for (int n = 0; n < kNetworkSums; ++n) {
        T total = T(0);
        for (int64_t s = 0; s < shares; ++s) total += of_shares[s * kNetworkSums + n];
        grad.sums[n] = total;
    }
}

}  // namespace

extern const ImportanceKernels<float> importance_float = {forward<float>, backward<float>};
extern const ImportanceKernels<double> importance_double = {forward<double>, backward<double>};

}  // namespace GS_ISA
}  // namespace gs
