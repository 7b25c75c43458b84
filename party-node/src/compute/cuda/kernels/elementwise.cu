// Element-wise steps of the protocols; names and meanings are those of compute/elementwise.rs.

KERNEL add_assign(u64 *x, const u64 *y, u64 n) {
    EACH(i, n) x[i] += y[i];
}

KERNEL sub_assign(u64 *x, const u64 *y, u64 n) {
    EACH(i, n) x[i] -= y[i];
}

KERNEL add(u64 *out, const u64 *x, const u64 *y, u64 n) {
    EACH(i, n) out[i] = x[i] + y[i];
}

KERNEL sub(u64 *out, const u64 *x, const u64 *y, u64 n) {
    EACH(i, n) out[i] = x[i] - y[i];
}

KERNEL scale(u64 *out, const u64 *x, u64 k, u64 n) {
    EACH(i, n) out[i] = k * x[i];
}

KERNEL add_scaled(u64 *x, const u64 *y, u64 k, u64 n) {
    EACH(i, n) x[i] += k * y[i];
}

KERNEL scale_each(u64 *x, const u64 *k, u64 n) {
    EACH(i, n) x[i] *= k[i];
}

KERNEL xor_assign(u64 *x, const u64 *y, u64 n) {
    EACH(i, n) x[i] ^= y[i];
}

KERNEL xor_and_assign(u64 *x, const u64 *y, const u64 *z, u64 n) {
    EACH(i, n) x[i] ^= y[i] & z[i];
}

KERNEL and_assign(u64 *x, const u64 *y, u64 n) {
    EACH(i, n) x[i] &= y[i];
}

KERNEL xor_constant(u64 *x, u64 k, u64 n) {
    EACH(i, n) x[i] ^= k;
}

KERNEL add_constant(u64 *x, u64 k, u64 n) {
    EACH(i, n) x[i] += k;
}

KERNEL add_words(u64 *x, const u64 *y, u64 constant, u64 n) {
    EACH(i, n) x[i] += y[i] + constant;
}

KERNEL fill(u64 *x, u64 value, u64 n) {
    EACH(i, n) x[i] = value;
}

KERNEL product_of_sums(u64 *out, u64 k, u64 c, const u64 *x, const u64 *y, const u64 *z, const u64 *w, u64 n) {
    EACH(i, n) out[i] = k * (x[i] + c * y[i]) * (z[i] + c * w[i]);
}

// An evaluator's addend of a plain product: x and y are (u, v) of its role; `both` is 1 where it also adds u u'.
KERNEL mul_addend(u64 *out, const u64 *xu, const u64 *xv, const u64 *yu, const u64 *yv, u64 both, u64 n) {
    EACH(i, n) out[i] += xu[i] * (yv[i] + both * yu[i]) + xv[i] * yu[i];
}

KERNEL trunc_mask(u64 *mask, u64 *top, u64 shift, u64 n) {
    EACH(i, n) {
        u64 word = mask[i];
        top[i] = word >> 63;
        mask[i] = 0 - (word >> shift);
    }
}

KERNEL trunc_wrap(u64 *out, const u64 *w, const u64 *dealt, const u64 *mask, u64 shift, u64 n) {
    EACH(i, n) out[i] = ((1 ^ w[i] >> 63) * dealt[i] + mask[i]) & low_bits(shift);
}

KERNEL trunc_finish(u64 *w, const u64 *mine, const u64 *theirs, u64 shift, u64 n) {
    EACH(i, n) w[i] = (w[i] >> shift) - (1ull << (62 - shift)) + ((mine[i] + theirs[i]) << (64 - shift));
}

// Both halves of an exchange, and the addend of the wrap bit.
KERNEL trunc_open(u64 *w, u64 *wrap, const u64 *theirs, const u64 *dealt, const u64 *mask, u64 constant, u64 shift, u64 n) {
    EACH(i, n) {
        u64 word = w[i] + theirs[i] + constant;
        w[i] = word;
        wrap[i] = ((1 ^ word >> 63) * dealt[i] + mask[i]) & low_bits(shift);
    }
}

// The result, and the evaluator's own component without its mask of the wrap bit.
KERNEL trunc_close(u64 *w, u64 *own, const u64 *mine, const u64 *theirs, const u64 *mask, u64 shift, u64 n) {
    EACH(i, n) {
        w[i] = (w[i] >> shift) - (1ull << (62 - shift)) + ((mine[i] + theirs[i]) << (64 - shift));
        own[i] -= mask[i] << (64 - shift);
    }
}

// Both halves of an exchange into the public component; the own one is the mask's negative.
KERNEL exchange_close(u64 *t, u64 *mask, const u64 *mine, const u64 *theirs, u64 n) {
    EACH(i, n) {
        t[i] += mine[i] + theirs[i];
        mask[i] = 0 - mask[i];
    }
}

KERNEL sub_shifted(u64 *x, const u64 *mask, u64 by, u64 n) {
    EACH(i, n) x[i] -= mask[i] << by;
}

KERNEL shift_right(u64 *x, u64 by, u64 n) {
    EACH(i, n) x[i] >>= by;
}

KERNEL masked_bits(u64 *out, const u64 *x, u64 flip, u64 bits, u64 n) {
    EACH(i, n) out[i] = (x[i] ^ flip) & low_bits(bits);
}

KERNEL bits_to_words(u64 *out, const u64 *plane, u64 n) {
    EACH(i, n) out[i] = bit_of(plane, i);
}

KERNEL bit_times_sum(u64 *out, const u64 *plane, const u64 *a, const u64 *b, u64 n) {
    EACH(i, n) out[i] = (0 - bit_of(plane, i)) & (a[i] + b[i]);
}

KERNEL inject_addend(u64 *z, u64 *t_out, const u64 *plane, const u64 *t, const u64 *own, const u64 *lb,
                     const u64 *lblx, u64 n) {
    EACH(i, n) {
        u64 m = 0 - bit_of(plane, i);
        u64 selected = t[i] * lb[i] + lblx[i];
        z[i] += (m & own[i]) + ((selected ^ m) - m);
        t_out[i] += m & t[i];
    }
}

KERNEL inject_public_addend(u64 *z, u64 *t_out, const u64 *plane, u64 k, const u64 *lb, u64 n) {
    EACH(i, n) {
        u64 m = 0 - bit_of(plane, i);
        z[i] += (k * lb[i] ^ m) - m;
        t_out[i] += m & k;
    }
}

// One word of packed values per thread.
KERNEL pack(u64 *out, const u64 *words, u64 len, u64 bits, u64 packed) {
    EACH(j, packed) {
        u64 value = 64 * j / bits, word = 0;
        i64 at = (i64)(value * bits) - (i64)(64 * j);
        for (; at < 64 && value < len; at += (i64)bits, value++) {
            u64 low = words[value] & low_bits(bits);
            word |= at >= 0 ? low << at : low >> -at;
        }
        out[j] = word;
    }
}

KERNEL unpack(u64 *out, const u64 *packed, u64 bits, u64 n) {
    EACH(i, n) {
        u64 at = i * bits, within = at % 64;
        u64 value = packed[at / 64] >> within;
        if (within + bits > 64) value |= packed[at / 64 + 1] << (64 - within);
        out[i] = value & low_bits(bits);
    }
}
