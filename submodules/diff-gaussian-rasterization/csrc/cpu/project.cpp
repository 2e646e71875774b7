// Per Gaussian: from the world to the screen, and the gradients back. A block of Gaussians at a time, each in
// a lane of the packs.
#include "parallel.h"
#include "rows.h"
#include "stages.h"

namespace gs {
namespace GS_ISA {
namespace {

constexpr int64_t kChunk = 256;  // Gaussians a thread takes at a time

// f(block) for blocks that together hold all Gaussians.
template <class T, class F>
void for_each_block(int64_t count, int threads, const F& f) {
    constexpr int W = NativeWidth<T>::value;
    const int64_t whole = count / W;
    parallel_for(whole, threads, [&](int64_t i) { f(Block<T, true>{i * W, W}); }, kChunk / W);
    FlushDenormals flush;
    if (count % W) f(Block<T, false>{whole * W, int(count % W)});
}

template <class T>
View<Lanes<T>> in_all_lanes(const View<T>& v) {
    View<Lanes<T>> out;
    for (int i = 0; i < 16; ++i) out.view[i] = v.view[i];
    for (int i = 0; i < 16; ++i) out.proj[i] = v.proj[i];
    for (int i = 0; i < 3; ++i) out.campos[i] = v.campos[i];
    out.tan_fovx = v.tan_fovx;
    out.tan_fovy = v.tan_fovy;
    out.scale_modifier = v.scale_modifier;
    out.width = v.width;
    out.height = v.height;
    out.sh_degree = v.sh_degree;
    out.antialiasing = v.antialiasing;
    return out;
}

// The shape in the world; scales and quaternions where it is made of them.
template <class P>
struct Shape {
    P scale[3], quat[4];
    Sym3<P> covariance;
};

template <class T, class B>
GS_INLINE void load_shape(const Gaussians<T>& g, Lanes<T> modifier, B b, Shape<Lanes<T>>& shape) {
    if (g.covariances) {
        Lanes<T> c[6];
        load<6>(g.covariances, b, c);
        shape.covariance = {c[0], c[1], c[2], c[3], c[4], c[5]};
    } else {
        load<3>(g.scales, b, shape.scale);
        load<4>(g.quats, b, shape.quat);
        shape.covariance = covariance3d(shape.scale, modifier, shape.quat);
    }
}

// The first `bases` coefficients: those of basis j at 3 j.
template <class T, class B>
GS_INLINE void load_sh(const Gaussians<T>& g, int bases, B b, Lanes<T>* sh) {
    load_columns(g.sh_first, g.sh_first_stride, 3, b, sh);
    load_columns(g.sh_rest, g.sh_rest_stride, 3 * (bases - 1), b, sh + 3);
}

template <class T, class B>
GS_INLINE void sh_color(const View<Lanes<T>>& v, const Gaussians<T>& g, B b, const Lanes<T>* mean,
                        Lanes<T>* color) {
    const int bases = square(v.sh_degree + 1);
    Lanes<T> dir[3], basis[kMaxShBases], sh[3 * kMaxShBases];
    view_direction(v.campos, mean, dir);
    sh_basis(v.sh_degree, dir, basis);
    load_sh(g, bases, b, sh);
    for (int c = 0; c < 3; ++c) color[c] = T(0.5) + basis[0] * sh[c];
    for (int j = 1; j < bases; ++j)
        for (int c = 0; c < 3; ++c) color[c] += basis[j] * sh[3 * j + c];
}

// The colour the pixels see; where it is a number.
template <class T, class B>
GS_INLINE LaneMask<T> splat_color(const View<Lanes<T>>& v, const Gaussians<T>& g, B b, const Lanes<T>* mean,
                                  Lanes<T>* color) {
    if (g.colors)
        load<3>(g.colors, b, color);
    else
        sh_color(v, g, b, mean, color);
    const LaneMask<T> finite = is_finite(color[0] + color[1] + color[2]);
    if (!g.colors)
        for (int c = 0; c < 3; ++c) color[c] = max(color[c], Lanes<T>(T(0)));
    return finite;
}

template <class T>
GS_INLINE LaneMask<T> covers_a_pixel(Lanes<T> centre, Lanes<T> half, int size) {
    Lanes<T> first, last;
    pixel_bounds(centre - half, centre + half, size, first, last);
    return last >= first;
}

// Sets the splats; which Gaussians are seen, and their radii. Conditions are written so that a NaN fails.
template <class T, class B>
GS_INLINE LaneMask<T> project_lanes(const View<Lanes<T>>& v, const Gaussians<T>& g, B b, Splat<Lanes<T>>& s,
                                    Lanes<T>& depth, Lanes<T>& radius) {
    using P = Lanes<T>;
    P mean[3], t[3], pixel[2];
    load<3>(g.means, b, mean);
    transform_point(v.view, mean, t);
    project_point(v, mean, pixel);
    depth = t[2];
    LaneMask<T> seen = (depth > P(kNearPlane<T>)) & is_finite(t[0] + t[1] + t[2] + pixel[0] + pixel[1]);
    if (!any(seen)) return seen;

    Shape<P> shape;
    load_shape(g, v.scale_modifier, b, shape);
    const Sym2<P> raw = project_covariance(affine_approximation(v, jacobian_point(v, t)), shape.covariance);
    const Sym2<P> cov = dilate(raw);
    const P det = determinant(cov);
    seen = seen & (det > P(T(0))) & (cov.xx > P(T(0))) & is_finite(det) & is_finite(cov.xx + cov.yy);

    P opacity;
    load<1>(g.opacities, b, &opacity);
    if (v.antialiasing) opacity *= opacity_compensation(raw, cov);
    s.importance = T(1);
    s.carrier = T(0);
    if (g.importance) load<1>(g.importance, b, &s.importance);
    if (g.carrier) load<1>(g.carrier, b, &s.carrier);
    seen = seen & (opacity >= P(kMinAlpha<T>)) & is_finite(opacity) & is_finite(s.importance + s.carrier);

    s.x = pixel[0];
    s.y = pixel[1];
    s.inv_depth = 1 / depth;
    set_footprint(s, cov, opacity);
    seen = seen & covers_a_pixel<T>(s.x, s.half_width, v.width) &
           covers_a_pixel<T>(s.y, s.half_height, v.height);
    if (!any(seen)) return seen;
    radius = min(ceil(kRadiusSigmas<T> * sqrt(largest_eigenvalue(cov))), P(T(INT32_MAX / 2)));
    return seen & splat_color(v, g, b, mean, s.color);
}

constexpr int kSplatNumbers = 16;

template <class T>
void project(const View<T>& view, const Gaussians<T>& g, const Projected<T>& out, int threads) {
    using P = Lanes<T>;
    static_assert(sizeof(Splat<P>) == kSplatNumbers * sizeof(P), "a splat is its numbers");
    const View<P> v = in_all_lanes(view);
    for_each_block<T>(g.count, threads, [&](auto b) {
        Splat<P> splat;
        P numbers[kSplatNumbers], depth, radius(T(0));
        const LaneMask<T> seen = project_lanes(v, g, b, splat, depth, radius);
        store<1>(&depth, out.depths, b);
        T radii[NativeWidth<T>::value];
        zero_unless(seen, radius).store(radii);
        for (int r = 0; r < b.rows(); ++r) out.radii[b.first + r] = int32_t(radii[r]);
        if (!any(seen)) return;
        memcpy((void*)numbers, &splat, sizeof splat);
        store_columns(numbers, &out.splats->x, kSplatNumbers, kSplatNumbers, b);
    });
}

// ----------------------------------------------------------------------------------------------------
// Back

// Adds one Gaussian's sums over its tiles, in the order of its pairs. Without statistics nobody has set theirs,
// and nobody reads what becomes of them.
template <class T>
GS_INLINE void reduce_pairs(const PairIndex& index, int64_t i, const PairSums<T>* pair_sums,
                            PairSums<T>& out) {
    constexpr int W = NativeWidth<T>::value;
    Lanes<T> total[kSumsStride / W];
    for (Lanes<T>& t : total) t = T(0);
    T weight_max = 0;
    for (int64_t p = index.first_pair[i]; p < index.first_pair[i + 1]; ++p) {
        const T* sums = pair_sums[index.entry_of[p]].of;
        for (int j = 0; j < kSumsStride; j += W) total[j / W] += Lanes<T>::load(sums + j);
        weight_max = gs::max(weight_max, sums[kWeightMax]);
    }
    for (int j = 0; j < kSumsStride; j += W) total[j / W].store(out.of + j);
    out.of[kWeightMax] = weight_max;
}

// The sums of Gaussians first ... end - 1 lie in as many places as they have tiles.
template <class T>
GS_INLINE void prefetch_pairs(const PairIndex& index, int64_t first, int64_t end,
                              const PairSums<T>* pair_sums) {
    for (int64_t p = index.first_pair[first]; p < index.first_pair[end]; ++p)
        __builtin_prefetch(pair_sums + index.entry_of[p]);
}

// Columns first ... end - 1 of an array, where there is one.
template <class T, class B>
GS_INLINE void clear(T* array, int64_t stride, int first, int end, B b) {
    if (!array) return;
    for (int r = 0; r < b.rows(); ++r)
        for (int c = first; c < end; ++c) array[(b.first + r) * stride + c] = T(0);
}

// Where a block's gradients go: zeros for the Gaussians that are not seen.
template <class T, class B>
struct Sink {
    B block;
    LaneMask<T> seen;

