//! The local kernels against the clock. Each takes turns with a floor under its time: the least that its instructions
//! or its bytes take on the same machine at the same moment. Knows no job and no other process.

mod replay;
mod trial;

use std::time::{Duration, Instant};

use serde::Serialize;

use self::trial::Trial;
use crate::compute::{ConvShape, CpuDevice};

/// A kernel on operands of one shape.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kernel {
    /// A ring product. Floor: as many multiply-adds by the same instructions, all operands in registers.
    Product {
        /// Rows, terms and columns.
        shape: [usize; 3],
        /// Whether the left factor lies column by column.
        transposed: bool,
        /// Whether both factors are sums that are formed on the way, as in a product of shares.
        of_sums: bool,
    },
    /// A pass of a convolution, both operands sums. Floor: as of a product.
    Convolution {
        /// What slides over what.
        shape: ConvShape,
        /// Which pass.
        pass: Pass,
    },
    /// ChaCha12 into memory. Floor: the slower of the same blocks left in registers and of writing that much memory.
    Keystream {
        /// Words of the stream.
        words: usize,
        /// Whether it is added to what is there.
        added: bool,
    },
    /// All that one of three parties does for a comparison but sending and waiting: a third of the tiles as helper, a
    /// third as either evaluator. Floor: the keystream that it draws, left in registers, then a copy of half the bytes
    /// that it reads as values and received messages and writes as messages; the logic in between counts nothing.
    Sign {
        /// Values compared with zero.
        values: usize,
    },
    /// Bit planes of words. Floor: a copy of half the bytes that are read and written.
    BitPlanes {
        /// Words that are cut.
        words: usize,
        /// Planes.
        bits: usize,
    },
    /// Low bits of words, joined without gaps as they are sent. Floor: as of bit planes.
    Pack {
        /// Words.
        words: usize,
        /// Bits of each.
        bits: u32,
    },
    /// The way back. Floor: as of bit planes.
    Unpack {
        /// Words.
        words: usize,
        /// Bits of each.
        bits: u32,
    },
}

/// A pass of a convolution.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pass {
    /// From images and weights to the result.
    Forward,
    /// From images and the result's gradient to that of the weights.
    Weights,
    /// From weights and the result's gradient to that of the images.
    Images,
}

impl Pass {
    /// All passes.
    pub const ALL: [Self; 3] = [Self::Forward, Self::Weights, Self::Images];

    /// The matrix product of one group that this pass would be if patches of images were laid out: rows, terms and
    /// columns, and whether its left factor, the patches, would lie column by column.
    pub fn as_product(self, shape: &ConvShape) -> ([usize; 3], bool) {
        let (pixels, terms) = (shape.output_len() / shape.out_channels, shape.terms());
        let cols = shape.out_channels / shape.groups;
        match self {
            Self::Forward => ([pixels, terms, cols], false),
            Self::Weights => ([terms, pixels, cols], true),
            Self::Images => ([pixels, cols, terms], false),
        }
    }
}

/// The kernels that training and inference spend their local time in, on shapes of the reference workloads.
pub const REFERENCE: [Kernel; 14] = [
    Kernel::Product { shape: [128, 784, 128], transposed: false, of_sums: true },
    Kernel::Product { shape: [43, 784, 128], transposed: false, of_sums: true },
    Kernel::Product { shape: [784, 43, 128], transposed: true, of_sums: true },
    Kernel::Product { shape: [512; 3], transposed: false, of_sums: false },
    Kernel::Product { shape: [1024; 3], transposed: false, of_sums: false },
    Kernel::Convolution { shape: square(43, [28, 1], 5, 20), pass: Pass::Forward },
    Kernel::Convolution { shape: square(43, [12, 20], 5, 50), pass: Pass::Forward },
    Kernel::Keystream { words: 1 << 15, added: false },
    Kernel::Keystream { words: 8 << 20, added: false },
    Kernel::Keystream { words: 1 << 15, added: true },
    Kernel::Sign { values: 1_000_000 },
    Kernel::BitPlanes { words: 1 << 15, bits: 31 },
    Kernel::Pack { words: 1 << 15, bits: 17 },
    Kernel::Unpack { words: 1 << 15, bits: 17 },
];

