// How Python names a tensor for Adam.
#pragma once

#include <math.h>
#include <stdint.h>

#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "adam.h"

namespace gs {

// columns; addresses of parameter, gradient, moments and of what becomes 1 if a number is no longer finite;
// learning rate, eps, betas; and the number of steps for the correction of the moments' bias, 0: none.
using AdamEntry = std::tuple<int64_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, double, double,
                             double, double, int64_t>;

inline AdamTensor adam_tensor(const AdamEntry& entry) {
    const auto& [columns, param, grad, exp_avg, exp_avg_sq, unsound, rate, eps, beta1, beta2, steps] = entry;
    const double bias1 = steps ? 1 - pow(beta1, double(steps)) : 1;
    const double bias2 = steps ? 1 - pow(beta2, double(steps)) : 1;
    return {columns,
            reinterpret_cast<float*>(param),
            reinterpret_cast<const float*>(grad),
            reinterpret_cast<float*>(exp_avg),
            reinterpret_cast<float*>(exp_avg_sq),
            reinterpret_cast<int32_t*>(unsound),
            float(rate / bias1),
            float(1 / sqrt(bias2)),
            float(eps),
            float(beta1),
            float(1 - beta1),
            float(beta2),
            float(1 - beta2)};
}

// What Steps needs of a parameter: its entry, whose gradient is not read, Activation, and the address of the
// activated values.
using StepEntry = std::tuple<AdamEntry, int, uintptr_t>;
using StepEntries = std::map<std::string, StepEntry>;

inline AdamStep adam_step_of(const StepEntry& entry) {
    const auto& [tensor, activation, activated] = entry;
    return {adam_tensor(tensor), Activation(activation), reinterpret_cast<const float*>(activated)};
}

// None where there are no entries.
inline std::optional<Steps> make_steps(const StepEntries& e, bool sparse) {
    if (e.empty()) return std::nullopt;
    return Steps{adam_step_of(e.at("means")),
                 adam_step_of(e.at("scales")),
                 adam_step_of(e.at("quats")),
                 adam_step_of(e.at("sh_first")),
                 adam_step_of(e.at("sh_rest")),
                 adam_step_of(e.at("opacities")),
                 sparse};
}

inline std::vector<AdamTensor> adam_tensors(const std::vector<AdamEntry>& entries) {
    std::vector<AdamTensor> tensors;
    for (const AdamEntry& entry : entries) tensors.push_back(adam_tensor(entry));
    return tensors;
}

}  // namespace gs
