// Every formula and constant of the renderer, once: projection, covariance, spherical harmonics, and what a
// pixel does with a Gaussian, each with its derivative. For host and device, templated on the type T of its
// numbers: float or double, or a pack of them (cpu/packs.h), a Gaussian or a pixel in each lane. So there are
// no branches on numbers here, but `select`.
//
// Sources: Kerbl et al. 2023 (3DGS); Zwicker et al. 2001 (EWA splatting); Yu et al. 2024 (Mip-Splatting, the
// opacity compensation). Axes: camera x right, y down, z forward; pixel (i, j) has its centre at (i + 0.5, j
// + 0.5).
#pragma once

#include <math.h>

// Always inlined: the CPU kernels are compiled once per instruction set, and a shared out-of-line copy of a
// function could hold instructions that the machine at hand lacks.
#if defined(__CUDACC__)
#define GS_HD __host__ __device__ __forceinline__
#else
#define GS_HD inline __attribute__((always_inline))
#endif

namespace gs {

// The floating-point type of T's numbers.
template <class T>
struct ScalarOf {
    using type = T;
};
template <class T>
using Scalar = typename ScalarOf<T>::type;
// What a comparison of T's gives: bool, or a mask of lanes.
template <class T>
using MaskOf = decltype(T() < T());

// A contribution below one step of an 8-bit image is skipped.
template <class T>
constexpr T kMinAlpha = T(1) / T(255);
// Keeps 1 - alpha away from zero, by which the backward pass divides.
template <class T>
constexpr T kMaxAlpha = T(0.99);
// What lies behind this much extinction is not seen: the pixel ends.
template <class T>
constexpr T kMinTransmittance = T(1e-4);
// Floor of the determinant ratio in Mip-Splatting's compensation.
template <class T>
constexpr T kMinCompensationRatio = T(0.000025);
// Colors below 0 are clamped and have no gradient. Black has one: a color that only rounding brought below 0,
// by at most kBlackRounding, is stored as kBlack, by which the backward pass knows it from a clamped one.
template <class T>
constexpr T kBlackRounding = T(1e-6);
template <class T>
constexpr T kBlack = T(1e-30);
// The affine approximation is evaluated at most this far outside the field of view, where it still holds.
template <class T>
constexpr T kFovClamp = T(1.3);
// The footprint is reported as three standard deviations.
template <class T>
constexpr T kRadiusSigmas = T(3);
// By how many pixels rounding may move the boundary of a footprint; each pixel is tested exactly.
template <class T>
constexpr T kSlack = T(0.01);

constexpr int kMaxShDegree = 3;
constexpr int kMaxShBases = (kMaxShDegree + 1) * (kMaxShDegree + 1);

// The camera. Matrices as 3DGS passes them: transposed, for row vectors, in row-major order.
template <class T>
struct View {
    T view[16];  // world to camera
    T proj[16];  // world to clip space; pixel x = (ndc_x + 1) * width / 2
    T campos[3];
    T tan_fovx, tan_fovy;
    T scale_modifier;
    T near;      // camera z: closer Gaussians would cover the picture
    T dilation;  // px^2, of the screen-space low-pass filter (EWA)
    int width, height;
    int sh_degree;
    bool antialiasing;

