// The formulas of structural similarity, once, for every back end.
//
// Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity", equation 13,
// over an 11x11 Gaussian window of standard deviation 1.5.
#pragma once

#if defined(__CUDACC__)
#define GS_HD __host__ __device__ inline
#else
#define GS_HD inline
#endif

// Compiled once per instruction set on the CPU: the namespace keeps the linker from mixing the copies.
#if !defined(GS_ISA)
#define GS_ISA generic
#endif

namespace gs {
namespace GS_ISA {

constexpr int kRadius = 5;

// exp(-k^2 / (2 1.5^2)), normalised to sum 1 over k = -5 .. 5.
template <class T>
constexpr T kWindow[kRadius + 1] = {T(0.26601172486179434),   T(0.21300553771125370),
                                    T(0.10936068950970001),   T(0.036000772128430824),
                                    T(0.0075987581352391842), T(0.0010283800844791099)};

// The windowed means on which SSIM depends: of x, y, x^2 + y^2 and x y.
template <class V>
struct Moments {
    V x, y, squares, product;
};

// SSIM and its derivatives with respect to the means of x, x^2 (twice that: x is what it will be multiplied
// with) and x y.
template <class V>
struct Similarity {
    V value, d_x, d_squares_twice, d_product;
};

// V: a number, or a vector of numbers of type T.
template <class T, class V>
GS_HD Similarity<V> similarity(const Moments<V>& mean, T c1, T c2) {
    const V xy = mean.x * mean.y;
    const V powers = mean.x * mean.x + mean.y * mean.y;
    const V luminance = T(2) * xy + c1;
    const V structure = T(2) * (mean.product - xy) + c2;
    const V luminance_norm = powers + c1;
    const V structure_norm = mean.squares - powers + c2;
    const V inverse = T(1) / (luminance_norm * structure_norm);
    const V d_product = T(2) * luminance * inverse;
    const V value = T(0.5) * structure * d_product;
    const V d_squares_twice = T(-2) * value * luminance_norm * inverse;
    const V d_x = T(2) * inverse *
                  (mean.y * (structure - luminance) + mean.x * value * (luminance_norm - structure_norm));
    return {value, d_x, d_squares_twice, d_product};
}

// |d| and its derivative.
template <class V>
GS_HD V magnitude(V d) {
    return d < V{} ? -d : d;
}
template <class V>
GS_HD V sign(V d) {
    const V zero = {}, one = zero + 1;
    return (d > zero ? one : zero) - (d < zero ? one : zero);
}

}  // namespace GS_ISA
}  // namespace gs
