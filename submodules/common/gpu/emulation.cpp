// The scheduler of emulated thread blocks.
#include "gpu/emulation.h"

#include <memory>
#include <mutex>
#include <stdexcept>
#include <utility>
#include <vector>

#include "gpu/fiber.h"

#if defined(__x86_64__) && defined(__linux__)
__asm__(
    ".text\n"
    ".globl gs_switch_stack\n"
    ".hidden gs_switch_stack\n"
    ".type gs_switch_stack, @function\n"
    "gs_switch_stack:\n"
    "    pushq %rbp\n"
    "    pushq %rbx\n"
    "    pushq %r12\n"
    "    pushq %r13\n"
    "    pushq %r14\n"
    "    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n"
    "    popq %r14\n"
    "    popq %r13\n"
    "    popq %r12\n"
    "    popq %rbx\n"
    "    popq %rbp\n"
    "    ret\n"
    ".size gs_switch_stack, . - gs_switch_stack\n");
#endif

namespace gs {
namespace emulation {

Position position;

namespace {

constexpr int kWarpSize = 32, kMostThreads = 1024;

enum class State { fresh, ready, waits_for_block, waits_for_warp, done };

struct Thread {
    State state;
    const char* site;  // where it waits
    Fiber* fiber;      // that holds its stack while it waits
};

struct Warp {
    const char* site;
    unsigned mask, arrived, returned;
    uint64_t values[kWarpSize];  // of the lanes that have arrived
    uint64_t result[kWarpSize];  // of the last exchange
};

struct Shared {
    const void* key;
    std::unique_ptr<char[]> memory;
};

class Block {
public:
    void run(unsigned index, int threads, Body body, const void* closure);

    bool barrier(const char* site, bool value);
    const uint64_t* exchange(const char* site, unsigned mask, uint64_t value);
    void* shared_memory(const void* key, size_t bytes);
    [[noreturn]] void fail(const std::string& problem);

private:
    static void fiber_main();
    void run_fresh_threads();
    void finish_thread();
    void resume(int thread);
    void wait(State state, const char* site);
    void release(State state, int first, int last);
    void finish_barrier();
    void finish_exchange(int warp);
    std::string waiting() const;
    unsigned random() { return random_ = random_ * 1664525u + 1013904223u; }
    void shuffle(std::vector<int>& items, size_t begin);

    Body body_ = nullptr;
    const void* closure_ = nullptr;
    int size_ = 0, returned_ = 0, arrived_ = 0;
    size_t started_ = 0;
    bool all_true_ = true, vote_ = true;
    unsigned random_ = seed();
    Thread threads_[kMostThreads];
    Warp warps_[kMostThreads / kWarpSize];
    std::vector<int> order_, ready_;
    std::vector<Shared> shared_;
    Fiber scheduler_;
    std::vector<std::unique_ptr<Fiber>> fibers_;
    std::vector<Fiber*> idle_;
    Fiber* current_ = nullptr;
    std::string problem_;

