// What the searches on every back end are made of: points, their boxes, the nearest seen so far, and how a
// balanced k-d tree divides a list.
#pragma once

#include <math.h>
#include <stdint.h>

#if defined(__CUDACC__)
#define GS_HD __host__ __device__ inline
#else
#define GS_HD inline
#endif

namespace gs {

constexpr int kNeighbours = 3;
// At most, except that a leaf never holds fewer than half of it in a larger tree.
constexpr int64_t kLeafPoints = 8;

struct Point {
    float at[3];
    int32_t index;
};

GS_HD float larger(float a, float b) { return a < b ? b : a; }
GS_HD float smaller(float a, float b) { return b < a ? b : a; }

// Rounding is monotonic, so that no point of a box comes out nearer than the box as long as both go through
// here.
GS_HD float squared_length(float x, float y, float z) { return x * x + y * y + z * z; }

struct Box {
    float low[3], high[3];

    GS_HD float squared_distance(const Point& p) const {
        float d[3];
        for (int a = 0; a < 3; ++a) d[a] = larger(larger(low[a] - p.at[a], p.at[a] - high[a]), 0.f);
        return squared_length(d[0], d[1], d[2]);
    }

    GS_HD int widest_axis() const {
        int widest = 0;
        for (int a = 1; a < 3; ++a)
            if (high[a] - low[a] > high[widest] - low[widest]) widest = a;
        return widest;
    }
};

// The smallest squared distances seen, in ascending order.
struct Nearest {
    float squares[kNeighbours] = {INFINITY, INFINITY, INFINITY};

    GS_HD float worst() const { return squares[kNeighbours - 1]; }

    GS_HD void insert(float square) {
        if (!(square < worst())) return;
        int i = kNeighbours - 1;
        for (; i > 0 && square < squares[i - 1]; --i) squares[i] = squares[i - 1];
        squares[i] = square;
    }

    // Over as many neighbours as there are among `count` points.
    GS_HD float mean(int64_t count) const {
        const int neighbours = count - 1 < kNeighbours ? int(count - 1) : kNeighbours;
        float sum = 0;
        for (int i = 0; i < neighbours; ++i) sum += squares[i];
        return neighbours ? sum / float(neighbours) : 0.f;
    }
};

// Level l of the tree has 2^l nodes; node k of it holds the points from count k / 2^l to count (k + 1) / 2^l.
GS_HD int64_t first_of_node(int64_t count, int level, int64_t k) { return count * k >> level; }

// The level of the leaves.
GS_HD int tree_depth(int64_t count) {
    int depth = 0;
    while ((count >> depth) > kLeafPoints) ++depth;
    return depth;
}

}  // namespace gs
