// Per Gaussian: from the world to the screen, and the gradients back.
#include "cuda/stages.h"
#include "cuda/warp_sums.h"
#include "project.h"
#include "tiles.h"

namespace gs {
namespace cuda {
namespace {

constexpr int kThreads = 128;
// Blocks of the backward pass that are to fit on a multiprocessor at once: it waits for memory, so that a few
// spilled registers cost less than fewer warps.
template <class T>
constexpr int kBlocks = 1;
template <>
constexpr int kBlocks<float> = 6;
constexpr int kAlone = 8;  // pairs that a thread adds up without its warp

// The camera of a block, in shared memory.
template <class T>
__device__ void load_view(const Camera<T>& camera, View<T>& view) {
    const int t = int(threadIdx.x);
    if (t == 0) {
        view.tan_fovx = camera.rest.tan_fovx;
        view.tan_fovy = camera.rest.tan_fovy;
        view.scale_modifier = camera.rest.scale_modifier;
        view.near = camera.rest.near;
        view.dilation = camera.rest.dilation;
        view.width = camera.rest.width;
        view.height = camera.rest.height;
        view.sh_degree = camera.rest.sh_degree;
        view.antialiasing = camera.rest.antialiasing;
    }
    if (t < 16) view.view[t] = camera.view[t];
    if (t >= 16 && t < 32) view.proj[t - 16] = camera.proj[t - 16];
    if (t >= 32 && t < 35) view.campos[t - 32] = camera.campos[t - 32];
    __syncthreads();
}

// The SH coefficients of a Gaussian, read when they are asked for.
template <class T>
struct ShRow {
    const T *first, *rest;
    GS_HD T operator()(int j, int c) const { return j == 0 ? first[c] : rest[3 * (j - 1) + c]; }
};

// The gradient of SH coefficient (j, c) is basis[j] color[c].
template <class T>
struct ShGradient {
    T basis[kMaxShBases];
    T color[3];
};

// The row of one Gaussian, for project.h. sh_gradient: what store_sh will write.
template <class T>
struct Row {
    int64_t i;
    ShGradient<T>* sh_gradient;

    template <int kColumns>
    GS_HD void load(const T* array, T* to) const {
        for (int c = 0; c < kColumns; ++c) to[c] = array[kColumns * i + c];
    }

    GS_HD ShRow<T> sh(const Gaussians<T>& g, int) const {
        return {g.sh_first + i * g.sh_first_stride, g.sh_rest + i * g.sh_rest_stride};
    }

    template <int kColumns>
    GS_HD void put(const T* values, T* array) const {
        if (!array) return;
        for (int c = 0; c < kColumns; ++c) array[kColumns * i + c] = values[c];
    }

    template <class Places>
    GS_HD void put_sh(const Places&, const Gaussians<T>&, const T* basis, int bases, const T* color) const {
        for (int j = 0; j < bases; ++j) sh_gradient->basis[j] = basis[j];
        for (int c = 0; c < 3; ++c) sh_gradient->color[c] = color[c];
    }

    template <int kColumns>
    GS_HD void clear(T* array) const {
        if (!array) return;
        for (int c = 0; c < kColumns; ++c) array[kColumns * i + c] = T(0);
    }
};

// A parameter that takes its gradient as a step.
struct StepPlace {
    AdamStep step;
    GS_HD explicit operator bool() const { return step.tensor.param != nullptr; }
    GS_HD void take(int64_t i, float grad) const {
        const AdamNumber number = load_number(step.tensor, i, through_activation(step, i, grad));
        if (adam_step(step.tensor, i, number) == kExponent) *step.tensor.unsound = 1;
    }
};

// Where gradients go by the names of Gradients, if the parameters are stepped at once.
struct StepPlaces {
    StepPlace means, scales, quats, sh_first, sh_rest, opacities;
    float *means2d, *covariances, *colors, *importance, *carrier;
    bool sparse;

    StepPlaces(const Steps& s, const Gradients<float>& other)
        : means{s.means},
          scales{s.scales},
          quats{s.quats},
          sh_first{s.sh_first},
          sh_rest{s.sh_rest},
          opacities{s.opacities},
          means2d(other.means2d),
          covariances(other.covariances),
          colors(other.colors),
          importance(other.importance),
          carrier(other.carrier),
          sparse(s.sparse) {}
};

// A row that also steps.
struct StepRow : Row<float> {
    bool sparse;

    __device__ StepRow(int64_t i, ShGradient<float>* sh_gradient, bool sparse)
        : Row<float>{i, sh_gradient}, sparse(sparse) {}

    using Row<float>::put;
    template <int kColumns>
    GS_HD void put(const float* values, const StepPlace& place) const {
        for (int c = 0; c < kColumns; ++c) place.take(kColumns * i + c, values[c]);
    }

