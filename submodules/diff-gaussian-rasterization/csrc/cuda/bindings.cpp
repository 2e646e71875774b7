// The Python module of the GPU kernels: the same classes as csrc/bindings.cpp has for the CPU, and as there,
// what lies at the addresses was checked before.
#include <nanobind/stl/vector.h>

#include <vector>

#include "adam_entry.h"
#include "cuda/adam.h"
#include "cuda/importance.h"
#include "cuda/stages.h"
#include "gpu/python.h"
#include "importance_entry.h"
#include "render_entry.h"

#include <nanobind/stl/tuple.h>

namespace nb = nanobind;
using namespace nb::literals;

namespace gs {
namespace cuda {
namespace {

// tiles: where the numbers of tiles are, or 0.
template <class T>
Visible<T> make_visible(const Addresses& a) {
    return {at<Splat<T>>(a.at("rows")), at<T>(a.at("depths")), at<int32_t>(a.at("radii")),
            at<int32_t>(a.at("tiles"))};
}

// What the pixels of splats add up to: from a backward pass over them on the way to Gaussians.
template <class T>
struct PixelSums {
    DeviceArray<T> of_pairs;
    PairIndex index;
    bool statistics;

    SplatGradients<T> gradients() const { return {nullptr, index, of_pairs.get(), statistics}; }
};

// One set of Gaussians before one camera.
template <class T>
class Projection {
public:
    Projection(const Addresses& matrices, const Numbers& numbers, int64_t count, const Addresses& arrays,
               const ShLayout& sh_layout)
        : camera_{at<T>(matrices.at("view")), at<T>(matrices.at("projection")), at<T>(matrices.at("campos")),
                  make_view<T>(numbers)},
          gaussians_(make_gaussians<T>(count, arrays, sh_layout)) {}

    void forward(const Addresses& splats, int device, uintptr_t stream, nb::callable allocate) const {
        const OnDevice guard(device);
        project(camera_, gaussians_, make_visible<T>(splats), make_queue(device, stream, allocate));
    }

    void backward_from_pixels(const Addresses& splats, const PixelSums<T>& sums, const Addresses& gradients,
                              const Addresses& statistics, const StepEntries& step_entries, bool sparse,
                              int device, uintptr_t stream, nb::callable allocate) const {
        const OnDevice guard(device);
        const std::optional<Steps> steps = make_steps(step_entries, sparse);
        project_backward(camera_, gaussians_, make_visible<T>(splats), sums.gradients(),
                         make_gradients<T>(gradients), make_statistics<T>(statistics),
                         steps ? &*steps : nullptr, make_queue(device, stream, allocate));
    }

    void backward(const Addresses& splats, uintptr_t splat_gradients, const Addresses& gradients, int device,
                  uintptr_t stream, nb::callable allocate) const {
        const OnDevice guard(device);
        const SplatGradients<T> from = {at<Splat<T>>(splat_gradients), {}, nullptr, false};
        project_backward(camera_, gaussians_, make_visible<T>(splats), from, make_gradients<T>(gradients), {},
                         nullptr, make_queue(device, stream, allocate));
    }

private:
    Camera<T> camera_;
    Gaussians<T> gaussians_;
};

// Splats on one picture: what the forward pass leaves for the backward pass.
template <class T>
class Blending {
public:
    Blending(int width, int height, int64_t count, const Addresses& splats)
        : width_(width), height_(height), count_(count), visible_(make_visible<T>(splats)) {}

    // Returns the number of tile-Gaussian pairs. A carrier without a value is blended as any other.
    int64_t forward(const Addresses& outputs, uintptr_t, int64_t, bool keep, bool statistics, int device,
                    uintptr_t stream, nb::callable allocate) {
        const Queue queue = make_queue(device, stream, allocate);
        nb::gil_scoped_release release;  // the host waits for the number of pairs
        const OnDevice guard(device);
        bins_ = bin(visible_, count_, width_, height_, queue);
        picture_ = make_picture<T>(width_, height_, outputs);
        statistics_ = statistics;
        if (keep) allocate_history(queue);
        blend(visible_.splats, bins_.lists, picture_, keep ? &history_ : nullptr, queue);
        return bins_.lists.pairs;
    }

