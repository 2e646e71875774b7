// The Python module of the GPU kernels: the same classes as csrc/bindings.cpp has for the CPU, and as there,
// what lies at the addresses was checked before.
#include <nanobind/stl/vector.h>

#include <vector>

#include "adam_entry.h"
#include "cuda/adam.h"
#include "cuda/stages.h"
#include "gpu/python.h"
#include "render_entry.h"

#include <nanobind/stl/tuple.h>

namespace nb = nanobind;
using namespace nb::literals;

namespace gs {
namespace cuda {
namespace {

// One view of one set of Gaussians: what its forward pass leaves for its backward pass.
template <class T>
class Render {
public:
    Render(const Addresses& matrices, const Numbers& numbers)
        : camera_{at<T>(matrices.at("view")), at<T>(matrices.at("projection")), at<T>(matrices.at("campos")),
                  make_view<T>(numbers)} {}

    void set_gaussians(int64_t count, const Addresses& arrays, const std::array<int64_t, 3>& sh_layout) {
        gaussians_ = make_gaussians<T>(count, arrays, sh_layout);
    }

    // Returns the number of tile-Gaussian pairs.
    int64_t forward(const Addresses& outputs, bool keep, bool statistics, int device, uintptr_t stream,
                    nb::callable allocate) {
        const Queue queue = make_queue(device, stream, allocate);
        nb::gil_scoped_release release;  // the host waits for the number of pairs
        const OnDevice guard(device);
        const int width = camera_.rest.width, height = camera_.rest.height;
        allocate_visible(queue, at<int32_t>(outputs.at("radii")));
        const DeviceArray<Totals> totals(queue, 1);
        project(camera_, gaussians_, visible_, totals.get(), queue);
        bins_ = bin(visible_, gaussians_.count, width, height, totals.get(), queue);
        picture_ = make_picture<T>(width, height, outputs);
        statistics_ = statistics;
        if (keep) allocate_history(queue);
        blend(visible_.splats, bins_.lists, picture_, keep ? &history_ : nullptr, queue);
        return bins_.lists.pairs;
    }

    void backward(const Addresses& picture_gradients, const Addresses& gradients, const Addresses& statistics,
                  const StepEntries& step_entries, bool sparse, int device, uintptr_t stream,
                  nb::callable allocate) const {
        const PictureGradients<T> picture = make_picture_gradients<T>(picture_gradients);
        const Gradients<T> grad = make_gradients<T>(gradients);
        const Statistics<T> stats = make_statistics<T>(statistics);
        const std::optional<Steps> steps = make_steps(step_entries, sparse);
        const Queue queue = make_queue(device, stream, allocate);
        const OnDevice guard(device);
        const DeviceArray<T> pair_sums(queue, bins_.lists.pairs * pair_width(statistics_));
        blend_backward(visible_.splats, bins_.lists, picture_, history_, picture, statistics_,
                       pair_sums.get(), queue);
        project_backward(camera_, gaussians_, visible_, pair_sums.get(), statistics_, grad, stats,
                         steps ? &*steps : nullptr, queue);
    }

private:
    void allocate_visible(const Queue& queue, int32_t* radii) {
        const int64_t n = gaussians_.count;
        splats_ = {queue, n};
        tile_count_ = {queue, n};
        first_pair_ = {queue, n};
        depths_ = {queue, n};
        visible_ = {splats_.get(), depths_.get(), radii, tile_count_.get(), first_pair_.get()};
    }

    void allocate_history(const Queue& queue) {
        gathered_ = {queue, bins_.lists.tiles() * channels(picture_.carrier != nullptr) * kTilePixels};
        met_ = {queue, bins_.lists.buckets() * kChunks};
        history_ = {gathered_.get(), met_.get()};
    }

    Camera<T> camera_;
    Gaussians<T> gaussians_;
    Visible<T> visible_;
    Picture<T> picture_;
    History<T> history_;
    bool statistics_ = false;
    DeviceArray<Splat<T>> splats_;
    DeviceArray<T> depths_, gathered_;
    DeviceArray<int32_t> tile_count_;
    DeviceArray<uint32_t> met_;
    DeviceArray<int64_t> first_pair_;
    Bins bins_;
};

void step_entries(int64_t rows, uintptr_t visible, const std::vector<AdamEntry>& entries, int device,
                  uintptr_t stream, nb::callable allocate) {
    adam_step(rows, at<bool>(visible), adam_tensors(entries), make_queue(device, stream, allocate));
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
    gs::bind_render<Render<float>>(m, "RenderFloat");
    gs::bind_render<Render<double>>(m, "RenderDouble");
    m.def("adam_step", step_entries, "rows"_a, "visible"_a, "entries"_a, "device"_a, "stream"_a,
          "allocate"_a);
    gs::bind_device(m);
}
