// A balanced k-d tree with tight boxes: exact, and as fast for clusters and duplicates as for points spread
// evenly.
#include "cpu/knn.h"

#include <algorithm>
#include <vector>

#include "neighbours.h"
#include "parallel.h"

namespace gs {
namespace {

class Tree {
public:
    Tree(const float* points, int64_t count, int threads)
        : points_(count), count_(count), depth_(tree_depth(count)) {
        boxes_.resize(int64_t(2) << depth_);
        parallel_ranges(count, threads, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i)
                points_[i] = {{points[3 * i], points[3 * i + 1], points[3 * i + 2]}, int32_t(i)};
        });
        for (int level = 0; level <= depth_; ++level)
            parallel_for(int64_t(1) << level, threads, [&](int64_t k) { split(level, k); }, chunk(level));
    }

    int64_t leaves() const { return int64_t(1) << depth_; }

    // Visits the points of a leaf, each with what is nearest to it.
    template <class Visit>
    void for_leaf(int64_t leaf, const Visit& visit) const {
        for (int64_t i = begin(depth_, leaf); i < begin(depth_, leaf + 1); ++i)
            visit(points_[i], nearest(leaf, i));
    }

    // Nodes that a thread takes at a time on this level.
    static int64_t chunk(int level) { return std::max<int64_t>(1, (int64_t(1) << level) / 256); }
    int64_t leaf_chunk() const { return chunk(depth_); }

private:
    int64_t begin(int level, int64_t k) const { return first_of_node(count_, level, k); }

    Box& box(int level, int64_t k) { return boxes_[(int64_t(1) << level) + k]; }
    const Box& box(int level, int64_t k) const { return boxes_[(int64_t(1) << level) + k]; }

    void split(int level, int64_t k) {
        const auto first = points_.begin() + begin(level, k), last = points_.begin() + begin(level, k + 1);
        Box tight = {{first->at[0], first->at[1], first->at[2]}, {first->at[0], first->at[1], first->at[2]}};
        for (auto p = first; p != last; ++p)
            for (int a = 0; a < 3; ++a) {
                tight.low[a] = std::min(tight.low[a], p->at[a]);
                tight.high[a] = std::max(tight.high[a], p->at[a]);
            }
        box(level, k) = tight;
        if (level == depth_) return;
        const int axis = tight.widest_axis();
        const auto middle = points_.begin() + begin(level + 1, 2 * k + 1);
        std::nth_element(first, middle, last,
                         [axis](const Point& a, const Point& b) { return a.at[axis] < b.at[axis]; });
    }

    // From the point's own leaf up: what lies beside each ancestor is entered only if its box is near enough.
    Nearest nearest(int64_t leaf, int64_t self) const {
        Nearest found;
        const Point& p = points_[self];
        scan(begin(depth_, leaf), self, p, found);
        scan(self + 1, begin(depth_, leaf + 1), p, found);
        for (int level = depth_; level > 0; --level, leaf >>= 1) {
            const int64_t sibling = leaf ^ 1;
            descend(level, sibling, box(level, sibling).squared_distance(p), p, found);
        }
        return found;
    }

    void descend(int level, int64_t k, float distance, const Point& p, Nearest& found) const {
        if (!(distance < found.worst())) return;
        if (level == depth_) return scan(begin(level, k), begin(level, k + 1), p, found);
        const float left = box(level + 1, 2 * k).squared_distance(p);
        const float right = box(level + 1, 2 * k + 1).squared_distance(p);
        const int nearer = right < left;
        descend(level + 1, 2 * k + nearer, std::min(left, right), p, found);
        descend(level + 1, 2 * k + 1 - nearer, std::max(left, right), p, found);
    }

    void scan(int64_t begin, int64_t end, const Point& p, Nearest& found) const {
        for (int64_t i = begin; i < end; ++i) {
            const Point& q = points_[i];
            found.insert(squared_length(q.at[0] - p.at[0], q.at[1] - p.at[1], q.at[2] - p.at[2]));
        }
    }

    std::vector<Point> points_;
    std::vector<Box> boxes_;  // node k of level l at 2^l + k
    int64_t count_;
    int depth_;
};

}  // namespace

void mean_squared_distance(const float* points, int64_t count, float* mean_squares, int threads) {
    if (count == 0) return;
    const Tree tree(points, count, threads);
    const auto write = [&](const Point& p, const Nearest& nearest) {
        mean_squares[p.index] = nearest.mean(count);
    };
    parallel_for(
        tree.leaves(), threads, [&](int64_t leaf) { tree.for_leaf(leaf, write); }, tree.leaf_chunk());
}

}  // namespace gs
