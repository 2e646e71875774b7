// SSIM and its gradient in two kernels. The first windows a tile's pixels and leaves the SSIM values and
// their slopes; the second windows the slopes. Both windows are separable: along the rows of a tile with its
// halo, then down its columns, through shared memory.
#include "cuda/ssim.h"

#include "ssim_math.h"

namespace gs {
namespace {

using generic::kRadius;
using generic::magnitude;
using generic::Moments;
using generic::sign;
using generic::similarity;
using generic::Similarity;

constexpr int kThreads = 256;
constexpr int kTileWidth = 32, kTileHeight = 16;  // of double too, the second kernel's arrays fit into 48 KiB
constexpr int kSpanWidth = kTileWidth + 2 * kRadius, kSpanHeight = kTileHeight + 2 * kRadius;
constexpr int kMoments = 4, kSlopes = 3;

// A tile with its halo, and the same after the window along its rows.
template <class T>
using Span = T[kSpanHeight][kSpanWidth];
template <class T>
using Rows = T[kSpanHeight][kTileWidth];

// The window's weight at a distance from its middle. Constants, once the loops over it are unrolled.
template <class T>
__device__ T window(int distance) {
    using generic::kWindow;  // an array that only constant expressions of device code may name
    constexpr T w0 = kWindow<T>[0], w1 = kWindow<T>[1], w2 = kWindow<T>[2], w3 = kWindow<T>[3],
                w4 = kWindow<T>[4], w5 = kWindow<T>[5];
    constexpr T weights[kRadius + 1] = {w0, w1, w2, w3, w4, w5};
    return weights[distance < 0 ? -distance : distance];
}

// The place of a block: one tile of one plane, or of as many as it goes through in turn, from the first on.
struct Tile {
    int64_t plane, of_plane, number;  // tiles of a plane; this one's number among those of all planes
    int x, y;

    __device__ explicit Tile(int64_t height, int64_t width, int64_t planes_in_turn = 1) {
        const int64_t across = (width + kTileWidth - 1) / kTileWidth;
        const int64_t down = (height + kTileHeight - 1) / kTileHeight;
        of_plane = across * down;
        plane = blockIdx.x / of_plane * planes_in_turn;
        const int64_t tile = blockIdx.x % of_plane;
        number = plane * of_plane + tile;
        x = int(tile % across) * kTileWidth;
        y = int(tile / across) * kTileHeight;
    }

