// A CUDA runtime whose calls succeed until the host waits: then it reports that a kernel has failed.
#pragma once

#include <string.h>

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorIllegalAddress };
enum cudaMemcpyKind { cudaMemcpyDeviceToHost };

inline cudaError_t last_error = cudaSuccess;

inline const char* cudaGetErrorString(cudaError_t) { return "an illegal memory access"; }
inline cudaError_t cudaGetLastError() {
    const cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return last_error = cudaErrorIllegalAddress; }
inline cudaError_t cudaMemcpyAsync(void*, const void*, size_t, cudaMemcpyKind, cudaStream_t) {
    return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void*, int, size_t, cudaStream_t) { return cudaSuccess; }
