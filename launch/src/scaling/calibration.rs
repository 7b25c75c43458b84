//! What a machine can do, as a file says (docs/formats.md, "Calibration").

use serde::Deserialize;

/// Layout of a calibration; it changes when a key changes its meaning or goes away.
const SCHEMA: &str = "trefoil-calibration/1";
/// Those that come with the program.
const SHIPPED: [(&str, &str); 2] =
    [("cpu", include_str!("../../calibrations/cpu.toml")), ("h200", include_str!("../../calibrations/h200.toml"))];

/// What lanes compute on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Cores of the host, which lanes and the wire share.
    Cpu,
    /// A device for each lane; the host's cores are for the wire.
    Gpu,
}

/// What a machine can do.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Calibration {
    schema: String,
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Whether the figures were measured, and not only thought up.
    pub(crate) measured: bool,
    /// One line on where they come from.
    pub(crate) note: String,
    pub(crate) device: Device,
    pub(crate) host: Host,
    pub(crate) collective: Collective,
}

/// What a lane computes with: a core, or a GPU.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Device {
    /// Multiply-adds of a matrix product, and seconds that it takes.
    products: Vec<(f64, f64)>,
    /// How many times longer with another instruction set than the one behind `products`.
    #[serde(default)]
    products_slower: std::collections::BTreeMap<String, f64>,
    /// Local work for each byte sent: masks, truncations, packing, copies.
    pub(crate) sent_byte_seconds: f64,
    /// To start a kernel.
    pub(crate) kernel_seconds: f64,
    /// Kernels between two messages.
    pub(crate) kernels_per_round: f64,
}

/// What lanes of a party share.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Host {
    /// Cores; 0 for those of the machine that asks.
    pub(crate) cores: f64,
    /// Lanes on a host.
    pub(crate) lanes_max: u16,
    /// Processor time of the wire, both ends, for each byte.
    pub(crate) wire_byte_seconds: f64,
    /// Likewise, for each packet between hosts.
    pub(crate) packet_seconds: f64,
    /// What a hop takes besides the way, on one machine: waking up, encryption, work between two messages.
    pub(crate) local_hop_seconds: f64,
    /// Likewise, between hosts.
    pub(crate) remote_hop_seconds: f64,
    /// How much of what other lanes compute and send a lane waits for, between hosts: 0 to 1.
    pub(crate) contention: f64,
}

/// Sums among a party's own lanes.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Collective {
    /// An exchange without data.
    pub(crate) exchange_seconds: f64,
    /// For each byte that a lane takes in, on one host.
    pub(crate) byte_seconds: f64,
    /// Likewise, of each host from the others.
    pub(crate) byte_seconds_between_hosts: f64,
}

