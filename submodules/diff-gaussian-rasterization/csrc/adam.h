// Adam (Kingma and Ba 2015): the step of one number, and what it needs to know of its tensor.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "splat_math.h"

namespace gs {

// A tensor of (rows, columns) and its moments.
struct AdamTensor {
    int64_t columns;
    float* param;
    const float* grad;
    float *exp_avg, *exp_avg_sq;
    int32_t* unsound;  // becomes 1 if a number of the parameter is no longer finite
    float rate;        // of learning, over the first moment's bias
    float root_scale;  // of the root of the second moment: 1 over the root of its bias
    float eps;
    float keep1, take1, keep2, take2;  // beta and 1 - beta, which in float would be wrong in its fifth digit
};

constexpr uint32_t kExponent = 0x7f800000;  // bits of a float, all of them set in infinity and NaN

// One number of a tensor.
struct AdamNumber {
    float param, grad, exp_avg, exp_avg_sq;
};
GS_HD AdamNumber load_number(const AdamTensor& t, int64_t i, float grad) {
    return {t.param[i], grad, t.exp_avg[i], t.exp_avg_sq[i]};
}

// On a GPU within two units in the last place, in a fifth of the instructions.
#if defined(__CUDA_ARCH__)
__device__ inline float adam_root(float x) {
    float y;
    asm("sqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ inline float adam_quotient(float x, float y) { return __fdividef(x, y); }
#else
inline float adam_root(float x) { return sqrtf(x); }
inline float adam_quotient(float x, float y) { return x / y; }
#endif

// Returns the exponent of the parameter's new value.
GS_HD uint32_t adam_step(const AdamTensor& t, int64_t i, const AdamNumber& n) {
    const float m = t.keep1 * n.exp_avg + t.take1 * n.grad;
    const float v = t.keep2 * n.exp_avg_sq + t.take2 * n.grad * n.grad;
    t.exp_avg[i] = m;
    t.exp_avg_sq[i] = v;
    const float value = n.param - adam_quotient(t.rate * m, adam_root(v) * t.root_scale + t.eps);
    t.param[i] = value;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits & kExponent;
}

// What a render takes of a parameter: itself, its exponential or its logistic function.
enum Activation { kPlain, kExp, kSigmoid };

// A tensor that is stepped with the gradients of its activated values, without room for them all.
struct AdamStep {
    AdamTensor tensor;
    Activation activation;
    const float* activated;
};

// The same from number `first` on.
GS_HD AdamStep from_number(AdamStep s, int64_t first) {
    s.tensor.param += first;
    s.tensor.exp_avg += first;
    s.tensor.exp_avg_sq += first;
    if (s.activated) s.activated += first;
    return s;
}

// dL/d(parameter) from dL/d(activated value), in torch's order of operations.
GS_HD float through_activation(const AdamStep& s, int64_t i, float grad) {
    if (s.activation == kExp) return grad * s.activated[i];
    if (s.activation == kSigmoid) return grad * (1 - s.activated[i]) * s.activated[i];
    return grad;
}

// All parameters of Gaussians.
struct Steps {
    AdamStep means, scales, quats, sh_first, sh_rest, opacities;
    bool sparse;  // only of Gaussians that are seen
};

}  // namespace gs
