// How Python names a place to run: device index, address of its stream, and a function that returns a tensor
// of so many bytes there.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/set.h>
#include <nanobind/stl/string.h>

#include "gpu/device.h"

namespace gs {

// A tensor that nobody else holds. Its owner may outlive the interpreter.
inline Memory hold(nanobind::object tensor) {
    void* address = reinterpret_cast<void*>(nanobind::cast<uintptr_t>(tensor.attr("data_ptr")()));
    PyObject* owned = tensor.release().ptr();
    return Memory(address, [owned](void*) {
        if (!Py_IsInitialized()) return;
        nanobind::gil_scoped_acquire acquire;
        Py_DECREF(owned);
    });
}

// Valid as long as `allocate` is: during one call.
inline Queue make_queue(int device, uintptr_t stream, const nanobind::callable& allocate) {
    return {device, reinterpret_cast<cudaStream_t>(stream), [&allocate](size_t bytes) {
                nanobind::gil_scoped_acquire acquire;
                return hold(allocate(bytes));
            }};
}

// What a module says about itself.
inline void bind_device(nanobind::module_& m) {
#if defined(GS_EMULATED)
    m.def("executed_kernels", [] { return emulation::executed_kernels(); });
#endif
    m.attr("build") = GS_BUILD;
}

}  // namespace gs
