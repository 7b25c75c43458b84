// Products of 64-bit matrices by products of int8 matrices: residues by pairwise coprime moduli.
//
// Words count as integers from -2^63 to 2^63 - 1. A sum S of K of their products is at most K 2^126 in size; where the
// product M of the moduli is at least four times that, S is the sum of t_i M/m_i less a multiple q of M, with
// t_i = S (M/m_i)^-1 mod m_i, and q is the sum of t_i / m_i rounded, since S / M is at most a quarter. All of it is needed
// modulo 2^64 only.

#define MODULI_MAX 19

DEVICE constexpr u32 modulus(u32 i) {
    const u32 moduli[MODULI_MAX] = {256, 255, 253, 251, 247, 241, 239, 233, 229, 227,
                                    223, 217, 211, 199, 197, 193, 191, 181, 179};
    return moduli[i];
}

// The residue between -128 and 127 of a word, as a byte.
DEVICE u32 residue(u64 word, u32 m) {
    const u32 of_2_32 = (u32)(0x100000000ull % m), of_2_64 = of_2_32 * of_2_32 % m;
    u32 rest = ((u32)(word >> 32) % m * of_2_32 + (u32)word % m) % m;
    if (word >> 63) rest = rest < of_2_64 ? rest + m - of_2_64 : rest - of_2_64;
    return (2 * rest >= m ? rest - m : rest) & 0xff;
}

// Residues of an operand: for each of `count` moduli a matrix of `lines_padded` lines of `depth_padded` bytes; the rest as
// `split_digits`.
COOPERATIVE split_residues(u32 *out, Form form, u64 stride_line, u64 stride_k, u64 k_first, u64 lines, u64 depth,
                           u64 lines_padded, u64 depth_padded, u64 count) {
    __shared__ u64 tile[32][33];
    u64 across = (depth_padded + 31) / 32, tiles = (lines_padded + 31) / 32 * across;
    for (u64 at = blockIdx.x; at < tiles; at += gridDim.x) {
        u64 first_line = at / across * 32, first_k = at % across * 32;
        for (u32 i = threadIdx.x; i < 1024; i += 256) {
            u32 line = stride_k == 1 ? i / 32 : i % 32, k = stride_k == 1 ? i % 32 : i / 32;
            bool inside = first_line + line < lines && first_k + k < depth;
            u64 place = (first_line + line) * stride_line + (k_first + first_k + k) * stride_k;
            tile[line][k] = inside ? form.at(place) : 0;
        }
        __syncthreads();
        u32 line = threadIdx.x / 8, k = threadIdx.x % 8 * 4;
        if (first_line + line < lines_padded && first_k + k < depth_padded) {
            u64 words[4] = {tile[line][k], tile[line][k + 1], tile[line][k + 2], tile[line][k + 3]};
            u64 place = (first_line + line) * depth_padded + first_k + k;
#pragma unroll
            for (u32 i = 0; i < MODULI_MAX; i++) {
                if (i >= count) continue;
                u32 four = 0;
#pragma unroll
                for (u32 j = 0; j < 4; j++) four |= residue(words[j], modulus(i)) << 8 * j;
                out[(i * lines_padded * depth_padded + place) / 4] = four;
            }
        }
        __syncthreads();
    }
}

// out += the sums whose residues the products hold. `table`: for each modulus its (M/m)^-1 mod m, M/m modulo 2^64 and
// 1/m as a double; then M modulo 2^64.
KERNEL join_residues(u64 *out, const i32 *products, const u64 *table, u64 count, u64 columns, u64 columns_padded,
                     u64 plane, u64 n) {
    EACH(i, n) {
        u64 at = i / columns * columns_padded + i % columns, sum = 0;
        f64 multiple = 0;
#pragma unroll
        for (u32 j = 0; j < MODULI_MAX; j++) {
            if (j >= count) continue;
            const i32 m = (i32)modulus(j);
            i32 rest = products[j * plane + at] % m;
            u32 t = (u32)(rest < 0 ? rest + m : rest) * (u32)table[3 * j] % (u32)m;
            sum += t * table[3 * j + 1];
            multiple = __dadd_rn(multiple, __dmul_rn(__uint2double_rn(t), __longlong_as_double((i64)table[3 * j + 2])));
        }
        out[i] += sum - (u64)(i64)__double2int_rn(multiple) * table[3 * count];
    }
}
