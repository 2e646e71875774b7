// Per Gaussian: from the world to the screen, and the gradients back.
#include "cuda/rows.h"
#include "cuda/stages.h"
#include "cuda/warp_sums.h"
#include "project.h"
#include "tiles.h"

namespace gs {
namespace cuda {
namespace {

// Of a block; shared memory holds fewer rows of doubles.
template <class T>
constexpr int kThreads = sizeof(T) == sizeof(float) ? 128 : 64;
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

template <class T>
__global__ void __launch_bounds__(kThreads<T>)
    project_each(Camera<T> camera, Gaussians<T> g, Visible<T> out) {
    GS_SHARED(View<T>, view);
    GS_SHARED(SharedRow<T>, shared, [kThreads<T>]);
    load_view(camera, view);
    const int64_t i = global_index();
    const bool exists = i < g.count;
    const Row<T> row{i, shared[threadIdx.x].of};
    Splat<T> splat;
    T mean[3], depth, radius;
    bool seen = exists && project_footprint(view, g, row, mean, splat, depth, radius);
    fetch_coefficients(g, view.sh_degree, i - lane_index(), __ballot_sync(kWholeWarp, seen),
                       &shared[warp_index() * kWarp]);
    wait_for_copies();
    seen = seen && splat_color(view, g, row, mean, splat.color);
    if (!exists) return;
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
__global__ void __launch_bounds__(kThreads<T>)
    reduce_each(Visible<T> seen, int64_t count, SplatGradients<T> from, Splat<T>* out,
                Statistics<T> statistics) {
    const int64_t i = global_index();
    const bool is_seen = i < count && seen.radii[i] > 0;
    Splat<T> splat;
    const Splat<T> gradient = splat_gradient_of<T, kSource>(from, seen, i, count, is_seen, statistics, splat);
    if (i < count) copy_aligned<sizeof(Splat<T>)>(&gradient, &out[i]);
}

template <class T, int kSource, class Places>
__global__ void __launch_bounds__(kThreads<T>, kBlocks<T>)
    project_each_backward(Camera<T> camera, Gaussians<T> g, Visible<T> seen, SplatGradients<T> from,
                          Places grad, Statistics<T> statistics) {
    GS_SHARED(View<T>, view);
    GS_SHARED(SharedRow<T>, shared, [kThreads<T>]);
    load_view(camera, view);
    const int64_t i = global_index();
    const bool is_seen = i < g.count && seen.radii[i] > 0;
    fetch_coefficients(g, view.sh_degree, i - lane_index(), __ballot_sync(kWholeWarp, is_seen),
                       &shared[warp_index() * kWarp]);
    Splat<T> splat;
    const Splat<T> toward = splat_gradient_of<T, kSource>(from, seen, i, g.count, is_seen, statistics, splat);
    wait_for_copies();
    if (i < g.count) {
        const auto row = row_of(grad, i, shared[threadIdx.x].of);
        if (is_seen)
            project_gaussian_backward(view, g, row, splat, toward, grad);
        else
            clear_gradients(grad, row);
    }
    __syncwarp();
    const int64_t first = i - lane_index(), left = g.count - first;
    const unsigned all_seen = __ballot_sync(kWholeWarp, is_seen);
    const WarpRows<T> rows = {first, int(left < kWarp ? left : kWarp), all_seen,
                              &shared[warp_index() * kWarp]};
    put_warp(rows, g, 3 * square(view.sh_degree + 1), grad);
}

template <class T, class Places>
void run_backward(const Camera<T>& camera, const Gaussians<T>& g, const Visible<T>& seen,
                  const SplatGradients<T>& from, const Places& places, const Statistics<T>& stats,
                  const Queue& queue) {
    const int64_t blocks = blocks_for(g.count, kThreads<T>);
    if (from.array)
        GS_LAUNCH((project_each_backward<T, kArray, Places>), blocks, kThreads<T>, queue, camera, g, seen,
                  from, places, stats);
    else if (from.statistics)
        GS_LAUNCH((project_each_backward<T, kPairsWithStatistics, Places>), blocks, kThreads<T>, queue,
                  camera, g, seen, from, places, stats);
    else
        GS_LAUNCH((project_each_backward<T, kPairs, Places>), blocks, kThreads<T>, queue, camera, g, seen,
                  from, places, stats);
}

}  // namespace

template <class T>
void project(const Camera<T>& camera, const Gaussians<T>& g, const Visible<T>& out, const Queue& queue) {
    GS_LAUNCH(project_each<T>, blocks_for(g.count, kThreads<T>), kThreads<T>, queue, camera, g, out);
}

template <class T>
void reduce(const Visible<T>& seen, int64_t count, const SplatGradients<T>& from, Splat<T>* out,
            const Statistics<T>& stats, const Queue& queue) {
    const int64_t blocks = blocks_for(count, kThreads<T>);
    if (from.statistics)
        GS_LAUNCH((reduce_each<T, kPairsWithStatistics>), blocks, kThreads<T>, queue, seen, count, from, out,
                  stats);
    else
        GS_LAUNCH((reduce_each<T, kPairs>), blocks, kThreads<T>, queue, seen, count, from, out, stats);
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
