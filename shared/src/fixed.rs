//! Real numbers as ring elements: `x` is stored as `round(x * 2^f) mod 2^64`.

use serde::{Deserialize, Serialize};

/// How many of the 64 bits lie behind the binary point.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct FixedPoint {
    bits: u32,
}

/// Data values must stay below 2^14 so that differences still fit the 32-bit comparison window at 16 fraction bits.
pub const DATA_MAGNITUDE_MAX: f64 = 16_384.0;

/// Why a number or a precision was refused.
#[derive(Debug, thiserror::Error, Clone, PartialEq)]
pub enum FixedError {
    /// Not a finite number.
    #[error("{0} is not a finite number")]
    NotFinite(f64),
    /// Too large to compute with.
    #[error(
        "magnitude is too large for fixed point: values must lie within +-{max}; rescale or standardise the column"
    )]
    TooLarge {
        /// The bound.
        max: f64,
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

    /// Encodes a data value; refuses what the protocols could not compute with.
    pub fn encode(self, value: f64) -> Result<u64, FixedError> {
        if !value.is_finite() {
            return Err(FixedError::NotFinite(value));
        }
        if value.abs() >= DATA_MAGNITUDE_MAX {
            return Err(FixedError::TooLarge { max: DATA_MAGNITUDE_MAX });
        }
        Ok(self.constant(value))
    }

    /// Encodes a public constant of ours, known to be in range.
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
            let back = fixed.decode(fixed.encode(value).unwrap());
            prop_assert!((back - value).abs() <= 0.5 / fixed.scale());
        }
    }

    #[test]
    fn what_cannot_be_computed_with_is_refused() {
        let fixed = FixedPoint::DEFAULT;
        for value in [f64::NAN, f64::INFINITY, 16_384.0, -1e300] {
            assert!(fixed.encode(value).is_err(), "{value}");
        }
        assert_eq!(fixed.encode(-0.5), Ok((-32_768_i64).cast_unsigned()));
        assert_eq!(FixedPoint::new(21), Err(FixedError::FractionBits(21)));
    }
}
