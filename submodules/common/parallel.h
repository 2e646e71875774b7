// Loops over threads. What a loop body computes for an index must not depend on the thread that runs it: then
// the result has the same bits for every number of threads.
//
// Every function here has internal linkage, so that a SIMD source may include the file (see isa.h). Bodies
// must not throw.
#pragma once

#include <stdint.h>

#if defined(GS_PLAIN_THREADS)  // as ThreadSanitizer understands them, which does not see into OpenMP
#include <atomic>
#include <thread>
#include <vector>
#elif defined(_OPENMP)
#include <omp.h>
#endif

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace gs {
namespace {

// While it lives, the calling thread treats denormal numbers as zero: on x86 each costs a hundred cycles or
// more.
class FlushDenormals {
#if defined(__SSE2__)
public:
    FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }  // FTZ | DAZ
    ~FlushDenormals() { _mm_setcsr(saved_); }

private:
    unsigned saved_;
#else
public:
    FlushDenormals() {}
    ~FlushDenormals() {}
#endif
public:
    FlushDenormals(const FlushDenormals&) = delete;
    FlushDenormals& operator=(const FlushDenormals&) = delete;
};

#if defined(GS_PLAIN_THREADS)
thread_local int plain_thread_index = 0;
#endif

// Which thread of the loop runs this body: for scratch memory, never for results.
[[maybe_unused]] inline int thread_index() {
#if defined(GS_PLAIN_THREADS)
    return plain_thread_index;
#elif defined(_OPENMP)
    return omp_get_thread_num();
#else
    return 0;
#endif
}

// body(i) for 0 <= i < n, `chunk` indices at a time to whichever of the `threads` threads is free: uneven
// work.
template <class Body>
inline void parallel_for(int64_t n, int threads, const Body& body, int64_t chunk = 1) {
#if defined(GS_PLAIN_THREADS)
    if (threads > 1 && n > chunk) {
        std::atomic<int64_t> next{0};
        std::vector<std::thread> team;
        for (int t = 0; t < threads; ++t)
            team.emplace_back([&, t] {
                plain_thread_index = t;
                FlushDenormals flush;
                for (int64_t i; (i = next.fetch_add(chunk, std::memory_order_relaxed)) < n;)
                    for (const int64_t end = i + chunk < n ? i + chunk : n; i < end; ++i) body(i);
            });
        for (std::thread& thread : team) thread.join();
        return;
    }
#elif defined(_OPENMP)
    if (threads > 1 && n > chunk) {
#pragma omp parallel num_threads(threads)
        {
            FlushDenormals flush;
#pragma omp for schedule(dynamic, chunk)
            for (int64_t i = 0; i < n; ++i) body(i);
        }
        return;
    }
#endif
    (void)threads, (void)chunk;
    FlushDenormals flush;
    for (int64_t i = 0; i < n; ++i) body(i);
}

// body(begin, end) for consecutive ranges that cover 0 .. n, one per thread: even work over many small items.
template <class Body>
inline void parallel_ranges(int64_t n, int threads, const Body& body) {
    const int64_t parts = threads > 1 ? (threads < n ? threads : n) : 1;
    if (parts <= 1) {
        FlushDenormals flush;
        body(int64_t(0), n);
        return;
    }
    parallel_for(parts, int(parts), [&](int64_t part) { body(n * part / parts, n * (part + 1) / parts); });
}

}  // namespace
}  // namespace gs