    // What it returns ends with this.
    PixelSums<T> backward(const Addresses& picture_gradients, int device, uintptr_t stream,
                          nb::callable allocate) const {
        const Queue queue = make_queue(device, stream, allocate);
        const OnDevice guard(device);
        const DeviceArray<T> pair_sums(queue, bins_.lists.pairs * pair_width(statistics_));
        blend_backward(visible_.splats, bins_.lists, picture_, history_,
                       make_picture_gradients<T>(picture_gradients), statistics_, pair_sums.get(), queue);
        return {pair_sums, bins_.index, statistics_};
    }

    void reduce(const PixelSums<T>& sums, uintptr_t splat_gradients, const Addresses& statistics, int device,
                uintptr_t stream, nb::callable allocate) const {
        const OnDevice guard(device);
        cuda::reduce(visible_, count_, sums.gradients(), at<Splat<T>>(splat_gradients),
                     make_statistics<T>(statistics), make_queue(device, stream, allocate));
    }

private:
    void allocate_history(const Queue& queue) {
        const int64_t gathered = bins_.lists.tiles() * channels(picture_.carrier != nullptr) * kTilePixels;
        allocate_together(queue, {gathered, bins_.lists.buckets() * kChunks}, gathered_, met_);
        history_ = {gathered_.get(), met_.get()};
    }

    int width_, height_;
    int64_t count_;
    Visible<T> visible_;
    Picture<T> picture_;
    History<T> history_;
    bool statistics_ = false;
    DeviceArray<T> gathered_;
    DeviceArray<uint32_t> met_;
    Bins bins_;
};

void step_entries(int64_t rows, uintptr_t visible, const std::vector<AdamEntry>& entries, int device,
                  uintptr_t stream, nb::callable allocate) {
    adam_step(rows, at<bool>(visible), adam_tensors(entries), make_queue(device, stream, allocate));
}

template <class T>
void evaluate_importance(int64_t count, int sh_bases, double extent, const Addresses& arrays, int device,
                         uintptr_t stream, nb::callable allocate) {
    importance_forward(make_importance_network<T>(extent, arrays),
                       make_importance_gaussians<T>(count, arrays, sh_bases), at<T>(arrays.at("importance")),
                       make_queue(device, stream, allocate));
}

template <class T>
void differentiate_importance(int64_t count, int sh_bases, double extent, const Addresses& arrays, int device,
                              uintptr_t stream, nb::callable allocate) {
    importance_backward(make_importance_network<T>(extent, arrays),
                        make_importance_gaussians<T>(count, arrays, sh_bases),
                        make_importance_gradients<T>(arrays), make_queue(device, stream, allocate));
}

void translate_too_many_pairs(const std::exception_ptr& error, void*) {
    try {
        std::rethrow_exception(error);
    } catch (const TooManyPairs& e) {
        PyErr_Format(PyExc_MemoryError, "%llu tile-Gaussian pairs, and the sort has room for %llu", e.pairs,
                     1ull << 32);
    }
}

}  // namespace
}  // namespace cuda
}  // namespace gs

NB_MODULE(GS_MODULE, m) {
    using namespace gs::cuda;
    nb::set_leak_warnings(false);  // a graph may outlive the interpreter's clean-up
    nb::register_exception_translator(translate_too_many_pairs);
    gs::bind_halves<Projection<float>, Blending<float>, PixelSums<float>>(m, "Float");
    gs::bind_halves<Projection<double>, Blending<double>, PixelSums<double>>(m, "Double");
    m.def("importance_forwardFloat", evaluate_importance<float>);
    m.def("importance_forwardDouble", evaluate_importance<double>);
    m.def("importance_backwardFloat", differentiate_importance<float>);
    m.def("importance_backwardDouble", differentiate_importance<double>);
    m.attr("counts_tiles") = true;  // when it projects, into an array of (N,) int32
    m.def("adam_step", step_entries, "rows"_a, "visible"_a, "entries"_a, "device"_a, "stream"_a,
          "allocate"_a);
    gs::bind_device(m);
}
