// Python sees addresses as integers: fused_ssim/__init__.py has checked what lies there.
#include <nanobind/nanobind.h>

#include "cpu/ssim.h"

namespace nb = nanobind;

namespace {

template <class T>
void ssim(uintptr_t x, uintptr_t y, uintptr_t weight, uintptr_t map, uintptr_t error, uintptr_t grad,
          uintptr_t means, int64_t planes, int64_t height, int64_t width, int64_t channels, int64_t margin,
          double c1, double c2, double scale, double difference_scale, double error_share,
          bool with_differences, int threads) {
    const gs::SsimProblem<T> problem = {reinterpret_cast<const T*>(x),
                                        reinterpret_cast<const T*>(y),
                                        reinterpret_cast<const T*>(weight),
                                        reinterpret_cast<T*>(map),
                                        reinterpret_cast<T*>(error),
                                        reinterpret_cast<T*>(grad),
                                        planes,
                                        height,
                                        width,
                                        channels,
                                        margin,
                                        T(c1),
                                        T(c2),
                                        T(scale),
                                        T(difference_scale),
                                        T(error_share),
                                        with_differences};
    const gs::SsimSums sums = gs::ssim(problem, threads);
    const int64_t values = planes * (height - 2 * margin) * (width - 2 * margin);
    if (!means) return;
    T* out = reinterpret_cast<T*>(means);
    out[0] = T(sums.similarity / double(values));
    if (with_differences) out[1] = T(sums.difference / double(planes * height * width));
}

}  // namespace

NB_MODULE(_kernels, m) {
    m.def("ssim_f32", &ssim<float>, nb::call_guard<nb::gil_scoped_release>());
    m.def("ssim_f64", &ssim<double>, nb::call_guard<nb::gil_scoped_release>());
    m.def("cpu_isa", [] { return gs::isa_name(gs::cpu_isa()); });
}