    GS_HD T focal_x() const { return T(width) / (2 * tan_fovx); }
    GS_HD T focal_y() const { return T(height) / (2 * tan_fovy); }
};

template <class T>
struct Sym2 {
    T xx, xy, yy;
};
template <class T>
struct Sym3 {
    T xx, xy, xz, yy, yz, zz;
};

template <class T>
GS_HD constexpr T square(T x) {
    return x * x;
}
template <class T>
GS_HD T dot3(const T* a, const T* b) {
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}
template <class T>
GS_HD T weighted_dot3(const T* a, const T* b, const T* w) {
    return a[0] * b[0] * w[0] + a[1] * b[1] * w[1] + a[2] * b[2] * w[2];
}
template <class T>
GS_HD auto is_finite(T x) {
    return x - x == T(0);
}
template <class T>
GS_HD T select(bool choose, T a, T b) {
    return choose ? a : b;
}
template <class T>
GS_HD T zero_unless(bool keep, T a) {
    return keep ? a : T(0);
}
GS_HD bool any(bool mask) { return mask; }
template <class T>
GS_HD T min(T a, T b) {
    return a < b ? a : b;
}
template <class T>
GS_HD T max(T a, T b) {
    return a > b ? a : b;
}

// a * b + c, rounded once.
template <class T>
GS_HD T fused(T a, T b, T c) {
    return fma(a, b, c);
}

// ----------------------------------------------------------------------------------------------------
// Points

// out = (p, 1) M for the first three columns.
template <class T>
GS_HD void transform_point(const T* m, const T* p, T* out) {
    for (int j = 0; j < 3; ++j) out[j] = m[j] * p[0] + m[4 + j] * p[1] + m[8 + j] * p[2] + m[12 + j];
}

// Mean in pixels.
template <class T>
GS_HD void project_point(const View<T>& v, const T* p, T* pixel) {
    T clip[3];
    transform_point(v.proj, p, clip);
    const T w = v.proj[3] * p[0] + v.proj[7] * p[1] + v.proj[11] * p[2] + v.proj[15];
    pixel[0] = (clip[0] / w + 1) * T(0.5) * T(v.width);
    pixel[1] = (clip[1] / w + 1) * T(0.5) * T(v.height);
}

// Adds dL/dp, given dL/d(mean in NDC).
template <class T>
GS_HD void project_point_backward(const View<T>& v, const T* p, const T* grad_ndc, T* grad_p) {
    T clip[3];
    transform_point(v.proj, p, clip);
    const T w = v.proj[3] * p[0] + v.proj[7] * p[1] + v.proj[11] * p[2] + v.proj[15];
    const T inv_w = 1 / w;
    const T grad_w = -(clip[0] * grad_ndc[0] + clip[1] * grad_ndc[1]) * inv_w;
    for (int i = 0; i < 3; ++i) {
        const T* row = v.proj + 4 * i;
        grad_p[i] += (row[0] * grad_ndc[0] + row[1] * grad_ndc[1] + row[3] * grad_w) * inv_w;
    }
}

// ----------------------------------------------------------------------------------------------------
// Covariance in the world: Sigma = R S S^T R^T with R from the normalised quaternion (w, x, y, z)

template <class T>
GS_HD void rotation_from_unit_quat(const T* q, T* R) {
    const T w = q[0], x = q[1], y = q[2], z = q[3];
    R[0] = 1 - 2 * (y * y + z * z);
    R[1] = 2 * (x * y - w * z);
    R[2] = 2 * (x * z + w * y);
    R[3] = 2 * (x * y + w * z);
    R[4] = 1 - 2 * (x * x + z * z);
    R[5] = 2 * (y * z - w * x);
    R[6] = 2 * (x * z - w * y);
    R[7] = 2 * (y * z + w * x);
    R[8] = 1 - 2 * (x * x + y * y);
}

template <class T>
GS_HD T quat_inverse_norm(const T* q) {
    return 1 / sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3]);
}

template <class T>
GS_HD Sym3<T> covariance3d(const T* scale, T modifier, const T* quat) {
    const T inv_norm = quat_inverse_norm(quat);
    const T q[4] = {quat[0] * inv_norm, quat[1] * inv_norm, quat[2] * inv_norm, quat[3] * inv_norm};
    T R[9];
    rotation_from_unit_quat(q, R);
    const T s[3] = {square(modifier * scale[0]), square(modifier * scale[1]), square(modifier * scale[2])};
    const T *x = R, *y = R + 3, *z = R + 6;
    return {weighted_dot3(x, x, s), weighted_dot3(x, y, s), weighted_dot3(x, z, s),
            weighted_dot3(y, y, s), weighted_dot3(y, z, s), weighted_dot3(z, z, s)};
}

