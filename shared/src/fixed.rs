//! Real numbers as ring elements: `x` is stored as `round(x * 2^f) mod 2^64`.

use serde::{Deserialize, Serialize};

/// How many of the 64 bits lie behind the binary point.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct FixedPoint {
    bits: u32,
}

/// Why a number or a precision was refused.
#[derive(Debug, thiserror::Error, Clone, PartialEq)]
pub enum FixedError {
    /// Not a finite number.
    #[error("{0} is not a finite number")]
    NotFinite(f64),
    /// Too large to compute with.
    #[error("magnitude is too large for fixed point: values must lie within +-{max}; {remedy}")]
    TooLarge {
        /// The bound.
        max: f64,
        /// What to do about it.
        remedy: &'static str,
    },
    /// Unsupported precision.
    #[error("{0} fraction bits: 8 to 20 are supported")]
    FractionBits(u32),
}

impl FixedPoint {
    /// 16 fraction bits.
    pub const DEFAULT: Self = Self { bits: 16 };

    /// A precision of 8 to 20 fraction bits.
    pub fn new(bits: u32) -> Result<Self, FixedError> {
        if (8..=20).contains(&bits) { Ok(Self { bits }) } else { Err(FixedError::FractionBits(bits)) }
    }

    /// Number of fraction bits.
    pub const fn bits(self) -> u32 {
        self.bits
    }

    /// 2^f.
    pub fn scale(self) -> f64 {
        f64::from(1_u32 << self.bits)
    }

    /// Encodes a number that is known to be in range: a constant of ours, or a value that
    /// [`ProtocolSpec::check_value`](crate::job::ProtocolSpec::check_value) let pass.
    #[allow(clippy::cast_possible_truncation, reason = "constants are far below 2^47")]
    pub fn constant(self, value: f64) -> u64 {
        ((value * self.scale()).round() as i64).cast_unsigned()
    }

    /// The real number that a ring element stands for.
    #[allow(clippy::cast_precision_loss, reason = "a double holds every value we open to 2^-52 relative")]
    pub fn decode(self, word: u64) -> f64 {
        word.cast_signed() as f64 / self.scale()
    }
}

impl Default for FixedPoint {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl TryFrom<u32> for FixedPoint {
    type Error = FixedError;
    fn try_from(bits: u32) -> Result<Self, FixedError> {
        Self::new(bits)
    }
}

impl From<FixedPoint> for u32 {
    fn from(fixed: FixedPoint) -> u32 {
        fixed.bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn decoding_undoes_encoding_to_half_a_unit(value in -16_383.0..16_383.0, bits in 8_u32..=20) {
            let fixed = FixedPoint::new(bits).unwrap();
            let back = fixed.decode(fixed.constant(value));
            prop_assert!((back - value).abs() <= 0.5 / fixed.scale());
        }
    }

    #[test]
    fn negative_numbers_wrap_and_unsupported_precisions_are_refused() {
        assert_eq!(FixedPoint::DEFAULT.constant(-0.5), (-32_768_i64).cast_unsigned());
        assert_eq!(FixedPoint::new(7), Err(FixedError::FractionBits(7)));
        assert_eq!(FixedPoint::new(21), Err(FixedError::FractionBits(21)));
    }
}
