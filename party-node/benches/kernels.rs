//! Rates of the CPU kernels, one line per kernel, path and size: `cargo bench -p party-node --bench kernels -- [filter]`.
//!
//! Each figure is the median of repeated runs with the slowest and fastest beside it.

use std::hint::black_box;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use party_node::compute::{Compute, ConvShape, CpuDevice, Operand, Path, Sum};

/// Time spent on one line, and the bounds on its repetitions.
const LINE: Duration = Duration::from_millis(400);
const RUNS_MIN: usize = 5;
const RUNS_MAX: usize = 2000;

fn main() -> io::Result<()> {
    let filters: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let mut report = Report { out: io::stdout(), filters };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    for path in Path::available() {
        let device = CpuDevice::with_path(path, 1);
        products(&mut report, &device)?;
        convolutions(&mut report, &device)?;
        streams(&mut report, &device)?;
        planes(&mut report, &device)?;
    }
    if cores > 1 {
        let device = CpuDevice::new(cores);
        products(&mut report, &device)?;
        convolutions(&mut report, &device)?;
    }
    Ok(())
}

/// Prints the lines whose name contains all filters.
struct Report {
    out: io::Stdout,
    filters: Vec<String>,
}

impl Report {
    /// Measures `work` and prints it in `unit`s of `amount` per second, or in seconds per `amount` where `inverse`.
    fn line(&mut self, name: &str, amount: f64, unit: Unit, mut work: impl FnMut()) -> io::Result<()> {
        if !self.filters.iter().all(|filter| name.contains(filter.as_str())) {
            return Ok(());
        }
        work();
        let mut seconds = Vec::new();
        let start = Instant::now();
        while seconds.len() < RUNS_MIN || (start.elapsed() < LINE && seconds.len() < RUNS_MAX) {
            let start = Instant::now();
            work();
            seconds.push(start.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        let figure = |seconds: f64| match unit {
            Unit::GigaMacs | Unit::GigaBytes => amount / seconds / 1e9,
            Unit::NanosecondsEach => seconds / amount * 1e9,
        };
        let (first, last) = (figure(seconds[0]), figure(seconds[seconds.len() - 1]));
        let median = figure(seconds[seconds.len() / 2]);
        let (low, high) = (first.min(last), first.max(last));
        writeln!(self.out, "{name:<58} {median:8.3} ({low:.3}-{high:.3}) {}, {} runs", unit.name(), seconds.len())
    }
}

#[derive(Clone, Copy)]
enum Unit {
    GigaMacs,
    GigaBytes,
    NanosecondsEach,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::GigaMacs => "G ring-MAC/s",
            Self::GigaBytes => "GB/s",
            Self::NanosecondsEach => "ns/element",
        }
    }
}

