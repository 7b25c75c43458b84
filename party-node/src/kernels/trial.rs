//! A kernel set up to be repeated, and beside it the floor under its time.

use std::hint::black_box;
use std::thread;
use std::time::Instant;

use super::replay::Recording;
use super::{Kernel, Pass};
use crate::compute::cpu::registers;
use crate::compute::{Compute, ConvShape, CpuDevice, Operand, Path, Sum, elementwise};

/// Does something and says how many seconds that took.
type Timed<'a> = Box<dyn FnMut() -> f64 + 'a>;

pub(super) struct Trial<'a> {
    /// What one repetition gets done, in units times seconds.
    pub(super) amount: f64,
    pub(super) unit: &'static str,
    /// Threads that take part.
    pub(super) threads: usize,
    pub(super) work: Timed<'a>,
    pub(super) floor: Timed<'a>,
}

/// Bytes that a repetition moves at least: less would be lost in the clock's own time.
const MOVED_BYTES_MIN: usize = 1 << 20;
/// Bytes that are copied at a time for a floor that copies messages: they stay near the core.
const COPIED_BYTES: usize = 1 << 18;

impl<'a> Trial<'a> {
    pub(super) fn new(kernel: &Kernel, device: &'a CpuDevice) -> Self {
        match *kernel {
            Kernel::Product { shape, transposed, of_sums } => product(device, shape, transposed, of_sums),
            Kernel::Convolution { shape, pass } => convolution(device, shape, pass),
            Kernel::Keystream { words, added } => keystream(device, words, added),
            Kernel::Sign { values } => sign(device, values),
            Kernel::BitPlanes { words, bits } => bit_planes(device, words, bits),
            Kernel::Pack { words: len, bits } => {
                let words = words(6, len);
                packing(len, bits, move || drop(black_box(elementwise::pack(black_box(&words), bits))))
            }
            Kernel::Unpack { words: len, bits } => {
                let bytes = elementwise::pack(&words(6, len), bits);
                packing(len, bits, move || drop(black_box(elementwise::unpack(black_box(&bytes), len, bits))))
            }
        }
    }

    /// So many multiply-adds.
    fn of_products(device: &CpuDevice, count: usize, path: Path, work: Timed<'a>) -> Self {
        let threads = device.threads();
        let floor = Box::new(move || on_threads(threads, || multiplied(path, count.div_ceil(threads))));
        Self { amount: count as f64 / 1e9, unit: "GMAC/s", threads, work, floor }
    }

    /// So many bytes, that one thread reads or writes.
    fn of_bytes(bytes: usize, work: Timed<'a>, floor: Timed<'a>) -> Self {
        Self { amount: bytes as f64 / 1e9, unit: "GB/s", threads: 1, work, floor }
    }
}

fn product<'a>(device: &'a CpuDevice, [rows, terms, cols]: [usize; 3], transposed: bool, of_sums: bool) -> Trial<'a> {
    let [ax, ay] = [1, 2].map(|seed| words(seed, rows * terms));
    let [bx, by] = [3, 4].map(|seed| words(seed, terms * cols));
    let mut out = vec![0; rows * cols];
    let work = Box::new(move || {
        let a = Operand { x: &ax, y: of_sums.then_some(&ay), kx: 1, ky: 2, rows, cols: terms, transposed };
        let b = Operand { x: &bx, y: of_sums.then_some(&by), kx: 1, ky: 2, rows: terms, cols, transposed: false };
        seconds(|| device.gemm(black_box(a), black_box(b), black_box(&mut out)))
    });
    Trial::of_products(device, rows * terms * cols, device.product_path(rows, terms, cols), work)
}

fn convolution<'a>(device: &'a CpuDevice, shape: ConvShape, pass: Pass) -> Trial<'a> {
    let operand = |seed: u64, len: usize| [seed, seed + 1].map(|seed| words(seed, len));
    let images = operand(1, shape.input_len());
    let weights = operand(3, shape.weights_len());
    let gradient = operand(5, shape.output_len());
    let out = match pass {
        Pass::Forward => shape.output_len(),
        Pass::Weights => shape.weights_len(),
        Pass::Images => shape.input_len(),
    };
    let mut out = vec![0; out];
    let work = Box::new(move || {
        let [images, weights, gradient] =
            [&images, &weights, &gradient].map(|[x, y]| Sum { x, y: Some(y), kx: 1, ky: 2 });
        let out = black_box(&mut out[..]);
        seconds(|| match pass {
            Pass::Forward => device.conv(&shape, images, weights, out),
            Pass::Weights => device.conv_weights(&shape, images, gradient, out),
            Pass::Images => device.conv_images(&shape, gradient, weights, out),
        })
    });
    // Where every channel is a group of its own, there is no product of matrices for a matrix unit.
    let depthwise = shape.groups == shape.channels && shape.groups > 1;
    let [rows, terms, cols] = pass.as_product(&shape).0;
    let path = if depthwise { device.path().min(Path::Avx512) } else { device.product_path(rows, terms, cols) };
    Trial::of_products(device, shape.output_len() * shape.terms(), path, work)
}

