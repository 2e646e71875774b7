// What is summed over the pixels of a Gaussian, and the gradient of the splat that follows from it.
#pragma once

#include "splat_math.h"

namespace gs {

// What a tile adds up for one of its Gaussians, X = G dL/d(importance * opacity * G):
enum Sum {
    kX,
    kXdx,
    kXdy,
    kXdxdx,
    kXdxdy,
    kXdydy,
    kColor,
    kCarrier = kColor + 3,
    kInvDepth,  // sum of w times the pixel's gradient
    kGradientSums,
    kWeight = kGradientSums,  // from here on: with statistics alone
    kEnergy,
    kPixelCount,
    kWeightMax,
    kAllSums
};
GS_HD constexpr int sum_count(bool statistics) { return statistics ? kAllSums : kGradientSums; }

// dL/d(splat): the mean in pixels, the opacity after compensation; 0 for what only bounds the splat.
template <class T>
GS_HD Splat<T> splat_gradient(const Splat<T>& s, const T* sums) {
    const T half = T(0.34657359027997265471) * s.importance * s.opacity;  // dL/d(log2 G) = 2 half X
    const T u = sums[kXdx] - s.shear * sums[kXdy];                        // sums of X times u, u dy and u^2,
    const T u_dy = sums[kXdxdy] - s.shear * sums[kXdydy];                 // with u = dx - shear dy
    const T u_u = sums[kXdxdx] - s.shear * (sums[kXdxdy] + u_dy);
    Splat<T> g;
    g.x = -4 * half * s.quad_u * u;
    g.y = 4 * half * (s.quad_u * s.shear * u - s.quad_v * sums[kXdy]);
    g.quad_u = 2 * half * u_u;
    g.shear = -4 * half * s.quad_u * u_dy;
    g.quad_v = 2 * half * sums[kXdydy];
    g.log2_cut = g.half_width = g.half_height = g.dy_right = T(0);
    g.opacity = s.importance * sums[kX];
    g.importance = s.opacity * sums[kX];
    for (int c = 0; c < 3; ++c) g.color[c] = sums[kColor + c];
    g.inv_depth = sums[kInvDepth];
    g.carrier = sums[kCarrier];
    return g;
}

}  // namespace gs
