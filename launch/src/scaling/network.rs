//! What lies between two parties.

use std::fmt;
use std::str::FromStr;

/// Where the parties are.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Network {
    /// All parties on one machine.
    Local,
    /// Each party on hosts of its own.
    Remote(Link),
}

/// The link of each host to both other parties.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Link {
    /// There and back, seconds.
    pub(crate) round_trip: f64,
    /// Bits per second that leave a host, to both peers together.
    pub(crate) bandwidth: f64,
    /// Share of packets lost.
    pub(crate) loss: f64,
}

/// A unit and what one of it is.
type Unit = (&'static str, f64);

const RATES: [Unit; 3] = [("kbit", 1e3), ("mbit", 1e6), ("gbit", 1e9)];
/// The longer names first: `ms` ends in `s`.
const TIMES: [Unit; 3] = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0)];

/// `100gbit,0.1ms`, `1gbit,5ms,0.1%`: rate, round trip, and packets lost.
impl FromStr for Link {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        let (rate, time, loss) = match parts[..] {
            [rate, time] => (rate, time, "0%"),
            [rate, time, loss] => (rate, time, loss),
            _ => {
                let form = "RATE,ROUND-TRIP[,LOSS] is due, as in 100gbit,0.1ms or 1gbit,5ms,0.1%";
                return Err(format!("{text:?} has {} parts: {form}", parts.len()));
            }
        };
        let bandwidth = quantity(rate, "the rate", &RATES)?;
        if bandwidth <= 0.0 {
            return Err(format!("the rate {rate:?} must be above 0"));
        }
        let loss = quantity(loss, "the loss", &[("%", 0.01)])?;
        if loss >= 1.0 {
            return Err(format!("a loss of {:.0} % lets nothing through", 100.0 * loss));
        }
        Ok(Self { round_trip: quantity(time, "the round trip", &TIMES)?, bandwidth, loss })
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} Gbit/s, {} ms", rounded(self.bandwidth / 1e9), rounded(self.round_trip * 1e3))?;
        if self.loss > 0.0 { write!(f, ", {} % lost", rounded(100.0 * self.loss)) } else { Ok(()) }
    }
}

/// Three digits behind the point are enough for people.
fn rounded(value: f64) -> f64 {
    (1e3 * value).round() / 1e3
}

/// A number with its unit.
fn quantity(text: &str, what: &str, units: &[Unit]) -> Result<f64, String> {
    let lower = text.to_ascii_lowercase();
    let found = units.iter().find_map(|(unit, one)| Some((lower.strip_suffix(unit)?.trim(), one)));
    let value = found.and_then(|(number, one)| Some(number.parse::<f64>().ok()? * one));
    let names: Vec<&str> = units.iter().map(|(unit, _)| *unit).collect();
    let value = value.filter(|value| value.is_finite() && *value >= 0.0);
    value.ok_or_else(|| format!("{what} {text:?} is no number with a unit ({})", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_read_as_people_write_them() {
        let link = |text: &str| text.parse::<Link>().unwrap();
        let close = |a: f64, b: f64| (a - b).abs() < 1e-9 * b.max(1.0);
        let fast = link("100gbit,0.1ms");
        assert!(close(fast.bandwidth, 100e9) && close(fast.round_trip, 1e-4) && fast.loss == 0.0);
        let same = link(" 100 Gbit , 100us ");
        assert!(same.bandwidth == fast.bandwidth && close(same.round_trip, fast.round_trip));
        let far = link("100mbit,0.04s,0.1%");
        assert!(close(far.bandwidth, 1e8) && close(far.round_trip, 0.04) && close(far.loss, 1e-3));
        assert_eq!(far.to_string(), "0.1 Gbit/s, 40 ms, 0.1 % lost");
    }

    #[test]
    fn what_is_no_link_is_refused_by_its_part() {
        let refused = |text: &str| text.parse::<Link>().unwrap_err();
        assert!(refused("100gbit").contains("has 1 parts: RATE,ROUND-TRIP[,LOSS] is due"));
        assert!(refused("fast,1ms").contains("the rate \"fast\" is no number with a unit (kbit, mbit, gbit)"));
        assert!(refused("100,1ms").contains("the rate \"100\""));
        assert!(refused("0gbit,1ms").contains("must be above 0"));
        assert!(refused("1gbit,5").contains("the round trip \"5\" is no number with a unit (us, ms, s)"));
        assert!(refused("1gbit,-5ms").contains("the round trip \"-5ms\""));
        assert!(refused("1gbit,5ms,0.1").contains("the loss \"0.1\" is no number with a unit (%)"));
        assert!(refused("1gbit,5ms,100%").contains("lets nothing through"));
        assert!(refused("1gbit,infms").contains("the round trip"));
    }
}
