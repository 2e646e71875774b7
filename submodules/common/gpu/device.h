// What the GPU kernels of this repository need of CUDA, so that the same .cu files are compiled by nvcc for a
// GPU and, with GS_EMULATED, by any C++ compiler for the CPU (emulation.h).
//
//   GS_SHARED(float, sums, [32]);                            instead of __shared__ float sums[32];
//   GS_LAUNCH(kernel, blocks, threads, queue, arguments...)  instead of <<< >>>; (kernel<T, 3>) in brackets
//   GS_FAIL("what is wrong");                                ends the kernel; the host's next wait throws
//
// Blocks and grids have one dimension. To find a fault, set GS_SYNCHRONIZE=1 in the environment: then the
// host waits after each kernel, and an error names the kernel that made it.
#pragma once

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#if defined(GS_EMULATED)
#include "gpu/emulation.h"
#else
#include <cuda_runtime.h>
#if defined(__CUDACC__)
#include <cuda_pipeline.h>
#endif

#define GS_SHARED(type, name, ...) __shared__ type name __VA_ARGS__

#define GS_LAUNCH(kernel, blocks, threads, queue, ...)                                  \
    do {                                                                                \
        const int64_t gs_blocks = (blocks);                                             \
        if (gs_blocks > 0) {                                                            \
            kernel<<<unsigned(gs_blocks), (threads), 0, (queue).stream>>>(__VA_ARGS__); \
            ::gs::check_queued(queue, cudaGetLastError(), #kernel);                     \
        }                                                                               \
    } while (0)

// As assert does, which release builds leave out.
#define GS_FAIL(problem) __assert_fail(problem, __FILE__, __LINE__, __func__)
#endif

namespace gs {

constexpr int kWarp = 32;
constexpr unsigned kWholeWarp = 0xffffffffu;

// Whether to wait for everything that is queued: GS_SYNCHRONIZE, read once per process and module. Throws
// std::invalid_argument.
inline bool synchronizes() {
    static const bool wish = [] {
        const char* text = getenv("GS_SYNCHRONIZE");
        if (!text || !*text || strcmp(text, "0") == 0) return false;
        if (strcmp(text, "1") == 0) return true;
        throw std::invalid_argument(std::string("GS_SYNCHRONIZE=") + text + ": expected 0 or 1");
    }();
    return wish;
}

inline void check(cudaError_t status, const char* what) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // takes it back: the next launch would report it again as its own
    const char* hint = synchronizes() ? "" : " (perhaps of an earlier kernel: GS_SYNCHRONIZE=1 names it)";
    throw std::runtime_error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(status) + hint);
}

// Device memory that lives as long as somebody holds it.
using Memory = std::shared_ptr<void>;

// Where work goes: a stream of a device, and who has memory there. Memory may be let go of while the work
// that uses it is still queued: the next owner of it queues on the same stream.
struct Queue {
    int device;
    cudaStream_t stream;
    std::function<Memory(size_t bytes)> allocate;
};

// status: of what was put into the queue.
inline void check_queued(const Queue& queue, cudaError_t status, const char* what) {
    check(status, what);
    if (synchronizes()) check(cudaStreamSynchronize(queue.stream), what);
}

// An array in device memory, not initialised. Copies share it.
template <class T>
class DeviceArray {
public:
    DeviceArray() = default;
    DeviceArray(const Queue& queue, int64_t count)
        : memory_(queue.allocate(sizeof(T) * (count > 0 ? count : 1))) {
#if defined(GS_EMULATED)
        memset(memory_.get(), emulation::kPoison, sizeof(T) * (count > 0 ? count : 1));
#endif
    }
    explicit DeviceArray(Memory memory) : memory_(std::move(memory)) {}
    T* get() const { return static_cast<T*>(memory_.get()); }
    const Memory& memory() const { return memory_; }

private:
    Memory memory_;
};

// Sets arrays that lie in one piece of memory, which ends with the last of them: asking for it takes as long
// as launching a kernel. A sanitizer gets pieces of their own, so that it sees the ends of each.
template <class... Ts>
void allocate_together(const Queue& queue, const int64_t (&counts)[sizeof...(Ts)],
                       DeviceArray<Ts>&... arrays) {
    size_t next = 0;
#if defined(__SANITIZE_ADDRESS__)
    ((arrays = DeviceArray<Ts>(queue, counts[next++])), ...);
#else
    constexpr size_t kAlignment = 256;
    size_t places[sizeof...(Ts)], bytes = 0;
    const auto place = [&](size_t size) {
        places[next++] = bytes;
        bytes += (size + kAlignment - 1) / kAlignment * kAlignment;
    };
    (place(sizeof(Ts) * size_t(counts[next])), ...);
    const DeviceArray<char> all(queue, int64_t(bytes));
    next = 0;
    ((arrays = DeviceArray<Ts>(Memory(all.memory(), all.get() + places[next++]))), ...);
#endif
}

// Makes a device current; afterwards the one that was.
class OnDevice {
public:
    explicit OnDevice(int device) : device_(device) {
        check(cudaGetDevice(&before_), "cudaGetDevice");
        if (before_ != device_) check(cudaSetDevice(device_), "cudaSetDevice");
    }
    ~OnDevice() {
        if (before_ != device_) cudaSetDevice(before_);
    }
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;

private:
    int device_, before_ = 0;
};

// Waits for all that was queued before.
inline void read_back(const Queue& queue, void* to, const void* from, size_t bytes) {
    check_queued(queue, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, queue.stream),
                 "cudaMemcpyAsync");
    check(cudaStreamSynchronize(queue.stream), "cudaStreamSynchronize");
}

inline void set_zero(const Queue& queue, void* at, size_t bytes) {
    check_queued(queue, cudaMemsetAsync(at, 0, bytes, queue.stream), "cudaMemsetAsync");
}

inline int64_t blocks_for(int64_t items, int threads) { return (items + threads - 1) / threads; }

#if defined(__CUDACC__) || defined(GS_EMULATED)

// The index of this thread among all threads of the grid.
__device__ inline int64_t global_index() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }

__device__ inline int lane_index() { return int(threadIdx.x) % kWarp; }
__device__ inline int warp_index() { return int(threadIdx.x) / kWarp; }

// Copies `bytes`, which both ends are aligned for, in pieces of 16, which compilers do not think of
// themselves.
template <int bytes, class T>
__device__ inline void copy_aligned(const T* from, T* to) {
    static_assert(bytes % 16 == 0, "whole pieces");
#if defined(GS_EMULATED)
    memcpy(to, from, bytes);
#else
#pragma unroll
    for (int i = 0; i < bytes / 16; ++i)
        reinterpret_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(from)[i];
#endif
}

// Begins to copy a number into shared memory.
template <class T>
__device__ inline void copy_async(const T* from, T* to) {
#if defined(GS_EMULATED)
    *to = *from;
#else
    __pipeline_memcpy_async(to, from, sizeof(T));
#endif
}

// Waits until what the warp began to copy is there; the whole warp calls it.
__device__ inline void wait_for_copies() {
#if !defined(GS_EMULATED)
    __pipeline_commit();
    __pipeline_wait_prior(0);
#endif
    __syncwarp();
}

template <class T>
__device__ inline T warp_sum(T value) {
    for (int other = kWarp / 2; other > 0; other /= 2) value += __shfl_xor_sync(kWholeWarp, value, other);
    return value;
}

#endif

}  // namespace gs
