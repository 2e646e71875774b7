// The k-d tree of the CPU's search, built level by level: boxes of all nodes of a level, then one sort that
// orders every node's points along the node's longest side. Sorted nodes are already divided into their
// children.
#include "cuda/knn.h"

#include <string.h>

#include "gpu/sort.h"
#include "neighbours.h"

namespace gs {
namespace {

constexpr int kThreads = 256;

// The points in the order of the tree, and the box of node k of level l at 2^l + k.
struct Tree {
    Point* points;
    Box* boxes;
    int64_t count;
    int depth;

    GS_HD int64_t begin(int level, int64_t k) const { return first_of_node(count, level, k); }
    GS_HD Box& box(int level, int64_t k) const { return boxes[(int64_t(1) << level) + k]; }
    GS_HD int64_t node_of(int level, int64_t i) const { return (((i + 1) << level) - 1) / count; }
};

__global__ void take_points(const float* from, Tree tree) {
    const int64_t i = global_index();
    if (i < tree.count) tree.points[i] = {{from[3 * i], from[3 * i + 1], from[3 * i + 2]}, int32_t(i)};
}

__device__ inline float warp_smallest(float value) {
    for (int other = kWarp / 2; other > 0; other /= 2)
        value = smaller(value, __shfl_xor_sync(kWholeWarp, value, other));
    return value;
}

// One block per node.
__global__ void bound_nodes(Tree tree, int level) {
    GS_SHARED(float, of_warps, [6][kWarp]);
    const int64_t k = blockIdx.x, end = tree.begin(level, k + 1);
    float bounds[6] = {INFINITY, INFINITY, INFINITY, INFINITY, INFINITY, INFINITY};  // high sides negated
    for (int64_t i = tree.begin(level, k) + threadIdx.x; i < end; i += blockDim.x)
        for (int a = 0; a < 3; ++a) {
            bounds[a] = smaller(bounds[a], tree.points[i].at[a]);
            bounds[3 + a] = smaller(bounds[3 + a], -tree.points[i].at[a]);
        }
    for (int b = 0; b < 6; ++b) {
        const float of_warp = warp_smallest(bounds[b]);
        if (lane_index() == 0) of_warps[b][warp_index()] = of_warp;
    }
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (int w = 0; w < int(blockDim.x) / kWarp; ++w)
        for (int b = 0; b < 6; ++b) bounds[b] = smaller(bounds[b], of_warps[b][w]);
    tree.box(level, k) = {{bounds[0], bounds[1], bounds[2]}, {-bounds[3], -bounds[4], -bounds[5]}};
}

// Floats order as these numbers.
__device__ inline uint32_t order_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__global__ void make_keys(Tree tree, int level, uint64_t* keys, uint32_t* places) {
    const int64_t i = global_index();
    if (i >= tree.count) return;
    const int64_t k = tree.node_of(level, i);
    const float along = tree.points[i].at[tree.box(level, k).widest_axis()];
    keys[i] = uint64_t(k) << 32 | order_bits(along);
    places[i] = uint32_t(i);
}

__global__ void move_points(const Point* from, const uint32_t* places, Tree tree) {
    const int64_t i = global_index();
    if (i < tree.count) tree.points[i] = from[places[i]];
}

__device__ void scan(const Tree& tree, int64_t begin, int64_t end, const Point& p, Nearest& found) {
    for (int64_t i = begin; i < end; ++i) {
        const Point& q = tree.points[i];
        found.insert(squared_length(q.at[0] - p.at[0], q.at[1] - p.at[1], q.at[2] - p.at[2]));
    }
}

struct Visit {
    int level;
    uint32_t k;
    float distance;
};

// The nearer child first, the other later if it is still near enough. A visit is replaced by two of one level
// deeper or by none: the loop ends, and the stack is large enough, whatever the distances are.
__device__ void descend(const Tree& tree, Visit first, const Point& p, Nearest& found) {
    Visit waiting[kWarp];  // at most one for each level
    int count = 0;
    waiting[count++] = first;
    while (count > 0) {
        const Visit v = waiting[--count];
        if (!(v.distance < found.worst())) continue;
        if (v.level == tree.depth) {
            scan(tree, tree.begin(v.level, v.k), tree.begin(v.level, int64_t(v.k) + 1), p, found);
            continue;
        }
        const float left = tree.box(v.level + 1, 2 * int64_t(v.k)).squared_distance(p);
        const float right = tree.box(v.level + 1, 2 * int64_t(v.k) + 1).squared_distance(p);
        const uint32_t nearer = right < left;
        waiting[count++] = {v.level + 1, 2 * v.k + 1 - nearer, larger(left, right)};
        waiting[count++] = {v.level + 1, 2 * v.k + nearer, smaller(left, right)};
    }
}

// From the point's own leaf up: what lies beside each ancestor is entered only if its box is near enough.
__global__ void find_nearest(Tree tree, float* mean_squares) {
    const int64_t self = global_index();
    if (self >= tree.count) return;
    const Point p = tree.points[self];
    Nearest found;
    int64_t node = tree.node_of(tree.depth, self);
    scan(tree, tree.begin(tree.depth, node), self, p, found);
    scan(tree, self + 1, tree.begin(tree.depth, node + 1), p, found);
    for (int level = tree.depth; level > 0; --level, node >>= 1) {
        const int64_t sibling = node ^ 1;
        descend(tree, {level, uint32_t(sibling), tree.box(level, sibling).squared_distance(p)}, p, found);
    }
    mean_squares[p.index] = found.mean(tree.count);
}

void bound(const Tree& tree, int level, const Queue& queue) {
    const int64_t nodes = int64_t(1) << level;
    const int threads = tree.count / nodes > 4 * kThreads ? kThreads : kWarp;
    GS_LAUNCH(bound_nodes, nodes, threads, queue, tree, level);
}

}  // namespace

void mean_squared_distance(const float* points, int64_t count, float* mean_squares, const Queue& queue) {
    if (count == 0) return;
    const OnDevice guard(queue.device);
    const int depth = tree_depth(count);
    const int64_t blocks = blocks_for(count, kThreads);
    const DeviceArray<Point> one(queue, count), other(queue, count);
    const DeviceArray<Box> boxes(queue, int64_t(2) << depth);
    const DeviceArray<uint64_t> keys(queue, count), sorted_keys(queue, count);
    const DeviceArray<uint32_t> places(queue, count), sorted_places(queue, count);
    Tree tree = {one.get(), boxes.get(), count, depth};
    GS_LAUNCH(take_points, blocks, kThreads, queue, points, tree);
    for (int level = 0; level < depth; ++level) {
        bound(tree, level, queue);
        GS_LAUNCH(make_keys, blocks, kThreads, queue, tree, level, keys.get(), places.get());
        sort_pairs(queue, keys.get(), sorted_keys.get(), places.get(), sorted_places.get(), count,
                   32 + level);
        const Point* const from = tree.points;
        tree.points = from == one.get() ? other.get() : one.get();
        GS_LAUNCH(move_points, blocks, kThreads, queue, from, sorted_places.get(), tree);
    }
    bound(tree, depth, queue);
    GS_LAUNCH(find_nearest, blocks, kThreads, queue, tree, mean_squares);
}

}  // namespace gs
