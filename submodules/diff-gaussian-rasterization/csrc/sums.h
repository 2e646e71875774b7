// What is summed over the pixels of a Gaussian, and the gradients on the screen that follow from it.
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

// dL/d(conic), dL/d(mean in pixels) and dL/d(opacity after compensation) from the sums over pixels.
template <class T>
struct ScreenGradients {
    Sym2<T> conic;
    T mean[2];
    T opacity, importance;
};

template <class T>
GS_HD ScreenGradients<T> screen_gradients(const Splat<T>& s, const Sym2<T>& conic, const T* sums) {
    const T modulated = s.importance * s.opacity, half = T(0.5) * modulated;
    ScreenGradients<T> g;
    g.opacity = s.importance * sums[kX];
    g.importance = s.opacity * sums[kX];
    g.conic = {-half * sums[kXdxdx], -modulated * sums[kXdxdy], -half * sums[kXdydy]};
    g.mean[0] = modulated * (conic.xx * sums[kXdx] + conic.xy * sums[kXdy]);
    g.mean[1] = modulated * (conic.xy * sums[kXdx] + conic.yy * sums[kXdy]);
    return g;
}

}  // namespace gs
