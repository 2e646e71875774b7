// One Gaussian, from the world to the screen, and its gradients back.
#pragma once

#include "../arrays.h"
#include "../sums.h"

namespace gs {

template <class T>
GS_HD Sym3<T> world_covariance(const Gaussians<T>& g, T modifier, int64_t i) {
    if (!g.covariances) return covariance3d(g.scales + 3 * i, modifier, g.quats + 4 * i);
    const T* c = g.covariances + 6 * i;
    return {c[0], c[1], c[2], c[3], c[4], c[5]};
}

template <class T>
GS_HD bool sh_color(const View<T>& v, const Gaussians<T>& g, int64_t i, T* color) {
    T dir[3], basis[kMaxShBases];
    view_direction(v.campos, g.means + 3 * i, dir);
    if (v.sh_degree > 0 && !is_finite(dot3(dir, dir))) return false;
    sh_basis(v.sh_degree, dir, basis);
    const T* first = g.sh_first + i * g.sh_first_stride;
    const T* rest = g.sh_rest + i * g.sh_rest_stride;
    for (int c = 0; c < 3; ++c) color[c] = T(0.5) + basis[0] * first[c];
    const int bases = square(v.sh_degree + 1);
    for (int j = 1; j < bases; ++j)
        for (int c = 0; c < 3; ++c) color[c] += basis[j] * rest[3 * (j - 1) + c];
    return true;
}

// The colour the pixels see; false when it is no number.
template <class T>
GS_HD bool splat_color(const View<T>& v, const Gaussians<T>& g, int64_t i, T* color) {
    if (g.colors) {
        for (int c = 0; c < 3; ++c) color[c] = g.colors[3 * i + c];
    } else {
        if (!sh_color(v, g, i, color)) return false;
    }
    if (!is_finite(color[0] + color[1] + color[2])) return false;
    if (!g.colors)
        for (int c = 0; c < 3; ++c) color[c] = color[c] > 0 ? color[c] : T(0);
    return true;
}

// Sets the splat and returns the radius, or 0 when nothing of the Gaussian is seen. Conditions are written so
// that a NaN fails.
template <class T>
GS_HD int project_gaussian(const View<T>& v, const Gaussians<T>& g, int64_t i, Splat<T>& s, T& depth) {
    const T* mean = g.means + 3 * i;
    T t[3], pixel[2];
    transform_point(v.view, mean, t);
    depth = t[2];
    if (!(t[2] > kNearPlane<T>) || !is_finite(t[0] + t[1] + t[2])) return 0;
    project_point(v, mean, pixel);
    if (!is_finite(pixel[0] + pixel[1])) return 0;

    const Sym3<T> world = world_covariance(g, v.scale_modifier, i);
    const Sym2<T> raw = project_covariance(affine_approximation(v, jacobian_point(v, t)), world);
    const Sym2<T> cov = dilate(raw);
    const T det = determinant(cov);
    if (!(det > 0) || !(cov.xx > 0) || !is_finite(det) || !is_finite(cov.xx + cov.yy)) return 0;

    const T opacity = v.antialiasing ? g.opacities[i] * opacity_compensation(raw, cov) : g.opacities[i];
    s.importance = g.importance ? g.importance[i] : T(1);
    s.carrier = g.carrier ? g.carrier[i] : T(0);
    if (!(opacity >= kMinAlpha<T>) || !is_finite(opacity) || !is_finite(s.importance) ||
        !is_finite(s.carrier))
        return 0;

    s.x = pixel[0];
    s.y = pixel[1];
    s.inv_depth = 1 / t[2];
    set_footprint(s, cov, opacity);
    int x0, x1, y0, y1;
    pixel_range(s.x - s.half_width, s.x + s.half_width, v.width, x0, x1);
    pixel_range(s.y - s.half_height, s.y + s.half_height, v.height, y0, y1);
    if (x0 > x1 || y0 > y1) return 0;
    if (!splat_color(v, g, i, s.color)) return 0;  // last: the coefficients are most of the memory
    const T radius = ceil(kRadiusSigmas<T> * sqrt(largest_eigenvalue(cov)));
    return radius < T(INT32_MAX / 2) ? int(radius) : INT32_MAX / 2;
}

template <class T>
GS_HD void store(T* out, int64_t i, int n, const T* values) {
    if (out)
        for (int j = 0; j < n; ++j) out[n * i + j] = values[j];
}

template <class T>
GS_HD void clear(T* out, int64_t i, int n) {
    if (out)
        for (int j = 0; j < n; ++j) out[n * i + j] = T(0);
}

// All but those of the SH coefficients.
template <class T>
GS_HD void clear_gradients(const Gradients<T>& grad, int64_t i) {
    clear(grad.means, i, 3);
    clear(grad.means2d, i, 3);
    clear(grad.scales, i, 3);
    clear(grad.quats, i, 4);
    clear(grad.covariances, i, 6);
    clear(grad.colors, i, 3);
    clear(grad.opacities, i, 1);
    clear(grad.importance, i, 1);
    clear(grad.carrier, i, 1);
}

// The gradient of SH coefficient (j, c) is basis[j] color[c].
template <class T>
struct ShGradient {
    T basis[kMaxShBases];
    T color[3];
};

// Sets the gradient; the view direction's share is added to dL/dmean.
template <class T>
GS_HD void sh_backward(const View<T>& v, const Gaussians<T>& g, int64_t i, const T* color,
                       const T* grad_color, ShGradient<T>& out, T* grad_mean) {
    T dir[3], weight[kMaxShBases];
    for (int c = 0; c < 3; ++c) out.color[c] = color[c] > 0 ? grad_color[c] : T(0);
    const T inv_distance = view_direction(v.campos, g.means + 3 * i, dir);
    sh_basis(v.sh_degree, dir, out.basis);
    if (v.sh_degree == 0) return;
    const int bases = square(v.sh_degree + 1);
    for (int j = 1; j < bases; ++j)
        weight[j] = dot3(g.sh_rest + i * g.sh_rest_stride + 3 * (j - 1), out.color);
    T grad_dir[3];
    sh_basis_backward(v.sh_degree, dir, weight, grad_dir);
    const T along = dot3(grad_dir, dir);
    for (int c = 0; c < 3; ++c) grad_mean[c] += (grad_dir[c] - along * dir[c]) * inv_distance;
}

template <class T>
GS_HD void project_gaussian_backward(const View<T>& v, const Gaussians<T>& g, int64_t i, const Splat<T>& s,
                                     const T* sums, const Gradients<T>& grad, ShGradient<T>& grad_sh) {
    const T* mean = g.means + 3 * i;
    T t[3];
    transform_point(v.view, mean, t);
    const JacobianPoint<T> point = jacobian_point(v, t);
    const Affine<T> affine = affine_approximation(v, point);
    const Sym3<T> world = world_covariance(g, v.scale_modifier, i);
    const Sym2<T> raw = project_covariance(affine, world), cov = dilate(raw), conic = conic_of(cov);
    const ScreenGradients<T> screen = screen_gradients(s, conic, sums);

    Sym2<T> grad_cov = conic_backward(cov, screen.conic);
    T grad_opacity = screen.opacity;
    if (v.antialiasing) {
        opacity_compensation_backward(raw, cov, screen.opacity * g.opacities[i], grad_cov);
        grad_opacity *= opacity_compensation(raw, cov);
    }
    store(grad.opacities, i, 1, &grad_opacity);
    store(grad.importance, i, 1, &screen.importance);
    store(grad.carrier, i, 1, sums + kCarrier);
    store(grad.colors, i, 3, sums + kColor);

    T grad_t[3] = {0, 0, -sums[kInvDepth] * square(s.inv_depth)};
    Sym3<T> grad_world;
    project_covariance_backward(v, point, affine, world, grad_cov, grad_world, grad_t);
    const T packed[6] = {grad_world.xx, grad_world.xy, grad_world.xz,
                         grad_world.yy, grad_world.yz, grad_world.zz};
    store(grad.covariances, i, 6, packed);
    if (grad.scales)
        covariance3d_backward(g.scales + 3 * i, v.scale_modifier, g.quats + 4 * i, grad_world,
                              grad.scales + 3 * i, grad.quats + 4 * i);

    const T grad_ndc[3] = {screen.mean[0] * T(0.5) * T(v.width), screen.mean[1] * T(0.5) * T(v.height), T(0)};
    store(grad.means2d, i, 3, grad_ndc);
    T grad_mean[3];
    for (int j = 0; j < 3; ++j) grad_mean[j] = dot3(v.view + 4 * j, grad_t);
    project_point_backward(v, mean, grad_ndc, grad_mean);
    if (g.sh_first) sh_backward(v, g, i, s.color, sums + kColor, grad_sh, grad_mean);
    store(grad.means, i, 3, grad_mean);
}

}  // namespace gs
