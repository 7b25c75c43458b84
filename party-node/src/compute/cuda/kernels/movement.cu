// Values that move, and sums of them: rows, columns, windows, and whatever a list of places names.

// Adds a row to every row.
KERNEL add_row(u64 *x, const u64 *row, u64 columns, u64 n) {
    EACH(i, n) x[i] += row[i % columns];
}

// out[i] = x[i / each % n_in]: every element `each` times, and all of it as often as it fits.
KERNEL repeat(u64 *out, const u64 *x, u64 each, u64 n_in, u64 n) {
    EACH(i, n) out[i] = x[i / each % n_in];
}

KERNEL gather(u64 *out, const u64 *x, const u64 *places, u64 n) {
    EACH(i, n) out[i] = x[places[i]];
}

// Pieces of `inner` words.
KERNEL gather_rows(u64 *out, const u64 *x, const u64 *places, u64 inner, u64 n) {
    EACH(i, n) out[i] = x[places[i / inner] * inner + i % inner];
}

// Every line of `line_in` words rearranged into one of `line_out`.
KERNEL gather_lines(u64 *out, const u64 *x, const u64 *places, u64 line_in, u64 line_out, u64 n) {
    EACH(i, n) out[i] = x[i / line_out * line_in + places[i % line_out]];
}

KERNEL scatter_add(u64 *into, const u64 *from, const u64 *places, u64 n) {
    EACH(i, n) atomicAdd(&into[places[i]], from[i]);
}

// Pieces of `inner` words between lines of pieces: `places` holds pairs (piece of `into`, piece of `from`).
KERNEL copy_places(u64 *into, const u64 *from, const u64 *places, u64 count, u64 into_line, u64 from_line, u64 inner,
                   u64 n) {
    EACH(i, n) {
        u64 piece = i / inner, within = i % inner, line = piece / count;
        const u64 *place = &places[2 * (piece % count)];
        into[line * into_line + place[0] * inner + within] = from[line * from_line + place[1] * inner + within];
    }
}

KERNEL add_places(u64 *into, const u64 *from, const u64 *places, u64 count, u64 into_line, u64 from_line, u64 inner,
                  u64 n) {
    EACH(i, n) {
        u64 piece = i / inner, within = i % inner, line = piece / count;
        const u64 *place = &places[2 * (piece % count)];
        atomicAdd(&into[line * into_line + place[0] * inner + within],
                  from[line * from_line + place[1] * inner + within]);
    }
}

// A block of columns of one matrix to a block of columns of another.
KERNEL copy_columns(u64 *into, u64 into_columns, u64 into_first, const u64 *from, u64 from_columns, u64 from_first,
                    u64 width, u64 n) {
    EACH(i, n) into[i / width * into_columns + into_first + i % width] =
        from[i / width * from_columns + from_first + i % width];
}

// For every pair (i, j) of columns and every row, x_i - x_j.
KERNEL pair_differences(u64 *out, const u64 *x, const u64 *pairs, u64 rows, u64 columns, u64 n) {
    EACH(i, n) {
        const u64 *pair = &pairs[2 * (i / rows)], *row = &x[i % rows * columns];
        out[i] = row[pair[0]] - row[pair[1]];
    }
}

// The sum of every column: a block has 32 columns, its eight warps a share of the rows, and blocks add up.
COOPERATIVE column_sums(u64 *sums, const u64 *x, u64 rows, u64 columns, u64 rows_share) {
    __shared__ u64 parts[8][32];
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u64 column = blockIdx.x * 32ull + lane, first = blockIdx.z * rows_share, sum = 0;
    u64 last = smaller(rows, first + rows_share);
    if (column < columns)
        for (u64 row = first + warp; row < last; row += 8) sum += x[row * columns + column];
    parts[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && column < columns) {
        for (u32 other = 1; other < 8; other++) sum += parts[other][lane];
        atomicAdd(&sums[column], sum);
    }
}

// The sum of every row: a warp to a row.
COOPERATIVE row_sums(u64 *sums, const u64 *x, u64 rows, u64 columns) {
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (u64 first = blockIdx.x * 8ull; first < rows; first += gridDim.x * 8ull) {
        u64 row = first + warp, sum = 0;
        if (row < rows)
            for (u64 column = lane; column < columns; column += 32) sum += x[row * columns + column];
#pragma unroll
        for (u32 by = 16; by > 0; by /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, by);
        if (row < rows && lane == 0) sums[row] = sum;
    }
}

// Short rows: a thread to a row.
KERNEL short_row_sums(u64 *sums, const u64 *x, u64 columns, u64 rows) {
    EACH(row, rows) {
        u64 sum = 0;
        for (u64 column = 0; column < columns; column++) sum += x[row * columns + column];
        sums[row] = sum;
    }
}

// sums[o, i] += the sum over m of x[o, m, i]. Of every sum a thread has every `shares`-th term; neighbours read neighbours.
KERNEL sum_middle(u64 *sums, const u64 *x, u64 middle, u64 inner, u64 shares, u64 n) {
    EACH(at, n) {
        u64 i = at % inner, share = at / inner % shares, outer = at / inner / shares, sum = 0;
        for (u64 m = share; m < middle; m += shares) sum += x[(outer * middle + m) * inner + i];
        atomicAdd(&sums[outer * inner + i], sum);
    }
}

// out[o, m, i] = x[o, i].
KERNEL repeat_middle(u64 *out, const u64 *x, u64 middle, u64 inner, u64 n) {
    EACH(at, n) out[at] = x[at / inner / middle * inner + at % inner];
}

// Single bits: bit i of the result is bit places[i] of the plane. A word per thread.
KERNEL gather_bits(u64 *out, const u64 *plane, const u64 *places, u64 bits, u64 n) {
    EACH(j, n) {
        u64 word = 0;
        for (u64 i = 64 * j; i < smaller(bits, 64 * j + 64); i++) word |= bit_of(plane, places[i]) << (i % 64);
        out[j] = word;
    }
}

// Bits first .. first + bits of a plane.
KERNEL bit_range(u64 *out, const u64 *plane, u64 first, u64 bits, u64 n) {
    EACH(j, n) {
        u64 at = first + 64 * j, count = smaller(bits - 64 * j, 64);
        u64 word = plane[at / 64] >> (at % 64);
        if (at % 64 + count > 64) word |= plane[at / 64 + 1] << (64 - at % 64);
        out[j] = word & low_bits(count);
    }
}

// A round of all pairs: bit (i, row) says whether column i of `columns` beats its opponent number `slot`, who is column
// `slot`, or the next where that is not below i. `wins` has the bits of all pairs (i, j), i < j, by rows; where i is the
// second of its pair, the bit is turned if `turn` is one.
KERNEL argmax_slot(u64 *out, const u64 *wins, u64 rows, u64 columns, u64 slot, u64 turn, u64 n) {
    EACH(word_index, n) {
        u64 word = 0, bits = rows * columns;
        for (u64 at = 64 * word_index; at < smaller(bits, 64 * word_index + 64); at++) {
            u64 i = at / rows, j = slot < i ? slot : slot + 1;
            u64 low = smaller(i, j), high = i + j - low;
            u64 pair = low * (2 * columns - low - 1) / 2 + (high - low - 1);
            word |= (bit_of(wins, pair * rows + at % rows) ^ (turn & (u64)(j < i))) << (at % 64);
        }
        out[word_index] = word;
    }
}
