// Bit planes: a warp turns 32 halves of words at a time, lane by lane and bit by bit.

// Of 32 x 32 bits, a row in every lane, the transpose: squares beside the diagonal change places, ever smaller ones (Warren,
// "Hacker's Delight", section 7-3).
DEVICE u32 turned_square(u32 row, u32 lane) {
    u32 left = 0x0000ffff;
#pragma unroll
    for (u32 side = 16; side > 0; side /= 2) {
        u32 other = __shfl_xor_sync(ALL_LANES, row, side);
        row = lane & side ? (row & ~left) | (other >> side & left) : (row & left) | (other & left) << side;
        left ^= left << side / 2;
    }
    return row;
}

// Plane j of bits low + j of `words - minus`; 32 groups of 64 words per block.
COOPERATIVE bit_planes(u64 *planes, const u64 *words, u64 minus, u64 n, u64 low, u64 count, u64 width) {
    __shared__ u64 turned_words[32][33];
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (u64 first = blockIdx.x * 32ull; first < width; first += gridDim.x * 32ull) {
        for (u64 done = 0; done < count; done += 32) {
            for (u32 group = warp; group < 32; group += 8) {
                u64 at = (first + group) * 64 + lane;
                u32 lower = at < n ? (u32)((words[at] - minus) >> (low + done)) : 0;
                u32 upper = at + 32 < n ? (u32)((words[at + 32] - minus) >> (low + done)) : 0;
                turned_words[lane][group] = turned_square(lower, lane) | (u64)turned_square(upper, lane) << 32;
            }
            __syncthreads();
            for (u64 j = warp; j < smaller(count - done, 32); j += 8)
                if (first + lane < width) planes[(done + j) * width + first + lane] = turned_words[j][lane];
            __syncthreads();
        }
    }
}
