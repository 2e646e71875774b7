// Memory for large arrays.
#pragma once

#include <stdint.h>
#include <stdlib.h>

#include <memory>
#include <new>
#include <type_traits>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace gs {

// An array of plain numbers or structs, its contents unset. A large one lies in huge pages where the system
// has them: new in every iteration, it would otherwise cost a page fault every 4 KiB.
template <class T>
class Array {
    static_assert(std::is_trivially_copyable<T>::value, "nothing here is constructed or destroyed");

public:
    Array() : size_(0) {}
    explicit Array(int64_t size) : data_(allocate(size * sizeof(T))), size_(size) {}

    int64_t size() const { return size_; }
    T* data() const { return data_.get(); }
    T* begin() const { return data(); }
    T* end() const { return data() + size_; }
    T& operator[](int64_t i) const { return data()[i]; }

private:
    struct Free {
        void operator()(T* p) const { free(p); }
    };

    static T* allocate(size_t bytes) {
        constexpr size_t kCacheLine = 64, kHugePage = size_t(2) << 20;
        const bool large = bytes >= kHugePage;
        void* p = nullptr;
        if (posix_memalign(&p, large ? kHugePage : kCacheLine, bytes) != 0) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
        if (large) madvise(p, bytes, MADV_HUGEPAGE);  // refused: small pages then
#endif
        return static_cast<T*>(p);
    }

    std::unique_ptr<T, Free> data_;
    int64_t size_;
};

}  // namespace gs
