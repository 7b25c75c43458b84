// Words of the kernels. No header of CUDA is needed, so that a C++ compiler with a small shim can build them, too.

typedef unsigned long long u64;
typedef long long i64;
typedef unsigned int u32;
typedef int i32;
typedef signed char i8;
typedef double f64;

// A kernel whose threads do not meet; one whose threads do, at barriers or within a warp.
// Every parameter is a u64, an f64, a pointer, or a struct of these: arguments are one run of 8-byte words.
#define KERNEL extern "C" __global__ void __launch_bounds__(256)
#define COOPERATIVE extern "C" __global__ void __launch_bounds__(256)
#define DEVICE static __device__ __forceinline__
#define DEVICE_MEMBER __device__ __forceinline__

// Every i below n, over the whole grid.
#define EACH(i, n) \
    for (u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x; i < (n); i += gridDim.x * (u64)blockDim.x)

#define ALL_LANES 0xffffffffu

DEVICE u64 smaller(u64 x, u64 y) { return x < y ? x : y; }

DEVICE u64 bit_of(const u64 *plane, u64 i) { return plane[i / 64] >> (i % 64) & 1; }

DEVICE u64 low_bits(u64 bits) { return bits == 64 ? ~0ull : (1ull << bits) - 1; }
