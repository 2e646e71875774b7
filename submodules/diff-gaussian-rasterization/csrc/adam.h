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

// Returns the exponent of the parameter's new value.
GS_HD uint32_t adam_step(const AdamTensor& t, int64_t i) {
    const float g = t.grad[i];
    const float m = t.keep1 * t.exp_avg[i] + t.take1 * g;
    const float v = t.keep2 * t.exp_avg_sq[i] + t.take2 * g * g;
    t.exp_avg[i] = m;
    t.exp_avg_sq[i] = v;
    const float value = t.param[i] - t.rate * m / (sqrtf(v) * t.root_scale + t.eps);
    t.param[i] = value;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits & kExponent;
}

}  // namespace gs