fn keystream<'a>(device: &'a CpuDevice, len: usize, added: bool) -> Trial<'a> {
    let (path, times) = (device.path(), repeats(8 * len));
    let [mut out, mut written] = [words(5, len), words(6, len)];
    let bytes = 8 * len * times;
    let work = Box::new(move || {
        let (key, nonce) = ([1, 2, 3, 4, 5, 6, 7, 8], [9, 10, 11]);
        seconds(|| {
            (0..times).for_each(|_| match added {
                true => device.keystream_add(&key, nonce, black_box(&mut out)),
                false => device.keystream(&key, nonce, black_box(&mut out)),
            });
        })
    });
    let floor = Box::new(move || {
        let write = || (0..times).for_each(|_| black_box(&mut written[..]).fill(black_box(7)));
        enciphered(path, bytes).max(seconds(write))
    });
    Trial::of_bytes(bytes, work, floor)
}

fn sign<'a>(device: &CpuDevice, values: usize) -> Trial<'a> {
    let (path, recording) = (device.path(), Recording::new(device.path(), values));
    let copied = (8 * values + recording.traffic.wire_bytes) / 2;
    let stream = recording.traffic.stream_bytes;
    let mut copy = Copy::of(COPIED_BYTES);
    let work = Box::new(move || recording.replay());
    let floor = Box::new(move || {
        let each = copy.seconds(4);
        enciphered(path, stream) + each * copied as f64 / (4 * COPIED_BYTES) as f64
    });
    Trial { amount: values as f64 / 1e6, unit: "Mvalue/s", threads: 1, work, floor }
}

fn bit_planes<'a>(device: &'a CpuDevice, len: usize, bits: usize) -> Trial<'a> {
    let (words, mut planes) = (words(6, len), vec![0; bits * len.div_ceil(64)]);
    let bytes = 8 * (words.len() + planes.len());
    moving(bytes, move || device.bit_planes(black_box(&words), 0, bits, black_box(&mut planes)))
}

fn packing<'a>(len: usize, bits: u32, work: impl FnMut() + 'a) -> Trial<'a> {
    moving(8 * len + elementwise::packed_bytes(len, bits), work)
}

/// What reads and writes so many bytes in all, against a copy of half of them.
fn moving<'a>(bytes: usize, mut work: impl FnMut() + 'a) -> Trial<'a> {
    let (times, mut copy) = (repeats(bytes), Copy::of(bytes / 2));
    let work = Box::new(move || seconds(|| (0..times).for_each(|_| work())));
    Trial::of_bytes(bytes * times, work, Box::new(move || copy.seconds(times)))
}

/// Memory that is copied.
struct Copy {
    from: Vec<u8>,
    to: Vec<u8>,
}

impl Copy {
    fn of(bytes: usize) -> Self {
        Self { from: vec![1; bytes], to: vec![0; bytes] }
    }

    fn seconds(&mut self, times: usize) -> f64 {
        seconds(|| (0..times).for_each(|_| black_box(&mut self.to[..]).copy_from_slice(black_box(&self.from))))
    }
}

/// Seconds for so many multiply-adds in registers.
fn multiplied(path: Path, count: usize) -> f64 {
    let mut done = 0;
    let seconds = seconds(|| done = registers::multiply_adds(path, count));
    seconds * count as f64 / done as f64
}

/// Seconds for so many bytes of keystream in registers.
fn enciphered(path: Path, bytes: usize) -> f64 {
    let mut made = 0;
    let seconds = seconds(|| made = registers::keystream(path, bytes));
    seconds * bytes as f64 / made as f64
}

/// The longest of the times that each of so many threads takes for the same.
fn on_threads(threads: usize, work: impl Fn() -> f64 + Sync) -> f64 {
    if threads == 1 {
        return work();
    }
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(&work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("loops do not panic")).fold(0.0, f64::max)
    })
}

fn seconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

fn repeats(bytes: usize) -> usize {
    MOVED_BYTES_MIN.div_ceil(bytes)
}

/// Words that look random.
pub(super) fn words(seed: u64, len: usize) -> Vec<u64> {
    let mut state = seed | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    std::iter::repeat_with(next).take(len).collect()
}
