// How Python describes a render: numbers and the addresses of arrays, by name. Everything was checked before;
// a name that is missing raises IndexError.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>

#include <array>
#include <map>
#include <string>

#include "arrays.h"

namespace gs {

using Numbers = std::map<std::string, double>;
using Addresses = std::map<std::string, uintptr_t>;

template <class T>
T* at(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

// Everything but the matrices.
template <class T>
View<T> make_view(const Numbers& n) {
    View<T> view;
    view.tan_fovx = T(n.at("tan_fovx"));
    view.tan_fovy = T(n.at("tan_fovy"));
    view.scale_modifier = T(n.at("scale_modifier"));
    view.near = T(n.at("near"));
    view.dilation = T(n.at("dilation"));
    view.width = int(n.at("width"));
    view.height = int(n.at("height"));
    view.sh_degree = int(n.at("sh_degree"));
    view.antialiasing = n.at("antialiasing") != 0;
    return view;
}

// Stride of the first coefficient, stride of the others, and how many there are in all.
using ShLayout = std::array<int64_t, 3>;

template <class T>
Gaussians<T> make_gaussians(int64_t count, const Addresses& a, const ShLayout& sh_layout) {
    return {count,
            at<T>(a.at("means")),
            at<T>(a.at("scales")),
            at<T>(a.at("quats")),
            at<T>(a.at("covariances")),
            at<T>(a.at("sh_first")),
            at<T>(a.at("sh_rest")),
            sh_layout[0],
            sh_layout[1],
            int(sh_layout[2]),
            at<T>(a.at("colors")),
            at<T>(a.at("opacities")),
            at<T>(a.at("importance")),
            at<T>(a.at("carrier"))};
}

template <class T>
Picture<T> make_picture(int width, int height, const Addresses& a) {
    return {width,
            height,
            at<T>(a.at("background")),
            at<T>(a.at("color")),
            at<T>(a.at("inv_depth")),
            at<T>(a.at("carrier")),
            at<T>(a.at("transmittance")),
            at<int32_t>(a.at("blended"))};
}

template <class T>
PictureGradients<T> make_picture_gradients(const Addresses& a) {
    return {at<T>(a.at("color")), at<T>(a.at("inv_depth")), at<T>(a.at("carrier")),
            at<T>(a.at("energy_weights"))};
}

template <class T>
Gradients<T> make_gradients(const Addresses& a) {
    return {at<T>(a.at("means")),      at<T>(a.at("means2d")),     at<T>(a.at("scales")),
            at<T>(a.at("quats")),      at<T>(a.at("covariances")), at<T>(a.at("sh_first")),
            at<T>(a.at("sh_rest")),    at<T>(a.at("colors")),      at<T>(a.at("opacities")),
            at<T>(a.at("importance")), at<T>(a.at("carrier"))};
}

// None are collected where there are no addresses.
template <class T>
Statistics<T> make_statistics(const Addresses& a) {
    if (a.empty()) return {};
    return {at<T>(a.at("weight_sum")), at<T>(a.at("weight_max")), at<int32_t>(a.at("pixels")),
            at<T>(a.at("removal_energy"))};
}

// Both halves of a render, of the CPU or of a GPU, under the same names.
template <class Projection, class Blending, class PixelSums>
void bind_halves(nanobind::module_& m, const std::string& number) {
    namespace nb = nanobind;
    nb::class_<PixelSums>(m, ("PixelSums" + number).c_str());
    nb::class_<Projection>(m, ("Projection" + number).c_str())
        .def(nb::init<const Addresses&, const Numbers&, int64_t, const Addresses&, const ShLayout&>())
        .def("forward", &Projection::forward)
        .def("backward", &Projection::backward)
        .def("backward_from_pixels", &Projection::backward_from_pixels);
    nb::class_<Blending>(m, ("Blending" + number).c_str())
        .def(nb::init<int, int, int64_t, const Addresses&>())
        .def("forward", &Blending::forward)
        .def("backward", &Blending::backward, nb::keep_alive<0, 1>())
        .def("reduce", &Blending::reduce);
}

}  // namespace gs
