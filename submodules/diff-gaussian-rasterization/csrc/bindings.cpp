// The Python module. Arrays cross as addresses: the Python side has checked every tensor (type, shape,
// device, layout) and keeps it alive, so that nothing is checked twice and a call costs microseconds.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <chrono>
#include <mutex>

#include "adam_entry.h"
#include "array.h"
#include "cpu/adam.h"
#include "cpu/binning.h"
#include "cpu/stages.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace gs {
namespace {

using Address = uintptr_t;
template <class T>
T* at(Address a) {
    return reinterpret_cast<T*>(a);
}

template <class T>
const ProjectKernels<T>& project_kernels();
template <>
const ProjectKernels<float>& project_kernels() {
    return GS_SELECT_KERNELS(project_float);
}
template <>
const ProjectKernels<double>& project_kernels() {
    return GS_SELECT_KERNELS(project_double);
}
template <class T>
const BlendKernels<T>& blend_kernels();
template <>
const BlendKernels<float>& blend_kernels() {
    return GS_SELECT_KERNELS(blend_float);
}
template <>
const BlendKernels<double>& blend_kernels() {
    return GS_SELECT_KERNELS(blend_double);
}

template <class T>
bool is_zero(const T* values, int64_t count) {
    bool zero = true;
    for (int64_t i = 0; i < count; ++i) zero &= values[i] == T(0);
    return zero;
}

// Where the time goes: seconds and tile-Gaussian pairs since the last question, over all renders of the
// process.
struct Profile {
    std::map<std::string, double> seconds;
    int64_t pairs = 0;
    std::mutex mutex;

    template <class F>
    void time(const char* stage, const F& run) {
        const auto start = std::chrono::steady_clock::now();
        run();
        const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
        std::lock_guard<std::mutex> lock(mutex);
        seconds[stage] += elapsed.count();
    }
} profile;

std::pair<std::map<std::string, double>, int64_t> take_profile() {
    std::lock_guard<std::mutex> lock(profile.mutex);
    return {std::exchange(profile.seconds, {}), std::exchange(profile.pairs, 0)};
}

// One view of one set of Gaussians: what its forward pass leaves for its backward pass.
template <class T>
class Render {
public:
    Render(Address view_matrix, Address projection, Address campos, double tan_fovx, double tan_fovy,
           double scale_modifier, int width, int height, int sh_degree, bool antialiasing) {
        memcpy(view_.view, at<T>(view_matrix), sizeof view_.view);
        memcpy(view_.proj, at<T>(projection), sizeof view_.proj);
        memcpy(view_.campos, at<T>(campos), sizeof view_.campos);
        view_.tan_fovx = T(tan_fovx);
        view_.tan_fovy = T(tan_fovy);
        view_.scale_modifier = T(scale_modifier);
        view_.width = width;
        view_.height = height;
        view_.sh_degree = sh_degree;
        view_.antialiasing = antialiasing;
    }

    void set_gaussians(int64_t count, Address means, Address scales, Address quats, Address covariances,
                       Address sh_first, int64_t sh_first_stride, Address sh_rest, int64_t sh_rest_stride,
                       int sh_bases, Address colors, Address opacities, Address importance, Address carrier) {
        gaussians_ = {
            count,           at<T>(means),     at<T>(scales),     at<T>(quats),   at<T>(covariances),
            at<T>(sh_first), at<T>(sh_rest),   sh_first_stride,   sh_rest_stride, sh_bases,
            at<T>(colors),   at<T>(opacities), at<T>(importance), at<T>(carrier)};
    }

