// Python sees addresses as integers: fused_ssim/__init__.py has checked what lies there.
#include "cuda/ssim.h"
#include "gpu/python.h"

namespace nb = nanobind;

namespace {

template <class T>
T* at(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

template <class T>
void ssim(uintptr_t x, uintptr_t y, uintptr_t weight, uintptr_t map, uintptr_t error, uintptr_t grad,
          uintptr_t means, int64_t planes, int64_t height, int64_t width, int64_t channels, int64_t margin,
          double c1, double c2, double scale, double difference_scale, double error_share,
          bool with_differences, int device, uintptr_t stream, nb::callable allocate) {
    const gs::SsimProblem<T> problem = {
        at<T>(x),       at<T>(y),        at<T>(weight), at<T>(map), at<T>(error),
        at<T>(grad),    planes,          height,        width,      channels,
        margin,         T(c1),           T(c2),         T(scale),   T(difference_scale),
        T(error_share), with_differences};
    gs::ssim(problem, at<T>(means), gs::make_queue(device, stream, allocate));
}

}  // namespace

NB_MODULE(GS_MODULE, m) {
    m.def("ssim_f32", &ssim<float>);
    m.def("ssim_f64", &ssim<double>);
    gs::bind_device(m);
}
