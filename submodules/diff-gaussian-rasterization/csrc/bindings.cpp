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
#include "cpu/importance.h"
#include "cpu/stages.h"
#include "importance_entry.h"
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
const ImportanceKernels<T>& importance_kernels();
template <>
const ImportanceKernels<float>& importance_kernels() {
    return GS_SELECT_KERNELS(importance_float);
}
template <>
const ImportanceKernels<double>& importance_kernels() {
    return GS_SELECT_KERNELS(importance_double);
}

template <class T>
bool is_zero(const T* values, int64_t count, int64_t stride) {
    bool zero = true;
    for (int64_t i = 0; i < count; ++i) zero &= values[i * stride] == T(0);
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

template <class T>
Projected<T> make_projected(const Addresses& a) {
    return {at<Splat<T>>(a.at("rows")), at<T>(a.at("depths")), at<int32_t>(a.at("radii"))};
}

// What the pixels of splats add up to: from a backward pass over them on the way to Gaussians.
template <class T>
struct PixelSums {
    Array<PairSums<T>> of_pairs;
    PairIndex index;
    bool statistics;

    SplatGradients<T> gradients() const { return {nullptr, index, of_pairs.data(), statistics}; }
};

// One set of Gaussians before one camera.
template <class T>
class Projection {
public:
    Projection(const Addresses& matrices, const Numbers& numbers, int64_t count, const Addresses& arrays,
               const ShLayout& sh_layout)
        : view_(make_view<T>(numbers)), gaussians_(make_gaussians<T>(count, arrays, sh_layout)) {
        memcpy(view_.view, at<T>(matrices.at("view")), sizeof view_.view);
        memcpy(view_.proj, at<T>(matrices.at("projection")), sizeof view_.proj);
        memcpy(view_.campos, at<T>(matrices.at("campos")), sizeof view_.campos);
    }

    void forward(const Addresses& splats, int threads) const {
        const nb::gil_scoped_release release;
        profile.time("project", [&] {
            project_kernels<T>().forward(view_, gaussians_, make_projected<T>(splats), threads);
        });
    }

    void backward_from_pixels(const Addresses& splats, const PixelSums<T>& sums, const Addresses& gradients,
                              const Addresses& statistics, const StepEntries& step_entries, bool sparse,
                              int threads) const {
        const nb::gil_scoped_release release;
        const std::optional<Steps> steps = make_steps(step_entries, sparse);
        run_backward(splats, sums.gradients(), gradients, make_statistics<T>(statistics),
                     steps ? &*steps : nullptr, threads);
    }

    void backward(const Addresses& splats, uintptr_t splat_gradients, const Addresses& gradients,
                  int threads) const {
        const nb::gil_scoped_release release;
        run_backward(splats, {at<Splat<T>>(splat_gradients), {}, nullptr, false}, gradients, {}, nullptr,
                     threads);
    }

private:
    void run_backward(const Addresses& splats, const SplatGradients<T>& from, const Addresses& gradients,
                      const Statistics<T>& statistics, const Steps* steps, int threads) const {
        profile.time("project_backward", [&] {
            project_kernels<T>().backward(view_, gaussians_, make_projected<T>(splats), from,
                                          make_gradients<T>(gradients), statistics, steps, threads);
        });
    }

    View<T> view_;
    Gaussians<T> gaussians_;
};

// Splats on one picture: what the forward pass leaves for the backward pass.
template <class T>
class Blending {
public:
    Blending(int width, int height, int64_t count, const Addresses& splats)
        : width_(width), height_(height), count_(count), splats_(make_projected<T>(splats)) {}

    // carrier: of the splats, as far apart as `stride`. Returns the number of tile-Gaussian pairs. Raises
    // MemoryError when they do not fit.
    int64_t forward(const Addresses& outputs, uintptr_t carrier, int64_t stride, bool keep, bool statistics,
                    int threads) {
        const nb::gil_scoped_release release;
        picture_ = make_picture<T>(width_, height_, outputs);
        if (picture_.carrier && is_zero(at<const T>(carrier), count_, stride)) {  // as in training: its
            memset(picture_.carrier, 0, sizeof(T) * width_ * height_);            // gradient is wanted
            picture_.carrier = nullptr;
        }
        statistics_ = statistics;
        const int bytes_per_pair = keep ? int(sizeof(PairSums<T>)) : 0;
        profile.time("bin", [&] { bins_.build(splats_, count_, width_, height_, bytes_per_pair, threads); });
        profile.time("blend",
                     [&] { blend_kernels<T>().forward(splats_.splats, bins_.lists(), picture_, threads); });
        profile.pairs += bins_.pairs();
        return bins_.pairs();
    }

    // What it returns ends with this.
    PixelSums<T> backward(const Addresses& picture_gradients, int threads) const {
        const nb::gil_scoped_release release;
        PixelSums<T> sums{Array<PairSums<T>>(bins_.pairs()), bins_.index(), statistics_};
        profile.time("blend_backward", [&] {
            blend_kernels<T>().backward(splats_.splats, bins_.lists(), picture_,
                                        make_picture_gradients<T>(picture_gradients), statistics_,
                                        sums.of_pairs.data(), threads);
        });
        return sums;
    }

    void reduce(const PixelSums<T>& sums, uintptr_t splat_gradients, const Addresses& statistics,
                int threads) const {
        const nb::gil_scoped_release release;
        project_kernels<T>().reduce(splats_, count_, sums.gradients(), at<Splat<T>>(splat_gradients),
                                    make_statistics<T>(statistics), threads);
    }

private:
    int width_, height_;
    int64_t count_;
    Projected<T> splats_;
    Picture<T> picture_;
    bool statistics_ = false;
    Bins bins_;
};

void step_entries(int64_t rows, uintptr_t visible, const std::vector<AdamEntry>& entries, int threads) {
    for (const AdamTensor& tensor : adam_tensors(entries))
        GS_SELECT_KERNELS(adam).step(rows, at<const bool>(visible), tensor, threads);
}

template <class T>
void importance_forward(int64_t count, int sh_bases, double extent, const Addresses& arrays,
                        int threads) {
    const nb::gil_scoped_release release;
    importance_kernels<T>().forward(make_importance_network<T>(extent, arrays),
                                    make_importance_gaussians<T>(count, arrays, sh_bases),
                                    at<T>(arrays.at("importance")), threads);
}

template <class T>
void importance_backward(int64_t count, int sh_bases, double extent, const Addresses& arrays,
                         int threads) {
    const nb::gil_scoped_release release;
    const Array<T> of_shares((count + kImportanceShare - 1) / kImportanceShare * kNetworkSums);
    importance_kernels<T>().backward(make_importance_network<T>(extent, arrays),
                                     make_importance_gaussians<T>(count, arrays, sh_bases),
                                     make_importance_gradients<T>(arrays), of_shares.data(), threads);
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
    bind_halves<Projection<float>, Blending<float>, PixelSums<float>>(m, "Float");
    bind_halves<Projection<double>, Blending<double>, PixelSums<double>>(m, "Double");
    m.def("adam_step", step_entries, "rows"_a, "visible"_a, "entries"_a, "threads"_a,
          nb::call_guard<nb::gil_scoped_release>());
    m.def("importance_forwardFloat", importance_forward<float>);
    m.def("importance_forwardDouble", importance_forward<double>);
    m.def("importance_backwardFloat", importance_backward<float>);
    m.def("importance_backwardDouble", importance_backward<double>);
    m.attr("importance_sizes") = std::array<int, 3>{kUnits, kFeatures, kLatents};
    m.attr("counts_tiles") = false;
    m.def("isa", [] { return std::string(isa_name(cpu_isa())); });
    m.def("take_profile", take_profile);
    m.attr("build") = GS_BUILD;
    m.attr("max_sh_degree") = kMaxShDegree;
}
