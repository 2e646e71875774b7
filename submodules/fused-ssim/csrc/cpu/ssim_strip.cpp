// SSIM and its gradient over one strip, streaming down its rows: the windowed means of a few rows, their SSIM
// values and derivatives, and the window over those never leave the cache. Compiled once per instruction set
// (isa.h).
//
// Rows are handled by fours, and so are columns: column 4 q + p of a row buffer lies in lane q of phase p. A
// window over neighbouring columns is then one over neighbouring registers, as it is for rows, and four of
// them share their loads.
#include "cpu/ssim.h"
#include "simd.h"
#include "ssim_math.h"

namespace gs {
namespace GS_ISA {
namespace {

constexpr int kHalo = 2 * kRadius;
constexpr int kFour = 4;
constexpr int kReach = kFour + kHalo;               // what lies under the windows of four neighbours
constexpr int kWait = (kHalo + kFour - 1) / kFour;  // fours that must follow one before its windows are full
constexpr int kRing = (kWait + 1) * kFour;          // rows that a filter keeps
constexpr int kPhase =
    (kStripWidth + kHalo + 63) / 64 * 16;  // columns in a phase: a whole number of registers
constexpr int kPhaseSpan = kPhase + 16;    // the same and what lies under its windows
constexpr int kSpan = kFour * kPhaseSpan;

static_assert(kReach / kFour < 16, "the windows of the last columns stay in the row");

template <class T, int Length>
using Row = T[kFour][Length];

// The window around each of four neighbours.
template <class T>
inline void window(const Vec<T> (&values)[kReach], Vec<T> (&sums)[kFour]) {
    for (int g = 0; g < kFour; ++g) {
        const Vec<T>* centre = values + g + kRadius;
        sums[g] = kWindow<T>[0] * centre[0];
        for (int k = 1; k <= kRadius; ++k) sums[g] += kWindow<T>[k] * (centre[-k] + centre[k]);
    }
}

// The separable window over F images at once. Four rows at a time go in, from kRadius rows above the first
// one wanted; after kWait times, each time four rows come out. Column 0 is centred on column kRadius of what
// went in.
template <class T, int F>
class Filter {
public:
    explicit Filter(int columns) : used_((columns + kFour - 1) / kFour) {}

    // True when rows came out.
    bool push(const Row<T, kPhaseSpan> (&rows)[kFour][F]) {
        for (int g = 0; g < kFour; ++g)
            for (int f = 0; f < F; ++f) along_row(rows[g][f], ring_[f][count_ * kFour % kRing + g]);
        if (++count_ <= kWait) return false;
        static_assert(kRing / kFour == 4, "one case each");
        switch (count_ % 4) {
            case 0:
                down_columns<0>();
                break;
            case 1:
                down_columns<1>();
                break;
            case 2:
                down_columns<2>();
                break;
            default:
                down_columns<3>();
        }
        return true;
    }

    const Row<T, kPhase> (&out() const)[kFour][F] { return out_; }

private:
    void along_row(const Row<T, kPhaseSpan>& from, Row<T, kPhase>& to) {
        for (int i = 0; i < used_; i += kLanes<T>) {
            Vec<T> values[kReach], sums[kFour];
            for (int k = 0; k < kReach; ++k) values[k] = load(&from[k % kFour][i + k / kFour]);
            window<T>(values, sums);
            for (int p = 0; p < kFour; ++p) store(&to[p][i], sums[p]);
        }
    }

    // The oldest rows are the First four of the ring: a constant, so that the compiler knows all offsets.
    template <int First>
    void down_columns() {
        for (int f = 0; f < F; ++f)
            for (int p = 0; p < kFour; ++p)
                for (int i = 0; i < used_; i += kLanes<T>) {
                    Vec<T> values[kReach], sums[kFour];
                    for (int k = 0; k < kReach; ++k)
                        values[k] = load(&ring_[f][(First * kFour + k) % kRing][p][i]);
                    window<T>(values, sums);
                    for (int g = 0; g < kFour; ++g) store(&out_[g][f][p][i], sums[g]);
                }
    }

