// How Python describes the importance network: as a render, by the addresses of arrays.
#pragma once

#include <math.h>

#include "importance.h"
#include "render_entry.h"

namespace gs {

template <class T>
ImportanceNetwork<T> make_importance_network(double extent, const Addresses& a) {
    return {T(extent),
            T(log(extent)),
            at<const T>(a.at("center")),
            at<const T>(a.at("weights")),
            at<const T>(a.at("out")),
            at<const T>(a.at("bias")),
            at<const T>(a.at("latents"))};
}

// Only what the network looks at.
template <class T>
Gaussians<T> make_importance_gaussians(int64_t count, const Addresses& a, int sh_bases) {
    Gaussians<T> g = {};
    g.count = count;
    g.means = at<const T>(a.at("means"));
    g.scales = at<const T>(a.at("scales"));
    g.sh_first = at<const T>(a.at("sh_first"));
    g.sh_rest = at<const T>(a.at("sh_rest"));
    g.sh_first_stride = 3;
    g.sh_rest_stride = 3 * (sh_bases - 1);
    g.sh_bases = sh_bases;
    return g;
}

template <class T>
ImportanceGradients<T> make_importance_gradients(const Addresses& a) {
    return {at<const T>(a.at("importance")), at<T>(a.at("grad_latents")), at<T>(a.at("sums"))};
}

}  // namespace gs
