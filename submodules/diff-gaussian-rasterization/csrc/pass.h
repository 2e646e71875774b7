// Which gradients and sums a backward pass over the pixels computes: one instance of its code for each
// choice.
#pragma once

namespace gs {

template <bool kCarrierGradient, bool kDepthGradient, bool kStatistics>
struct Pass {
    static constexpr bool carrier = kCarrierGradient, depth = kDepthGradient, statistics = kStatistics;
};

// run(Pass<carrier, depth, statistics>()) for three values that are known when the program runs.
template <bool... kKnown, class F>
void with_pass(const F& run) {
    run(Pass<kKnown...>());
}
template <bool... kKnown, class F, class... Bools>
void with_pass(const F& run, bool next, Bools... others) {
    if (next)
        with_pass<kKnown..., true>(run, others...);
    else
        with_pass<kKnown..., false>(run, others...);
}

}  // namespace gs
