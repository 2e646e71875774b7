// A Gaussian from the world to the screen, and its gradients back: in which order the formulas of
// splat_math.h are applied, and what is not seen. P is a number on a GPU and a pack of lanes, a Gaussian in
// each, on the CPU. The caller says with Rows where the numbers are:
//
//   rows.load<n>(array, to)               an array (N, n) -> to[n]
//   rows.sh(g, bases)(j, c)               coefficient j of channel c
//   rows.put<n>(values, array)            the other way, if there is an array; zeros where nothing is seen
//   rows.put_sh(grad, g, basis, bases, color)   coefficient j of channel c is basis[j] color[c]
//   rows.clear<n>(array)                  zeros, if there is an array
#pragma once

#include "arrays.h"
#include "sums.h"

namespace gs {

// The shape in the world; scales and quaternions where it is made of them.
template <class P>
struct Shape {
    P scale[3], quat[4];
    Sym3<P> covariance;
};

template <class T, class P, class Rows>
GS_HD void load_shape(const Gaussians<T>& g, P modifier, const Rows& rows, Shape<P>& shape) {
    if (g.covariances) {
        P c[6];
        rows.template load<6>(g.covariances, c);
        shape.covariance = {c[0], c[1], c[2], c[3], c[4], c[5]};
    } else {
        rows.template load<3>(g.scales, shape.scale);
        rows.template load<4>(g.quats, shape.quat);
        shape.covariance = covariance3d(shape.scale, modifier, shape.quat);
    }
}

template <int kDegree, class T, class P, class Rows>
GS_HD void sh_color(const View<P>& v, const Gaussians<T>& g, const Rows& rows, const P* mean, P* color) {
    constexpr int bases = square(kDegree + 1);
    P dir[3], basis[bases];
    view_direction(v.campos, mean, dir);
    sh_basis(kDegree, dir, basis);
    const auto sh = rows.sh(g, bases);
    for (int c = 0; c < 3; ++c) color[c] = T(0.5) + basis[0] * sh(0, c);
    for (int j = 1; j < bases; ++j)
        for (int c = 0; c < 3; ++c) color[c] += basis[j] * sh(j, c);
}

// Sets the color that the pixels see; returns where it is a number.
template <class T, class P, class Rows>
GS_HD MaskOf<P> splat_color(const View<P>& v, const Gaussians<T>& g, const Rows& rows, const P* mean,
                            P* color) {
    if (g.colors)
        rows.template load<3>(g.colors, color);
    else
        switch (v.sh_degree) {  // known when compiled, a GPU keeps the basis in registers
            case 0:
                sh_color<0>(v, g, rows, mean, color);
                break;
            case 1:
                sh_color<1>(v, g, rows, mean, color);
                break;
            case 2:
                sh_color<2>(v, g, rows, mean, color);
                break;
            default:
                sh_color<3>(v, g, rows, mean, color);
        }
    const MaskOf<P> finite = is_finite(color[0] + color[1] + color[2]);
    if (!g.colors)
        for (int c = 0; c < 3; ++c)
            color[c] = zero_unless(color[c] >= P(-kBlackRounding<T>), max(color[c], P(kBlack<T>)));
    return finite;
}

template <class P>
GS_HD MaskOf<P> covers_a_pixel(P center, P half, int size) {
    P first, last;
    pixel_bounds(center - half, center + half, size, first, last);
    return last >= first;
}

// Sets the mean, all of the splat but its color, its depth (camera z) and radius (pixels); returns where a
// Gaussian is seen if its color is a number. Conditions are written so that a NaN fails.
template <class T, class P, class Rows>
GS_HD MaskOf<P> project_footprint(const View<P>& v, const Gaussians<T>& g, const Rows& rows, P* mean,
                                  Splat<P>& s, P& depth, P& radius) {
    P t[3], pixel[2];
    rows.template load<3>(g.means, mean);
    transform_point(v.view, mean, t);
    project_point(v, mean, pixel);
    depth = t[2];
    MaskOf<P> seen = (depth > v.near) & is_finite(t[0] + t[1] + t[2] + pixel[0] + pixel[1]);
    if (!any(seen)) return seen;

    Shape<P> shape;
    load_shape(g, v.scale_modifier, rows, shape);
    const Sym2<P> raw = project_covariance(affine_approximation(v, jacobian_point(v, t)), shape.covariance);
    const Sym2<P> cov = dilate(raw, v.dilation);
    const P det = determinant(cov);
    seen = seen & (det > P(T(0))) & (cov.xx > P(T(0))) & is_finite(det) & is_finite(cov.xx + cov.yy);

    P opacity;
    rows.template load<1>(g.opacities, &opacity);
    if (v.antialiasing) opacity *= opacity_compensation(raw, cov);
    s.importance = T(1);
    s.carrier = T(0);
    if (g.importance) rows.template load<1>(g.importance, &s.importance);
    if (g.carrier) rows.template load<1>(g.carrier, &s.carrier);
    seen = seen & (opacity >= P(kMinAlpha<T>)) & is_finite(opacity) & is_finite(s.importance + s.carrier);

    s.x = pixel[0];
    s.y = pixel[1];
    s.inv_depth = 1 / depth;
    set_footprint(s, cov, opacity);
    seen = seen & covers_a_pixel(s.x, s.half_width, v.width) & covers_a_pixel(s.y, s.half_height, v.height);
    radius = min(ceil(kRadiusSigmas<T> * sqrt(largest_eigenvalue(cov))), P(T(INT32_MAX / 2)));
    return seen;
}

// Sets the splat, its depth and radius; returns where a Gaussian is seen.
template <class T, class P, class Rows>
GS_HD MaskOf<P> project_gaussian(const View<P>& v, const Gaussians<T>& g, const Rows& rows, Splat<P>& s,
                                 P& depth, P& radius) {
    P mean[3];
    const MaskOf<P> seen = project_footprint(v, g, rows, mean, s, depth, radius);
    if (!any(seen)) return seen;  // the coefficients are most of the memory
    return seen & splat_color(v, g, rows, mean, s.color);
}

// Puts the gradients of the SH coefficients, where asked for; adds the view direction's share to dL/dmean.
template <int kDegree, class T, class P, class Places, class Rows>
GS_HD void sh_backward(const View<P>& v, const Gaussians<T>& g, const P* mean, const P* color,
                       const P* grad_color, const Places& grad, const Rows& rows, P* grad_mean) {
    constexpr int bases = square(kDegree + 1);
    P dir[3], basis[bases], gc[3];
    for (int c = 0; c < 3; ++c) gc[c] = zero_unless(color[c] > P(T(0)), grad_color[c]);
    const P inv_distance = view_direction(v.campos, mean, dir);
    sh_basis(kDegree, dir, basis);
    if constexpr (kDegree > 0) {
        const auto sh = rows.sh(g, bases);
        P weight[bases], grad_dir[3];
        for (int j = 1; j < bases; ++j) weight[j] = sh(j, 0) * gc[0] + sh(j, 1) * gc[1] + sh(j, 2) * gc[2];
        sh_basis_backward(kDegree, dir, weight, grad_dir);
        const P along = dot3(grad_dir, dir);
        for (int c = 0; c < 3; ++c) grad_mean[c] += (grad_dir[c] - along * dir[c]) * inv_distance;
    }
    if (grad.sh_first) rows.put_sh(grad, g, basis, bases, gc);  // may take the place of the coefficients
}

// toward: dL/d(splat). grad: where gradients go, arrays or whatever Rows puts them into.
template <class T, class P, class Places, class Rows>
GS_HD void project_gaussian_backward(const View<P>& v, const Gaussians<T>& g, const Rows& rows,
                                     const Splat<P>& s, const Splat<P>& toward, const Places& grad) {
    P mean[3], t[3];
    Shape<P> shape;
    rows.template load<3>(g.means, mean);
    load_shape(g, v.scale_modifier, rows, shape);
    transform_point(v.view, mean, t);
    const JacobianPoint<P> point = jacobian_point(v, t);
    const Affine<P> affine = affine_approximation(v, point);

    Sym2<P> grad_cov = footprint_backward(s, toward);
    P grad_opacity = toward.opacity;
    if (v.antialiasing) {
        const Sym2<P> raw = project_covariance(affine, shape.covariance), cov = dilate(raw, v.dilation);
        P opacity;
        rows.template load<1>(g.opacities, &opacity);
        opacity_compensation_backward(raw, cov, toward.opacity * opacity, grad_cov);
        grad_opacity *= opacity_compensation(raw, cov);
    }
    rows.template put<1>(&grad_opacity, grad.opacities);
    rows.template put<1>(&toward.importance, grad.importance);
    rows.template put<1>(&toward.carrier, grad.carrier);
    rows.template put<3>(toward.color, grad.colors);

    P grad_t[3] = {T(0), T(0), -toward.inv_depth * square(s.inv_depth)};
    Sym3<P> w;
    project_covariance_backward(v, point, affine, shape.covariance, grad_cov, w, grad_t);
    const P packed[6] = {w.xx, w.xy, w.xz, w.yy, w.yz, w.zz};
    rows.template put<6>(packed, grad.covariances);
    if (grad.scales) {
        P grad_scale[3], grad_quat[4];
        covariance3d_backward(shape.scale, v.scale_modifier, shape.quat, w, grad_scale, grad_quat);
        rows.template put<3>(grad_scale, grad.scales);
        rows.template put<4>(grad_quat, grad.quats);
    }

    const P grad_ndc[3] = {toward.x * T(0.5) * T(v.width), toward.y * T(0.5) * T(v.height), T(0)};
    rows.template put<3>(grad_ndc, grad.means2d);
    P grad_mean[3];
    for (int j = 0; j < 3; ++j) grad_mean[j] = dot3(v.view + 4 * j, grad_t);
    project_point_backward(v, mean, grad_ndc, grad_mean);
    if (g.sh_first) {
        const P* grad_color = toward.color;
        switch (v.sh_degree) {
            case 0:
                sh_backward<0>(v, g, mean, s.color, grad_color, grad, rows, grad_mean);
                break;
            case 1:
                sh_backward<1>(v, g, mean, s.color, grad_color, grad, rows, grad_mean);
                break;
            case 2:
                sh_backward<2>(v, g, mean, s.color, grad_color, grad, rows, grad_mean);
                break;
            default:
                sh_backward<3>(v, g, mean, s.color, grad_color, grad, rows, grad_mean);
        }
    }
    rows.template put<3>(grad_mean, grad.means);
}

// All but those of the SH coefficients.
template <class Places, class Rows>
GS_HD void clear_gradients(const Places& grad, const Rows& rows) {
    rows.template clear<3>(grad.means);
    rows.template clear<3>(grad.means2d);
    rows.template clear<3>(grad.scales);
    rows.template clear<4>(grad.quats);
    rows.template clear<6>(grad.covariances);
    rows.template clear<3>(grad.colors);
    rows.template clear<1>(grad.opacities);
    rows.template clear<1>(grad.importance);
    rows.template clear<1>(grad.carrier);
}

template <class T>
GS_HD void store_statistics(const Statistics<T>& out, int64_t i, const T* sums) {
    out.weight_sum[i] = sums[kWeight];
    out.weight_max[i] = sums[kWeightMax];
    out.pixels[i] = int32_t(sums[kPixelCount]);
    out.removal_energy[i] = sums[kEnergy];
}

}  // namespace gs