template <class T>
GS_HD void covariance3d_backward(const T* scale, T modifier, const T* quat, const Sym3<T>& grad,
                                 T* grad_scale, T* grad_quat) {
    const T inv_norm = quat_inverse_norm(quat);
    const T q[4] = {quat[0] * inv_norm, quat[1] * inv_norm, quat[2] * inv_norm, quat[3] * inv_norm};
    T R[9];
    rotation_from_unit_quat(q, R);
    // grad holds both off-diagonal entries at once; the symmetric matrix has half in each.
    const T G[9] = {grad.xx,     grad.xy / 2, grad.xz / 2, grad.xy / 2, grad.yy,
                    grad.yz / 2, grad.xz / 2, grad.yz / 2, grad.zz};
    T dR[9];  // dL/dR through M = R S:  dL/dM = 2 G M
    for (int j = 0; j < 3; ++j) {
        const T s = modifier * scale[j];
        T dot = 0;
        for (int i = 0; i < 3; ++i) {
            const T dM = 2 * (G[3 * i] * R[j] + G[3 * i + 1] * R[3 + j] + G[3 * i + 2] * R[6 + j]) * s;
            dot += dM * R[3 * i + j];
            dR[3 * i + j] = dM * s;
        }
        grad_scale[j] = dot * modifier;
    }
    const T w = q[0], x = q[1], y = q[2], z = q[3];
    const T dq[4] = {
        2 * (x * (dR[7] - dR[5]) + y * (dR[2] - dR[6]) + z * (dR[3] - dR[1])),
        2 * (y * (dR[1] + dR[3]) + z * (dR[2] + dR[6]) + w * (dR[7] - dR[5])) - 4 * x * (dR[4] + dR[8]),
        2 * (x * (dR[1] + dR[3]) + z * (dR[5] + dR[7]) + w * (dR[2] - dR[6])) - 4 * y * (dR[0] + dR[8]),
        2 * (x * (dR[2] + dR[6]) + y * (dR[5] + dR[7]) + w * (dR[3] - dR[1])) - 4 * z * (dR[0] + dR[4])};
    const T along =
        dq[0] * w + dq[1] * x + dq[2] * y + dq[3] * z;  // the norm of the quaternion has no effect
    for (int i = 0; i < 4; ++i) grad_quat[i] = (dq[i] - along * q[i]) * inv_norm;
}

// ----------------------------------------------------------------------------------------------------
// Covariance on the screen, in px^2: Sigma' = J W Sigma W^T J^T (EWA), J the Jacobian of the perspective at
// the mean

template <class T>
struct Affine {
    T row0[3], row1[3];
};  // J W, a 2x3 matrix

// Where the Jacobian is evaluated: x/z and y/z, clamped.
template <class T>
struct JacobianPoint {
    T u, v, inv_z;
    MaskOf<T> u_free, v_free;  // not clamped
};

template <class T>
GS_HD JacobianPoint<T> jacobian_point(const View<T>& view, const T* t) {
    JacobianPoint<T> p;
    p.inv_z = 1 / t[2];
    const T u = t[0] * p.inv_z, v = t[1] * p.inv_z;
    const T lim_u = kFovClamp<Scalar<T>> * view.tan_fovx, lim_v = kFovClamp<Scalar<T>> * view.tan_fovy;
    p.u = max(min(u, lim_u), -lim_u);
    p.v = max(min(v, lim_v), -lim_v);
    p.u_free = p.u == u;
    p.v_free = p.v == v;
    return p;
}

