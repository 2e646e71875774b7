// What every back end computes.
#pragma once

#include <stdint.h>

namespace gs {

// Images are `planes` contiguous planes of height x width. With a margin, only pixels at least that far from
// the border have an SSIM value; outside of an image there are zeros.
template <class T>
struct SsimProblem {
    const T* x;
    const T* y;
    const T* weight;  // of each SSIM value in the objective, (planes, height - 2 margin, width - 2 margin);
                      // null: all 1
    T* map;           // out: SSIM values, shape as `weight`; null: not wanted
    T* grad;  // out: scale * gradient of the weighted sum with respect to x, (planes, height, width); null:
              // not wanted
    int64_t planes, height, width;
    int64_t margin;
    T c1, c2;
    T scale;
};

}  // namespace gs
