// Products of 64-bit matrices by products of int8 matrices: eight balanced digits for every word.
//
// A word x is the sum of d_i 2^(8 i) modulo 2^64 with digits d_i from -128 to 127: the bytes of x + 0x80..80, each less
// 0x80. The product of two words is the sum of d_i e_j 2^(8 (i + j)) over i + j <= 7. Digits lie along the depth of a
// matrix, one behind the other, rising on the left and falling on the right: then all products of one i + j are a single
// int8 product of a piece of either.

DEVICE u64 digits(u64 word) { return (word + 0x8080808080808080ull) ^ 0x8080808080808080ull; }

// Digits of the operand whose element (line, k) is at `k * stride_k + line * stride_line`, for k in k_first .. k_first +
// depth: `lines_padded` lines of eight times `depth_padded` bytes, zeros beyond. Digit i at 8 - 1 - i if `falling`. A
// block turns 32 lines of 32 elements at a time.
COOPERATIVE split_digits(u32 *out, Form form, u64 stride_line, u64 stride_k, u64 k_first, u64 lines, u64 depth,
                         u64 lines_padded, u64 depth_padded, u64 falling) {
    __shared__ u64 tile[32][33];
    u64 across = (depth_padded + 31) / 32, tiles = (lines_padded + 31) / 32 * across;
    for (u64 at = blockIdx.x; at < tiles; at += gridDim.x) {
        u64 first_line = at / across * 32, first_k = at % across * 32;
        for (u32 i = threadIdx.x; i < 1024; i += 256) {
            // Neighbouring threads read neighbouring words.
            u32 line = stride_k == 1 ? i / 32 : i % 32, k = stride_k == 1 ? i % 32 : i / 32;
            bool inside = first_line + line < lines && first_k + k < depth;
            u64 place = (first_line + line) * stride_line + (k_first + first_k + k) * stride_k;
            tile[line][k] = inside ? digits(form.at(place)) : 0;
        }
        __syncthreads();
        for (u32 i = threadIdx.x; i < 2048; i += 256) {
            u32 digit = i / 256, line = i / 8 % 32, k = i % 8 * 4;
            if (first_line + line >= lines_padded || first_k + k >= depth_padded) continue;
            u32 four = 0;
#pragma unroll
            for (u32 j = 0; j < 4; j++) four |= (u32)(tile[line][k + j] >> 8 * digit & 0xff) << 8 * j;
            u64 piece = falling ? 7 - digit : digit;
            out[((first_line + line) * 8 * depth_padded + piece * depth_padded + first_k + k) / 4] = four;
        }
        __syncthreads();
    }
}

// out += the sum of diagonals[d] 2^(8 d); a diagonal is `rows_padded x columns_padded`.
KERNEL join_digits(u64 *out, const i32 *diagonals, u64 columns, u64 columns_padded, u64 plane, u64 n) {
    EACH(i, n) {
        u64 at = i / columns * columns_padded + i % columns, sum = 0;
#pragma unroll
        for (u32 d = 0; d < 8; d++) sum += (u64)(i64)diagonals[d * plane + at] << 8 * d;
        out[i] += sum;
    }
}
