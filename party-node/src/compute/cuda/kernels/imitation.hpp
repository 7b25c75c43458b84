// The calls of the CUDA driver, NVRTC and cuBLASLt that this program makes, played on a CPU behind the emulated kernels.
// What is asked for in order on a stream is put off as long as it may be: until something waits for it. Memory that is
// reused or freed too early is found that way. Nothing but the device's name says that there is no GPU.

#include <algorithm>
#include <deque>
#include <map>
#include <mutex>
#include <string>

namespace imitation {

typedef int Status;
enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_CONTEXT = 201, NOT_FOUND = 500 };

struct Stream {
    std::deque<std::function<void()>> put_off;
};

struct Event {
    Stream *stream = nullptr;
    bool pending = false;
};

typedef int (*Kernel)(const unsigned long long *, size_t, const unsigned *);

// Filled in below, with every kernel of the program.
static std::map<std::string, Kernel> &kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}

static std::mutex lock;
static size_t in_use = 0;
static const size_t TOTAL = size_t(1) << 30;
static std::map<char *, size_t> pieces;
static int context;
static thread_local void *current = nullptr;

static void run_all(Stream *stream) {
    while (!stream->put_off.empty()) {
        auto next = std::move(stream->put_off.front());
        stream->put_off.pop_front();
        next();
    }
}

// Whether a copy or a kernel's product stays within a piece of memory.
static void check(const void *at, size_t bytes) {
    auto next = pieces.upper_bound((char *)at);
    bool inside = next != pieces.begin();
    if (inside) {
        --next;
        inside = (char *)at + bytes <= next->first + next->second;
    }
    if (!inside) {
        std::fprintf(stderr, "imitated GPU: %zu bytes at %p are nobody's\n", bytes, at);
        std::abort();
    }
}

static Status put_off(void *stream, std::function<void()> what) {
    std::lock_guard<std::mutex> guard(lock);
    if (current != &context) return INVALID_CONTEXT;
    ((Stream *)stream)->put_off.push_back(std::move(what));
    return SUCCESS;
}

}  // namespace imitation

using imitation::Status;
typedef unsigned long long Address;
#define CALL extern "C" Status