    static unsigned seed() {
        const char* text = getenv("GS_EMULATION_SEED");
        return text ? unsigned(atoi(text)) : 1u;
    }
};

std::mutex mutex;
std::set<std::string> names;
Block* block = nullptr;  // trivially initialised, so that fibers find it without a guard

int running() { return int(position.thread.x); }

void Block::shuffle(std::vector<int>& items, size_t begin) {
    for (size_t i = items.size(); i > begin + 1; --i)
        std::swap(items[i - 1], items[begin + (random() >> 8) % (i - begin)]);
}

void Block::run(unsigned index, int threads, Body body, const void* closure) {
    body_ = body, closure_ = closure, size_ = threads;
    returned_ = arrived_ = 0;
    started_ = 0;
    all_true_ = true;
    problem_.clear();
    shared_.clear();
    ready_.clear();
    order_.resize(threads);
    for (int t = 0; t < threads; ++t) order_[t] = t, threads_[t] = {State::fresh, "", nullptr};
    for (int w = 0; w < (threads + kWarpSize - 1) / kWarpSize; ++w) warps_[w] = {};
    shuffle(order_, 0);
    position.block.x = index;
    while (returned_ < size_) {
        if (started_ < order_.size()) {
            if (idle_.empty()) {
                fibers_.push_back(std::make_unique<Fiber>(fiber_main));
                idle_.push_back(fibers_.back().get());
            }
            current_ = idle_.back();
            idle_.pop_back();
            Fiber::change(scheduler_, *current_);
        } else if (!ready_.empty()) {
            const int next = ready_.back();
            ready_.pop_back();
            resume(next);
        } else {
            problem_ = "threads wait for ever: " + waiting();
        }
        if (!problem_.empty()) break;
    }
    if (problem_.empty()) return;
    idle_.clear();  // what the fibers were doing is given up
    for (auto& fiber : fibers_) {
        fiber->restart();
        idle_.push_back(fiber.get());
    }
    throw std::runtime_error(problem_);
}

void Block::fiber_main() {
    Fiber::arrive(*block->current_, block->scheduler_);
    for (;;) {
        block->run_fresh_threads();
        block->idle_.push_back(block->current_);
        Fiber::change(*block->current_, block->scheduler_);
    }
}

// One after the other on this stack, until one has to wait: kernels without barriers never switch.
void Block::run_fresh_threads() {
    while (started_ < order_.size()) {
        position.thread.x = unsigned(order_[started_++]);
        threads_[running()].state = State::ready;
        body_(closure_);
        finish_thread();
    }
}

void Block::finish_thread() {
    const int t = running(), w = t / kWarpSize;
    Warp& warp = warps_[w];
    threads_[t].state = State::done;
    ++returned_;
    warp.returned |= 1u << t % kWarpSize;
    if (warp.arrived && (warp.mask & warp.returned))
        fail(std::string("a warp waits for a lane that has returned, at ") + warp.site);
    if (arrived_ > 0 && arrived_ + returned_ == size_) finish_barrier();
}

void Block::resume(int thread) {
    position.thread.x = unsigned(thread);
    current_ = threads_[thread].fiber;
    Fiber::change(scheduler_, *current_);
}

void Block::wait(State state, const char* site) {
    threads_[running()] = {state, site, current_};
    Fiber::change(*current_, scheduler_);
}

// Those of the threads first .. last that wait so may go on, in any order.
void Block::release(State state, int first, int last) {
    const size_t before = ready_.size();
    for (int t = first; t < last && t < size_; ++t) {
        if (threads_[t].state != state) continue;
        threads_[t].state = State::ready;
        ready_.push_back(t);
    }
    shuffle(ready_, before);
}

bool Block::barrier(const char* site, bool value) {
    for (int t = 0; arrived_ > 0 && t < size_; ++t)
        if (threads_[t].state == State::waits_for_block && threads_[t].site != site)
            fail(std::string("threads of a block wait at different barriers, at ") + site + " and " +
                 threads_[t].site);
        else if (threads_[t].state == State::waits_for_block)
            break;
    all_true_ = all_true_ && value;
    ++arrived_;
    if (arrived_ + returned_ == size_)
        finish_barrier();
    else
        wait(State::waits_for_block, site);
    return vote_;
}

void Block::finish_barrier() {
    vote_ = all_true_;
    all_true_ = true;
    arrived_ = 0;
    release(State::waits_for_block, 0, size_);
}

const uint64_t* Block::exchange(const char* site, unsigned mask, uint64_t value) {
    const int lane = running() % kWarpSize, w = running() / kWarpSize;
    Warp& warp = warps_[w];
    if (!(mask >> lane & 1)) fail(std::string("a lane that is not in the mask takes part, at ") + site);
    if (mask & warp.returned) fail(std::string("the mask names a lane that has returned, at ") + site);
    if (warp.arrived && (warp.site != site || warp.mask != mask))
        fail(std::string("lanes of a warp meet at different places, at ") + site + " and " + warp.site);
    warp.site = site;
    warp.mask = mask;
    warp.arrived |= 1u << lane;
    warp.values[lane] = value;
    if (warp.arrived == mask)
        finish_exchange(w);
    else
        wait(State::waits_for_warp, site);
    return warp.result;
}

void Block::finish_exchange(int w) {
    Warp& warp = warps_[w];
    memcpy(warp.result, warp.values, sizeof warp.values);
    warp.arrived = 0;
    release(State::waits_for_warp, w * kWarpSize, (w + 1) * kWarpSize);
}

void* Block::shared_memory(const void* key, size_t bytes) {
    for (Shared& s : shared_)
        if (s.key == key) return s.memory.get();
    shared_.push_back({key, std::unique_ptr<char[]>(new char[bytes])});
    memset(shared_.back().memory.get(), kPoison, bytes);
    return shared_.back().memory.get();
}

void Block::fail(const std::string& problem) {
    problem_ = problem;
    for (;;) Fiber::change(*current_, scheduler_);
}

std::string Block::waiting() const {
    std::set<std::string> sites;
    for (int t = 0; t < size_; ++t)
        if (threads_[t].state == State::waits_for_block || threads_[t].state == State::waits_for_warp)
            sites.insert(threads_[t].site);
    std::string text;
    for (const std::string& site : sites) text += (text.empty() ? "" : " and ") + site;
    return text;
}

// (blend<T, true>) -> blend
std::string plain_name(const char* kernel) {
    std::string name(kernel);
    name.erase(0, name.find_first_not_of("( "));
    return name.substr(0, name.find_first_of("<) "));
}

}  // namespace

void launch(const char* kernel, int64_t blocks, int threads, Body body, const void* closure) {
    std::lock_guard<std::mutex> lock(mutex);
    if (threads < 1 || threads > kMostThreads || blocks >= int64_t(1) << 31)
        throw std::runtime_error(plain_name(kernel) + ": a GPU would refuse this size of grid or block");
    names.insert(plain_name(kernel));
    if (!block) block = new Block;  // for good: fibers may be in it when the process ends
    position = {{0}, {0}, {unsigned(threads)}, {unsigned(blocks)}};
    for (int64_t b = 0; b < blocks; ++b) try {
            block->run(unsigned(b), threads, body, closure);
        } catch (const std::runtime_error& error) {
            throw std::runtime_error("kernel " + plain_name(kernel) + ", block " + std::to_string(b) + ": " +
                                     error.what());
        }
}

const std::set<std::string>& executed_kernels() { return names; }

bool barrier(const char* site, bool value) { return block->barrier(site, value); }
const uint64_t* exchange(const char* site, unsigned mask, uint64_t value) {
    return block->exchange(site, mask, value);
}
void* shared_memory(const void* key, size_t bytes) { return block->shared_memory(key, bytes); }
void fail(const char* site, const char* problem) { block->fail(std::string(problem) + ", at " + site); }

}  // namespace emulation
}  // namespace gs
