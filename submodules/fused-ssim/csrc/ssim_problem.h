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
    T* differences;   // out: |x - y|, (planes, height, width); null: not wanted
    T* grad;  // out: gradient with respect to x of scale * the weighted sum + difference_scale * the sum
              // of |x - y|, (planes, height, width); null: not wanted
    int64_t planes, height, width;
    int64_t margin;
    T c1, c2;
    T scale, difference_scale;
    bool with_differences;  // whether |x - y| counts at all
};

// Over all pixels: of the SSIM values and of |x - y|.
struct SsimSums {
    double similarity = 0, difference = 0;
};

}  // namespace gs