    template <int kColumns>
    GS_INLINE void put(const Lanes<T>* values, T* array) const {
        if (!array) return;
        Lanes<T> kept[kColumns];
        for (int c = 0; c < kColumns; ++c) kept[c] = zero_unless(seen, values[c]);
        store<kColumns>(kept, array, block);
    }
};

template <class T, class B>
GS_INLINE void store_sh(const Gradients<T>& grad, const Gaussians<T>& g, const Sink<T, B>& sink,
                        const Lanes<T>* basis, int bases, const Lanes<T>* grad_color) {
    Lanes<T> sh[3 * kMaxShBases];
    for (int j = 0; j < bases; ++j)
        for (int c = 0; c < 3; ++c) sh[3 * j + c] = zero_unless(sink.seen, basis[j] * grad_color[c]);
    const B b = sink.block;
    store_columns(sh, grad.sh_first, g.sh_first_stride, 3, b);
    store_columns(sh + 3, grad.sh_rest, g.sh_rest_stride, 3 * (bases - 1), b);
    clear(grad.sh_rest, g.sh_rest_stride, 3 * (bases - 1), 3 * (g.sh_bases - 1), b);
}

// The gradients of the SH coefficients, where asked for; the direction's share is added to dL/dmean.
template <class T, class B>
GS_INLINE void sh_backward(const View<Lanes<T>>& v, const Gaussians<T>& g, const Lanes<T>* mean,
                           const Lanes<T>* color, const Lanes<T>* grad_color, const Gradients<T>& grad,
                           const Sink<T, B>& sink, Lanes<T>* grad_mean) {
    using P = Lanes<T>;
    const int bases = square(v.sh_degree + 1);
    P dir[3], basis[kMaxShBases], gc[3];
    for (int c = 0; c < 3; ++c) gc[c] = zero_unless(color[c] > P(T(0)), grad_color[c]);
    const P inv_distance = view_direction(v.campos, mean, dir);
    sh_basis(v.sh_degree, dir, basis);
    if (grad.sh_first) store_sh(grad, g, sink, basis, bases, gc);
    if (v.sh_degree == 0) return;

    P sh[3 * kMaxShBases], weight[kMaxShBases], grad_dir[3];
    load_sh(g, bases, sink.block, sh);
    for (int j = 1; j < bases; ++j) weight[j] = dot3(sh + 3 * j, gc);
    sh_basis_backward(v.sh_degree, dir, weight, grad_dir);
    const P along = dot3(grad_dir, dir);
    for (int c = 0; c < 3; ++c) grad_mean[c] += (grad_dir[c] - along * dir[c]) * inv_distance;
}

template <class T, class B>
GS_INLINE void project_lanes_backward(const View<Lanes<T>>& v, const Gaussians<T>& g, const Sink<T, B>& sink,
                                      const Splat<Lanes<T>>& s, const Lanes<T>* sums,
                                      const Gradients<T>& grad) {
    using P = Lanes<T>;
    P mean[3], t[3];
    Shape<P> shape;
    load<3>(g.means, sink.block, mean);
    load_shape(g, v.scale_modifier, sink.block, shape);
    transform_point(v.view, mean, t);
    const JacobianPoint<P> point = jacobian_point(v, t);
    const Affine<P> affine = affine_approximation(v, point);
    const Sym2<P> raw = project_covariance(affine, shape.covariance), cov = dilate(raw);
    const ScreenGradients<P> screen = screen_gradients(s, conic_of(cov), sums);

    Sym2<P> grad_cov = conic_backward(cov, screen.conic);
    P grad_opacity = screen.opacity;
    if (v.antialiasing) {
        P opacity;
        load<1>(g.opacities, sink.block, &opacity);
        opacity_compensation_backward(raw, cov, screen.opacity * opacity, grad_cov);
        grad_opacity *= opacity_compensation(raw, cov);
    }
    sink.template put<1>(&grad_opacity, grad.opacities);
    sink.template put<1>(&screen.importance, grad.importance);
    sink.template put<1>(sums + kCarrier, grad.carrier);
    sink.template put<3>(sums + kColor, grad.colors);

    P grad_t[3] = {T(0), T(0), -sums[kInvDepth] * square(s.inv_depth)};
    Sym3<P> w;
    project_covariance_backward(v, point, affine, shape.covariance, grad_cov, w, grad_t);
    const P packed[6] = {w.xx, w.xy, w.xz, w.yy, w.yz, w.zz};
    sink.template put<6>(packed, grad.covariances);
    if (grad.scales) {
        P grad_scale[3], grad_quat[4];
        covariance3d_backward(shape.scale, v.scale_modifier, shape.quat, w, grad_scale, grad_quat);
        sink.template put<3>(grad_scale, grad.scales);
        sink.template put<4>(grad_quat, grad.quats);
    }

    const P grad_ndc[3] = {screen.mean[0] * T(0.5) * T(v.width), screen.mean[1] * T(0.5) * T(v.height), T(0)};
    sink.template put<3>(grad_ndc, grad.means2d);
    P grad_mean[3];
    for (int j = 0; j < 3; ++j) grad_mean[j] = dot3(v.view + 4 * j, grad_t);
    project_point_backward(v, mean, grad_ndc, grad_mean);
    if (g.sh_first) sh_backward(v, g, mean, s.color, sums + kColor, grad, sink, grad_mean);
    sink.template put<3>(grad_mean, grad.means);
}

template <class T, class B>
void clear_gradients(const Gradients<T>& grad, const Gaussians<T>& g, B b) {
    clear(grad.means, 3, 0, 3, b);
    clear(grad.means2d, 3, 0, 3, b);
    clear(grad.scales, 3, 0, 3, b);
    clear(grad.quats, 4, 0, 4, b);
    clear(grad.covariances, 6, 0, 6, b);
    clear(grad.colors, 3, 0, 3, b);
    clear(grad.opacities, 1, 0, 1, b);
    clear(grad.importance, 1, 0, 1, b);
    clear(grad.carrier, 1, 0, 1, b);
    clear(grad.sh_first, g.sh_first_stride, 0, 3, b);
    clear(grad.sh_rest, g.sh_rest_stride, 0, 3 * (g.sh_bases - 1), b);
}

template <class T>
void store_statistics(const Statistics<T>& out, int64_t i, const T* sums) {
    out.weight_sum[i] = sums[kWeight];
    out.weight_max[i] = sums[kWeightMax];
    out.pixels[i] = int32_t(sums[kPixelCount]);
    out.removal_energy[i] = sums[kEnergy];
}

template <class T>
void project_backward(const View<T>& view, const Gaussians<T>& g, const Projected<T>& projected,
                      const PairIndex& index, const PairSums<T>* pair_sums, bool statistics,
                      const Gradients<T>& grad, const Statistics<T>& stats, int threads) {
    using P = Lanes<T>;
    constexpr int W = NativeWidth<T>::value;
    const View<P> v = in_all_lanes(view);
    for_each_block<T>(g.count, threads, [&](auto b) {
        const int64_t next = b.first + W;
        if (next < g.count) prefetch_pairs(index, next, gs::min(next + W, g.count), pair_sums);
        int32_t radii[W] = {};
        PairSums<T> sums[W];
        for (int r = 0; r < b.rows(); ++r) {
            radii[r] = projected.radii[b.first + r];
            reduce_pairs(index, b.first + r, pair_sums, sums[r]);
            if (statistics) store_statistics(stats, b.first + r, sums[r].of);
        }
        const Sink<T, decltype(b)> sink{b, index_above(radii, 0, P())};
        if (!any(sink.seen)) return clear_gradients(grad, g, b);
        P numbers[kSplatNumbers], totals[kSumsStride];
        Splat<P> splat;
        load_columns<T>(&projected.splats->x, kSplatNumbers, kSplatNumbers, b, numbers);
        memcpy((void*)&splat, numbers, sizeof splat);
        load_columns<T>(sums->of, kSumsStride, kSumsStride, decltype(b){0, b.count}, totals);
        project_lanes_backward(v, g, sink, splat, totals, grad);
    });
}

}  // namespace

extern const ProjectKernels<float> project_float = {project<float>, project_backward<float>};
extern const ProjectKernels<double> project_double = {project<double>, project_backward<double>};

}  // namespace GS_ISA
}  // namespace gs