CALL cuInit(unsigned) { return 0; }
CALL cuDriverGetVersion(int *version) { return *version = 13000, 0; }
CALL cuDeviceGetCount(int *count) { return *count = 1, 0; }
CALL cuDeviceGet(int *device, int ordinal) { return *device = ordinal, ordinal == 0 ? 0 : imitation::INVALID_VALUE; }
CALL cuDeviceGetName(char *name, int len, int) { return std::snprintf(name, len, "imitated"), 0; }
CALL cuDeviceGetAttribute(int *value, int which, int) {
    *value = which == 16 ? 4 : which == 75 ? 9 : 0;
    return 0;
}
CALL cuGetErrorString(Status, const char **text) { return *text = "imitated failure", 0; }
CALL cuGetErrorName(Status, const char **text) { return *text = "IMITATED", 0; }
CALL cuDevicePrimaryCtxRetain(void **context, int) { return *context = &imitation::context, 0; }
CALL cuDevicePrimaryCtxRelease_v2(int) { return 0; }
CALL cuCtxGetCurrent(void **context) { return *context = imitation::current, 0; }
CALL cuCtxSetCurrent(void *context) { return imitation::current = context, 0; }
CALL cuStreamCreate(void **stream, unsigned) { return *stream = new imitation::Stream, 0; }
CALL cuStreamSynchronize(void *stream) {
    std::lock_guard<std::mutex> guard(imitation::lock);
    imitation::run_all((imitation::Stream *)stream);
    return 0;
}
CALL cuStreamDestroy_v2(void *stream) { return delete (imitation::Stream *)stream, 0; }
CALL cuDeviceGetDefaultMemPool(void **pool, int) { return *pool = &imitation::context, 0; }
CALL cuMemPoolSetAttribute(void *, int attribute, void *value) {
    return attribute == 4 && *(unsigned long long *)value == ~0ull ? 0 : imitation::INVALID_VALUE;
}
CALL cuMemPoolTrimTo(void *, size_t) { return 0; }
CALL cuMemGetInfo_v2(size_t *free, size_t *total) {
    std::lock_guard<std::mutex> guard(imitation::lock);
    return *free = imitation::TOTAL - imitation::in_use, *total = imitation::TOTAL, 0;
}
CALL cuMemAllocAsync(Address *address, size_t bytes, void *) {
    std::lock_guard<std::mutex> guard(imitation::lock);
    if (bytes > imitation::TOTAL - imitation::in_use) return imitation::OUT_OF_MEMORY;
    char *piece = (char *)std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    std::memset(piece, 0xa5, bytes);
    imitation::pieces[piece] = bytes;
    imitation::in_use += bytes;
    return *address = (Address)piece, 0;
}
CALL cuMemFreeAsync(Address address, void *stream) {
    return imitation::put_off(stream, [=] {
        auto piece = imitation::pieces.find((char *)address);
        if (piece == imitation::pieces.end()) std::abort();
        imitation::in_use -= piece->second;
        imitation::pieces.erase(piece);
        std::free((void *)address);
    });
}
CALL cuMemHostAlloc(void **at, size_t bytes, unsigned) { return *at = std::malloc(bytes), 0; }
CALL cuMemFreeHost(void *at) { return std::free(at), 0; }
CALL cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, void *stream) {
    return imitation::put_off(stream, [=] { imitation::check((void *)to, bytes), std::memcpy((void *)to, from, bytes); });
}
CALL cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, void *stream) {
    return imitation::put_off(stream, [=] { imitation::check((void *)from, bytes), std::memcpy(to, (void *)from, bytes); });
}
CALL cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void *stream) {
    return imitation::put_off(stream, [=] {
        imitation::check((void *)to, bytes), imitation::check((void *)from, bytes);
        std::memcpy((void *)to, (void *)from, bytes);
    });
}
CALL cuMemsetD8Async(Address at, unsigned char value, size_t bytes, void *stream) {
    return imitation::put_off(stream, [=] { imitation::check((void *)at, bytes), std::memset((void *)at, value, bytes); });
}
CALL cuEventCreate(void **event, unsigned) { return *event = new imitation::Event, 0; }
CALL cuEventDestroy_v2(void *event) { return delete (imitation::Event *)event, 0; }
CALL cuEventRecord(void *event, void *stream) {
    auto *marked = (imitation::Event *)event;
    {
        std::lock_guard<std::mutex> guard(imitation::lock);
        marked->stream = (imitation::Stream *)stream;
        marked->pending = true;
    }
    return imitation::put_off(stream, [=] { marked->pending = false; });
}
CALL cuEventSynchronize(void *event) {
    std::lock_guard<std::mutex> guard(imitation::lock);
    auto *marked = (imitation::Event *)event;
    // No further than to the mark: what comes behind it stays put off.
    while (marked->pending) {
        auto next = std::move(marked->stream->put_off.front());
        marked->stream->put_off.pop_front();
        next();
    }
    return 0;
}
CALL cuModuleLoadData(void **module, const void *image) {
    return *module = &imitation::context, std::memcmp(image, "imitated", 8) == 0 ? 0 : imitation::INVALID_VALUE;
}
CALL cuModuleUnload(void *) { return 0; }
CALL cuModuleGetFunction(void **function, void *, const char *name) {
    auto found = imitation::kernels().find(name);
    if (found == imitation::kernels().end()) return imitation::NOT_FOUND;
    return *function = (void *)found->second, 0;
}
CALL cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned block, unsigned block_y, unsigned block_z,
                    unsigned shared, void *stream, void **parameters, void **extra) {
    bool buffer = extra && extra[0] == (void *)1 && extra[2] == (void *)2 && !extra[4];
    if (parameters || !buffer || shared || block_y != 1 || block_z != 1) return imitation::INVALID_VALUE;
    if (x == 0 || y == 0 || z == 0 || y > 65535 || z > 65535) return imitation::INVALID_VALUE;
    size_t count = *(size_t *)extra[3] / 8;
    auto *words = (const unsigned long long *)extra[1];
    std::vector<unsigned long long> copy(words, words + count);
    auto kernel = (imitation::Kernel)function;
    return imitation::put_off(stream, [=] {
        const unsigned dims[4] = {x, y, z, block};
        if (kernel(copy.data(), copy.size(), dims)) std::abort();
    });
}

