// Per Gaussian: from the world to the screen, and the gradients back. A block of Gaussians at a time, each in
// a lane of the packs.
#include "../project.h"
#include "gaussian_rows.h"
#include "stages.h"
#include "step.h"

namespace gs {
namespace GS_ISA {
namespace {

template <class T>
View<Lanes<T>> in_all_lanes(const View<T>& v) {
    View<Lanes<T>> out;
    for (int i = 0; i < 16; ++i) out.view[i] = v.view[i];
    for (int i = 0; i < 16; ++i) out.proj[i] = v.proj[i];
    for (int i = 0; i < 3; ++i) out.campos[i] = v.campos[i];
    out.tan_fovx = v.tan_fovx;
    out.tan_fovy = v.tan_fovy;
    out.scale_modifier = v.scale_modifier;
    out.near = v.near;
    out.dilation = v.dilation;
    out.width = v.width;
    out.height = v.height;
    out.sh_degree = v.sh_degree;
    out.antialiasing = v.antialiasing;
    return out;
}

// What Gaussians are is spread over so many arrays that the processor does not foresee which rows come next.
template <class T>
GS_INLINE void prefetch_gaussians(const Gaussians<T>& g, int64_t first, int64_t end) {
    prefetch(g.means, 3, first, end);
    prefetch(g.scales, 3, first, end);
    prefetch(g.quats, 4, first, end);
    prefetch(g.sh_rest, g.sh_rest_stride, first, end);
}

template <class T, class B>
GS_INLINE Splat<Lanes<T>> load_splats(const Splat<T>* splats, const B& block) {
    Lanes<T> numbers[kSplatNumbers];
    Splat<Lanes<T>> splat;
    static_assert(sizeof splat == sizeof numbers, "a splat is its numbers");
    load_columns(&splats->x, kSplatNumbers, kSplatNumbers, block, numbers);
    memcpy((void*)&splat, numbers, sizeof splat);
    return splat;
}

template <class T, class B>
GS_INLINE void store_splats(const Splat<Lanes<T>>& splat, Splat<T>* splats, const B& block) {
    Lanes<T> numbers[kSplatNumbers];
    memcpy((void*)numbers, &splat, sizeof splat);
    store_columns(numbers, &splats->x, kSplatNumbers, kSplatNumbers, block);
}

template <class T>
void project(const View<T>& view, const Gaussians<T>& g, const Projected<T>& out, int threads) {
    using P = Lanes<T>;
    const View<P> v = in_all_lanes(view);
    for_each_block<T>(g.count, threads, [&](auto b) {
        const int64_t next = b.first + NativeWidth<T>::value;
        if (next < g.count) {
            const int64_t after_next = gs::min(next + NativeWidth<T>::value, g.count);
            prefetch_gaussians(g, next, after_next);
            prefetch_to_write(&out.splats->x, kSplatNumbers, next, after_next);
        }
        Splat<P> splat;
        P depth, radius(T(0));
        const BlockRows<T, decltype(b)> rows{b, {}};
        const LaneMask<T> seen = project_gaussian(v, g, rows, splat, depth, radius);
        store<1>(&depth, out.depths, b);
        T radii[NativeWidth<T>::value];
        zero_unless(seen, radius).store(radii);
        for (int r = 0; r < b.rows(); ++r) out.radii[b.first + r] = int32_t(radii[r]);
        if (any(seen)) store_splats(splat, out.splats, b);
    });
}

// ----------------------------------------------------------------------------------------------------
// Back

// Adds one Gaussian's sums over its tiles, in the order of its pairs. Without statistics nobody has set
// theirs, and nobody reads what becomes of them.
template <class T>
GS_INLINE void reduce_pairs(const PairIndex& index, int64_t i, const PairSums<T>* pair_sums,
                            PairSums<T>& out) {
    using P = Lanes<T>;
    constexpr int W = NativeWidth<T>::value, kMaxPack = kWeightMax / W * W;
    P total[kSumsStride / W], top(T(0));
    for (P& t : total) t = P(T(0));
    for (int64_t p = index.first_pair[i]; p < index.first_pair[i + 1]; ++p) {
        const T* sums = pair_sums[index.entry_of[p]].of;
        for (int j = 0; j < kSumsStride; j += W) total[j / W] += P::load(sums + j);
        top = max(top, P::load(sums + kMaxPack));
    }
    for (int j = 0; j < kSumsStride; j += W) total[j / W].store(out.of + j);
    T largest[W];
    top.store(largest);
    out.of[kWeightMax] = largest[kWeightMax - kMaxPack];
}

// The sums of Gaussians first ... end - 1 lie in as many places as they have tiles.
template <class T>
GS_INLINE void prefetch_gradients(const SplatGradients<T>& from, int64_t first, int64_t end) {
    if (from.array) return prefetch(&from.array->x, kSplatNumbers, first, end);
    const PairIndex& index = from.index;
    for (int64_t p = index.first_pair[first]; p < index.first_pair[end]; ++p)
        __builtin_prefetch(from.pair_sums + index.entry_of[p]);
}

// The gradients of a block's splats. Stores their statistics.
template <class T, class B>
GS_INLINE Splat<Lanes<T>> splat_gradients(const SplatGradients<T>& from, const Splat<Lanes<T>>& splat,
                                          const B& block, const Statistics<T>& stats) {
    if (from.array) return load_splats(from.array, block);
    PairSums<T> sums[NativeWidth<T>::value];
    for (int r = 0; r < block.rows(); ++r) {
        reduce_pairs(from.index, block.first + r, from.pair_sums, sums[r]);
        if (from.statistics) store_statistics(stats, block.first + r, sums[r].of);
    }
    Lanes<T> totals[kSumsStride];
    load_columns<T>(sums->of, kSumsStride, kSumsStride, B{0, block.count}, totals);
    return splat_gradient(splat, totals);
}

template <class T>
void reduce(const Projected<T>& projected, int64_t count, const SplatGradients<T>& from, Splat<T>* out,
            const Statistics<T>& stats, int threads) {
    for_each_block<T>(count, threads, [&](auto b) {
        const int64_t next = b.first + NativeWidth<T>::value;
        if (next < count) prefetch_gradients(from, next, gs::min(next + NativeWidth<T>::value, count));
        const Splat<Lanes<T>> splat = load_splats(projected.splats, b);
        store_splats(splat_gradients(from, splat, b, stats), out, b);
        for (int r = 0; r < b.rows(); ++r)
            if (projected.radii[b.first + r] == 0) memset((void*)&out[b.first + r], 0, sizeof *out);
    });
}

template <class T>
GS_INLINE void prefetch_gradients(const Gradients<T>& grad, const Gaussians<T>& g, int64_t first,
                                  int64_t end) {
    prefetch_to_write(grad.means, 3, first, end);
    prefetch_to_write(grad.means2d, 3, first, end);
    prefetch_to_write(grad.scales, 3, first, end);
    prefetch_to_write(grad.quats, 4, first, end);
    prefetch_to_write(grad.sh_first, g.sh_first_stride, first, end);
    prefetch_to_write(grad.sh_rest, g.sh_rest_stride, first, end);
}

// The gradients of a block, where they are used up at once. The arrays begin as far before them as rows of
// Gaussians precede the block.
struct GradientRows {
    static constexpr int W = NativeWidth<float>::value;
    alignas(64) float means[3 * W], scales[3 * W], quats[4 * W], opacities[W], sh_first[3 * W],
        sh_rest[3 * (kMaxShBases - 1) * W];

