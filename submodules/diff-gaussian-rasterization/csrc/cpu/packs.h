// Packs of lanes: what the kernels are written in, and a type that the formulas of splat_math.h take. The
// general form uses the vector extensions of GCC and Clang, which become SSE, AVX2, NEON or plain code;
// AVX-512 has a form of its own because its masks are not vectors.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(GS_X86_KERNELS)
#include <immintrin.h>
#endif

#include "../splat_math.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define GS_INLINE inline  // with all their checks in one function a compiler takes minutes
#else
#define GS_INLINE inline __attribute__((always_inline))
#endif

namespace gs {
namespace GS_ISA {

// The compiler's vectors of W floats or doubles, and of integers of the same size.
template <class T, int W>
struct Vectors;
template <int W>
struct Vectors<float, W> {
    typedef float Lanes __attribute__((vector_size(W * 4)));
    typedef int32_t Ints __attribute__((vector_size(W * 4)));
    typedef uint32_t Unsigned __attribute__((vector_size(W * 4)));  // which may overflow
};
template <int W>
struct Vectors<double, W> {
    typedef double Lanes __attribute__((vector_size(W * 8)));
    typedef int64_t Ints __attribute__((vector_size(W * 8)));
};

// Every lane of a mask is all ones or all zeros.
template <class T, int W>
struct Mask {
    typename Vectors<T, W>::Ints lanes;
};

template <class T, int W>
GS_INLINE Mask<T, W> operator&(Mask<T, W> a, Mask<T, W> b) {
    return {a.lanes & b.lanes};
}
template <class T, int W>
GS_INLINE Mask<T, W> and_not(Mask<T, W> a, Mask<T, W> b) {
    return {a.lanes & ~b.lanes};
}

// Bit i is lane i.
template <class T, int W>
GS_INLINE uint32_t bits(Mask<T, W> m) {
    uint32_t out = 0;
    for (int i = 0; i < W; ++i) out |= uint32_t(m.lanes[i] & 1) << i;
    return out;
}

template <class T, int W>
GS_INLINE bool any(Mask<T, W> m) {
    uint64_t words[W * sizeof(T) / 8], all = 0;
    memcpy(words, &m, sizeof words);
    for (uint64_t w : words) all |= w;
    return all != 0;
}

// What a pack P does as a number; a scalar beside one stands for all lanes.
template <class P>
struct Arithmetic {
    friend GS_INLINE P operator+(P a, P b) { return {a.lanes + b.lanes}; }
    friend GS_INLINE P operator-(P a, P b) { return {a.lanes - b.lanes}; }
    friend GS_INLINE P operator*(P a, P b) { return {a.lanes * b.lanes}; }
    friend GS_INLINE P operator/(P a, P b) { return {a.lanes / b.lanes}; }
    friend GS_INLINE P operator-(P a) { return {-a.lanes}; }
    friend GS_INLINE P& operator+=(P& a, P b) { return a = a + b; }
    friend GS_INLINE P& operator-=(P& a, P b) { return a = a - b; }
    friend GS_INLINE P& operator*=(P& a, P b) { return a = a * b; }
};

template <class T, int W>
struct Pack : Arithmetic<Pack<T, W>> {
    using Lanes = typename Vectors<T, W>::Lanes;
    using Ints = typename Vectors<T, W>::Ints;
    Lanes lanes;