    alignas(64) Row<T, kPhase> ring_[F][kRing];
    alignas(64) Row<T, kPhase> out_[kFour][F];
    const int used_;
    int count_ = 0;
};

inline int clamp(int64_t value, int low, int high) {
    return value < low ? low : value > high ? high : int(value);
}

// Columns begin .. end of a line that starts at column `origin` of an image.
struct Span {
    int begin, end;
};

inline Span inside(int64_t origin, int64_t width) {
    return {clamp(-origin, 0, kSpan), clamp(width - origin, 0, kSpan)};
}

template <class T>
class Strip {
public:
    Strip(const SsimProblem<T>& problem, const SsimStrip& strip)
        : p_(problem),
          s_(strip),
          width_(int(strip.x1 - strip.x0)),
          moments_(width_ + kHalo),
          slopes_(width_) {
        Span own = inside(s_.x0 - kRadius - p_.margin, p_.width - 2 * p_.margin);
        fill(weights_, own, 1);
        own = {clamp(own.begin, kRadius, kSpan), clamp(own.end, 0, kRadius + width_)};
        fill(own_, own, 1);
    }

    SsimSums run() {
        const int64_t above =
            p_.grad ? kRadius : 0;  // the gradient of a row needs the slopes of rows around it
        const int64_t turns = (s_.y1 - s_.y0 + kFour - 1) / kFour + (p_.grad ? 2 : 1) * kWait;
        int64_t y_value = s_.y0 - above, y_grad = s_.y0;
        for (int64_t turn = 0; turn < turns; ++turn) {
            read_pixels(s_.y0 - above - kRadius + turn * kFour);
            if (!moments_.push(pixels_)) continue;
            for (int g = 0; g < kFour; ++g) compare(y_value + g, moments_.out()[g], slope_rows_[g]);
            y_value += kFour;
            if (!p_.grad || !slopes_.push(slope_rows_)) continue;
            for (int g = 0; g < kFour && y_grad + g < s_.y1; ++g)
                write_gradient(y_grad + g, slopes_.out()[g]);
            y_grad += kFour;
        }
        if (p_.with_differences)
            for (int64_t y = s_.y0; y < s_.y1; ++y) add_differences(y);
        return sums_;
    }

private:
    static void fill(Row<T, kPhaseSpan>& row, Span span, T value) {
        for (int i = 0; i < kSpan; ++i)
            row[i % kFour][i / kFour] = i >= span.begin && i < span.end ? value : T(0);
    }

    // Four image rows from row y and column x0 - kHalo on, with the products that SSIM averages.
    void read_pixels(int64_t y) {
        const int64_t origin = s_.x0 - kHalo;
        const Span span = inside(origin, p_.width);
        for (int g = 0; g < kFour; ++g) {
            const bool is_image = y + g >= 0 && y + g < p_.height;
            const int64_t at = (s_.plane * p_.height + y + g) * p_.width + origin;
            copy_line(p_.x + at, is_image ? span : Span{0, 0}, lines_[g][0]);
            copy_line(p_.y + at, is_image ? span : Span{0, 0}, lines_[g][1]);
            fetch(p_.x + at + kFour * p_.width, span);
            fetch(p_.y + at + kFour * p_.width, span);
        }
        for (int g = 0; g < kFour; ++g)
            for (int i = 0; i < width_ + 2 * kHalo; i += kFour * kLanes<T>) put(pixels_[g], i, lines_[g]);
    }

    static void copy_line(const T* from, Span span, T (&to)[kSpan]) {
        for (int i = 0; i < span.begin; ++i) to[i] = 0;
        __builtin_memcpy(to + span.begin, from + span.begin, (span.end - span.begin) * sizeof(T));
        for (int i = span.end; i < kSpan; ++i) to[i] = 0;
    }

