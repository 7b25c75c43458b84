// ChaCha12, a block of eight words per thread. Words change places in shared memory, so that a warp writes whole lines.

struct Stream {
    u64 key[4], nonce[2];
};

DEVICE u32 turned(u32 x, u32 by) { return x << by | x >> (32 - by); }

#define QUARTER_ROUND(a, b, c, d) \
    s[a] += s[b], s[d] = turned(s[d] ^ s[a], 16); \
    s[c] += s[d], s[b] = turned(s[b] ^ s[c], 12); \
    s[a] += s[b], s[d] = turned(s[d] ^ s[a], 8); \
    s[c] += s[d], s[b] = turned(s[b] ^ s[c], 7);

DEVICE void chacha12(const Stream &stream, u32 counter, u64 *words) {
    u32 start[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
#pragma unroll
    for (u32 i = 0; i < 8; i++) start[4 + i] = (u32)(stream.key[i / 2] >> 32 * (i % 2));
    start[12] = counter;
    start[13] = (u32)stream.nonce[0];
    start[14] = (u32)(stream.nonce[0] >> 32);
    start[15] = (u32)stream.nonce[1];
    u32 s[16];
#pragma unroll
    for (u32 i = 0; i < 16; i++) s[i] = start[i];
#pragma unroll
    for (u32 round = 0; round < 6; round++) {
        QUARTER_ROUND(0, 4, 8, 12)
        QUARTER_ROUND(1, 5, 9, 13)
        QUARTER_ROUND(2, 6, 10, 14)
        QUARTER_ROUND(3, 7, 11, 15)
        QUARTER_ROUND(0, 5, 10, 15)
        QUARTER_ROUND(1, 6, 11, 12)
        QUARTER_ROUND(2, 7, 8, 13)
        QUARTER_ROUND(3, 4, 9, 14)
    }
#pragma unroll
    for (u32 i = 0; i < 8; i++)
        words[i] = (u64)(s[2 * i] + start[2 * i]) | (u64)(s[2 * i + 1] + start[2 * i + 1]) << 32;
}

enum Combine { FILL, NEGATED, ADD, SUB, XOR, DEAL };
enum Join { ALONE, SUM, DIFFERENCE_OF_BITS };

// `half` is what DEAL leaves beside what it takes away; `other` is a second stream that is joined to the first.
template <Combine combine, Join join>
DEVICE void keystream_into(u64 *out, u64 *half, const Stream &stream, const Stream &other, u64 n) {
    // A block of 8 words, and one to keep threads off each other's banks.
    __shared__ u64 staged[256 * 9];
    u64 step = gridDim.x * 2048ull;
    for (u64 first = blockIdx.x * 2048ull; first < n; first += step) {
        u64 words[8], more[8];
        chacha12(stream, (u32)(first / 8 + threadIdx.x), words);
        if (join != ALONE) chacha12(other, (u32)(first / 8 + threadIdx.x), more);
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            u64 word = words[i];
            if (join == SUM) word += more[i];
            if (join == DIFFERENCE_OF_BITS) word ^= more[i];
            staged[threadIdx.x * 9 + i] = word;
        }
        __syncthreads();
        u64 count = smaller(n - first, 2048);
        for (u32 i = threadIdx.x; i < count; i += 256) {
            u64 word = staged[i / 8 * 9 + i % 8];
            u64 &into = out[first + i];
            if (combine == FILL) into = word;
            if (combine == NEGATED) into = 0 - word;
            if (combine == ADD) into += word;
            if (combine == SUB) into -= word;
            if (combine == XOR) into ^= word;
            if (combine == DEAL) into -= word, half[first + i] = word;
        }
        __syncthreads();
    }
}

#define KEYSTREAM(name, combine) \
    COOPERATIVE name(u64 *out, Stream stream, u64 n) { keystream_into<combine, ALONE>(out, 0, stream, stream, n); }

KEYSTREAM(keystream, FILL)
KEYSTREAM(keystream_negated, NEGATED)
KEYSTREAM(keystream_add, ADD)
KEYSTREAM(keystream_sub, SUB)
KEYSTREAM(keystream_xor, XOR)

COOPERATIVE keystream_deal(u64 *values, u64 *half, Stream stream, u64 n) {
    keystream_into<DEAL, ALONE>(values, half, stream, stream, n);
}

COOPERATIVE keystreams_add(u64 *out, Stream stream, Stream other, u64 n) {
    keystream_into<ADD, SUM>(out, 0, stream, other, n);
}

COOPERATIVE keystreams_of_bits(u64 *out, Stream stream, Stream other, u64 n) {
    keystream_into<FILL, DIFFERENCE_OF_BITS>(out, 0, stream, other, n);
}