    GS_INLINE Pack() {}
    GS_INLINE Pack(Lanes v) : lanes(v) {}
    GS_INLINE Pack(T x) : lanes(x - Lanes{}) {}
    static GS_INLINE Pack load(const T* p) {
        Pack r;
        memcpy(&r.lanes, p, sizeof r.lanes);
        return r;
    }
    GS_INLINE void store(T* p) const { memcpy(p, &lanes, sizeof lanes); }
};

// a * b + c; fused where the instruction set can.
template <class T, int W>
GS_INLINE Pack<T, W> fma(Pack<T, W> a, Pack<T, W> b, Pack<T, W> c) {
    return {a.lanes * b.lanes + c.lanes};
}
// The same, where c may be a product too: overloads below keep a compiler from fusing that one instead.
template <class T, int W>
GS_INLINE Pack<T, W> fused(Pack<T, W> a, Pack<T, W> b, Pack<T, W> c) {
    return fma(a, b, c);
}
template <class T, int W>
GS_INLINE Mask<T, W> operator<(Pack<T, W> a, Pack<T, W> b) {
    return {a.lanes < b.lanes};
}
template <class T, int W>
GS_INLINE Mask<T, W> operator>(Pack<T, W> a, Pack<T, W> b) {
    return b < a;
}
template <class T, int W>
GS_INLINE Mask<T, W> operator>=(Pack<T, W> a, Pack<T, W> b) {
    return {a.lanes >= b.lanes};
}
template <class T, int W>
GS_INLINE Mask<T, W> operator==(Pack<T, W> a, Pack<T, W> b) {
    return {a.lanes == b.lanes};
}
template <class T, int W>
GS_INLINE Pack<T, W> select(Mask<T, W> m, Pack<T, W> a, Pack<T, W> b) {
    return {m.lanes ? a.lanes : b.lanes};
}
template <class T, int W>
GS_INLINE Pack<T, W> min(Pack<T, W> a, Pack<T, W> b) {
    return {a.lanes < b.lanes ? a.lanes : b.lanes};
}
template <class T, int W>
GS_INLINE Pack<T, W> max(Pack<T, W> a, Pack<T, W> b) {
    return {a.lanes > b.lanes ? a.lanes : b.lanes};
}
template <class T, int W>
GS_INLINE Pack<T, W> zero_unless(Mask<T, W> m, Pack<T, W> a) {
    using Ints = typename Pack<T, W>::Ints;
    return {(typename Pack<T, W>::Lanes)((Ints)a.lanes & m.lanes)};
}

template <class T, int W>
GS_INLINE Pack<T, W> sqrt(Pack<T, W> a) {
    for (int i = 0; i < W; ++i)
        a.lanes[i] =
            sizeof(T) == 4 ? T(__builtin_sqrtf(float(a.lanes[i]))) : T(__builtin_sqrt(double(a.lanes[i])));
    return a;
}

template <class T, int W>
GS_INLINE Pack<T, W> floor(Pack<T, W> a) {
    for (int i = 0; i < W; ++i) a.lanes[i] = T(__builtin_floor(double(a.lanes[i])));
    return a;
}
template <class T, int W>
GS_INLINE Pack<T, W> ceil(Pack<T, W> a) {
    return -floor(-a);
}

// Lanes of `index` (int32 in memory): those in the mask become `value`.
template <class T, int W>
GS_INLINE void store_index(Mask<T, W> m, int32_t value, int32_t* index) {
    for (int i = 0; i < W; ++i) index[i] = m.lanes[i] ? value : index[i];
}
template <class T, int W>
GS_INLINE Mask<T, W> index_above(const int32_t* index, int32_t value, Pack<T, W>) {
    Mask<T, W> m;
    for (int i = 0; i < W; ++i) m.lanes[i] = index[i] > value ? -1 : 0;
    return m;
}

// Appends first + b for every bit b < 16 that is set in `bits`, and returns how many there are; `to` has room
// for 16. Without branches: no processor guesses which bits are set.
GS_INLINE int append_set_bits(uint32_t bits, uint32_t first, uint32_t* to) {
#if defined(__AVX512F__)
    const __m512i places = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i all = _mm512_add_epi32(places, _mm512_set1_epi32(int32_t(first)));
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(__mmask16(bits), all));
    return __builtin_popcount(bits);
#else
    int count = 0;
    for (int b = 0; b < 16; ++b) {
        to[count] = first + b;
        count += bits >> b & 1;
    }
    return count;
#endif
}

// 2^x for x <= 0; relative error below 2e-7 (Cephes' minimax polynomial on [-1/2, 1/2]).
template <class P>
GS_INLINE P exp2_fraction(P f) {
    P p = fma(f, P(1.535336188319500e-4f), P(1.339887440266574e-3f));
    p = fma(p, f, P(9.618437357674640e-3f));
    p = fma(p, f, P(5.550332471162809e-2f));
    p = fma(p, f, P(2.402264791363012e-1f));
    p = fma(p, f, P(6.931472028550421e-1f));
    return fma(p, f, P(1.0f));
}

template <int W>
GS_INLINE Pack<float, W> exp2_nonpositive(Pack<float, W> x) {
    using P = Pack<float, W>;
    x = max(x, P(-126.0f));
    const P magic(12582912.0f);  // 1.5 * 2^23: adding it rounds to the nearest integer, held in the low bits
    const P shifted = x + magic;
    const P p = exp2_fraction(x - (shifted - magic));
    using Unsigned = typename Vectors<float, W>::Unsigned;
    return {(typename P::Lanes)((Unsigned)p.lanes + ((Unsigned)shifted.lanes << 23))};
}

template <int W>
GS_INLINE Pack<double, W> exp2_nonpositive(Pack<double, W> x) {
    for (int i = 0; i < W; ++i) x.lanes[i] = __builtin_exp2(x.lanes[i]);
    return x;
}

// For normal x; absolute error below 1e-7 of |log2 x|, or of 1 (series of the inverse hyperbolic tangent).
template <int W>
GS_INLINE Pack<float, W> log2(Pack<float, W> x) {
    using P = Pack<float, W>;
    using Lanes = typename Vectors<float, W>::Lanes;
    using Ints = typename Vectors<float, W>::Ints;
    using Unsigned = typename Vectors<float, W>::Unsigned;
    const uint32_t sqrt_half = 0x3f3504f3;  // its bits: the fraction will lie in [sqrt(1/2), sqrt(2))
    const Unsigned bits = (Unsigned)x.lanes;
    const Ints exponent = (Ints)(bits - sqrt_half) >> 23;
    const P fraction((Lanes)(bits - ((Unsigned)exponent << 23))),
        whole(__builtin_convertvector(exponent, Lanes));
    const P z = (fraction - 1) / (fraction + 1), zz = z * z;
    const float scale = 2.885390081777927f;  // 2 / ln 2
    P p = fma(zz, P(scale / 9), P(scale / 7));
    p = fma(p, zz, P(scale / 5));
    p = fma(p, zz, P(scale / 3));
    return fma(fma(p, zz, P(scale)), z, whole);
}

template <int W>
GS_INLINE Pack<double, W> log2(Pack<double, W> x) {
    for (int i = 0; i < W; ++i) x.lanes[i] = __builtin_log2(x.lanes[i]);
    return x;
}

#if defined(__AVX512F__)
template <>
struct Mask<float, 16> {
    __mmask16 lanes;
};
using Mask16 = Mask<float, 16>;
GS_INLINE Mask16 operator&(Mask16 a, Mask16 b) { return {__mmask16(a.lanes & b.lanes)}; }
GS_INLINE Mask16 and_not(Mask16 a, Mask16 b) { return {__mmask16(a.lanes & ~b.lanes)}; }
GS_INLINE uint32_t bits(Mask16 m) { return m.lanes; }
GS_INLINE bool any(Mask16 m) { return m.lanes != 0; }

template <>
struct Pack<float, 16> : Arithmetic<Pack<float, 16>> {
    __m512 lanes;
    GS_INLINE Pack() {}
    GS_INLINE Pack(__m512 v) : lanes(v) {}
    GS_INLINE Pack(float x) : lanes(_mm512_set1_ps(x)) {}
    static GS_INLINE Pack load(const float* p) { return {_mm512_loadu_ps(p)}; }
    GS_INLINE void store(float* p) const { _mm512_storeu_ps(p, lanes); }
};
using Pack16 = Pack<float, 16>;
GS_INLINE Pack16 fma(Pack16 a, Pack16 b, Pack16 c) { return {_mm512_fmadd_ps(a.lanes, b.lanes, c.lanes)}; }
GS_INLINE Mask16 operator<(Pack16 a, Pack16 b) { return {_mm512_cmp_ps_mask(a.lanes, b.lanes, _CMP_LT_OQ)}; }
GS_INLINE Mask16 operator==(Pack16 a, Pack16 b) { return {_mm512_cmp_ps_mask(a.lanes, b.lanes, _CMP_EQ_OQ)}; }
GS_INLINE Mask16 operator>=(Pack16 a, Pack16 b) { return {_mm512_cmp_ps_mask(a.lanes, b.lanes, _CMP_GE_OQ)}; }
GS_INLINE Pack16 select(Mask16 m, Pack16 a, Pack16 b) {
    return {_mm512_mask_blend_ps(m.lanes, b.lanes, a.lanes)};
}
GS_INLINE Pack16 min(Pack16 a, Pack16 b) { return {_mm512_min_ps(a.lanes, b.lanes)}; }
GS_INLINE Pack16 max(Pack16 a, Pack16 b) { return {_mm512_max_ps(a.lanes, b.lanes)}; }
GS_INLINE Pack16 sqrt(Pack16 a) { return {_mm512_sqrt_ps(a.lanes)}; }
GS_INLINE Pack16 floor(Pack16 a) {
    return {_mm512_roundscale_ps(a.lanes, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
}
GS_INLINE Pack16 zero_unless(Mask16 m, Pack16 a) { return {_mm512_maskz_mov_ps(m.lanes, a.lanes)}; }
GS_INLINE void store_index(Mask16 m, int32_t value, int32_t* index) {
    _mm512_storeu_si512(index, _mm512_mask_set1_epi32(_mm512_loadu_si512(index), m.lanes, value));
}
GS_INLINE Mask16 index_above(const int32_t* index, int32_t value, Pack16) {
    return {_mm512_cmpgt_epi32_mask(_mm512_loadu_si512(index), _mm512_set1_epi32(value))};
}
GS_INLINE Pack16 exp2_nonpositive(Pack16 x) {
    x = max(x, Pack16(-126.0f));
    const __m512 n = _mm512_roundscale_ps(x.lanes, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return {_mm512_scalef_ps(exp2_fraction(Pack16(_mm512_sub_ps(x.lanes, n))).lanes, n)};
}
#endif

#if defined(__AVX2__)
GS_INLINE Pack<float, 8> fused(Pack<float, 8> a, Pack<float, 8> b, Pack<float, 8> c) {
    return {(Pack<float, 8>::Lanes)_mm256_fmadd_ps((__m256)a.lanes, (__m256)b.lanes, (__m256)c.lanes)};
}
GS_INLINE Pack<double, 4> fused(Pack<double, 4> a, Pack<double, 4> b, Pack<double, 4> c) {
    return {(Pack<double, 4>::Lanes)_mm256_fmadd_pd((__m256d)a.lanes, (__m256d)b.lanes, (__m256d)c.lanes)};
}
GS_INLINE uint32_t bits(Mask<float, 8> m) { return uint32_t(_mm256_movemask_ps((__m256)m.lanes)); }
GS_INLINE bool any(Mask<float, 8> m) { return bits(m) != 0; }
GS_INLINE Pack<float, 8> sqrt(Pack<float, 8> a) {
    return {(Pack<float, 8>::Lanes)_mm256_sqrt_ps((__m256)a.lanes)};
}
GS_INLINE Pack<float, 8> floor(Pack<float, 8> a) {
    return {(Pack<float, 8>::Lanes)_mm256_floor_ps((__m256)a.lanes)};
}
GS_INLINE void store_index(Mask<float, 8> m, int32_t value, int32_t* index) {
    _mm256_maskstore_epi32(index, (__m256i)m.lanes, _mm256_set1_epi32(value));
}
#elif defined(GS_X86_KERNELS)
GS_INLINE uint32_t bits(Mask<float, 4> m) { return uint32_t(_mm_movemask_ps((__m128)m.lanes)); }
GS_INLINE bool any(Mask<float, 4> m) { return bits(m) != 0; }
GS_INLINE Pack<float, 4> sqrt(Pack<float, 4> a) {
    return {(Pack<float, 4>::Lanes)_mm_sqrt_ps((__m128)a.lanes)};
}
#endif

template <class T, int W>
GS_INLINE Pack<T, W> reciprocal(Pack<T, W> x) {
    return Pack<T, W>(T(1)) / x;
}
#if defined(__AVX512F__)
GS_INLINE Pack16 reciprocal(Pack16 x) {  // 14 bits and a Newton step
    const Pack16 r(_mm512_rcp14_ps(x.lanes));
    return {_mm512_fmadd_ps(r.lanes, _mm512_fnmadd_ps(x.lanes, r.lanes, _mm512_set1_ps(1.0f)), r.lanes)};
}
#endif

// Lanes that a register of this build holds.
template <class T>
struct NativeWidth {
    static constexpr int value = 4;
};
#if defined(__AVX512F__)
template <>
struct NativeWidth<float> {
    static constexpr int value = 16;
};
#elif defined(__AVX2__)
template <>
struct NativeWidth<float> {
    static constexpr int value = 8;
};
#endif

template <class T>
using Lanes = Pack<T, NativeWidth<T>::value>;
template <class T>
using LaneMask = Mask<T, NativeWidth<T>::value>;

template <class T, int W>
GS_INLINE T lane_max(Pack<T, W> p) {
    T lanes[W];
    p.store(lanes);
    T out = lanes[0];
    for (int i = 1; i < W; ++i) out = lanes[i] > out ? lanes[i] : out;
    return out;
}

#if defined(__AVX512F__)
GS_INLINE float lane_max(Pack16 p) { return _mm512_reduce_max_ps(p.lanes); }
#endif

// out[i] = sum of the lanes of p[i]: all together, as a transposition that adds. There is room for a register
// of results behind the last whole one.
template <int kCount, class T, int W>
GS_INLINE void lane_sums(const Pack<T, W>* p, T* out) {
    for (int i = 0; i < kCount; ++i) {
        T lanes[W];
        p[i].store(lanes);
        for (int step = W / 2; step > 0; step /= 2)
            for (int k = 0; k < step; ++k) lanes[k] += lanes[k + step];
        out[i] = lanes[0];
    }
}

#if defined(__AVX512F__)
// Four packs to one: each 128-bit block holds one partial sum of each.
GS_INLINE __m512 add_transposed(__m512 a, __m512 b, __m512 c, __m512 d) {
    const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    const __m512d high = _mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    return _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
}
GS_INLINE __m512 add_blocks(__m512 x, __m512 y) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x88), _mm512_shuffle_f32x4(x, y, 0xdd));
}
template <int kCount>
GS_INLINE void lane_sums(const Pack16* p, float* out) {
    static_assert(kCount <= 16, "one register of results");
    const auto at = [&](int i) __attribute__((always_inline)) {
        return i < kCount ? p[i].lanes : _mm512_setzero_ps();
    };
    const __m512 q0 = add_transposed(at(0), at(1), at(2), at(3)),
                 q1 = add_transposed(at(4), at(5), at(6), at(7));
    const __m512 q2 = add_transposed(at(8), at(9), at(10), at(11)),
                 q3 = add_transposed(at(12), at(13), at(14), at(15));
    _mm512_storeu_ps(out, add_blocks(add_blocks(q0, q1), add_blocks(q2, q3)));
}
#elif defined(__AVX2__)
GS_INLINE __m256 add_transposed(__m256 a, __m256 b, __m256 c, __m256 d) {
    const __m256 ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    const __m256 cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    const __m256d low = _mm256_unpacklo_pd(_mm256_castps_pd(ab), _mm256_castps_pd(cd));
    const __m256d high = _mm256_unpackhi_pd(_mm256_castps_pd(ab), _mm256_castps_pd(cd));
    return _mm256_add_ps(_mm256_castpd_ps(low), _mm256_castpd_ps(high));
}
template <int kCount>
GS_INLINE void lane_sums(const Pack<float, 8>* p, float* out) {
    const auto at = [&](int i) __attribute__((always_inline)) {
        return i < kCount ? (__m256)p[i].lanes : _mm256_setzero_ps();
    };
    for (int first = 0; first < kCount; first += 8) {
        const __m256 x = add_transposed(at(first), at(first + 1), at(first + 2), at(first + 3));
        const __m256 y = add_transposed(at(first + 4), at(first + 5), at(first + 6), at(first + 7));
        _mm256_storeu_ps(out + first, _mm256_add_ps(_mm256_permute2f128_ps(x, y, 0x20),
                                                    _mm256_permute2f128_ps(x, y, 0x31)));
    }
}
#endif

}  // namespace GS_ISA

template <class T, int W>
struct ScalarOf<GS_ISA::Pack<T, W>> {
    using type = T;
};

}  // namespace gs
