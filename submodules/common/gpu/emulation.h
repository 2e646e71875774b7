// CUDA's execution model on one CPU thread: enough of it to run this repository's kernels in the tests of a
// machine without a GPU.
//
// Every thread of a block is a fiber that runs until it has to wait: at a barrier for the block, at a shuffle
// or ballot for its warp. The order in which threads start and go on is shuffled (GS_EMULATION_SEED, a
// number), so that a missing barrier shows in the results. Found at once, as std::runtime_error: barriers and
// shuffles at different places, shuffles with lanes that have returned or are not in the mask, threads that
// wait for ever. Shared memory and fresh device memory are filled with NaN; AddressSanitizer sees the bounds
// of both.
//
// It says nothing about speed, memory order or occupancy.
#pragma once

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <set>
#include <string>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess };
enum cudaMemcpyKind { cudaMemcpyDeviceToHost };
inline const char* cudaGetErrorString(cudaError_t) { return ""; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t n, cudaMemcpyKind, cudaStream_t) {
    return memcpy(to, from, n), cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* at, int value, size_t n, cudaStream_t) {
    return memset(at, value, n), cudaSuccess;
}

namespace gs {
namespace emulation {

constexpr int kPoison = 0xff;  // bytes of memory that nobody has written: a NaN, as a float

struct Index {
    unsigned x;
};

// The thread that runs now.
struct Position {
    Index thread, block, block_size, grid_size;
};
extern Position position;

// Runs body once for every thread of every block. Throws std::runtime_error where the kernel breaks a rule.
using Body = void (*)(const void* closure);
void launch(const char* kernel, int64_t blocks, int threads, Body body, const void* closure);

template <class F>
void launch(const char* kernel, int64_t blocks, int threads, const F& run) {
    launch(kernel, blocks, threads, [](const void* closure) { (*static_cast<const F*>(closure))(); }, &run);
}

// Names of the kernels launched so far.
const std::set<std::string>& executed_kernels();

// What the barriers and shuffles below are made of. `site`: where in the source.
bool barrier(const char* site, bool value);  // whether all threads of the block said true
const uint64_t* exchange(const char* site, unsigned mask, uint64_t value);  // the values of the 32 lanes

// Ends the launch.
[[noreturn]] void fail(const char* site, const char* problem);

// Memory of the running block, the same for all its threads that ask with the same key.
void* shared_memory(const void* key, size_t bytes);

template <class T>
inline uint64_t to_bits(T value) {
    static_assert(sizeof(T) <= sizeof(uint64_t), "a shuffle moves at most 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    return bits;
}

template <class T>
inline T shuffle(const char* site, unsigned mask, T value, int from) {
    const uint64_t* values = exchange(site, mask, to_bits(value));
    const bool sent = from >= 0 && from < 32 && (mask >> from & 1);
    T result = value;  // what CUDA gives beyond the ends of the warp
    if (sent) memcpy(&result, &values[from], sizeof result);
    return result;
}

inline unsigned ballot(const char* site, unsigned mask, bool value) {
    const uint64_t* values = exchange(site, mask, value);
    unsigned bits = 0;
    for (int lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1) bits |= unsigned(values[lane]) << lane;
    return bits;
}

template <class T>
inline T atomic_add(T* at, T value) {
    const T before = *at;
    *at = before + value;
    return before;
}

}  // namespace emulation
}  // namespace gs

#define threadIdx (::gs::emulation::position.thread)
#define blockIdx (::gs::emulation::position.block)
#define blockDim (::gs::emulation::position.block_size)
#define gridDim (::gs::emulation::position.grid_size)

#define GS_TEXT_OF(x) #x
#define GS_TEXT(x) GS_TEXT_OF(x)
#define GS_SITE __FILE__ ":" GS_TEXT(__LINE__)

#define __syncthreads() ((void)::gs::emulation::barrier(GS_SITE, true))
#define __syncthreads_and(value) (::gs::emulation::barrier(GS_SITE, value))
#define __syncwarp() ((void)::gs::emulation::exchange(GS_SITE, 0xffffffffu, 0))
#define __shfl_sync(mask, value, from) (::gs::emulation::shuffle(GS_SITE, mask, value, from))
#define __shfl_up_sync(mask, value, by) \
    (::gs::emulation::shuffle(GS_SITE, mask, value, int(threadIdx.x % 32) - int(by)))
#define __shfl_xor_sync(mask, value, by) \
    (::gs::emulation::shuffle(GS_SITE, mask, value, int(threadIdx.x % 32) ^ int(by)))
#define __ballot_sync(mask, value) (::gs::emulation::ballot(GS_SITE, mask, value))
#define __any_sync(mask, value) (::gs::emulation::ballot(GS_SITE, mask, value) != 0)
#define atomicAdd(at, value) (::gs::emulation::atomic_add(at, value))

#define GS_FAIL(problem) (::gs::emulation::fail(GS_SITE, problem))

inline int __ffs(unsigned bits) { return __builtin_ffs(int(bits)); }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

#define GS_SHARED(type, name, ...)                              \
    static char gs_key_of_##name;                               \
    typedef type gs_type_of_##name __VA_ARGS__;                 \
    gs_type_of_##name& name = *static_cast<gs_type_of_##name*>( \
        ::gs::emulation::shared_memory(&gs_key_of_##name, sizeof(gs_type_of_##name)))

#define GS_LAUNCH(kernel, blocks, threads, queue, ...) \
    ((void)(queue), ::gs::emulation::launch(#kernel, blocks, threads, [&] { kernel(__VA_ARGS__); }))
