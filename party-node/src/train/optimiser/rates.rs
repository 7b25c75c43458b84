//! Public rates as integers that a truncation takes back.

/// Significant bits of a public rate.
const RATE_BITS: i32 = 11;
/// Bits that a learning rate must keep; a smaller one would train with a rate that is far from what was asked.
const RATE_BITS_MIN: u64 = 1 << 5;

/// Public rates as integers over a power of two.
#[derive(Debug, PartialEq, Clone)]
pub(super) struct Rates {
    pub(super) integers: Vec<u64>,
    pub(super) shift: u32,
}

impl Rates {
    /// Keeps at least [`RATE_BITS`] bits of every rate, as far as steps up to 32 still fit a truncation: `2^62` must hold
    /// twice a step with twice the fraction bits and the shift.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "shift lies in 0..=24")]
    pub(super) fn new(rates: &[f64], fraction: u32) -> Self {
        let most = (56 - 2 * fraction as i32).min(24);
        let smallest = rates.iter().filter(|rate| **rate != 0.0).map(|rate| exponent(*rate)).min();
        let shift = (RATE_BITS - smallest.unwrap_or(RATE_BITS)).clamp(0, most);
        let integers: Vec<i64> = rates.iter().map(|rate| (rate * f64::from(1_u32 << shift)).round() as i64).collect();
        let spare = integers.iter().map(|i| i.trailing_zeros()).min().unwrap_or(0).min(shift as u32);
        Self { integers: integers.iter().map(|i| (i >> spare).cast_unsigned()).collect(), shift: shift as u32 - spare }
    }
}

/// The power of two at or below a positive number, on every machine the same.
#[allow(clippy::cast_possible_truncation, reason = "an exponent has 11 bits")]
pub(super) fn exponent(rate: f64) -> i32 {
    (rate.to_bits() >> 52) as i32 - 1023
}

/// Refuses a learning rate, over a batch, that fixed point cannot hold.
pub(super) fn check(lr: f64, batch: usize, fraction: u32) -> Result<(), String> {
    #[allow(clippy::cast_precision_loss, reason = "a batch has far fewer than 2^52 samples")]
    let rate = lr / batch as f64;
    let rates = Rates::new(&[rate], fraction);
    let exact = rates.integers[0] != 0 && rates.integers[0].is_power_of_two();
    if rate == 0.0 || exact || rates.integers[0] >= RATE_BITS_MIN {
        return Ok(());
    }
    let why = "is too small for fixed point; raise train.lr, or lower train.batch or protocol.fraction_bits";
    Err(format!("the learning rate {lr} over a batch of {batch} {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_keep_their_leading_bits() {
        assert_eq!(Rates::new(&[0.5 / 64.0], 16), Rates { integers: vec![1], shift: 7 });
        let rates = Rates::new(&[0.1 / 128.0, 0.9], 16);
        for (integer, want) in rates.integers.iter().zip([0.1 / 128.0, 0.9]) {
            let got = *integer as f64 / f64::from(1_u32 << rates.shift);
            assert!((got / want - 1.0).abs() < 1.0 / 2048.0, "{got} {want}");
        }
    }

    #[test]
    fn a_rate_that_fixed_point_cannot_hold_is_refused() {
        assert!(check(0.1, 128, 16).is_ok());
        assert!(check(0.1, 128, 20).is_ok());
        assert!(check(1e-5, 1024, 16).unwrap_err().contains("too small"));
    }
}