    // Asks for what the next turn reads: the rows of a strip lie too far apart for the processor to foresee.
    static void fetch(const T* from, Span span) {
        for (int i = span.begin; i < span.end; i += 64 / int(sizeof(T))) __builtin_prefetch(from + i);
    }

    static void put(Row<T, kPhaseSpan> (&to)[4], int i, const T (&lines)[2][kSpan]) {
        Vec<T> x[kFour], y[kFour];
        deinterleave(lines[0] + i, x);
        deinterleave(lines[1] + i, y);
        for (int p = 0; p < kFour; ++p) {
            store(&to[0][p][i / kFour], x[p]);
            store(&to[1][p][i / kFour], y[p]);
            store(&to[2][p][i / kFour], x[p] * x[p] + y[p] * y[p]);
            store(&to[3][p][i / kFour], x[p] * y[p]);
        }
    }

    // SSIM of image row y and its slopes, from the row's windowed means. Column i is image column x0 -
    // kRadius + i.
    void compare(int64_t y, const Row<T, kPhase> (&mean)[4], Row<T, kPhaseSpan> (&slopes)[3]) {
        if (y < p_.margin || y >= p_.height - p_.margin) {
            __builtin_memset(slopes, 0, sizeof slopes);
            return;
        }
        const int64_t map_width = p_.width - 2 * p_.margin, map_x = s_.x0 - kRadius - p_.margin;
        const int64_t at = (s_.plane * (p_.height - 2 * p_.margin) + y - p_.margin) * map_width + map_x;
        if (p_.weight) read_weights(p_.weight + at, inside(map_x, map_width));
        Vec<T> total = {};
        for (int p = 0; p < kFour; ++p)
            for (int i = 0; i < (width_ + kHalo + kFour - 1) / kFour; i += kLanes<T>) {
                const Moments<Vec<T>> m = {load(&mean[0][p][i]), load(&mean[1][p][i]), load(&mean[2][p][i]),
                                           load(&mean[3][p][i])};
                const Similarity<Vec<T>> s = similarity(m, p_.c1, p_.c2);
                const Vec<T> weight = load(&weights_[p][i]);
                total += s.value * load(&own_[p][i]);
                store(&values_[p][i], s.value);
                store(&slopes[0][p][i], s.d_x * weight);
                store(&slopes[1][p][i], s.d_squares_twice * weight);
                store(&slopes[2][p][i], s.d_product * weight);
            }
        if (y < s_.y0 || y >= s_.y1) return;
        sums_.similarity += double(sum<T>(total));
        if (p_.map || p_.error) to_line(values_, width_ + kHalo, lines_[0][0]);
        if (p_.map) write_values(p_.map + at, inside(map_x, map_width));
        if (p_.error) add_dissimilarity(error_row(y));
    }

    void read_weights(const T* from, Span span) {
        copy_line(from, span, lines_[0][0]);
        for (int i = 0; i < kFour * kPhase; i += kFour * kLanes<T>) {
            Vec<T> weight[kFour];
            deinterleave(lines_[0][0] + i, weight);
            for (int p = 0; p < kFour; ++p) store(&weights_[p][i / kFour], weight[p]);
        }
    }

    void write_values(T* to, Span span) {
        const int begin = clamp(span.begin, kRadius, kSpan), end = clamp(span.end, 0, kRadius + width_);
        for (int i = begin; i < end; ++i) to[i] = lines_[0][0][i];
    }

    // The strip's part of row y of the errors.
    T* error_row(int64_t y) const {
        return p_.error + (s_.plane / p_.channels * p_.height + y) * p_.width + s_.x0;
    }

