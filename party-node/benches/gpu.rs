//! Rates of the GPU's kernels beside what the same device can do, one JSON line each:
//! `cargo bench -p party-node --bench gpu`, with `--emulated` on the stand-in (which says nothing about speed).
//!
//! Seconds are medians of repeated runs with the fastest and the slowest beside them. A floor is the least time that the
//! kernel's bytes or products take on this device: memory written or copied, the int8 products of a split product alone,
//! or, for 64-bit multiply-add, the fastest way of multiplying this shape.

use std::io::{self, Write};
use std::time::Instant;

use party_node::compute::cuda::{Gpu, Operand, Splitting};
use serde_json::json;

const RUNS: usize = 9;

fn main() -> io::Result<()> {
    let emulated = std::env::args().any(|arg| arg == "--emulated");
    let gpu =
        if emulated { Gpu::emulated(4 << 30).ok_or("no C++ compiler") } else { Gpu::open(0).map_err(|_| "no GPU") };
    let gpu = match gpu {
        Ok(gpu) => gpu,
        Err(why) => {
            eprintln!("{why}: {}", Gpu::count().err().map_or(String::new(), |error| error.to_string()));
            std::process::exit(2);
        }
    };
    let bench = Bench { gpu: &gpu };
    let cubes: &[usize] = if emulated { &[64] } else { &[512, 1024, 2048, 4096] };
    for &size in cubes {
        bench.products([size; 3])?;
    }
    let shapes: &[[usize; 3]] =
        if emulated { &[[43, 78, 12]] } else { &[[43, 784, 128], [784, 43, 128], [8192, 500, 50]] };
    for &shape in shapes {
        bench.products(shape)?;
    }
    let words = if emulated { 1 << 12 } else { 1 << 27 };
    bench.streams(words)
}

struct Bench<'a> {
    gpu: &'a Gpu,
}

/// Median, fastest, slowest.
type Seconds = [f64; 3];

impl Bench<'_> {
    /// Times something that only starts work; one run to warm up does not count.
    fn time(&self, work: impl Fn()) -> Seconds {
        let mut seconds: Vec<f64> = (0..=RUNS)
            .map(|_| {
                self.gpu.synchronise().expect("the device works");
                let begun = Instant::now();
                work();
                self.gpu.synchronise().expect("the device works");
                begun.elapsed().as_secs_f64()
            })
            .skip(1)
            .collect();
        seconds.sort_by(f64::total_cmp);
        [seconds[RUNS / 2], seconds[0], seconds[RUNS - 1]]
    }

    fn line(
        &self,
        kernel: &str,
        shape: &str,
        amount: f64,
        unit: &str,
        [median, min, max]: Seconds,
        floor: f64,
    ) -> io::Result<()> {
        let line = json!({
            "kernel": kernel, "shape": shape, "unit": unit, "device": self.gpu.name(), "runs": RUNS,
            "achieved": amount / median, "floor": amount / floor, "ratio": floor / median,
            "seconds": median, "seconds_min": min, "seconds_max": max,
        });
        writeln!(io::stdout(), "{line}")
    }

    /// The three ways of multiplying matrices.
    fn products(&self, [rows, depth, columns]: [usize; 3]) -> io::Result<()> {
        let gpu = self.gpu;
        let [a, b] = [rows * depth, depth * columns].map(|len| gpu.keystream(&[7; 8], [0; 3], len));
        let mut out = gpu.zeros(rows * columns);
        let operand = |x, rows, cols| Operand { x, y: None, kx: 1, ky: 0, rows, cols, transposed: false };
        let (left, right) = (operand(a.span(), rows, depth), operand(b.span(), depth, columns));
        let shape = format!("{rows}x{depth}x{columns}");
        let amount = (rows * depth * columns) as f64 / 1e12;
        let into = std::cell::RefCell::new(&mut out);
        let plain = self.time(|| gpu.gemm_by_multiply_add(left, right, into.borrow_mut().span_mut()));
        let ways = [("digits", Splitting::Digits), ("residues", Splitting::Residues)];
        let split = ways.map(|(name, way)| {
            let whole = self.time(|| {
                let (left, right) = (gpu.split_left(left, way), gpu.split_right(right, way));
                gpu.gemm_split(&left, &right, into.borrow_mut().span_mut());
            });
            (name, whole, self.time(|| gpu.int8_products([rows, depth, columns], way)))
        });
        let fastest = split.iter().map(|(_, whole, _)| whole[0]).fold(plain[0], f64::min);
        self.line("gemm_multiply_add", &shape, amount, "TMAC/s", plain, fastest)?;
        for (name, whole, floor) in split {
            self.line(&format!("gemm_{name}"), &shape, amount, "TMAC/s", whole, floor[0])?;
        }
        Ok(())
    }

    /// What moves memory.
    fn streams(&self, words: usize) -> io::Result<()> {
        let gpu = self.gpu;
        let (x, y) = (gpu.keystream(&[1; 8], [0; 3], words), gpu.keystream(&[2; 8], [0; 3], words));
        let z = std::cell::RefCell::new(gpu.zeros(words));
        let bytes = 8.0 * words as f64 / 1e9;
        let shape = format!("{} MiB", (8 * words) >> 20);
        let copied = self.time(|| gpu.copy(z.borrow_mut().span_mut(), x.span()))[0];
        let written = self.time(|| drop(gpu.zeros(words)))[0];
        let stream = self.time(|| gpu.keystream_fill(&[3; 8], [0; 3], z.borrow_mut().span_mut()));
        self.line("keystream", &shape, bytes, "GB/s", stream, written)?;
        let added = self.time(|| gpu.keystream_add(&[3; 8], [0; 3], z.borrow_mut().span_mut()));
        self.line("keystream_add", &shape, 2.0 * bytes, "GB/s", added, copied)?;
        let sum = self.time(|| gpu.add_assign(z.borrow_mut().span_mut(), y.span()));
        self.line("add_assign", &shape, 3.0 * bytes, "GB/s", sum, 1.5 * copied)?;
        let product = self.time(|| drop(gpu.product_of_sums(1, 2, [x.span(), y.span()], [y.span(), x.span()])));
        self.line("product_of_sums", &shape, 5.0 * bytes, "GB/s", product, 2.5 * copied)?;
        let planes = self.time(|| drop(gpu.bit_planes(x.span(), 0, 31)));
        self.line(
            "bit_planes",
            &shape,
            bytes * (1.0 + 31.0 / 64.0),
            "GB/s",
            planes,
            copied * (1.0 + 31.0 / 64.0) / 2.0,
        )?;
        let packed = self.time(|| drop(gpu.pack(x.span(), 17)));
        self.line("pack", &shape, bytes * (1.0 + 17.0 / 64.0), "GB/s", packed, copied * (1.0 + 17.0 / 64.0) / 2.0)
    }
}
