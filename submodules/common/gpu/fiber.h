// A stack of its own to run on, and the switch to another: hand-written where it pays, ucontext elsewhere.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__) && defined(__linux__)
// Saves what a called function must preserve on the old stack, its address in *from, and goes on where the
// stack `to` left off.
extern "C" void gs_switch_stack(void** from, void* to) __attribute__((visibility("hidden")));
#else
#include <ucontext.h>
#endif

namespace gs {
namespace emulation {

class Fiber {
public:
    // The fiber of the code that calls this.
    Fiber() = default;
    // A fiber that runs entry, which must never return, when it is first switched to.
    explicit Fiber(void (*entry)()) : entry_(entry) {
        stack_ = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (stack_ == MAP_FAILED) throw std::bad_alloc();
        restart();
    }
    ~Fiber() {
        if (stack_) munmap(stack_, kStack);
    }
    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;

    // Forgets what it was doing.
    void restart();

    static void change(Fiber& from, Fiber& to);

    // To be called first on a new stack: it was reached from `from`. Tells AddressSanitizer, if it is there.
    static void arrive([[maybe_unused]] Fiber& at, [[maybe_unused]] Fiber& from) {
#if defined(__SANITIZE_ADDRESS__)
        __sanitizer_finish_switch_fiber(at.fake_stack_, &from.bottom_, &from.size_);
#endif
    }

private:
    static constexpr size_t kStack = 256 << 10;

    void (*entry_)() = nullptr;
    void* stack_ = nullptr;
#if defined(__x86_64__) && defined(__linux__)
    void* top_ = nullptr;
#else
    ucontext_t context_;
#endif
#if defined(__SANITIZE_ADDRESS__)
    void* fake_stack_ = nullptr;
    const void* bottom_ = nullptr;
    size_t size_ = 0;
#endif
};

inline void Fiber::restart() {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(stack_, kStack);
    fake_stack_ = nullptr;
    bottom_ = stack_;
    size_ = kStack;
#endif
#if defined(__x86_64__) && defined(__linux__)
    void** top = reinterpret_cast<void**>(static_cast<char*>(stack_) + kStack) - 1;
    *--top =
        reinterpret_cast<void*>(entry_);  // where the switch returns to, the stack aligned as after a call
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    top_ = top;
#else
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack_;
    context_.uc_stack.ss_size = kStack;
    context_.uc_link = nullptr;
    makecontext(&context_, entry_, 0);
#endif
}

inline void Fiber::change(Fiber& from, Fiber& to) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&from.fake_stack_, to.bottom_, to.size_);
#endif
#if defined(__x86_64__) && defined(__linux__)
    gs_switch_stack(&from.top_, to.top_);
#else
    swapcontext(&from.context_, &to.context_);
#endif
#if defined(__SANITIZE_ADDRESS__)
    arrive(from, to);
#endif
}

}  // namespace emulation
}  // namespace gs