    // Returns the number of tile-Gaussian pairs. Raises MemoryError when they do not fit.
    int64_t forward(Address background, Address color, Address inv_depth, Address carrier, Address radii,
                    Address transmittance, Address blended, bool keep, bool statistics, int threads) {
        const int64_t n = gaussians_.count;
        splats_ = Array<Splat<T>>(n);
        depths_ = Array<T>(n);
        projected_ = {splats_.data(), depths_.data(), at<int32_t>(radii)};
        picture_ = {view_.width,      view_.height,   at<T>(background),    at<T>(color),
                    at<T>(inv_depth), at<T>(carrier), at<T>(transmittance), at<int32_t>(blended)};
        if (picture_.carrier && is_zero(gaussians_.carrier, n)) {  // as in training: its gradient is wanted
            memset(picture_.carrier, 0, sizeof(T) * view_.width * view_.height);
            picture_.carrier = nullptr;
        }
        statistics_ = statistics;
        const int bytes_per_pair = keep ? int(sizeof(PairSums<T>)) : 0;
        profile.time("project",
                     [&] { project_kernels<T>().forward(view_, gaussians_, projected_, threads); });
        profile.time("bin",
                     [&] { bins_.build(projected_, n, view_.width, view_.height, bytes_per_pair, threads); });
        profile.time("blend",
                     [&] { blend_kernels<T>().forward(splats_.data(), bins_.lists(), picture_, threads); });
        profile.pairs += bins_.pairs();
        return bins_.pairs();
    }

    void backward(Address grad_color, Address grad_inv_depth, Address grad_carrier,
                  const std::array<Address, 11>& g, const std::array<Address, 4>& s, int threads) const {
        const PictureGradients<T> picture = {at<T>(grad_color), at<T>(grad_inv_depth), at<T>(grad_carrier)};
        const Gradients<T> grad = {at<T>(g[0]), at<T>(g[1]), at<T>(g[2]), at<T>(g[3]),
                                   at<T>(g[4]), at<T>(g[5]), at<T>(g[6]), at<T>(g[7]),
                                   at<T>(g[8]), at<T>(g[9]), at<T>(g[10])};
        const Statistics<T> stats = {at<T>(s[0]), at<T>(s[1]), at<int32_t>(s[2]), at<T>(s[3])};
        const Array<PairSums<T>> pair_sums(bins_.pairs());
        profile.time("blend_backward", [&] {
            blend_kernels<T>().backward(splats_.data(), bins_.lists(), picture_, picture, statistics_,
                                        pair_sums.data(), threads);
        });
        profile.time("project_backward", [&] {
            project_kernels<T>().backward(view_, gaussians_, projected_, bins_.index(), pair_sums.data(),
                                          statistics_, grad, stats, threads);
        });
    }

private:
    View<T> view_;
    Gaussians<T> gaussians_;
    Projected<T> projected_;
    Picture<T> picture_;
    bool statistics_ = false;
    Array<Splat<T>> splats_;
    Array<T> depths_;
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
             "transmittance"_a, "blended"_a, "keep"_a, "statistics"_a, "threads"_a,
             nb::call_guard<nb::gil_scoped_release>())
        .def("backward", &Render<T>::backward, "grad_color"_a, "grad_inv_depth"_a, "grad_carrier"_a,
             "gradients"_a, "statistics"_a, "threads"_a, nb::call_guard<nb::gil_scoped_release>());
}

void step_entries(int64_t rows, Address visible, const std::vector<AdamEntry>& entries, int threads) {
    for (const AdamTensor& tensor : adam_tensors(entries))
        GS_SELECT_KERNELS(adam).step(rows, at<const bool>(visible), tensor, threads);
}

void translate_out_of_memory(const std::exception_ptr& error, void*) {
    try {
        std::rethrow_exception(error);
    } catch (const OutOfMemory& e) {
        PyErr_Format(PyExc_MemoryError,
                     "%lld tile-Gaussian pairs need %d GiB of memory, %d GiB are available",
                     (long long)e.pairs, int(e.needed_gib + 1), int(e.available_gib));
    }
}

}  // namespace
}  // namespace gs

NB_MODULE(_C, m) {
    using namespace gs;
    nb::set_leak_warnings(false);  // a graph may outlive the interpreter's clean-up
    nb::register_exception_translator(translate_out_of_memory);
    bind_render<float>(m, "RenderFloat");
    bind_render<double>(m, "RenderDouble");
    m.def("adam_step", step_entries, "rows"_a, "visible"_a, "entries"_a, "threads"_a,
          nb::call_guard<nb::gil_scoped_release>());
    m.def("isa", [] { return std::string(isa_name(cpu_isa())); });
    m.def("take_profile", take_profile);
    m.attr("build") = GS_BUILD;
    m.attr("near_plane") = kNearPlane<double>;
    m.attr("max_sh_degree") = kMaxShDegree;
}
