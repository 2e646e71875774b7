// The network that gives Gaussians their importance s:
//
//     logit(s) = bias + sum over units u of out_u max(0, weights_u . x)
//
// x are features of the Gaussian, its latent and 1 (docs/method.md, 4). P and Rows as in project.h; scales
// are logarithms here.
#pragma once

#include "arrays.h"

namespace gs {

constexpr int kOctaves = 4, kLatents = 4, kUnits = 32;
constexpr int kFeatures = 3 + 6 * kOctaves + 5 + 3 + kMaxShDegree;
constexpr int kInputs = kFeatures + kLatents + 1;
// The sums that gradients of weights, out and bias are made of: dL/d(logit) x over the Gaussians that a unit
// is on for, and over all.
constexpr int kNetworkSums = (kUnits + 1) * kInputs;

template <class T>
struct ImportanceNetwork {
    T extent;          // world units
    T log_extent;      // its logarithm
    const T* center;   // (3,) world; features are relative to it
    const T* weights;  // (kUnits, kInputs)
    const T* out;      // (kUnits,)
    const T* bias;     // (1,)
    const T* latents;  // (N, kLatents) or null: zeros
};

// Where the backward pass leaves what it finds.
template <class T>
struct ImportanceGradients {
    const T* importance;  // (N, 1), what comes in
    T* latents;           // (N, kLatents) or null
    T* sums;              // (kNetworkSums,)
};

// 2^x for x <= 0; packs have their own.
template <class T>
GS_HD T exp2_nonpositive(T x) {
    return exp2(x);
}
template <class P>
GS_HD P exp_nonpositive(P x) {
    return exp2_nonpositive(x * P(Scalar<P>(1.44269504088896340736)));
}

template <class P>
GS_HD P logistic(P x) {
    using T = Scalar<P>;
    const auto positive = x >= P(T(0));
    const P q = exp_nonpositive(select(positive, -x, x)), one(T(1));
    return select(positive, one, q) / (one + q);
}

// Sine and cosine of pi x, |x| <= 1, from the series at half the angle.
template <class P>
GS_HD void sine_cosine_pi(P x, P& sine, P& cosine) {
    using T = Scalar<P>;
    constexpr int kTerms = sizeof(T) == sizeof(float) ? 7 : 11;
    const P half = P(T(1.57079632679489661923)) * x, square_of_half = half * half, one(T(1));
    P s = one, c = one;
    for (int k = kTerms; k > 0; --k) {
        s = one - square_of_half * s * P(T(1.0 / (2 * k * (2 * k + 1))));
        c = one - square_of_half * c * P(T(1.0 / (2 * k * (2 * k - 1))));
    }
    s *= half;
    sine = P(T(2)) * s * c;
    cosine = one - P(T(2)) * s * s;
}

// Sets what the network sees of a Gaussian (kInputs,).
template <class T, class P, class Rows>
GS_HD void importance_inputs(const ImportanceNetwork<T>& net, const Gaussians<T>& g, const Rows& rows, P* x) {
    const P one(T(1));
    P place[3], log_scale[3];
    rows.template load<3>(g.means, place);
    for (int c = 0; c < 3; ++c) place[c] = (place[c] - P(net.center[c])) * P(1 / net.extent);
    const P inside = one / (one + sqrt(dot3(place, place)));  // the far background stays bounded
    for (int c = 0; c < 3; ++c) {
        x[c] = place[c] * inside;
        P *sine = x + 3 + c, *cosine = x + 6 + c;
        sine_cosine_pi(x[c], *sine, *cosine);
        for (int octave = 1; octave < kOctaves; ++octave, sine += 6, cosine += 6) {
            sine[6] = P(T(2)) * *sine * *cosine;
            cosine[6] = one - P(T(2)) * *sine * *sine;
        }
    }
    x += 3 + 6 * kOctaves;

    rows.template load<3>(g.scales, log_scale);
    for (int c = 0; c < 3; ++c) log_scale[c] = log_scale[c] - P(net.log_extent);
    const P large = max(max(log_scale[0], log_scale[1]), log_scale[2]);
    const P small = min(min(log_scale[0], log_scale[1]), log_scale[2]);
    const P middle = log_scale[0] + log_scale[1] + log_scale[2] - large - small;
    x[0] = large * P(T(0.25)) + one;  // of order 1 for usual scenes
    x[1] = middle * P(T(0.25)) + one;
    x[2] = small * P(T(0.25)) + one;
    x[3] = exp_nonpositive(min(middle - large, P(T(0))));  // the shape, whatever the rotation
    x[4] = exp_nonpositive(small - large);
    x += 5;

    const auto sh = rows.sh(g, g.sh_bases);
    for (int c = 0; c < 3; ++c) x[c] = max(P(kConstantBasis<T>) * sh(0, c) + P(T(0.5)), P(T(0)));
    x += 3;
    for (int degree = 1; degree <= kMaxShDegree; ++degree) {  // how much each changes the color
        P energy(T(0));
        if (square(degree + 1) <= g.sh_bases)
            for (int j = square(degree); j < square(degree + 1); ++j)
                for (int c = 0; c < 3; ++c) energy += sh(j, c) * sh(j, c);
        x[degree - 1] = sqrt(energy);
    }
    x += kMaxShDegree;

    for (int j = 0; j < kLatents; ++j) x[j] = P(T(0));
    if (net.latents) rows.template load<kLatents>(net.latents, x);
    x[kLatents] = one;
}

constexpr int kUnitsAtOnce = 4;  // so that their sums do not wait for each other

// Sets weights_u . x of as many units; one is on where it is above 0.
template <class T, class P>
GS_HD void unit_inputs(const T* weights, const P* x, P* of_units) {
    for (int n = 0; n < kUnitsAtOnce; ++n) of_units[n] = P(T(0));
    for (int i = 0; i < kInputs; ++i)
        for (int n = 0; n < kUnitsAtOnce; ++n)
            of_units[n] = fused(P(weights[n * kInputs + i]), x[i], of_units[n]);
}

// dL/d(logit(s)).
template <class P>
GS_HD P logit_gradient(P importance, P gradient) {
    return gradient * importance * (P(Scalar<P>(1)) - importance);
}

}  // namespace gs