    __device__ void next_plane() {
        ++plane;
        number += of_plane;
    }
};

template <class T>
int64_t tiles(const SsimProblem<T>& p) {
    return p.planes * blocks_for(p.height, kTileHeight) * blocks_for(p.width, kTileWidth);
}

template <class T>
__device__ bool is_inside(const SsimProblem<T>& p, int64_t y, int64_t x) {
    return y >= 0 && y < p.height && x >= 0 && x < p.width;
}

template <class T>
__device__ int64_t pixel_index(const SsimProblem<T>& p, int64_t plane, int64_t y, int64_t x) {
    return (plane * p.height + y) * p.width + x;
}

// Where the SSIM value of a pixel stands in map and weight; negative where it has none.
template <class T>
__device__ int64_t value_index(const SsimProblem<T>& p, int64_t plane, int64_t y, int64_t x) {
    const int64_t height = p.height - 2 * p.margin, width = p.width - 2 * p.margin;
    const int64_t row = y - p.margin, column = x - p.margin;
    if (row < 0 || row >= height || column < 0 || column >= width) return -1;
    return (plane * height + row) * width + column;
}

// Calls f(i) for all i below count, a share of them in each thread.
template <class F>
__device__ void share(int count, const F& f) {
    for (int i = int(threadIdx.x); i < count; i += kThreads) f(i);
}

// The tile and its halo of one image, zeros outside.
template <class T>
__device__ void load_span(const SsimProblem<T>& p, const Tile& tile, const T* image, Span<T>& span) {
    share(kSpanHeight * kSpanWidth, [&](int i) {
        const int r = i / kSpanWidth, c = i % kSpanWidth;
        const int64_t y = tile.y + r - kRadius, x = tile.x + c - kRadius;
        span[r][c] = is_inside(p, y, x) ? image[pixel_index(p, tile.plane, y, x)] : T(0);
    });
}

// The window down column c of `rows` for the pixel in row r of the tile.
template <class T>
__device__ T down_column(const Rows<T>& rows, int r, int c) {
    T sum = window<T>(0) * rows[r + kRadius][c];
#pragma unroll
    for (int k = 1; k <= kRadius; ++k)
        sum += window<T>(k) * (rows[r + kRadius - k][c] + rows[r + kRadius + k][c]);
    return sum;
}

// The sum over the block, in thread 0.
__device__ double block_sum(double value) {
    GS_SHARED(double, of_warps, [kThreads / kWarp]);
    value = warp_sum(value);
    if (lane_index() == 0) of_warps[warp_index()] = value;
    __syncthreads();
    double total = 0;
    if (threadIdx.x == 0)
        for (int w = 0; w < kThreads / kWarp; ++w) total += of_warps[w];
    return total;
}

// slopes: (3, planes, height, width), null without a gradient. sums: of the SSIM values of each tile and
// then, if they count, of its |x - y|; or null.
template <class T>
__device__ void compare_plane(const SsimProblem<T>& p, const Tile& tile, T* slopes, double* sums) {
    GS_SHARED(Span<T>, x);
    GS_SHARED(Span<T>, y);
    GS_SHARED(Rows<T>, means, [kMoments]);
    load_span(p, tile, p.x, x);
    load_span(p, tile, p.y, y);
    __syncthreads();
    share(kSpanHeight * kTileWidth, [&](int i) {
        const int r = i / kTileWidth, c = i % kTileWidth;
        T sum[kMoments] = {};
#pragma unroll
        for (int k = -kRadius; k <= kRadius; ++k) {
            const T a = x[r][c + kRadius + k], b = y[r][c + kRadius + k], w = window<T>(k);
            sum[0] += w * a;
            sum[1] += w * b;
            sum[2] += w * (a * a + b * b);
            sum[3] += w * (a * b);
        }
        for (int m = 0; m < kMoments; ++m) means[m][r][c] = sum[m];
    });
    __syncthreads();
    double total = 0, total_difference = 0;
    share(kTileHeight * kTileWidth, [&](int i) {
        const int r = i / kTileWidth, c = i % kTileWidth;
        if (!is_inside(p, tile.y + r, tile.x + c)) return;
        const T difference = magnitude(x[r + kRadius][c + kRadius] - y[r + kRadius][c + kRadius]);
        total_difference += double(difference);
        const int64_t value = value_index(p, tile.plane, tile.y + r, tile.x + c);
        Similarity<T> s = {};
        if (value >= 0) {
            const Moments<T> mean = {down_column<T>(means[0], r, c), down_column<T>(means[1], r, c),
                                     down_column<T>(means[2], r, c), down_column<T>(means[3], r, c)};
            s = similarity(mean, p.c1, p.c2);
            total += double(s.value);
            if (p.map) p.map[value] = s.value;
        }
        if (p.error) {
            T& error = p.error[pixel_index(p, tile.plane / p.channels, tile.y + r, tile.x + c)];
            const T so_far = tile.plane % p.channels ? error : p.error_share, share = p.error_share;
            error = so_far + ((1 - share) * difference - share * s.value) / T(p.channels);
        }
        if (!slopes) return;
        const T weight = value < 0 ? T(0) : p.weight ? p.weight[value] : T(1);
        const int64_t at = pixel_index(p, tile.plane, tile.y + r, tile.x + c),
                      of_one = p.planes * p.height * p.width;
        slopes[at] = s.d_x * weight;
        slopes[at + of_one] = s.d_squares_twice * weight;
        slopes[at + 2 * of_one] = s.d_product * weight;
    });
    if (!sums) return;
    total = block_sum(total);
    if (threadIdx.x == 0) sums[tile.number] = total;
    if (!p.with_differences) return;
    __syncthreads();  // the sum's shared memory is used again
    total_difference = block_sum(total_difference);
    if (threadIdx.x == 0) sums[p.planes * tile.of_plane + tile.number] = total_difference;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    compare(SsimProblem<T> p, int64_t planes_in_turn, T* slopes, double* sums) {
    Tile tile(p.height, p.width, planes_in_turn);
    for (int64_t i = 0; i < planes_in_turn; ++i, tile.next_plane()) {
        if (i > 0) __syncthreads();  // nobody reads the plane before any more
        compare_plane(p, tile, slopes, sums);
    }
}

template <class T>
__global__ void __launch_bounds__(kThreads) differentiate(SsimProblem<T> p, const T* slopes) {
    GS_SHARED(Span<T>, spans, [kSlopes]);
    GS_SHARED(Rows<T>, rows, [kSlopes]);
    const Tile tile(p.height, p.width);
    for (int s = 0; s < kSlopes; ++s)
        load_span(p, tile, slopes + s * p.planes * p.height * p.width, spans[s]);
    __syncthreads();
    share(kSpanHeight * kTileWidth, [&](int i) {
        const int r = i / kTileWidth, c = i % kTileWidth;
        for (int s = 0; s < kSlopes; ++s) {
            T sum = T(0);
#pragma unroll
            for (int k = -kRadius; k <= kRadius; ++k) sum += window<T>(k) * spans[s][r][c + kRadius + k];
            rows[s][r][c] = sum;
        }
    });
    __syncthreads();
    share(kTileHeight * kTileWidth, [&](int i) {
        const int r = i / kTileWidth, c = i % kTileWidth;
        if (!is_inside(p, tile.y + r, tile.x + c)) return;
        const int64_t at = pixel_index(p, tile.plane, tile.y + r, tile.x + c);
        p.grad[at] = p.scale * (down_column<T>(rows[0], r, c) + p.x[at] * down_column<T>(rows[1], r, c) +
                                p.y[at] * down_column<T>(rows[2], r, c)) +
                     p.difference_scale * sign(p.x[at] - p.y[at]);
    });
}

// One block: the mean of `values` numbers from the sums of the tiles.
template <class T>
__global__ void __launch_bounds__(kThreads)
    average(const double* sums, int64_t count, int64_t values, T* mean) {
    double total = 0;
    for (int64_t i = threadIdx.x; i < count; i += kThreads) total += sums[i];
    total = block_sum(total);
    if (threadIdx.x == 0) *mean = T(total / double(values));
}

}  // namespace

template <class T>
void ssim(const SsimProblem<T>& p, T* means, const Queue& queue) {
    const OnDevice guard(queue.device);
    const DeviceArray<T> slopes(queue, p.grad ? kSlopes * p.planes * p.height * p.width : 0);
    const DeviceArray<double> sums(queue, means ? 2 * tiles(p) : 0);
    const int64_t in_turn = p.planes_in_turn();
    GS_LAUNCH(compare<T>, tiles(p) / in_turn, kThreads, queue, p, in_turn, p.grad ? slopes.get() : nullptr,
              means ? sums.get() : nullptr);
    if (p.grad) GS_LAUNCH(differentiate<T>, tiles(p), kThreads, queue, p, slopes.get());
    const int64_t values = p.planes * (p.height - 2 * p.margin) * (p.width - 2 * p.margin);
    if (means) GS_LAUNCH(average<T>, 1, kThreads, queue, sums.get(), tiles(p), values, means);
    if (means && p.with_differences)
        GS_LAUNCH(average<T>, 1, kThreads, queue, sums.get() + tiles(p), tiles(p),
                  p.planes * p.height * p.width, means + 1);
}

template void ssim(const SsimProblem<float>&, float*, const Queue&);
template void ssim(const SsimProblem<double>&, double*, const Queue&);

}  // namespace gs