template <class T>
GS_HD Affine<T> affine_approximation(const View<T>& view, const JacobianPoint<T>& p) {
    const T jx = view.focal_x() * p.inv_z, jy = view.focal_y() * p.inv_z;
    Affine<T> A;
    for (int i = 0; i < 3; ++i) {
        const T* w = view.view + 4 * i;
        A.row0[i] = jx * (w[0] - p.u * w[2]);
        A.row1[i] = jy * (w[1] - p.v * w[2]);
    }
    return A;
}

template <class T>
GS_HD void multiply(const Sym3<T>& S, const T* x, T* out) {
    out[0] = S.xx * x[0] + S.xy * x[1] + S.xz * x[2];
    out[1] = S.xy * x[0] + S.yy * x[1] + S.yz * x[2];
    out[2] = S.xz * x[0] + S.yz * x[1] + S.zz * x[2];
}

template <class T>
GS_HD Sym2<T> project_covariance(const Affine<T>& A, const Sym3<T>& S) {
    T s0[3], s1[3];
    multiply(S, A.row0, s0);
    multiply(S, A.row1, s1);
    return {dot3(A.row0, s0), dot3(A.row0, s1), dot3(A.row1, s1)};
}

// grad: dL/dSigma' with both off-diagonal entries in xy. Sets grad_S (likewise) and adds dL/dt, t the mean in
// camera space.
template <class T>
GS_HD void project_covariance_backward(const View<T>& view, const JacobianPoint<T>& p, const Affine<T>& A,
                                       const Sym3<T>& S, const Sym2<T>& grad, Sym3<T>& grad_S, T* grad_t) {
    const T half_xy = grad.xy / 2;
    T g0[3], g1[3];  // the rows of G A
    for (int i = 0; i < 3; ++i) {
        g0[i] = grad.xx * A.row0[i] + half_xy * A.row1[i];
        g1[i] = half_xy * A.row0[i] + grad.yy * A.row1[i];
    }
    const T *a0 = A.row0, *a1 = A.row1;  // dL/dSigma = A^T G A
    grad_S = {a0[0] * g0[0] + a1[0] * g1[0],       2 * (a0[0] * g0[1] + a1[0] * g1[1]),
              2 * (a0[0] * g0[2] + a1[0] * g1[2]), a0[1] * g0[1] + a1[1] * g1[1],
              2 * (a0[1] * g0[2] + a1[1] * g1[2]), a0[2] * g0[2] + a1[2] * g1[2]};

    T dA0[3], dA1[3];  // dL/dA = 2 G A Sigma
    multiply(S, g0, dA0);
    multiply(S, g1, dA1);
    const T jx = view.focal_x() * p.inv_z, jy = view.focal_y() * p.inv_z;
    T along0 = 0, along1 = 0, grad_u = 0, grad_v = 0;
    for (int i = 0; i < 3; ++i) {
        const T* w = view.view + 4 * i;
        along0 += 2 * dA0[i] * A.row0[i];
        along1 += 2 * dA1[i] * A.row1[i];
        grad_u -= 2 * dA0[i] * jx * w[2];
        grad_v -= 2 * dA1[i] * jy * w[2];
    }
    grad_t[2] -= (along0 + along1) * p.inv_z;  // both rows are proportional to 1/z
    grad_u = select(p.u_free, grad_u * p.inv_z, T(0));
    grad_v = select(p.v_free, grad_v * p.inv_z, T(0));
    grad_t[0] += grad_u;
    grad_t[1] += grad_v;
    grad_t[2] -= grad_u * p.u + grad_v * p.v;
}

template <class T>
GS_HD T determinant(const Sym2<T>& c) {
    return c.xx * c.yy - c.xy * c.xy;
}

template <class T>
GS_HD Sym2<T> dilate(const Sym2<T>& c, T by) {
    return {c.xx + by, c.xy, c.yy + by};
}

// How much less opaque the dilated Gaussian must be to keep its energy (Mip-Splatting).
template <class T>
GS_HD T opacity_compensation(const Sym2<T>& raw, const Sym2<T>& dilated) {
    const T ratio = determinant(raw) / determinant(dilated);
    return sqrt(max(ratio, T(kMinCompensationRatio<Scalar<T>>)));
}

