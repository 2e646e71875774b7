// The Python module. Arrays cross as addresses: the Python side has checked every tensor (type, shape,
// device, layout) and keeps it alive, so that nothing is checked twice and a call costs microseconds.
#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <mutex>

#include "adam_entry.h"
#include "array.h"
#include "cpu/adam.h"
#include "cpu/binning.h"
#include "cpu/stages.h"
#include "render_entry.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace gs {
namespace {

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
    Render(const Addresses& matrices, const Numbers& numbers) : view_(make_view<T>(numbers)) {
        memcpy(view_.view, at<T>(matrices.at("view")), sizeof view_.view);
        memcpy(view_.proj, at<T>(matrices.at("projection")), sizeof view_.proj);
        memcpy(view_.campos, at<T>(matrices.at("campos")), sizeof view_.campos);
    }

    void set_gaussians(int64_t count, const Addresses& arrays, const std::array<int64_t, 3>& sh_layout) {
        gaussians_ = make_gaussians<T>(count, arrays, sh_layout);
    }

    // Returns the number of tile-Gaussian pairs. Raises MemoryError when they do not fit.
    int64_t forward(const Addresses& outputs, bool keep, bool statistics, int threads) {
        const nb::gil_scoped_release release;
        const int64_t n = gaussians_.count;
        splats_ = Array<Splat<T>>(n);
        depths_ = Array<T>(n);
        projected_ = {splats_.data(), depths_.data(), at<int32_t>(outputs.at("radii"))};
        picture_ = make_picture<T>(view_.width, view_.height, outputs);
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

    void backward(const Addresses& picture_gradients, const Addresses& gradients, const Addresses& statistics,
                  const StepEntries& step_entries, bool sparse, int threads) const {
        const nb::gil_scoped_release release;
        const PictureGradients<T> picture = make_picture_gradients<T>(picture_gradients);
        const Gradients<T> grad = make_gradients<T>(gradients);
        const Statistics<T> stats = make_statistics<T>(statistics);
        const std::optional<Steps> steps = make_steps(step_entries, sparse);
        const Array<PairSums<T>> pair_sums(bins_.pairs());
        profile.time("blend_backward", [&] {
            blend_kernels<T>().backward(splats_.data(), bins_.lists(), picture_, picture, statistics_,
                                        pair_sums.data(), threads);
        });
        profile.time("project_backward", [&] {
            project_kernels<T>().backward(view_, gaussians_, projected_, bins_.index(), pair_sums.data(),
                                          statistics_, grad, stats, steps ? &*steps : nullptr, threads);
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

void step_entries(int64_t rows, uintptr_t visible, const std::vector<AdamEntry>& entries, int threads) {
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
    bind_render<Render<float>>(m, "RenderFloat");
    bind_render<Render<double>>(m, "RenderDouble");
    m.def("adam_step", step_entries, "rows"_a, "visible"_a, "entries"_a, "threads"_a,
          nb::call_guard<nb::gil_scoped_release>());
    m.def("isa", [] { return std::string(isa_name(cpu_isa())); });
    m.def("take_profile", take_profile);
    m.attr("build") = GS_BUILD;
    m.attr("max_sh_degree") = kMaxShDegree;
}
