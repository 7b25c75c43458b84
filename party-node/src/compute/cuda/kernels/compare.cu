// Comparisons: monomials and leaf bits of all leaves at once, and all gates of a level at once. A plane is `width` words.

// The product of every subset of up to four bits; bit i of the index says whether bit i is in. Bits beyond `count` count
// as zero. Spelt out, so that every index is a constant and the products stay in registers.
DEVICE void subset_products(const u64 *bits, u64 count, u64 *products) {
    u64 a = 0 < count ? bits[0] : 0, b = 1 < count ? bits[1] : 0, c = 2 < count ? bits[2] : 0, d = 3 < count ? bits[3] : 0;
    products[0] = ~0ull;
    products[1] = a;
    products[2] = b;
    products[3] = a & b;
    products[4] = c;
    products[5] = a & c;
    products[6] = b & c;
    products[7] = a & b & c;
    products[8] = d;
    products[9] = a & d;
    products[10] = b & d;
    products[11] = a & b & d;
    products[12] = c & d;
    products[13] = a & c & d;
    products[14] = b & c & d;
    products[15] = a & b & c & d;
}

// Helper: for every leaf, the products of its bits. `leaves`: first plane, planes, first plane of the result.
KERNEL leaf_monomials(u64 *out, const u64 *planes, const u64 *leaves, u64 width, u64 n) {
    EACH(i, n) {
        const u64 *leaf = &leaves[3 * (i / width)];
        u64 word = i % width, bits[4], products[16];
#pragma unroll
        for (u32 bit = 0; bit < 4; bit++) bits[bit] = bit < leaf[1] ? planes[(leaf[0] + bit) * width + word] : 0;
        subset_products(bits, leaf[1], products);
#pragma unroll
        for (u32 subset = 1; subset < 16; subset++)
            if (subset < 1u << leaf[1]) out[(leaf[2] + subset - 1) * width + word] = products[subset];
    }
}

// Evaluator: adds the generate and the propagate bit of every leaf, linear in the dealt monomials. `leaves`: first plane,
// planes, first monomial, place of the generate bit, place of the propagate bit or all ones if nobody needs it.
KERNEL leaf_bits(u64 *out, const u64 *planes, const u64 *monomials, const u64 *leaves, u64 width, u64 adds_constant,
                 u64 n) {
    EACH(i, n) {
        const u64 *leaf = &leaves[5 * (i / width)];
        u64 word = i % width, bits[4], products[16];
        u32 full = (1u << leaf[1]) - 1;
#pragma unroll
        for (u32 bit = 0; bit < 4; bit++) bits[bit] = bit < leaf[1] ? planes[(leaf[0] + bit) * width + word] : 0;
        subset_products(bits, leaf[1], products);
        u64 generate = 0, propagate = 0;
#pragma unroll
        for (u32 subset = 1; subset < 16; subset++) {
            if (subset > full) continue;
            u64 monomial = monomials[(leaf[2] + subset - 1) * width + word];
            // Chosen among registers: `full` is 1, 3, 7 or 15.
            u64 outside = 0, above = 0;
#pragma unroll
            for (u32 count = 1; count <= 4; count++) {
                const u32 all = (1u << count) - 1;
                if (all != full || subset > all) continue;
                u32 lowest = subset & (0 - subset), rest = all & ~subset;
                outside = products[rest];
                above = products[(rest & ~(lowest - 1)) | lowest];
            }
            generate ^= above & monomial;
            propagate ^= outside & monomial;
        }
        if (adds_constant) {
#pragma unroll
            for (u32 count = 1; count <= 4; count++)
                if ((1u << count) - 1 == full) propagate ^= products[(1u << count) - 1];
        }
        out[leaf[3] * width + word] ^= generate;
        if (leaf[4] != ~0ull) out[leaf[4] * width + word] ^= propagate;
    }
}

// Helper: products of masks. `sets`: how many wires, and up to four wires.
KERNEL mask_products(u64 *out, const u64 *masks, const u64 *sets, u64 width, u64 n) {
    EACH(i, n) {
        const u64 *set = &sets[5 * (i / width)];
        u64 word = i % width, product = ~0ull;
        for (u64 wire = 0; wire < set[0]; wire++) product &= masks[set[1 + wire] * width + word];
        out[i] = product;
    }
}

// Evaluator: adds its addend of every sum of products. `sums`: first product of each sum, and the end of all. `products`:
// how many wires, up to four wires, and for each of the sets of wires 1 .. 15 where its mask lies: a wire, or, with the
// top bit set, a plane of `dealt`.
KERNEL sums_of_products(u64 *out, const u64 *known, const u64 *masks, const u64 *dealt, const u64 *sums,
                        const u64 *products, u64 width, u64 adds_known, u64 n) {
    EACH(i, n) {
        u64 sum = i / width, word = i % width, total = 0;
        for (u64 at = sums[sum]; at < sums[sum + 1]; at++) {
            const u64 *product = &products[20 * at];
            u64 bits[4], all_products[16];
            u32 count = (u32)product[0], full = (1u << count) - 1;
#pragma unroll
            for (u32 wire = 0; wire < 4; wire++)
                bits[wire] = wire < count ? known[product[1 + wire] * width + word] : ~0ull;
            // Wires that are not there count as ones: then what lies outside of a set is one index for every count.
            subset_products(bits, 4, all_products);
#pragma unroll
            for (u32 set = 1; set < 16; set++) {
                if (set > full) continue;
                u64 place = product[4 + set];
                u64 mask = place >> 63 ? dealt[(place & ~(1ull << 63)) * width + word] : masks[place * width + word];
                total ^= all_products[15 & ~set] & mask;
            }
            if (adds_known) total ^= all_products[15];
        }
        out[i] ^= total;
    }
}

// Exclusive or of planes into others: pairs (into, from). No plane is both.
KERNEL xor_planes(u64 *planes, const u64 *pairs, u64 width, u64 n) {
    EACH(i, n) {
        const u64 *pair = &pairs[2 * (i / width)];
        planes[pair[0] * width + i % width] ^= planes[pair[1] * width + i % width];
    }
}
