// Products of 64-bit matrices by multiply-add: tiles in shared memory, K split over blocks. Sums of ring elements do not
// depend on their order, so that blocks may add up atomically and every result is exact.

#define TILE_K 16

// kx x + ky y.
struct Form {
    const u64 *x, *y;
    u64 kx, ky;

    DEVICE_MEMBER u64 at(u64 i) const {
        u64 word = kx * x[i];
        return y ? word + ky * y[i] : word;
    }
};

// Both halves of a word. What C says of halves, the compiler turns into operations on words, and those into more than
// there need be.
DEVICE void halves(u64 word, u32 &low, u32 &high) {
#ifdef __CUDA_ARCH__
    asm("mov.b64 {%0, %1}, %2;" : "=r"(low), "=r"(high) : "l"(word));
#else
    low = (u32)word;
    high = (u32)(word >> 32);
#endif
}

// Where a block's part of a product lies.
struct Part {
    u64 row, column;
    u64 k_begin, k_end;
    bool alone;
};

// out[row ld + column] += sum over k of a.at(row, k) b.at(k, column): 16 ROWS x 16 COLUMNS for one block of 256 threads.
// A::ALONG_K says that neighbours along k lie together in memory, else neighbours along rows; likewise B.
template <int ROWS, int COLUMNS, class A, class B>
DEVICE void add_product(u64 *out, u64 ld, u64 rows, u64 columns, const A &a, const B &b, const Part &part) {
    const u32 HEIGHT = 16 * ROWS, WIDTH = 16 * COLUMNS;
    __shared__ u64 left[TILE_K][16 * ROWS + 1];
    __shared__ u64 right[TILE_K][16 * COLUMNS + 1];
    u32 thread = threadIdx.x, tx = thread % 16, ty = thread / 16;
    // Products of lower halves, and what belongs into the upper half: three multiply-adds for each term, no addition.
    u64 lows[ROWS][COLUMNS] = {}, next_left[ROWS], next_right[COLUMNS];
    u32 highs[ROWS][COLUMNS] = {};
    auto fetch = [&](u64 k_start) {
#pragma unroll
        for (u32 i = 0; i < ROWS; i++) {
            u32 row = A::ALONG_K ? ty + 16 * i : (thread + 256 * i) % HEIGHT;
            u64 k = k_start + (A::ALONG_K ? tx : (thread + 256 * i) / HEIGHT);
            next_left[i] = k < part.k_end && part.row + row < rows ? a.at(part.row + row, k) : 0;
        }
#pragma unroll
        for (u32 i = 0; i < COLUMNS; i++) {
            u32 column = B::ALONG_K ? ty + 16 * i : (thread + 256 * i) % WIDTH;
            u64 k = k_start + (B::ALONG_K ? tx : (thread + 256 * i) / WIDTH);
            next_right[i] = k < part.k_end && part.column + column < columns ? b.at(k, part.column + column) : 0;
        }
    };
    fetch(part.k_begin);
    for (u64 k_start = part.k_begin; k_start < part.k_end; k_start += TILE_K) {
#pragma unroll
        for (u32 i = 0; i < ROWS; i++) {
            u32 row = A::ALONG_K ? ty + 16 * i : (thread + 256 * i) % HEIGHT;
            left[A::ALONG_K ? tx : (thread + 256 * i) / HEIGHT][row] = next_left[i];
        }
#pragma unroll
        for (u32 i = 0; i < COLUMNS; i++) {
            u32 column = B::ALONG_K ? ty + 16 * i : (thread + 256 * i) % WIDTH;
            right[B::ALONG_K ? tx : (thread + 256 * i) / WIDTH][column] = next_right[i];
        }
        __syncthreads();
        if (k_start + TILE_K < part.k_end) fetch(k_start + TILE_K);
#pragma unroll
        for (u32 k = 0; k < TILE_K; k++) {
            u32 left_low[ROWS], left_high[ROWS], right_low[COLUMNS], right_high[COLUMNS];
#pragma unroll
            for (u32 i = 0; i < ROWS; i++) halves(left[k][ty + 16 * i], left_low[i], left_high[i]);
#pragma unroll
            for (u32 j = 0; j < COLUMNS; j++) halves(right[k][tx + 16 * j], right_low[j], right_high[j]);
#pragma unroll
            for (u32 i = 0; i < ROWS; i++)
#pragma unroll
                for (u32 j = 0; j < COLUMNS; j++) {
                    lows[i][j] += (u64)left_low[i] * right_low[j];
                    highs[i][j] += left_low[i] * right_high[j];
                    highs[i][j] += left_high[i] * right_low[j];
                }
        }
        __syncthreads();
    }
#pragma unroll
    for (u32 i = 0; i < ROWS; i++) {
#pragma unroll
        for (u32 j = 0; j < COLUMNS; j++) {
            u64 row = part.row + ty + 16 * i, column = part.column + tx + 16 * j;
            if (row >= rows || column >= columns) continue;
            u64 *into = &out[row * ld + column], sum = lows[i][j] + ((u64)highs[i][j] << 32);
            if (part.alone) *into += sum;
            else atomicAdd(into, sum);
        }
    }
}