    // Adds the share of 1 - SSIM, whose mean over the channels begins with the first of them.
    void add_dissimilarity(T* error) const {
        const T* similarity = lines_[0][0] + kRadius;
        const T share = p_.error_share / T(p_.channels);
        if (s_.plane % p_.channels == 0)
            for (int i = 0; i < width_; ++i) error[i] = p_.error_share - share * similarity[i];
        else
            for (int i = 0; i < width_; ++i) error[i] -= share * similarity[i];
    }

    static void to_line(const Row<T, kPhase>& row, int columns, T (&line)[kSpan]) {
        for (int i = 0; i < (columns + kFour - 1) / kFour; i += kLanes<T>)
            interleave<T>({load(&row[0][i]), load(&row[1][i]), load(&row[2][i]), load(&row[3][i])},
                          line + kFour * i);
    }

    // Image row y of the gradient, from the windowed slopes.
    void write_gradient(int64_t y, const Row<T, kPhase> (&slopes)[3]) {
        const int64_t at = (s_.plane * p_.height + y) * p_.width + s_.x0;
        const T *x = p_.x + at, *x2 = p_.y + at;
        T* grad = p_.grad + at;
        const T scale = p_.scale;
        T(&d_x)[kSpan] = lines_[0][0], (&d_squares)[kSpan] = lines_[0][1], (&d_product)[kSpan] = lines_[1][0];
        to_line(slopes[0], width_, d_x);
        to_line(slopes[1], width_, d_squares);
        to_line(slopes[2], width_, d_product);
        int i = 0;
        for (; i + kLanes<T> <= width_; i += kLanes<T>)
            store(grad + i, scale * (load(d_x + i) + load(x + i) * load(d_squares + i) +
                                     load(x2 + i) * load(d_product + i)));
        for (; i < width_; ++i) grad[i] = scale * (d_x[i] + x[i] * d_squares[i] + x2[i] * d_product[i]);
    }

    // |x - y| of image row y; its gradient goes to that of SSIM.
    void add_differences(int64_t y) {
        const int64_t at = (s_.plane * p_.height + y) * p_.width + s_.x0;
        const T *x = p_.x + at, *x2 = p_.y + at;
        T* error = p_.error ? error_row(y) : nullptr;
        T* grad = p_.grad ? p_.grad + at : nullptr;
        const T share = (1 - p_.error_share) / T(p_.channels);
        Vec<T> total = {};
        int i = 0;
        for (; i + kLanes<T> <= width_; i += kLanes<T>) {
            const Vec<T> d = load(x + i) - load(x2 + i);
            total += magnitude(d);
            if (error) store(error + i, load(error + i) + share * magnitude(d));
            if (grad) store(grad + i, load(grad + i) + p_.difference_scale * sign(d));
        }
        sums_.difference += double(sum<T>(total));
        for (; i < width_; ++i) {
            const T d = x[i] - x2[i];
            sums_.difference += double(magnitude(d));
            if (error) error[i] += share * magnitude(d);
            if (grad) grad[i] += p_.difference_scale * sign(d);
        }
    }

    const SsimProblem<T>& p_;
    const SsimStrip& s_;
    const int width_;
    Filter<T, 4> moments_;
    Filter<T, 3> slopes_;
    alignas(64) T lines_[kFour][2][kSpan];
    alignas(64) Row<T, kPhaseSpan> pixels_[kFour][4] = {};
    alignas(64) Row<T, kPhaseSpan> slope_rows_[kFour][3] = {};
    alignas(64) Row<T, kPhase> values_;
    alignas(64) Row<T, kPhaseSpan> weights_;  // of each column's SSIM value in the objective; zero where
                                              // there is none
    alignas(64) Row<T, kPhaseSpan> own_;      // one where a column's SSIM value belongs to this strip's sum
    SsimSums sums_;
};

template <class T>
SsimSums strip(const SsimProblem<T>& problem, const SsimStrip& strip) {
    return Strip<T>(problem, strip).run();
}

}  // namespace

extern const SsimKernels ssim_kernels = {strip<float>, strip<double>};

}  // namespace GS_ISA
}  // namespace gs