    using Row<float>::clear;
    template <int kColumns>
    GS_HD void clear(const StepPlace& place) const {
        if (sparse) return;
        for (int c = 0; c < kColumns; ++c) place.take(kColumns * i + c, 0.0f);
    }
};

template <class T>
__device__ Row<T> row_of(const Gradients<T>&, int64_t i, ShGradient<T>* sh_gradient) {
    return {i, sh_gradient};
}
__device__ inline StepRow row_of(const StepPlaces& places, int64_t i, ShGradient<float>* sh_gradient) {
    return {i, sh_gradient, places.sparse};
}

template <class T>
__global__ void __launch_bounds__(kThreads) project_each(Camera<T> camera, Gaussians<T> g, Visible<T> out) {
    GS_SHARED(View<T>, view);
    load_view(camera, view);
    const int64_t i = global_index();
    if (i >= g.count) return;
    Splat<T> splat;
    T depth, radius;
    const bool seen = project_gaussian(view, g, Row<T>{i, nullptr}, splat, depth, radius);
    if (seen) {
        copy_aligned<sizeof(Splat<T>)>(&splat, &out.splats[i]);
        out.depths[i] = depth;
    }
    out.radii[i] = seen ? int32_t(radius) : 0;
    if (out.tile_count) out.tile_count[i] = seen ? TileWalk<T>(splat, view.width, view.height).count() : 0;
}

// Adds the sums of pairs first, first + step, ... below end.
template <class T, bool kStatistics>
__device__ void add_pairs(const T* pair_sums, int64_t first, int64_t end, int step, T* total) {
    constexpr int width = sum_count(kStatistics), row = pair_width(kStatistics);
    for (int64_t p = first; p < end; p += step) {
        alignas(16) T sums[row];
        copy_aligned<int(sizeof sums)>(pair_sums + p * row, sums);
        for (int j = 0; j < width; ++j)
            if (j == kWeightMax)
                total[j] = sums[j] > total[j] ? sums[j] : total[j];
            else
                total[j] += sums[j];
    }
}

// Each thread's Gaussian has `count` pairs from `first` on. The whole warp takes part in the large ones.
template <class T, bool kStatistics>
__device__ void reduce_pairs(const T* pair_sums, int64_t first, int count, T* total) {
    constexpr int width = sum_count(kStatistics);
    if (count <= kAlone) add_pairs<T, kStatistics>(pair_sums, first, first + count, 1, total);
    for (unsigned large = __ballot_sync(kWholeWarp, count > kAlone); large; large &= large - 1) {
        const int owner = __ffs(large) - 1;
        const int64_t begin = __shfl_sync(kWholeWarp, first, owner);
        const int64_t end = begin + __shfl_sync(kWholeWarp, count, owner);
        T part[width] = {};
        add_pairs<T, kStatistics>(pair_sums, begin + lane_index(), end, kWarp, part);
        for (int j = 0; j < width; ++j) {
            const T whole = j == kWeightMax ? warp_max(part[j]) : warp_sum(part[j]);
            if (lane_index() == owner) total[j] = whole;
        }
    }
}

template <class T>
__device__ void put_sh_number(const Gradients<T>& grad, bool is_first, int64_t i, T value, bool) {
    (is_first ? grad.sh_first : grad.sh_rest)[i] = value;
}
__device__ inline void put_sh_number(const StepPlaces& places, bool is_first, int64_t i, float value,
                                     bool seen) {
    if (seen || !places.sparse) (is_first ? places.sh_first : places.sh_rest).take(i, value);
}

// The gradients of a block's SH coefficients, neighbouring threads at neighbouring places.
template <class T, class Places>
__device__ void store_sh(const Places& grad, const Gaussians<T>& g, int degree, const int32_t* radii,
                         const ShGradient<T>* of_threads) {
    const int row_length = 3 * g.sh_bases, used = 3 * square(degree + 1);
    const int64_t first = int64_t(blockIdx.x) * kThreads;
    const int rows = int(g.count - first < kThreads ? g.count - first : kThreads);
    for (int e = int(threadIdx.x); e < rows * row_length; e += kThreads) {
        const int row = e / row_length, k = e % row_length;
        const ShGradient<T>& sh = of_threads[row];
        const T value = k < used ? sh.basis[k / 3] * sh.color[k % 3] : T(0);
        const int64_t i = first + row;
        const bool is_first = k < 3;
        put_sh_number(grad, is_first, is_first ? i * g.sh_first_stride + k : i * g.sh_rest_stride + k - 3,
                      value, radii[i] > 0);
    }
}

// Where a thread finds the gradient of its splat.
enum { kArray, kPairs, kPairsWithStatistics };

// The gradient of each thread's splat, of which there are `count`; a whole warp calls it. Sets the splat,
// which needs no registers while pairs are added up, and stores its statistics.
template <class T, int kSource>
__device__ Splat<T> splat_gradient_of(const SplatGradients<T>& from, const Visible<T>& seen, int64_t i,
                                      int64_t count, bool is_seen, const Statistics<T>& statistics,
                                      Splat<T>& splat) {
    Splat<T> gradient = {};
    if (kSource == kArray) {
        if (is_seen) copy_aligned<sizeof(Splat<T>)>(&seen.splats[i], &splat);
        if (is_seen) copy_aligned<sizeof(Splat<T>)>(&from.array[i], &gradient);
        return gradient;
    }
    constexpr bool with_statistics = kSource == kPairsWithStatistics;
    const int pairs = i < count ? from.index.count[i] : 0;
    T sums[kAllSums] = {};
    reduce_pairs<T, with_statistics>(from.pair_sums, pairs > 0 ? from.index.first[i] : 0, pairs, sums);
    if (with_statistics && i < count) store_statistics(statistics, i, sums);
    if (is_seen) {
        copy_aligned<sizeof(Splat<T>)>(&seen.splats[i], &splat);
        gradient = splat_gradient(splat, sums);
    }
    return gradient;
}

template <class T, int kSource>
__global__ void __launch_bounds__(kThreads)
    reduce_each(Visible<T> seen, int64_t count, SplatGradients<T> from, Splat<T>* out,
                Statistics<T> statistics) {
    const int64_t i = global_index();
    const bool is_seen = i < count && seen.radii[i] > 0;
    Splat<T> splat;
    const Splat<T> gradient = splat_gradient_of<T, kSource>(from, seen, i, count, is_seen, statistics, splat);
    if (i < count) copy_aligned<sizeof(Splat<T>)>(&gradient, &out[i]);
}

template <class T, int kSource, class Places>
__global__ void __launch_bounds__(kThreads, kBlocks<T>)
    project_each_backward(Camera<T> camera, Gaussians<T> g, Visible<T> seen, SplatGradients<T> from,
                          Places grad, Statistics<T> statistics) {
    GS_SHARED(View<T>, view);
    GS_SHARED(ShGradient<T>, sh, [kThreads]);
    load_view(camera, view);
    const int64_t i = global_index();
    const bool is_seen = i < g.count && seen.radii[i] > 0;
    Splat<T> splat;
    const Splat<T> toward = splat_gradient_of<T, kSource>(from, seen, i, g.count, is_seen, statistics, splat);
    sh[threadIdx.x] = {};
    if (i < g.count) {
        const auto row = row_of(grad, i, &sh[threadIdx.x]);
        if (is_seen)
            project_gaussian_backward(view, g, row, splat, toward, grad);
        else
            clear_gradients(grad, row);
    }
    if (!grad.sh_first) return;
    __syncthreads();
    store_sh(grad, g, view.sh_degree, seen.radii, sh);
}

template <class T, class Places>
void run_backward(const Camera<T>& camera, const Gaussians<T>& g, const Visible<T>& seen,
                  const SplatGradients<T>& from, const Places& places, const Statistics<T>& stats,
                  const Queue& queue) {
    const int64_t blocks = blocks_for(g.count, kThreads);
    if (from.array)
        GS_LAUNCH((project_each_backward<T, kArray, Places>), blocks, kThreads, queue, camera, g, seen, from,
                  places, stats);
    else if (from.statistics)
        GS_LAUNCH((project_each_backward<T, kPairsWithStatistics, Places>), blocks, kThreads, queue, camera,
                  g, seen, from, places, stats);
    else
        GS_LAUNCH((project_each_backward<T, kPairs, Places>), blocks, kThreads, queue, camera, g, seen, from,
                  places, stats);
}

}  // namespace

template <class T>
void project(const Camera<T>& camera, const Gaussians<T>& g, const Visible<T>& out, const Queue& queue) {
    GS_LAUNCH(project_each<T>, blocks_for(g.count, kThreads), kThreads, queue, camera, g, out);
}

template <class T>
void reduce(const Visible<T>& seen, int64_t count, const SplatGradients<T>& from, Splat<T>* out,
            const Statistics<T>& stats, const Queue& queue) {
    const int64_t blocks = blocks_for(count, kThreads);
    if (from.statistics)
        GS_LAUNCH((reduce_each<T, kPairsWithStatistics>), blocks, kThreads, queue, seen, count, from, out,
                  stats);
    else
        GS_LAUNCH((reduce_each<T, kPairs>), blocks, kThreads, queue, seen, count, from, out, stats);
}

template <class T>
void project_backward(const Camera<T>& camera, const Gaussians<T>& g, const Visible<T>& seen,
                      const SplatGradients<T>& from, const Gradients<T>& grad, const Statistics<T>& stats,
                      const Steps* steps, const Queue& queue) {
    if constexpr (sizeof(T) == sizeof(float)) {
        if (steps) {
            run_backward(camera, g, seen, from, StepPlaces(*steps, grad), stats, queue);
            return;
        }
    }
    run_backward(camera, g, seen, from, grad, stats, queue);
}

#define GS_INSTANTIATE(T)                                                                               \
    template void project(const Camera<T>&, const Gaussians<T>&, const Visible<T>&, const Queue&);      \
    template void reduce(const Visible<T>&, int64_t, const SplatGradients<T>&, Splat<T>*,               \
                         const Statistics<T>&, const Queue&);                                           \
    template void project_backward(const Camera<T>&, const Gaussians<T>&, const Visible<T>&,            \
                                   const SplatGradients<T>&, const Gradients<T>&, const Statistics<T>&, \
                                   const Steps*, const Queue&);
GS_INSTANTIATE(float)
GS_INSTANTIATE(double)

}  // namespace cuda
}  // namespace gs
