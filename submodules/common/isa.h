// The instruction set of the CPU kernels, chosen at run time.
//
// A SIMD source (SIMD_SOURCES of kernels.cmake) is compiled once per instruction set. What it defines lives
// in namespace gs::GS_ISA and it instantiates nothing from std:: — the linker keeps one copy of an inline
// function, and it could be the AVX-512 one. It hands its functions to the rest of the program in a table:
//
//   // kernels.h
//   namespace gs {
//   struct Kernels { void (*forward)(const Problem&); };
//   GS_DECLARE_KERNELS(Kernels, kernels)
//   }
//   // kernels.cpp, a SIMD source
//   namespace gs { namespace GS_ISA { extern const Kernels kernels = {forward}; } }
//   // elsewhere
//   GS_SELECT_KERNELS(kernels).forward(problem);
#pragma once

#if defined(GS_X86_KERNELS)
#define GS_DECLARE_KERNELS(Table, name) \
    namespace scalar {                  \
    extern const Table name;            \
    }                                   \
    namespace avx2 {                    \
    extern const Table name;            \
    }                                   \
    namespace avx512 {                  \
    extern const Table name;            \
    }
#define GS_SELECT_KERNELS(name)                                \
    (::gs::cpu_isa() == ::gs::Isa::avx512 ? ::gs::avx512::name \
     : ::gs::cpu_isa() == ::gs::Isa::avx2 ? ::gs::avx2::name   \
                                          : ::gs::scalar::name)
#else
#define GS_DECLARE_KERNELS(Table, name) \
    namespace scalar {                  \
    extern const Table name;            \
    }
#define GS_SELECT_KERNELS(name) (::gs::cpu_isa(), ::gs::scalar::name)
#endif

// A SIMD source includes this header for the declarations only.
#if !defined(GS_SIMD_SOURCE)

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace gs {

enum class Isa { scalar, avx2, avx512 };

inline const char* isa_name(Isa isa) {
    return isa == Isa::avx512 ? "avx512" : isa == Isa::avx2 ? "avx2" : "scalar";
}

inline bool is_supported(Isa isa) {
#if defined(GS_X86_KERNELS)
    if (isa == Isa::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (isa == Isa::avx512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("fma");
#endif
    return isa == Isa::scalar;
}

inline Isa choose_isa(const char* wish) {
    constexpr Isa best_first[] = {Isa::avx512, Isa::avx2, Isa::scalar};
    const bool any = !wish || !*wish;
    for (Isa isa : best_first) {
        if (!any && std::strcmp(wish, isa_name(isa)) != 0) continue;
        if (is_supported(isa)) return isa;
        if (!any)
            throw std::invalid_argument(std::string("GS_CPU_ISA=") + wish +
                                        ": not supported by this CPU or build");
    }
    throw std::invalid_argument(std::string("GS_CPU_ISA=") + wish + ": expected scalar, avx2 or avx512");
}

// The best the CPU has, or what the environment variable GS_CPU_ISA asks for; read once per process and
// module. Throws std::invalid_argument.
inline Isa cpu_isa() {
    static const Isa isa = choose_isa(std::getenv("GS_CPU_ISA"));
    return isa;
}

}  // namespace gs

#endif