// NVRTC.
CALL nvrtcVersion(int *major, int *minor) { return *major = 13, *minor = 0, 0; }
CALL nvrtcCreateProgram(void **program, const char *, const char *, int, const char *const *, const char *const *) {
    return *program = &imitation::context, 0;
}
CALL nvrtcCompileProgram(void *, int count, const char *const *options) {
    return count > 0 && std::string(options[0]) == "--gpu-architecture=sm_90" ? 0 : 5;
}
CALL nvrtcDestroyProgram(void **) { return 0; }
CALL nvrtcGetProgramLogSize(void *, size_t *size) { return *size = 1, 0; }
CALL nvrtcGetProgramLog(void *, char *log) { return *log = 0, 0; }
CALL nvrtcGetCUBINSize(void *, size_t *size) { return *size = 8, 0; }
CALL nvrtcGetCUBIN(void *, char *code) { return std::memcpy(code, "imitated", 8), 0; }

// cuBLASLt: column-major products of int8 matrices, the first factor transposed.
namespace imitation {
struct Layout {
    int type;
    unsigned long long rows, columns;
    long long line;
};
struct Found {
    unsigned long long algorithm[8];
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};
}  // namespace imitation

CALL cublasLtCreate(void **handle) { return *handle = &imitation::context, 0; }
CALL cublasLtDestroy(void *) { return 0; }
CALL cublasLtMatrixLayoutCreate(void **layout, int type, unsigned long long rows, unsigned long long columns, long long line) {
    return *layout = new imitation::Layout{type, rows, columns, line}, 0;
}
CALL cublasLtMatrixLayoutDestroy(void *layout) { return delete (imitation::Layout *)layout, 0; }
CALL cublasLtMatmulDescCreate(void **description, int compute, int scale) {
    return *description = new int(0), compute == 72 && scale == 10 ? 0 : 7;
}
CALL cublasLtMatmulDescSetAttribute(void *description, int attribute, const void *value, size_t bytes) {
    if (attribute != 3 || bytes != 4) return 7;
    return *(int *)description = *(const int *)value, 0;
}
CALL cublasLtMatmulDescDestroy(void *description) { return delete (int *)description, 0; }
CALL cublasLtMatmulPreferenceCreate(void **preference) { return *preference = &imitation::context, 0; }
CALL cublasLtMatmulPreferenceSetAttribute(void *, int attribute, const void *value, size_t bytes) {
    return attribute == 1 && bytes == 8 && *(const size_t *)value > 0 ? 0 : 7;
}
CALL cublasLtMatmulPreferenceDestroy(void *) { return 0; }
CALL cublasLtMatmulAlgoGetHeuristic(void *, void *description, void *a, void *b, void *c, void *d, void *, int wanted,
                                    imitation::Found *found, int *count) {
    auto *left = (imitation::Layout *)a, *right = (imitation::Layout *)b, *out = (imitation::Layout *)d;
    bool fits = *(int *)description == 1 && left->type == 3 && right->type == 3 && out->type == 10 && c == d
        && left->rows == right->rows && left->columns == out->rows && right->columns == out->columns
        && left->line % 16 == 0 && right->line % 16 == 0 && wanted == 1;
    std::memset(found, 0, sizeof *found);
    found->algorithm[0] = 42;
    return *count = fits, fits ? 0 : 15;
}
CALL cublasLtMatmul(void *, void *, const void *alpha, const void *a, void *a_layout, const void *b, void *b_layout,
                    const void *beta, const void *, void *, void *d, void *d_layout, const unsigned long long *algorithm,
                    void *workspace, size_t workspace_bytes, void *stream) {
    if (*(const int *)alpha != 1 || *(const int *)beta != 0 || algorithm[0] != 42) return 7;
    imitation::Layout left = *(imitation::Layout *)a_layout, right = *(imitation::Layout *)b_layout;
    long long line = ((imitation::Layout *)d_layout)->line;
    return imitation::put_off(stream, [=] {
        imitation::check(workspace, workspace_bytes);
        imitation::check(a, (left.columns - 1) * left.line + left.rows);
        imitation::check(b, (right.columns - 1) * right.line + right.rows);
        imitation::check(d, 4 * ((right.columns - 1) * line + left.columns));
        for (unsigned long long j = 0; j < right.columns; j++)
            for (unsigned long long i = 0; i < left.columns; i++) {
                int sum = 0;
                const signed char *x = (const signed char *)a + i * left.line, *y = (const signed char *)b + j * right.line;
                for (unsigned long long k = 0; k < left.rows; k++) sum += x[k] * y[k];
                ((int *)d)[j * line + i] = sum;
            }
    });
}
