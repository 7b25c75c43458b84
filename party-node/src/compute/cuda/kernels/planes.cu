// Bit planes: a warp votes on one bit of 64 words at a time.

// Plane j of bits low + j of `words - minus`; 32 groups of 64 words per block.
COOPERATIVE bit_planes(u64 *planes, const u64 *words, u64 minus, u64 n, u64 low, u64 count, u64 width) {
    __shared__ u64 turned_words[32][33];
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (u64 first = blockIdx.x * 32ull; first < width; first += gridDim.x * 32ull) {
        for (u64 done = 0; done < count; done += 32) {
            for (u32 group = warp; group < 32; group += 8) {
                u64 at = (first + group) * 64 + lane;
                u64 lower = at < n ? (words[at] - minus) >> (low + done) : 0;
                u64 upper = at + 32 < n ? (words[at + 32] - minus) >> (low + done) : 0;
                u64 mine = 0;
#pragma unroll
                for (u32 j = 0; j < 32; j++) {
                    u64 plane = __ballot_sync(ALL_LANES, (i32)(lower >> j & 1));
                    plane |= (u64)__ballot_sync(ALL_LANES, (i32)(upper >> j & 1)) << 32;
                    if (lane == j) mine = plane;
                }
                turned_words[lane][group] = mine;
            }
            __syncthreads();
            for (u64 j = warp; j < smaller(count - done, 32); j += 8)
                if (first + lane < width) planes[(done + j) * width + first + lane] = turned_words[j][lane];
            __syncthreads();
        }
    }
}