// Block x is a tile, block z a share of `k_share` of K.
template <int ROWS, int COLUMNS>
DEVICE Part part_of_block(u64 columns, u64 k, u64 k_share) {
    u64 across = (columns + 16 * COLUMNS - 1) / (16 * COLUMNS);
    u64 k_begin = blockIdx.z * k_share;
    Part part = {blockIdx.x / across * (16 * ROWS), blockIdx.x % across * (16 * COLUMNS), k_begin,
                 smaller(k, k_begin + k_share), gridDim.z == 1};
    return part;
}

// A matrix as it lies in memory, or its transpose; `ld` is the length of a line in memory.
template <bool TRANSPOSED>
struct Left {
    static const bool ALONG_K = !TRANSPOSED;
    Form form;
    u64 ld;

    DEVICE_MEMBER u64 at(u64 row, u64 k) const { return form.at(TRANSPOSED ? k * ld + row : row * ld + k); }
};

template <bool TRANSPOSED>
struct Right {
    static const bool ALONG_K = TRANSPOSED;
    Form form;
    u64 ld;

    DEVICE_MEMBER u64 at(u64 k, u64 column) const { return form.at(TRANSPOSED ? column * ld + k : k * ld + column); }
};

#define GEMM(name, ROWS, COLUMNS, LEFT_TRANSPOSED, RIGHT_TRANSPOSED) \
    COOPERATIVE name(u64 *out, Form a, Form b, u64 rows, u64 columns, u64 k, u64 k_share) { \
        Left<LEFT_TRANSPOSED> left = {a, LEFT_TRANSPOSED ? rows : k}; \
        Right<RIGHT_TRANSPOSED> right = {b, RIGHT_TRANSPOSED ? k : columns}; \
        Part part = part_of_block<ROWS, COLUMNS>(columns, k, k_share); \
        add_product<ROWS, COLUMNS>(out, columns, rows, columns, left, right, part); \
    }

GEMM(gemm_64x64, 4, 4, false, false)
GEMM(gemm_64x64_t, 4, 4, false, true)
GEMM(gemm_t_64x64, 4, 4, true, false)
GEMM(gemm_t_64x64_t, 4, 4, true, true)
GEMM(gemm_64x32, 4, 2, false, false)
GEMM(gemm_64x32_t, 4, 2, false, true)
GEMM(gemm_t_64x32, 4, 2, true, false)
GEMM(gemm_t_64x32_t, 4, 2, true, true)
GEMM(gemm_64x16, 4, 1, false, false)
GEMM(gemm_64x16_t, 4, 1, false, true)
GEMM(gemm_t_64x16, 4, 1, true, false)
GEMM(gemm_t_64x16_t, 4, 1, true, true)
GEMM(gemm_16x64, 1, 4, false, false)
GEMM(gemm_16x64_t, 1, 4, false, true)
GEMM(gemm_t_16x64, 1, 4, true, false)
GEMM(gemm_t_16x64_t, 1, 4, true, true)
