// Python sees addresses as integers: simple_knn/_C.py has checked what lies there.
#include <nanobind/nanobind.h>

#include "cpu/knn.h"

namespace nb = nanobind;

NB_MODULE(_kernels, m) {
    m.def(
        "mean_squared_distance",
        [](uintptr_t points, int64_t count, uintptr_t mean_squares, int threads) {
            gs::mean_squared_distance(reinterpret_cast<const float*>(points), count,
                                      reinterpret_cast<float*>(mean_squares), threads);
        },
        nb::call_guard<nb::gil_scoped_release>());
}