/// Why a calibration cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CalibrationError {
    /// None of this name.
    #[error("--device {0}: cpu and h200 come with the program; --calibration takes a file of your own")]
    Unknown(String),
    /// Not what a calibration looks like.
    #[error("calibration {from}: {reason}")]
    Malformed {
        /// The file.
        from: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Calibration {
    /// One that comes with the program.
    pub(crate) fn shipped(name: &str) -> Result<Self, CalibrationError> {
        let found = SHIPPED.iter().find(|(shipped, _)| *shipped == name);
        let (name, text) = found.ok_or_else(|| CalibrationError::Unknown(name.into()))?;
        Self::read(text, name)
    }

    /// This machine's: that of CPUs, for the instruction set that is found here.
    pub(crate) fn here() -> Self {
        let mut calibration = Self::shipped("cpu").expect("a test reads what comes with the program");
        let slower = calibration.device.products_slower.get(instruction_set()).copied().unwrap_or(1.0);
        calibration.device.products.iter_mut().for_each(|(_, seconds)| *seconds *= slower);
        calibration
    }

    /// From the text of a file, whose name `from` errors mention.
    pub(crate) fn read(text: &str, from: &str) -> Result<Self, CalibrationError> {
        let malformed = |reason: String| CalibrationError::Malformed { from: from.into(), reason };
        let read: Self = toml::from_str(text).map_err(|error| malformed(error.to_string().trim_end().into()))?;
        read.check().map_err(malformed)?;
        Ok(read)
    }

    fn check(&self) -> Result<(), String> {
        let Self { device, host, collective, .. } = self;
        if self.schema != SCHEMA {
            return Err(format!("schema = {:?} where {SCHEMA:?} is due", self.schema));
        }
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let grows = device.products.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
        if device.products.is_empty() || !grows || !device.products.iter().all(|(n, s)| positive(*n) && positive(*s)) {
            return Err("device.products must be pairs of multiply-adds and seconds, both above 0, growing".into());
        }
        if let Some((set, times)) = device.products_slower.iter().find(|(_, times)| !positive(**times)) {
            return Err(format!("device.products_slower.{set} = {times} must be above 0"));
        }
        let amounts = [
            ("device.sent_byte_seconds", device.sent_byte_seconds),
            ("device.kernel_seconds", device.kernel_seconds),
            ("device.kernels_per_round", device.kernels_per_round),
            ("host.cores", host.cores),
            ("host.wire_byte_seconds", host.wire_byte_seconds),
            ("host.packet_seconds", host.packet_seconds),
            ("host.local_hop_seconds", host.local_hop_seconds),
            ("host.remote_hop_seconds", host.remote_hop_seconds),
            ("collective.exchange_seconds", collective.exchange_seconds),
            ("collective.byte_seconds", collective.byte_seconds),
            ("collective.byte_seconds_between_hosts", collective.byte_seconds_between_hosts),
        ];
        if let Some((key, value)) = amounts.iter().find(|(_, value)| !(value.is_finite() && *value >= 0.0)) {
            return Err(format!("{key} = {value} must not be negative"));
        }
        if host.lanes_max == 0 {
            return Err("host.lanes_max = 0 must be at least 1".into());
        }
        if !(0.0..=1.0).contains(&host.contention) {
            return Err(format!("host.contention = {} must be from 0 to 1", host.contention));
        }
        Ok(())
    }
}

impl Device {
    /// Seconds of a matrix product of so many multiply-adds. Between two that are given, seconds grow evenly on logarithmic
    /// scales; beyond them the nearest rate goes on, but no product takes less than the start of a kernel.
    pub(crate) fn product_seconds(&self, products: f64) -> f64 {
        if products <= 0.0 {
            return 0.0;
        }
        let points = &self.products;
        let above = points.partition_point(|(size, _)| *size < products);
        let seconds = match (above.checked_sub(1).map(|below| points[below]), points.get(above)) {
            (Some((from, least)), Some((to, most))) => {
                let part = (products / from).ln() / (to / from).ln();
                least * (most / least).powf(part)
            }
            (Some((size, seconds)), None) => seconds * products / size,
            (None, first) => first.map_or(0.0, |(size, seconds)| seconds * products / size),
        };
        seconds.max(self.kernel_seconds)
    }
}

/// The one that kernels of this machine use, by the names of `device.products_slower`.
fn instruction_set() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    return match () {
        () if is_x86_feature_detected!("avx512dq") && is_amx() => "amx",
        () if is_x86_feature_detected!("avx512dq") => "avx512",
        () if is_x86_feature_detected!("avx2") => "avx2",
        () => "portable",
    };
    #[cfg(not(target_arch = "x86_64"))]
    "portable"
}

/// Whether the processor has tiles of bytes; the standard library cannot tell yet.
#[cfg(target_arch = "x86_64")]
fn is_amx() -> bool {
    const AMX_INT8: u32 = 1 << 25;
    // Leaf 7 exists where AVX-512 does.
    core::arch::x86_64::__cpuid_count(7, 0).edx & AMX_INT8 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_with_the_program_can_be_read() {
        for (name, _) in SHIPPED {
            let calibration = Calibration::shipped(name).unwrap();
            assert_eq!(calibration.name, name);
            assert_eq!(calibration.measured, calibration.kind == Kind::Cpu, "{name}");
        }
        assert!(Calibration::shipped("h200").unwrap().note.contains("not measured"));
        let error = Calibration::shipped("b200").unwrap_err().to_string();
        assert!(error.starts_with("--device b200: cpu and h200"), "{error}");
    }

    #[test]
    fn a_bad_calibration_is_named_by_its_key() {
        let (_, good) = SHIPPED[0];
        let refused =
            |from: &str, to: &str| Calibration::read(&good.replace(from, to), "own.toml").unwrap_err().to_string();
        let error = refused("kernel_seconds = 0.0", "kernel_seconds = -1.0");
        assert_eq!(error, "calibration own.toml: device.kernel_seconds = -1 must not be negative");
        assert!(refused("contention = 0.7", "contention = 1.5").contains("host.contention = 1.5 must be from 0 to 1"));
        assert!(refused("calibration/1", "calibration/2").contains("is due"));
        assert!(refused("[host]", "[host]\ncoars = 3").contains("unknown field `coars`"));
        assert!(refused("[[12.8e6, 0.32e-3], ", "[[12.8e9, 0.32e-3], ").contains("device.products must be pairs"));
        assert!(refused("lanes_max = 256", "lanes_max = 0").contains("host.lanes_max"));
    }

    #[test]
    fn larger_products_never_take_less_time() {
        for (name, _) in SHIPPED {
            let device = Calibration::shipped(name).unwrap().device;
            for (size, seconds) in &device.products {
                assert!((device.product_seconds(*size) / seconds - 1.0).abs() < 1e-9);
            }
            let sizes: Vec<f64> = (0..120).map(|i| 10_f64.powf(f64::from(i) / 10.0)).collect();
            let seconds: Vec<f64> = sizes.iter().map(|size| device.product_seconds(*size)).collect();
            assert!(seconds.windows(2).all(|pair| pair[0] <= pair[1]), "{name}: {seconds:?}");
            assert!(seconds[0] >= device.kernel_seconds && device.product_seconds(0.0) == 0.0);
        }
    }
}
