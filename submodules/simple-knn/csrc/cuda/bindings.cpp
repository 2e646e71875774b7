// Python sees addresses as integers: simple_knn/_C.py has checked what lies there.
#include "cuda/knn.h"
#include "gpu/python.h"

namespace nb = nanobind;

NB_MODULE(GS_MODULE, m) {
    m.def("mean_squared_distance", [](uintptr_t points, int64_t count, uintptr_t mean_squares, int device,
                                      uintptr_t stream, nb::callable allocate) {
        const gs::Queue queue = gs::make_queue(device, stream, allocate);
        gs::mean_squared_distance(reinterpret_cast<const float*>(points), count,
                                  reinterpret_cast<float*>(mean_squares), queue);
    });
    gs::bind_device(m);
}
