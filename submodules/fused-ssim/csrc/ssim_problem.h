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
    T* error;         // out: error_share * (1 - SSIM) + (1 - error_share) |x - y|, its mean over the channels
                      // of an image, (planes / channels, height, width); null: not wanted. No margin then
    T* grad;  // out: gradient with respect to x of scale * the weighted sum + difference_scale * the sum
              // of |x - y|, (planes, height, width); null: not wanted
    int64_t planes, height, width;
    int64_t channels;  // planes of one image
    int64_t margin;
    T c1, c2;
    T scale, difference_scale, error_share;
    bool with_differences;  // whether |x - y| counts at all

    // Planes that are gone through one after the other, as they add to the same errors.
    int64_t planes_in_turn() const { return error ? channels : 1; }
};

// Over all pixels: of the SSIM values and of |x - y|.
struct SsimSums {
    double similarity = 0, difference = 0;
};

}  // namespace gs