/// Words that look random.
fn words(seed: u64, len: usize) -> Vec<u64> {
    let mut state = seed | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// Shapes of training (rows x terms x columns), and whether the left factor is read transposed.
const SHAPES: [(usize, usize, usize, bool); 9] = [
    (128, 784, 128, false),
    (43, 784, 128, false),
    (784, 43, 128, true),
    (43, 128, 128, false),
    (128, 43, 128, true),
    (43, 128, 10, false),
    (43, 10, 128, false),
    (512, 512, 512, false),
    (1024, 1024, 1024, false),
];

fn products(report: &mut Report, device: &CpuDevice) -> io::Result<()> {
    for (rows, terms, cols, transposed) in SHAPES {
        for combined in [false, true] {
            let [ax, ay] = [1, 2].map(|seed| words(seed, rows * terms));
            let [bx, by] = [3, 4].map(|seed| words(seed, terms * cols));
            let mut out = vec![0; rows * cols];
            let a = Operand { x: &ax, y: combined.then_some(&ay), kx: 1, ky: 2, rows, cols: terms, transposed };
            let b = Operand { x: &bx, y: combined.then_some(&by), kx: 1, ky: 2, rows: terms, cols, transposed: false };
            let forms = if combined { "combined" } else { "plain" };
            let turned = if transposed { "^T" } else { "" };
            let name = format!("gemm {} {rows}x{terms}{turned}x{cols} {forms}", device.name());
            let amount = (rows * terms * cols) as f64;
            report.line(&name, amount, Unit::GigaMacs, || device.gemm(black_box(a), black_box(b), &mut out))?;
        }
    }
    Ok(())
}

/// Convolutions of training: images, height and width, channels, kernel, stride, padding, output channels, groups.
const CONVOLUTIONS: [(&str, [usize; 8]); 7] = [
    ("lenet 1", [128, 28, 1, 5, 1, 0, 20, 1]),
    ("lenet 2", [128, 12, 20, 5, 1, 0, 50, 1]),
    ("resnet stem", [8, 32, 3, 3, 1, 1, 64, 1]),
    ("resnet 64", [8, 32, 64, 3, 1, 1, 64, 1]),
    ("resnet 64-128/2", [8, 32, 64, 3, 2, 1, 128, 1]),
    ("resnet 512", [8, 4, 512, 3, 1, 1, 512, 1]),
    ("depthwise 96", [8, 32, 96, 3, 1, 1, 96, 96]),
];

/// Each pass of each convolution, and a matrix product with the same number of multiplications.
fn convolutions(report: &mut Report, device: &CpuDevice) -> io::Result<()> {
    for (name, [images, side, channels, kernel, stride, padding, out_channels, groups]) in CONVOLUTIONS {
        let shape = ConvShape {
            images,
            height: side,
            width: side,
            channels,
            kernel: [kernel; 2],
            stride: [stride; 2],
            padding: [padding; 4],
            dilation: [1; 2],
            groups,
            out_channels,
        };
        let (rows, terms) = (shape.output_len() / out_channels, shape.terms());
        let amount = (shape.output_len() * terms) as f64;
        let tensor = |seed: u64, len: usize| [seed, seed + 1].map(|seed| words(seed, len));
        let [images, weights, gradient, patches] =
            [(1, shape.input_len()), (3, shape.weights_len()), (5, shape.output_len()), (7, rows * terms)]
                .map(|(seed, len)| tensor(seed, len));
        fn sum([x, y]: &[Vec<u64>; 2]) -> Sum<'_> {
            Sum { x, y: Some(y), kx: 1, ky: 2 }
        }
        fn operand([x, y]: &[Vec<u64>; 2], rows: usize, cols: usize, transposed: bool) -> Operand<'_> {
            Operand { x, y: Some(y), kx: 1, ky: 2, rows, cols, transposed }
        }
        let mut line = |pass: &str, len: usize, work: &dyn Fn(&mut [u64])| {
            let mut out = vec![0; len];
            let name = format!("{pass} {} {name}", device.name());
            report.line(&name, amount, Unit::GigaMacs, || work(black_box(&mut out)))
        };
        line("conv", gradient[0].len(), &|out| device.conv(&shape, sum(&images), sum(&weights), out))?;
        line("conv as gemm", gradient[0].len(), &|out| {
            device.gemm(operand(&patches, rows, terms, false), operand(&weights, terms, out_channels, false), out);
        })?;
        line("conv_weights", weights[0].len(), &|out| {
            device.conv_weights(&shape, sum(&images), sum(&gradient), out);
        })?;
        line("conv_weights as gemm", weights[0].len(), &|out| {
            device.gemm(operand(&patches, terms, rows, true), operand(&gradient, rows, out_channels, false), out);
        })?;
        line("conv_images", images[0].len(), &|out| {
            device.conv_images(&shape, sum(&gradient), sum(&weights), out);
        })?;
        line("conv_images as gemm", patches[0].len(), &|out| {
            device.gemm(
                operand(&gradient, rows, out_channels, false),
                operand(&weights, out_channels, terms, true),
                out,
            );
        })?;
    }
    Ok(())
}

fn streams(report: &mut Report, device: &CpuDevice) -> io::Result<()> {
    let (key, nonce) = ([1, 2, 3, 4, 5, 6, 7, 8], [9, 10, 11]);
    for (len, size) in [(512, "4 KiB"), (1 << 15, "256 KiB"), (8 << 20, "64 MiB")] {
        let mut out = words(5, len);
        // Short streams many times over, so that the clock's resolution does not matter.
        let repeats = ((1 << 17) / len).max(1);
        let bytes = (8 * len * repeats) as f64;
        let mut line = |form: &str, fill: &dyn Fn(&mut [u64])| {
            let name = format!("keystream{form} {} {size}", device.name());
            report.line(&name, bytes, Unit::GigaBytes, || (0..repeats).for_each(|_| fill(black_box(&mut out))))
        };
        line("", &|out| device.keystream(&key, nonce, out))?;
        line("_add", &|out| device.keystream_add(&key, nonce, out))?;
    }
    Ok(())
}

fn planes(report: &mut Report, device: &CpuDevice) -> io::Result<()> {
    for len in [4096, 1 << 20] {
        for count in [31, 64] {
            let words = words(6, len);
            let mut planes = vec![0; count * len.div_ceil(64)];
            let repeats = ((1 << 17) / len).max(1);
            let name = format!("bit_planes {} {count} of {len}", device.name());
            report.line(&name, (len * repeats) as f64, Unit::NanosecondsEach, || {
                (0..repeats).for_each(|_| device.bit_planes(black_box(&words), 0, count, black_box(&mut planes)));
            })?;
        }
    }
    Ok(())
}
