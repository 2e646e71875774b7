// The Python module of the GPU kernels: the same classes as csrc/bindings.cpp has for the CPU, and as there,
// what lies at the addresses was checked before.
#include <nanobind/stl/array.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <vector>

#include "adam_entry.h"
#include "cuda/adam.h"
#include "cuda/stages.h"
#include "gpu/python.h"

#include <nanobind/stl/tuple.h>

namespace nb = nanobind;
using namespace nb::literals;

namespace gs {
namespace cuda {
namespace {

using Address = uintptr_t;
template <class T>
T* at(Address a) {
    return reinterpret_cast<T*>(a);
}

// One view of one set of Gaussians: what its forward pass leaves for its backward pass.
template <class T>
class Render {
public:
    Render(Address view_matrix, Address projection, Address campos, double tan_fovx, double tan_fovy,
           double scale_modifier, int width, int height, int sh_degree, bool antialiasing)
        : camera_{at<T>(view_matrix), at<T>(projection), at<T>(campos), {}} {
        camera_.rest.tan_fovx = T(tan_fovx);
        camera_.rest.tan_fovy = T(tan_fovy);
        camera_.rest.scale_modifier = T(scale_modifier);
        camera_.rest.width = width;
        camera_.rest.height = height;
        camera_.rest.sh_degree = sh_degree;
        camera_.rest.antialiasing = antialiasing;
    }

    void set_gaussians(int64_t count, Address means, Address scales, Address quats, Address covariances,
                       Address sh_first, int64_t sh_first_stride, Address sh_rest, int64_t sh_rest_stride,
                       int sh_bases, Address colors, Address opacities, Address importance, Address carrier) {
        gaussians_ = {
            count,           at<T>(means),     at<T>(scales),     at<T>(quats),   at<T>(covariances),
            at<T>(sh_first), at<T>(sh_rest),   sh_first_stride,   sh_rest_stride, sh_bases,
            at<T>(colors),   at<T>(opacities), at<T>(importance), at<T>(carrier)};
    }

    // Returns the number of tile-Gaussian pairs.
    int64_t forward(Address background, Address color, Address inv_depth, Address carrier, Address radii,
                    Address transmittance, Address blended, bool keep, bool statistics, int device,
                    uintptr_t stream, nb::callable allocate) {
        const Queue queue = make_queue(device, stream, allocate);
        nb::gil_scoped_release release;  // the host waits for the number of pairs
        const OnDevice guard(device);
        const int width = camera_.rest.width, height = camera_.rest.height;
        allocate_visible(queue, at<int32_t>(radii));
        const DeviceArray<Totals> totals(queue, 1);
        project(camera_, gaussians_, visible_, totals.get(), queue);
        bins_ = bin(visible_, gaussians_.count, width, height, totals.get(), queue);
        picture_ = {width,
                    height,
                    at<T>(background),
                    at<T>(color),
                    at<T>(inv_depth),
                    at<T>(carrier),
                    at<T>(transmittance),
                    at<int32_t>(blended)};
        statistics_ = statistics;
        if (keep) allocate_history(queue);
        blend(visible_.splats, bins_.lists, picture_, keep ? &history_ : nullptr, queue);
        return bins_.lists.pairs;
    }

    void backward(Address grad_color, Address grad_inv_depth, Address grad_carrier,
                  const std::array<Address, 11>& g, const std::array<Address, 4>& s, int device,
                  uintptr_t stream, nb::callable allocate) const {
        const PictureGradients<T> picture = {at<T>(grad_color), at<T>(grad_inv_depth), at<T>(grad_carrier)};
        const Gradients<T> grad = {at<T>(g[0]), at<T>(g[1]), at<T>(g[2]), at<T>(g[3]),
                                   at<T>(g[4]), at<T>(g[5]), at<T>(g[6]), at<T>(g[7]),
                                   at<T>(g[8]), at<T>(g[9]), at<T>(g[10])};
        const Statistics<T> stats = {at<T>(s[0]), at<T>(s[1]), at<int32_t>(s[2]), at<T>(s[3])};
        const Queue queue = make_queue(device, stream, allocate);
        const OnDevice guard(device);
        const DeviceArray<T> pair_sums(queue, bins_.lists.pairs * sum_count(statistics_));
        blend_backward(visible_.splats, bins_.lists, picture_, history_, picture, statistics_,
                       pair_sums.get(), queue);
        project_backward(camera_, gaussians_, visible_, pair_sums.get(), statistics_, grad, stats, queue);
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
        const int64_t state_size = channels(picture_.carrier != nullptr) * kTilePixels;
        before_ = {queue, bins_.lists.buckets() * state_size};
        at_end_ = {queue, bins_.lists.tiles() * state_size};
        reach_ = {queue, bins_.lists.tiles()};
        history_ = {before_.get(), at_end_.get(), reach_.get()};
    }

    Camera<T> camera_;
    Gaussians<T> gaussians_;
    Visible<T> visible_;
    Picture<T> picture_;
    History<T> history_;
    bool statistics_ = false;
    DeviceArray<Splat<T>> splats_;
    DeviceArray<T> depths_, before_, at_end_;
    DeviceArray<int32_t> tile_count_, reach_;
    DeviceArray<int64_t> first_pair_;
    Bins bins_;
};

template <class T>
void bind_render(nb::module_& m, const char* name) {
    nb::class_<Render<T>>(m, name)
        .def(nb::init<Address, Address, Address, double, double, double, int, int, int, bool>(),
             "view_matrix"_a, "projection"_a, "campos"_a, "tan_fovx"_a, "tan_fovy"_a, "scale_modifier"_a,
             "width"_a, "height"_a, "sh_degree"_a, "antialiasing"_a)
        .def("set_gaussians", &Render<T>::set_gaussians, "count"_a, "means"_a, "scales"_a, "quats"_a,
             "covariances"_a, "sh_first"_a, "sh_first_stride"_a, "sh_rest"_a, "sh_rest_stride"_a,
             "sh_bases"_a, "colors"_a, "opacities"_a, "importance"_a, "carrier"_a)
        .def("forward", &Render<T>::forward, "background"_a, "color"_a, "inv_depth"_a, "carrier"_a, "radii"_a,
             "transmittance"_a, "blended"_a, "keep"_a, "statistics"_a, "device"_a, "stream"_a, "allocate"_a)
        .def("backward", &Render<T>::backward, "grad_color"_a, "grad_inv_depth"_a, "grad_carrier"_a,
             "gradients"_a, "statistics"_a, "device"_a, "stream"_a, "allocate"_a);
}

void step_entries(int64_t rows, Address visible, const std::vector<AdamEntry>& entries, int device,
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
    bind_render<float>(m, "RenderFloat");
    bind_render<double>(m, "RenderDouble");
    m.def("adam_step", step_entries, "rows"_a, "visible"_a, "entries"_a, "device"_a, "stream"_a,
          "allocate"_a);
    gs::bind_device(m);
}