// Adds to dL/dSigma' (raw and dilated differ by a constant).
template <class T>
GS_HD void opacity_compensation_backward(const Sym2<T>& raw, const Sym2<T>& dilated, T grad,
                                         Sym2<T>& grad_cov) {
    const T det_raw = determinant(raw), inv_det = 1 / determinant(dilated);
    const T ratio = det_raw * inv_det, least = kMinCompensationRatio<Scalar<T>>;
    const T grad_ratio = select(ratio > least, grad * T(0.5) / sqrt(max(ratio, least)), T(0));
    const T d_raw = grad_ratio * inv_det, d_dilated = -grad_ratio * ratio * inv_det;
    grad_cov.xx += d_raw * raw.yy + d_dilated * dilated.yy;
    grad_cov.yy += d_raw * raw.xx + d_dilated * dilated.xx;
    grad_cov.xy -= 2 * (d_raw * raw.xy + d_dilated * dilated.xy);
}

template <class T>
GS_HD T largest_eigenvalue(const Sym2<T>& c) {
    const T mid = (c.xx + c.yy) / 2, half_gap = (c.xx - c.yy) / 2;
    return mid + sqrt(half_gap * half_gap + c.xy * c.xy);
}

// ----------------------------------------------------------------------------------------------------
// Real spherical harmonics with the signs of 3DGS; dir of unit length

template <class T>
constexpr T kConstantBasis = T(0.28209479177387814);

template <class T>
GS_HD void sh_basis(int degree, const T* dir, T* basis) {
    const T x = dir[0], y = dir[1], z = dir[2];
    basis[0] = kConstantBasis<Scalar<T>>;
    if (degree < 1) return;
    const T c1 = T(0.4886025119029199);
    basis[1] = -c1 * y;
    basis[2] = c1 * z;
    basis[3] = -c1 * x;
    if (degree < 2) return;
    const T xx = x * x, yy = y * y, zz = z * z;
    basis[4] = T(1.0925484305920792) * x * y;
    basis[5] = T(-1.0925484305920792) * y * z;
    basis[6] = T(0.31539156525252005) * (2 * zz - xx - yy);
    basis[7] = T(-1.0925484305920792) * x * z;
    basis[8] = T(0.5462742152960396) * (xx - yy);
    if (degree < 3) return;
    basis[9] = T(-0.5900435899266435) * y * (3 * xx - yy);
    basis[10] = T(2.890611442640554) * x * y * z;
    basis[11] = T(-0.4570457994644658) * y * (4 * zz - xx - yy);
    basis[12] = T(0.3731763325901154) * z * (2 * zz - 3 * xx - 3 * yy);
    basis[13] = T(-0.4570457994644658) * x * (4 * zz - xx - yy);
    basis[14] = T(1.445305721320277) * z * (xx - yy);
    basis[15] = T(-0.5900435899266435) * x * (xx - 3 * yy);
}

