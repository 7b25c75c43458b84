//! Floats of 16 bits.

/// The number that IEEE 754's 16-bit format writes so.
pub(crate) fn float16(bits: u16) -> f64 {
    let fraction = f64::from(bits & 0x3ff) / 1024.0;
    let magnitude = match (bits >> 10) & 31 {
        0 => fraction / 16384.0,
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        exponent => (1.0 + fraction) * f64::from(i32::from(exponent) - 15).exp2(),
    };
    if bits >> 15 == 0 { magnitude } else { -magnitude }
}

/// The number whose upper half as a 32-bit float this is.
pub(crate) fn bfloat16(bits: u16) -> f64 {
    f64::from(f32::from_bits(u32::from(bits) << 16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_of_16_bits_read_as_ieee_754_defines_them() {
        let cases = [(0x0000, 0.0), (0x3c00, 1.0), (0xc500, -5.0), (0x7bff, 65504.0), (0x3555, 0.333_251_953_125)];
        for (bits, want) in cases {
            assert_eq!(float16(bits), want);
        }
        assert_eq!(float16(0x0001), (-24.0_f64).exp2());
        assert_eq!(float16(0xfc00), f64::NEG_INFINITY);
        assert!(float16(0x7e00).is_nan() && float16(0x8000).is_sign_negative());
        assert_eq!((bfloat16(0x3f80), bfloat16(0xc0a0)), (1.0, -5.0));
    }
}