/// A convolution of square images by a square kernel in steps of one, without padding.
const fn square(images: usize, [side, channels]: [usize; 2], kernel: usize, out_channels: usize) -> ConvShape {
    ConvShape {
        images,
        height: side,
        width: side,
        channels,
        kernel: [kernel; 2],
        stride: [1; 2],
        padding: [0; 4],
        dilation: [1; 2],
        groups: 1,
        out_channels,
    }
}

/// Measures the [`REFERENCE`] kernels of this name, or all of them, with the best instructions of this machine: one
/// after the other, as they are asked for.
pub fn reference(name: Option<&str>, threads: usize, runs: Option<usize>) -> impl Iterator<Item = Figures> {
    let device = CpuDevice::new(threads);
    let chosen = REFERENCE.iter().filter(move |kernel| name.is_none_or(|name| kernel.name() == name));
    chosen.map(move |kernel| kernel.measure(&device, runs))
}

/// What a kernel reached, and what it could have reached.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Figures {
    /// Name of the kernel.
    pub kernel: &'static str,
    /// Its operands.
    pub shape: String,
    /// Of `achieved` and `floor`.
    pub unit: &'static str,
    /// Rate at the median time.
    pub achieved: f64,
    /// Rate at the median time of the floor.
    pub floor: f64,
    /// Median over the runs of the floor's time over the kernel's: 1 is as fast as can be.
    pub ratio: f64,
    /// Repetitions.
    pub runs: usize,
    /// Median time of one.
    pub seconds: f64,
    /// The fastest.
    pub seconds_min: f64,
    /// The slowest.
    pub seconds_max: f64,
    /// What computed.
    pub device: String,
    /// Threads that the kernel could use.
    pub threads: usize,
}

/// Time spent on one kernel, and the bounds on its repetitions, unless their number is given.
const TIME: Duration = Duration::from_secs(1);
const RUNS_MIN: usize = 5;
const RUNS_MAX: usize = 1000;

impl Kernel {
    /// Name of the kernel.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Product { of_sums: false, .. } => "gemm",
            Self::Product { of_sums: true, .. } => "gemm_of_sums",
            Self::Convolution { pass: Pass::Forward, .. } => "conv",
            Self::Convolution { pass: Pass::Weights, .. } => "conv_weights",
            Self::Convolution { pass: Pass::Images, .. } => "conv_images",
            Self::Keystream { added: false, .. } => "keystream",
            Self::Keystream { added: true, .. } => "keystream_add",
            Self::Sign { .. } => "sign",
            Self::BitPlanes { .. } => "bit_planes",
            Self::Pack { .. } => "pack",
            Self::Unpack { .. } => "unpack",
        }
    }

    /// Its operands in short.
    pub fn shape(&self) -> String {
        match *self {
            Self::Product { shape: [rows, terms, cols], transposed, .. } => {
                let turned = if transposed { "^T" } else { "" };
                format!("{rows}x{terms}{turned}x{cols}")
            }
            Self::Convolution { shape, .. } => {
                let ConvShape { images, height, width, channels, kernel, stride, groups, out_channels, .. } = shape;
                let images = format!("{images}x{height}x{width}x{channels}");
                let [rows, cols] = kernel;
                let step = if stride == [1, 1] { String::new() } else { format!("/{}", stride[0]) };
                let groups = if groups == 1 { String::new() } else { format!(" in {groups}") };
                format!("{images} {rows}x{cols}{step} to {out_channels}{groups}")
            }
            Self::Keystream { words, .. } if words >= 1 << 17 => format!("{} MiB", words >> 17),
            Self::Keystream { words, .. } => format!("{} KiB", words >> 7),
            Self::Sign { values } => format!("{values} values"),
            Self::BitPlanes { words, bits } => format!("{bits} of {words} words"),
            Self::Pack { words, bits } | Self::Unpack { words, bits } => format!("{bits} bits of {words} words"),
        }
    }

    /// Runs the kernel and, for about as long, its floor in turn, after one turn that does not count; `runs` times, or
    /// for a second.
    ///
    /// # Panics
    /// If `runs` is 0.
    pub fn measure(&self, device: &CpuDevice, runs: Option<usize>) -> Figures {
        let mut trial = Trial::new(self, device);
        let warm_up = trial.turn(1);
        // As long as the kernel, so that whatever interrupts programs now and then meets both alike.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let times = (warm_up.kernel / warm_up.floor).clamp(1.0, 100.0) as u32;
        let (start, mut turns) = (Instant::now(), Vec::new());
        while match runs {
            Some(runs) => turns.len() < runs,
            None => turns.len() < RUNS_MIN || (start.elapsed() < TIME && turns.len() < RUNS_MAX),
        } {
            turns.push(trial.turn(times));
        }
        let seconds = sorted(&turns, |turn| turn.kernel);
        Figures {
            kernel: self.name(),
            shape: self.shape(),
            unit: trial.unit,
            achieved: trial.amount / middle(&seconds),
            floor: trial.amount / middle(&sorted(&turns, |turn| turn.floor)),
            ratio: middle(&sorted(&turns, |turn| turn.floor / turn.kernel)),
            runs: seconds.len(),
            seconds: middle(&seconds),
            seconds_min: seconds[0],
            seconds_max: seconds[seconds.len() - 1],
            device: device.name_on(trial.threads),
            threads: trial.threads,
        }
    }
}