// Gradient of sum_j weight[j] basis[j] with respect to dir.
template <class T>
GS_HD void sh_basis_backward(int degree, const T* dir, const T* weight, T* grad) {
    const T x = dir[0], y = dir[1], z = dir[2];
    const T* g = weight;
    grad[0] = grad[1] = grad[2] = T(0);
    if (degree < 1) return;
    const T c1 = T(0.4886025119029199);
    grad[0] = -c1 * g[3];
    grad[1] = -c1 * g[1];
    grad[2] = c1 * g[2];
    if (degree < 2) return;
    const T c2 = T(1.0925484305920792), c20 = T(0.31539156525252005), c22 = T(0.5462742152960396);
    grad[0] += c2 * (y * g[4] - z * g[7]) - 2 * c20 * x * g[6] + 2 * c22 * x * g[8];
    grad[1] += c2 * (x * g[4] - z * g[5]) - 2 * c20 * y * g[6] - 2 * c22 * y * g[8];
    grad[2] += -c2 * (y * g[5] + x * g[7]) + 4 * c20 * z * g[6];
    if (degree < 3) return;
    const T xx = x * x, yy = y * y, zz = z * z, xy = x * y, yz = y * z, xz = x * z;
    const T a = T(0.5900435899266435), b = T(2.890611442640554), c = T(0.4570457994644658);
    const T d = T(0.3731763325901154), e = T(1.445305721320277);
    grad[0] += -6 * a * xy * g[9] + b * yz * g[10] + 2 * c * xy * g[11] - 6 * d * xz * g[12] -
               c * (4 * zz - 3 * xx - yy) * g[13] + 2 * e * xz * g[14] - 3 * a * (xx - yy) * g[15];
    grad[1] += -3 * a * (xx - yy) * g[9] + b * xz * g[10] - c * (4 * zz - xx - 3 * yy) * g[11] -
               6 * d * yz * g[12] + 2 * c * xy * g[13] - 2 * e * yz * g[14] + 6 * a * xy * g[15];
    grad[2] += b * xy * g[10] - 8 * c * yz * g[11] + 3 * d * (2 * zz - xx - yy) * g[12] - 8 * c * xz * g[13] +
               e * (xx - yy) * g[14];
}

// Unit vector from the camera to the Gaussian; returns 1 / distance.
template <class T>
GS_HD T view_direction(const T* campos, const T* p, T* dir) {
    const T d[3] = {p[0] - campos[0], p[1] - campos[1], p[2] - campos[2]};
    const T inv = 1 / sqrt(dot3(d, d));
    for (int i = 0; i < 3; ++i) dir[i] = d[i] * inv;
    return inv;
}

// ----------------------------------------------------------------------------------------------------
// A Gaussian as its pixels see it

// Everything binning and blending need, one cache line in float32; aligned so that a GPU reads 16 bytes at
// once. The exponent is kept in base 2 and as a sum of squares,
//     log2 G = quad_u (dx - shear dy)^2 + quad_v dy^2,
// equal to the conic form but without its cancellation: it is never positive and cheap to bound on a row of
// pixels. The cut is the ellipse opacity * G = kMinAlpha, outside of which the Gaussian does not contribute.
template <class T>
struct alignas(16) alignas(T) Splat {
    T x, y;                     // mean, pixels
    T quad_u, shear, quad_v;    // exponent, see above; differentiable, as is all but the next four
    T log2_cut;                 // log2 G on the cut
    T half_width, half_height;  // of the box around the cut, pixels
    T dy_right;                 // where the cut reaches furthest right, relative to y
    T opacity;                  // after the antialiasing compensation
    T importance;
    T color[3];
    T inv_depth;
    T carrier;
};

constexpr int kSplatNumbers = sizeof(Splat<float>) / sizeof(float);

template <class T>
constexpr T kHalfLog2e = T(0.72134752044448170368);
template <class T>
constexpr T kTwoLn2 = T(1.3862943611198906188);  // 1 / kHalfLog2e

template <class T>
GS_HD void set_footprint(Splat<T>& s, const Sym2<T>& cov, T opacity) {
    const T half_log2e = kHalfLog2e<Scalar<T>>, two_ln2 = kTwoLn2<Scalar<T>>;
    s.quad_u = -half_log2e * cov.yy / determinant(cov);
    s.shear = cov.xy / cov.yy;
    s.quad_v = -half_log2e / cov.yy;
    s.opacity = opacity;
    s.log2_cut = log2(kMinAlpha<Scalar<T>> / opacity);
    s.half_width = sqrt(-two_ln2 * s.log2_cut * cov.xx);
    s.half_height = sqrt(-two_ln2 * s.log2_cut * cov.yy);
    s.dy_right = s.half_width * cov.xy / cov.xx;
}