    Gradients<float> in_place_of(const Gradients<float>& grad, const Gaussians<float>& g, int64_t first) {
        Gradients<float> here = grad;
        here.means = means - 3 * first;
        here.scales = scales - 3 * first;
        here.quats = quats - 4 * first;
        here.opacities = opacities - first;
        here.sh_first = sh_first - g.sh_first_stride * first;
        here.sh_rest = sh_rest - g.sh_rest_stride * first;
        return here;
    }
};

// Steps rows first ... end - 1. grads: of these rows.
GS_INLINE void step_rows(const AdamStep& step, int64_t first, int64_t end, float* grads) {
    const AdamTensor t = step.tensor;
    const int64_t begin = first * t.columns, count = (end - first) * t.columns;
    if (step.activation != kPlain)
        for (int64_t i = 0; i < count; ++i) grads[i] = through_activation(step, begin + i, grads[i]);
    tell_if_unsound(t, step_numbers(t, begin, count, grads));
}

// In the order in which the gradients were written: a vector that was stored a moment ago in other pieces has
// to be waited for.
GS_INLINE void step_gaussians(const Steps& s, int64_t first, int64_t end, int row, GradientRows& grads) {
    step_rows(s.opacities, first, end, grads.opacities + row);
    step_rows(s.scales, first, end, grads.scales + 3 * row);
    step_rows(s.quats, first, end, grads.quats + 4 * row);
    step_rows(s.sh_first, first, end, grads.sh_first + s.sh_first.tensor.columns * row);
    step_rows(s.sh_rest, first, end, grads.sh_rest + s.sh_rest.tensor.columns * row);
    step_rows(s.means, first, end, grads.means + 3 * row);
}

template <class B>
GS_INLINE void step_block(const Steps& steps, B block, const int32_t* radii, GradientRows& grads) {
    if (!steps.sparse) return step_gaussians(steps, block.first, block.first + block.rows(), 0, grads);
    for (int r = 0; r < block.rows(); ++r)
        if (radii[r] > 0) step_gaussians(steps, block.first + r, block.first + r + 1, r, grads);
}

GS_INLINE void prefetch_step(const AdamStep& step, int64_t first, int64_t end) {
    const AdamTensor& t = step.tensor;
    prefetch_to_write(t.param, t.columns, first, end);
    prefetch_to_write(t.exp_avg, t.columns, first, end);
    prefetch_to_write(t.exp_avg_sq, t.columns, first, end);
}

GS_INLINE void prefetch_steps(const Steps& s, int64_t first, int64_t end) {
    prefetch_step(s.means, first, end);
    prefetch_step(s.scales, first, end);
    prefetch_step(s.quats, first, end);
    prefetch_step(s.opacities, first, end);
    prefetch_step(s.sh_first, first, end);
    prefetch_step(s.sh_rest, first, end);
}

// steps: null, or what is stepped at once, in float32, in the place of writing its gradients.
template <class T>
void project_backward(const View<T>& view, const Gaussians<T>& g, const Projected<T>& projected,
                      const SplatGradients<T>& from, const Gradients<T>& wanted, const Statistics<T>& stats,
                      const Steps* steps, int threads) {
    using P = Lanes<T>;
    constexpr int W = NativeWidth<T>::value;
    constexpr bool kMayStep = sizeof(T) == sizeof(float);
    const View<P> v = in_all_lanes(view);
    for_each_block<T>(g.count, threads, [&](auto b) {
        const int64_t next = b.first + W, after_next = gs::min(next + W, g.count);
        Gradients<T> grad = wanted;
        [[maybe_unused]] GradientRows at_once;
        if constexpr (kMayStep)
            if (steps) grad = at_once.in_place_of(wanted, g, b.first);
        if (next < g.count) {
            prefetch_gradients(from, next, after_next);
            prefetch_gaussians(g, next, after_next);
            prefetch(&projected.splats->x, kSplatNumbers, next, after_next);
            prefetch_gradients(wanted, g, next, after_next);
            if (steps) prefetch_steps(*steps, next, after_next);
        }
        int32_t radii[W] = {};
        for (int r = 0; r < b.rows(); ++r) radii[r] = projected.radii[b.first + r];
        const BlockRows<T, decltype(b)> rows{b, index_above(radii, 0, P())};
        if (any(rows.seen)) {
            const Splat<P> splat = load_splats(projected.splats, b);
            project_gaussian_backward(v, g, rows, splat, splat_gradients(from, splat, b, stats), grad);
        } else {
            const PairSums<T> none = {};
            for (int r = 0; from.statistics && r < b.rows(); ++r)
                store_statistics(stats, b.first + r, none.of);
            clear_gradients(grad, rows);
            rows.clear_columns(grad.sh_first, g.sh_first_stride, 0, 3);
            rows.clear_columns(grad.sh_rest, g.sh_rest_stride, 0, 3 * (g.sh_bases - 1));
        }
        if constexpr (kMayStep)
            if (steps) step_block(*steps, b, radii, at_once);
    });
}

}  // namespace

extern const ProjectKernels<float> project_float = {project<float>, project_backward<float>, reduce<float>};
extern const ProjectKernels<double> project_double = {project<double>, project_backward<double>,
                                                      reduce<double>};

}  // namespace GS_ISA
}  // namespace gs
