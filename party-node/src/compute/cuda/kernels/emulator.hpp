// Enough of CUDA for the kernels to run on a CPU: one operating-system thread plays a grid, block after block. Threads
// that meet at barriers are fibres. What would be undefined on a GPU (a barrier that some threads miss) is refused.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <tuple>
#include <vector>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define __shared__ static thread_local

namespace emulator {

struct Index {
    unsigned x, y, z;
};

static thread_local Index thread_index, block_index, block_size, grid_size;

#if defined(__x86_64__)
typedef void *Context;
extern "C" void emulator_switch(void **from, void *to);
asm(R"(
.text
.type emulator_switch,@function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");

static void change(Context &from, Context &to) { emulator_switch(&from, to); }

static void prepare(Context &context, char *stack, size_t size, void (*entry)()) {
    uintptr_t top = (uintptr_t)(stack + size) & ~(uintptr_t)15;
    void **slot = (void **)top - 2;
    *slot = (void *)entry;
    slot[1] = nullptr;
    for (int i = 0; i < 6; i++) *--slot = nullptr;
    context = slot;
}
#else
typedef ucontext_t Context;

static void change(Context &from, Context &to) { swapcontext(&from, &to); }

static void prepare(Context &context, char *stack, size_t size, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = size;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
}
#endif

[[noreturn]] static void refuse(const char *what) {
    std::fprintf(stderr, "emulated kernel: %s\n", what);
    std::abort();
}

enum State { READY, AT_WARP, AT_BLOCK, DONE };

struct Fibre {
    Context context;
    State state;
    std::unique_ptr<char[]> stack;
    Index index;
};

static const size_t STACK_BYTES = 64 << 10;

struct Block {
    Context scheduler;
    std::vector<Fibre> fibres;
    std::function<void()> body;
    size_t current = 0, count = 0;
    bool cooperative = false;
    // What the lanes of a warp show each other.
    unsigned long long shown[1024];
};

static thread_local Block block;

static void fibre_main() {
    for (;;) {
        block.body();
        Fibre &self = block.fibres[block.current];
        self.state = DONE;
        change(self.context, block.scheduler);
    }
}

static void meet(State where) {
    if (!block.cooperative) refuse("threads meet in a kernel that is not declared cooperative");
    Fibre &self = block.fibres[block.current];
    self.state = where;
    change(self.context, block.scheduler);
}

static void resume(size_t i) {
    Fibre &fibre = block.fibres[i];
    block.current = i;
    thread_index = fibre.index;
    change(block.scheduler, fibre.context);
}

// Every lane of a warp until all of them wait for the block or are done. In turn or in reverse.
static void run_warp(size_t first, size_t last, bool reverse) {
    for (;;) {
        for (size_t i = first; i < last; i++) {
            size_t at = reverse ? last - 1 - (i - first) : i;
            if (block.fibres[at].state == READY) resume(at);
        }
        size_t waiting = 0;
        for (size_t i = first; i < last; i++) waiting += block.fibres[i].state == AT_WARP;
        if (waiting == 0) return;
        if (waiting != last - first) refuse("some lanes of a warp miss a vote or an exchange");
        for (size_t i = first; i < last; i++) block.fibres[i].state = READY;
    }
}

static void run_block(bool reverse) {
    for (size_t i = 0; i < block.count; i++) block.fibres[i].state = READY;
    for (;;) {
        for (size_t warp = 0; warp < block.count; warp += 32) {
            size_t first = reverse ? (block.count - 1) / 32 * 32 - warp : warp;
            run_warp(first, first + 32 < block.count ? first + 32 : block.count, reverse);
        }
        size_t waiting = 0;
        for (size_t i = 0; i < block.count; i++) waiting += block.fibres[i].state == AT_BLOCK;
        if (waiting == 0) return;
        if (waiting != block.count) refuse("some threads miss a barrier");
        for (size_t i = 0; i < block.count; i++) block.fibres[i].state = READY;
    }
}

static void run(const unsigned *dims, bool cooperative, std::function<void()> body) {
    static thread_local bool reverse = false;
    reverse = !reverse;
    grid_size = {dims[0], dims[1], dims[2]};
    block_size = {dims[3], 1, 1};
    block.body = body;
    block.count = dims[3];
    block.cooperative = cooperative;
    if (dims[3] > 1024) refuse("a block has more than 1024 threads");
    if (cooperative) {
        while (block.fibres.size() < block.count) {
            Fibre fibre;
            fibre.stack.reset(new char[STACK_BYTES]);
            fibre.index = {(unsigned)block.fibres.size(), 0, 0};
            block.fibres.push_back(std::move(fibre));
            Fibre &stored = block.fibres.back();
            prepare(stored.context, stored.stack.get(), STACK_BYTES, fibre_main);
        }
    }
    size_t blocks = (size_t)dims[0] * dims[1] * dims[2];
    for (size_t i = 0; i < blocks; i++) {
        size_t at = reverse ? blocks - 1 - i : i;
        block_index = {(unsigned)(at % dims[0]), (unsigned)(at / dims[0] % dims[1]), (unsigned)(at / dims[0] / dims[1])};
        if (cooperative) {
            run_block(reverse);
            continue;
        }
        for (unsigned t = 0; t < dims[3]; t++) {
            thread_index = {reverse ? dims[3] - 1 - t : t, 0, 0};
            body();
        }
    }
    block.body = nullptr;
}

template <class T>
static T take(const unsigned long long *&arguments) {
    static_assert(sizeof(T) % 8 == 0, "arguments are runs of 8-byte words");
    T value;
    std::memcpy(&value, arguments, sizeof(T));
    arguments += sizeof(T) / 8;
    return value;
}

// Returns 1 if the number of argument words is not the kernel's.
template <class... T>
static int launch(void (*kernel)(T...), const unsigned long long *arguments, size_t count, const unsigned *dims,
                  bool cooperative) {
    if ((sizeof(T) + ... + 0) / 8 != count) return 1;
    std::tuple<T...> values{take<T>(arguments)...};
    run(dims, cooperative, [&] { std::apply(kernel, values); });
    return 0;
}

static unsigned long long *warp_slots() { return &block.shown[thread_index.x / 32 * 32]; }

template <class T>
static T from_lane(T value, unsigned lane) {
    static_assert(sizeof(T) <= 8, "a lane shows a word");
    unsigned long long word = 0;
    std::memcpy(&word, &value, sizeof(T));
    unsigned long long *slots = warp_slots();
    slots[thread_index.x % 32] = word;
    meet(AT_WARP);
    word = slots[lane % 32];
    meet(AT_WARP);
    std::memcpy(&value, &word, sizeof(T));
    return value;
}

}  // namespace emulator

#define threadIdx emulator::thread_index
#define blockIdx emulator::block_index
#define blockDim emulator::block_size
#define gridDim emulator::grid_size

static inline void __syncthreads() { emulator::meet(emulator::AT_BLOCK); }
static inline void __syncwarp(unsigned) { emulator::meet(emulator::AT_WARP); }

static inline unsigned __ballot_sync(unsigned, int predicate) {
    unsigned long long *slots = emulator::warp_slots();
    slots[threadIdx.x % 32] = predicate != 0;
    emulator::meet(emulator::AT_WARP);
    unsigned votes = 0;
    for (unsigned lane = 0; lane < 32; lane++) votes |= (unsigned)slots[lane] << lane;
    emulator::meet(emulator::AT_WARP);
    return votes;
}

template <class T>
static inline T __shfl_sync(unsigned, T value, unsigned lane) {
    return emulator::from_lane(value, lane);
}
template <class T>
static inline T __shfl_xor_sync(unsigned, T value, unsigned lanes) {
    return emulator::from_lane(value, threadIdx.x % 32 ^ lanes);
}

static inline unsigned long long atomicAdd(unsigned long long *at, unsigned long long value) {
    unsigned long long old = *at;
    *at += value;
    return old;
}
static inline unsigned long long atomicOr(unsigned long long *at, unsigned long long value) {
    unsigned long long old = *at;
    *at |= value;
    return old;
}

static inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
    return (unsigned long long)((unsigned __int128)x * y >> 64);
}

// Built without contraction of products and sums.
static inline double __dadd_rn(double x, double y) { return x + y; }
static inline double __dsub_rn(double x, double y) { return x - y; }
static inline double __dmul_rn(double x, double y) { return x * y; }
static inline double __ddiv_rn(double x, double y) { return x / y; }
static inline double __uint2double_rn(unsigned x) { return (double)x; }
static inline double __int2double_rn(int x) { return (double)x; }
static inline unsigned long long __double2ull_rz(double x) { return (unsigned long long)x; }
static inline double __longlong_as_double(long long x) {
    double value;
    std::memcpy(&value, &x, 8);
    return value;
}
static inline long long __double_as_longlong(double x) {
    long long value;
    std::memcpy(&value, &x, 8);
    return value;
}
static inline int __double2int_rn(double x) { return (int)__builtin_nearbyint(x); }