// dL/d(cov), both off-diagonal entries in xy, from the gradient of the exponent.
template <class T>
GS_HD Sym2<T> footprint_backward(const Splat<T>& s, const Splat<T>& grad) {
    const T two_ln2 = kTwoLn2<Scalar<T>>;
    const T of_u = two_ln2 * square(s.quad_u) * grad.quad_u;  // quad_u = -log2(e) / 2 / (xx - xy^2 / yy)
    const T of_v = two_ln2 * square(s.quad_v) * grad.quad_v;
    const T of_shear = -two_ln2 * s.quad_v * grad.shear;  // over yy
    return {of_u, of_shear - 2 * s.shear * of_u, of_v + s.shear * (s.shear * of_u - of_shear)};
}

// First and last pixel whose centre lies in [low, high], whole numbers clamped to the image; first > last
// when there is none.
template <class T>
GS_HD void pixel_bounds(T low, T high, int size, T& first, T& last) {
    const T slack = kSlack<Scalar<T>>;
    first = max(min(ceil(low - slack - T(0.5)), T(size)), T(0));
    last = max(min(floor(high + slack - T(0.5)), T(size - 1)), T(-1));
}
template <class T>
GS_HD void pixel_range(T low, T high, int size, int& first, int& last) {
    T a, b;
    pixel_bounds(low, high, size, a, b);
    first = int(a);
    last = int(b);
}

// In the functions below V may be a pack of lanes, several pixels or places at once, and T the scalar.

// Half width of the cut at height dy, measured from its axis shear * dy.
template <class T, class V>
GS_HD V cut_half_width(const Splat<T>& s, V dy) {
    return sqrt(max((V(s.log2_cut) - V(s.quad_v) * dy * dy) * V(1 / s.quad_u), V(T(0))));
}

// Horizontal extent (relative to x) of the part of the cut with dy in [low, high]. Means nothing where there
// is none.
template <class T, class V>
GS_HD void cut_in_band(const Splat<T>& s, V low, V high, V& left, V& right) {
    const V dy_right = min(max(V(s.dy_right), low), high), dy_left = min(max(V(-s.dy_right), low), high);
    right = V(s.shear) * dy_right + cut_half_width(s, dy_right);
    left = V(s.shear) * dy_left - cut_half_width(s, dy_left);
}

// ----------------------------------------------------------------------------------------------------
// What a pixel does with a Gaussian

// log2 G at an offset from the mean, pixels. Forward and backward pass must decide alike whether a pixel sees
// the Gaussian: what is fused here is written down, so that no compiler chooses differently in one of them.
template <class T, class V>
GS_HD V log2_gaussian(const Splat<T>& s, V dx, V dy) {
    const V u = fused(V(s.shear), -dy, dx);
    return fused(V(s.quad_v) * dy, dy, V(s.quad_u) * u * u);
}

// alpha from importance * opacity * G.
template <class T, class V>
GS_HD V clamped_alpha(V modulated) {
    return min(modulated, V(kMaxAlpha<T>));
}

template <class V>
GS_HD V transmittance_after(V before, V one_minus_alpha) {
    return before * one_minus_alpha;
}

// dL/d(alpha). toward: dL/d(pixel) along the Gaussian's features; behind: the sum of the same over all that
// lies behind it, each weighted by its w, background included; inv: 1 / (1 - alpha).
template <class V>
GS_HD V alpha_gradient(V before, V toward, V behind, V inv) {
    return before * toward - behind * inv;
}

// By how much a channel of the pixel changes when the Gaussian goes, as a multiple of alpha / (1 - alpha): T
// c - behind, with T after it. (w c - alpha behind / (1 - alpha), and w = alpha T / (1 - alpha).)
template <class V>
GS_HD V change_if_removed(V after, V color, V behind) {
    return after * color - behind;
}

}  // namespace gs