/// Seconds of one repetition of a kernel, and the mean of its floor's right after.
struct Turn {
    kernel: f64,
    floor: f64,
}

impl Trial<'_> {
    /// The kernel once, then its floor so many times.
    fn turn(&mut self, times: u32) -> Turn {
        let kernel = (self.work)();
        let floor: f64 = (0..times).map(|_| (self.floor)()).sum();
        Turn { kernel, floor: floor / f64::from(times) }
    }
}

fn sorted(turns: &[Turn], of: impl Fn(&Turn) -> f64) -> Vec<f64> {
    let mut values: Vec<f64> = turns.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The median of values in order.
fn middle(values: &[f64]) -> f64 {
    f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::Path;

    /// Every kind of kernel, small.
    fn kernels() -> Vec<Kernel> {
        let depthwise = ConvShape { groups: 4, ..square(2, [6, 4], 3, 4) };
        let mut kernels = vec![
            Kernel::Product { shape: [33, 70, 20], transposed: false, of_sums: true },
            Kernel::Product { shape: [20, 33, 5], transposed: true, of_sums: false },
            Kernel::Convolution { shape: depthwise, pass: Pass::Forward },
            Kernel::Keystream { words: 500, added: false },
            Kernel::Keystream { words: 1 << 17, added: true },
            Kernel::Sign { values: 1000 },
            Kernel::BitPlanes { words: 1000, bits: 31 },
            Kernel::Pack { words: 1000, bits: 17 },
            Kernel::Unpack { words: 1000, bits: 17 },
        ];
        kernels.extend(Pass::ALL.map(|pass| Kernel::Convolution { shape: square(3, [8, 2], 3, 5), pass }));
        kernels
    }

    #[test]
    fn every_kernel_has_figures_on_every_path() {
        for path in Path::available() {
            for threads in [1, 2] {
                let device = CpuDevice::with_path(path, threads);
                for kernel in kernels() {
                    let figures = kernel.measure(&device, Some(3));
                    let Figures { achieved, floor, ratio, seconds, seconds_min, seconds_max, .. } = figures;
                    for value in [achieved, floor, ratio, seconds_min] {
                        assert!(value.is_finite() && value > 0.0, "{path}: {figures:?}");
                    }
                    assert!(seconds_min <= seconds && seconds <= seconds_max, "{path}: {figures:?}");
                    assert!(figures.threads <= threads && figures.runs == 3, "{path}: {figures:?}");
                }
            }
        }
    }

    #[test]
    fn kernels_are_told_apart_by_name_and_shape() {
        let mut names: Vec<_> = REFERENCE.iter().map(|kernel| (kernel.name(), kernel.shape())).collect();
        assert_eq!(names[2], ("gemm_of_sums", "784x43^Tx128".into()));
        assert_eq!(names[8], ("keystream", "64 MiB".into()));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), REFERENCE.len());
    }

    #[test]
    fn the_middle_is_the_median() {
        assert_eq!(middle(&[1.0]), 1.0);
        assert_eq!(middle(&[1.0, 2.0, 4.0]), 2.0);
        assert_eq!(middle(&[1.0, 2.0, 4.0, 9.0]), 3.0);
    }
}
