// Tables in double precision. Every operation is rounded by itself, so that all devices find the same words.

// e^(i step) as the product of two entries; higher bits of i are ignored.
struct Powers {
    const f64 *low, *high;
    u64 low_bits, high_bits_count;

    DEVICE_MEMBER f64 of(u64 i) const {
        return __dmul_rn(low[i & ((1ull << low_bits) - 1)], high[i >> low_bits & ((1ull << high_bits_count) - 1)]);
    }
};

// Of a positive number below 2^62.
DEVICE u64 nearest_positive(f64 value) { return __double2ull_rz(__dadd_rn(value, 0.5)); }

// Helper: both entries for every element, swapped where the mask is set.
KERNEL exp_table(u64 *out, const u64 *known, const u64 *mask, Powers powers, f64 scale, f64 scale_carried, u64 n) {
    EACH(i, n) {
        f64 power = powers.of(known[i]);
        u64 plain = nearest_positive(__dmul_rn(power, scale)), carried = nearest_positive(__dmul_rn(power, scale_carried));
        u64 swap = (plain ^ carried) & (0 - bit_of(mask, i));
        out[2 * i] = plain ^ swap;
        out[2 * i + 1] = carried ^ swap;
    }
}

// Evaluator: the entry that the bit names, times its own power.
KERNEL exp_pick(u64 *out, const u64 *known, const u64 *selector, const u64 *table, Powers powers, f64 scale, u64 n) {
    EACH(i, n) out[i] = table[2 * i + bit_of(selector, i)] * nearest_positive(__dmul_rn(powers.of(known[i]), scale));
}

// Words as angles; `turn` has sine and cosine at the start of every piece of a turn.
struct Circle {
    u64 turns, period_bits, pieces_bits;
    const f64 *turn;
    f64 unit_angle;
};

// 1 - square / divisor * factor.
DEVICE f64 taylor(f64 square, f64 divisor, f64 factor) {
    return __dsub_rn(1.0, __dmul_rn(__ddiv_rn(square, divisor), factor));
}

DEVICE void sine_and_cosine(const Circle &circle, u64 word, f64 &sine, f64 &cosine) {
    u64 within = word * circle.turns & ((1ull << circle.period_bits) - 1), rest_bits = circle.period_bits - circle.pieces_bits;
    u64 piece = within >> rest_bits;
    f64 x = __dmul_rn(__uint2double_rn((u32)(within & ((1ull << rest_bits) - 1))), circle.unit_angle);
    f64 square = __dmul_rn(x, x);
    f64 sine_rest = __dmul_rn(x, taylor(square, 6.0, taylor(square, 20.0, __dsub_rn(1.0, __ddiv_rn(square, 42.0)))));
    f64 cosine_rest = taylor(square, 2.0, taylor(square, 12.0, __dsub_rn(1.0, __ddiv_rn(square, 30.0))));
    f64 s = circle.turn[2 * piece], c = circle.turn[2 * piece + 1];
    sine = __dadd_rn(__dmul_rn(s, cosine_rest), __dmul_rn(c, sine_rest));
    cosine = __dsub_rn(__dmul_rn(c, cosine_rest), __dmul_rn(s, sine_rest));
}

// From a multiple of an angle to the next.
DEVICE void turn_on(f64 sine_1, f64 cosine_1, f64 &sine, f64 &cosine) {
    f64 s = sine, c = cosine;
    sine = __dadd_rn(__dmul_rn(s, cosine_1), __dmul_rn(c, sine_1));
    cosine = __dsub_rn(__dmul_rn(c, cosine_1), __dmul_rn(s, sine_1));
}

// The ring element nearest to a number below 2^51: beside 1.5 2^52 a double counts units, and its bits with them.
DEVICE u64 nearest(f64 value) {
    const f64 units = 6755399441055744.0;
    return (u64)__double_as_longlong(__dadd_rn(value, units)) - (u64)__double_as_longlong(units);
}

// Helper: sines and cosines of the multiples 1 .. harmonics of every word's angle, times `scale`.
KERNEL series_table(u64 *out, const u64 *words, Circle circle, u64 harmonics, f64 scale, u64 n) {
    EACH(i, n) {
        f64 sine_1, cosine_1;
        sine_and_cosine(circle, words[i], sine_1, cosine_1);
        f64 sine = sine_1, cosine = cosine_1;
        for (u64 k = 0; k < harmonics; k++) {
            out[2 * k * n + i] = nearest(__dmul_rn(sine, scale));
            out[(2 * k + 1) * n + i] = nearest(__dmul_rn(cosine, scale));
            turn_on(sine_1, cosine_1, sine, cosine);
        }
    }
}

// Evaluator: adds every harmonic to every part. `coefficients`: by part, by harmonic. A part is a value (multiples of
// cos(t + l)) or, where its bit of `slopes` is set, a slope (of sin(t + l)).
KERNEL series_sums(u64 *sums, const u64 *words, const u64 *table, Circle circle, const f64 *coefficients,
                   u64 harmonics, u64 parts, u64 slopes, u64 n) {
    EACH(i, n) {
        f64 sine_1, cosine_1;
        sine_and_cosine(circle, words[i], sine_1, cosine_1);
        f64 sine = sine_1, cosine = cosine_1;
        for (u64 k = 0; k < harmonics; k++) {
            u64 dealt_sine = table[2 * k * n + i], dealt_cosine = table[(2 * k + 1) * n + i];
            for (u64 part = 0; part < parts; part++) {
                f64 coefficient = coefficients[part * harmonics + k];
                bool slope = slopes >> part & 1;
                f64 by_sine = slope ? cosine : sine, by_cosine = slope ? sine : cosine;
                u64 with_sine = nearest(__dmul_rn(by_sine, slope ? coefficient : -coefficient)) * dealt_sine;
                sums[part * n + i] += with_sine + nearest(__dmul_rn(by_cosine, coefficient)) * dealt_cosine;
            }
            turn_on(sine_1, cosine_1, sine, cosine);
        }
    }
}
