// Registers as the compiler's vector types (GCC and Clang, any architecture): arithmetic and scalar broadcast
// are built in. For SIMD sources only (see isa.h).
#pragma once

#include <stdint.h>

namespace gs {
namespace GS_ISA {

template <class T>
struct Simd {
    typedef T type __attribute__((vector_size(GS_VECTOR_BYTES)));
    // The same in memory, at any address.
    typedef T loose __attribute__((vector_size(GS_VECTOR_BYTES), aligned(sizeof(T)), may_alias));
};

template <class T>
using Vec = typename Simd<T>::type;

template <class T>
constexpr int kLanes = GS_VECTOR_BYTES / int(sizeof(T));

template <class T>
inline Vec<T> load(const T* from) {
    return *reinterpret_cast<const typename Simd<T>::loose*>(from);
}

template <class T>
inline void store(T* to, Vec<T> value) {
    *reinterpret_cast<typename Simd<T>::loose*>(to) = value;
}

template <class T>
inline T sum(Vec<T> value) {
    T total = value[0];
    for (int lane = 1; lane < kLanes<T>; ++lane) total += value[lane];
    return total;
}

template <int... I>
struct Indices {};
template <int N, int... I>
struct Count : Count<N - 1, N - 1, I...> {};
template <int... I>
struct Count<0, I...> {
    using type = Indices<I...>;
};
template <class T>
using LaneIndices = typename Count<kLanes<T>>::type;

// Lanes chosen from a followed by b.
template <class T, int... I>
inline Vec<T> shuffle(Vec<T> a, Vec<T> b, Indices<I...>) {
#if defined(__clang__) || __GNUC__ >= 12
    return __builtin_shufflevector(a, b, I...);
#else
    typedef decltype(a < b) Mask;
    return __builtin_shuffle(a, b, Mask{I...});
#endif
}

// The even (Odd = 0) or odd (Odd = 1) elements of a followed by b.
template <class T, int Odd, int... I>
inline Vec<T> unzip(Vec<T> a, Vec<T> b, Indices<I...>) {
    return shuffle<T>(a, b, Indices<(2 * I + Odd)...>());
}

// a0 b0 a1 b1 ... of the lower (High = 0) or upper (High = 1) halves.
template <class T, int High, int... I>
inline Vec<T> zip(Vec<T> a, Vec<T> b, Indices<I...>) {
    return shuffle<T>(a, b, Indices<(I / 2 + I % 2 * kLanes<T> + High * (kLanes<T> / 2))...>());
}

// Four registers that hold consecutive elements -> element 4 q + p in lane q of register p.
template <class T>
inline void deinterleave(const T* from, Vec<T> (&to)[4]) {
    constexpr LaneIndices<T> lanes;
    const Vec<T> a = load(from), b = load(from + kLanes<T>), c = load(from + 2 * kLanes<T>),
                 d = load(from + 3 * kLanes<T>);
    const Vec<T> even_low = unzip<T, 0>(a, b, lanes), even_high = unzip<T, 0>(c, d, lanes);
    const Vec<T> odd_low = unzip<T, 1>(a, b, lanes), odd_high = unzip<T, 1>(c, d, lanes);
    to[0] = unzip<T, 0>(even_low, even_high, lanes);
    to[1] = unzip<T, 0>(odd_low, odd_high, lanes);
    to[2] = unzip<T, 1>(even_low, even_high, lanes);
    to[3] = unzip<T, 1>(odd_low, odd_high, lanes);
}

// And back.
template <class T>
inline void interleave(const Vec<T> (&from)[4], T* to) {
    constexpr LaneIndices<T> lanes;
    const Vec<T> even_low = zip<T, 0>(from[0], from[2], lanes),
                 even_high = zip<T, 1>(from[0], from[2], lanes);
    const Vec<T> odd_low = zip<T, 0>(from[1], from[3], lanes), odd_high = zip<T, 1>(from[1], from[3], lanes);
    store(to, zip<T, 0>(even_low, odd_low, lanes));
    store(to + kLanes<T>, zip<T, 1>(even_low, odd_low, lanes));
    store(to + 2 * kLanes<T>, zip<T, 0>(even_high, odd_high, lanes));
    store(to + 3 * kLanes<T>, zip<T, 1>(even_high, odd_high, lanes));
}

// The same with three: element 3 q + p in lane q of register p.
template <class T, int P, int... I>
inline Vec<T> every_third(const Vec<T> (&of)[3], Indices<I...>) {
    constexpr int L = kLanes<T>;
    const Vec<T> two = shuffle<T>(of[0], of[1], Indices<(3 * I + P < 2 * L ? 3 * I + P : 0)...>());
    return shuffle<T>(two, of[2], Indices<(3 * I + P < 2 * L ? I : 3 * I + P - L)...>());
}

template <class T>
inline void deinterleave(const T* from, Vec<T> (&to)[3]) {
    constexpr LaneIndices<T> lanes;
    const Vec<T> of[3] = {load(from), load(from + kLanes<T>), load(from + 2 * kLanes<T>)};
    to[0] = every_third<T, 0>(of, lanes);
    to[1] = every_third<T, 1>(of, lanes);
    to[2] = every_third<T, 2>(of, lanes);
}

// Register R of those that hold from[0][0] from[1][0] from[2][0] from[0][1] ...
template <class T, int R, int... I>
inline Vec<T> in_turn(const Vec<T> (&from)[3], Indices<I...>) {
    constexpr int L = kLanes<T>, E = R * L;
    const Vec<T> two = shuffle<T>(from[0], from[1], Indices<((E + I) % 3 * L % (2 * L) + (E + I) / 3)...>());
    return shuffle<T>(two, from[2], Indices<((E + I) % 3 < 2 ? I : L + (E + I) / 3)...>());
}

template <class T>
inline void interleave(const Vec<T> (&from)[3], T* to) {
    constexpr LaneIndices<T> lanes;
    store(to, in_turn<T, 0>(from, lanes));
    store(to + kLanes<T>, in_turn<T, 1>(from, lanes));
    store(to + 2 * kLanes<T>, in_turn<T, 2>(from, lanes));
}

}  // namespace GS_ISA
}  // namespace gs
