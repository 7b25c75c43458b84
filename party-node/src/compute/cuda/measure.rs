//! What the operations of a GPU reach, beside what memory or multipliers would allow: a table for whoever has a GPU.
//!
//!     cargo test --release -p party-node --lib cuda::measure -- --ignored --nocapture

use std::time::Instant;

use super::{Gpu, Leaf, Operand, Splitting, Sum};
use crate::compute::ConvShape;

/// Seconds of an operation: the median of several, after two to warm up. Several calls are timed together, so that what a
/// call costs the host is part of it only where the device waits for it.
fn seconds(gpu: &Gpu, mut operation: impl FnMut()) -> f64 {
    const CALLS: u32 = 10;
    let mut times: Vec<f64> = (0..7)
        .map(|_| {
            gpu.synchronise().unwrap();
            let begun = Instant::now();
            (0..CALLS).for_each(|_| operation());
            gpu.synchronise().unwrap();
            begun.elapsed().as_secs_f64() / f64::from(CALLS)
        })
        .skip(2)
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

#[allow(clippy::print_stdout, reason = "the table is what this is for")]
fn line(what: &str, seconds: f64, amount: f64, unit: &str) {
    println!("{what:<44} {:>10.1} us {:>10.1} {unit}", 1e6 * seconds, amount / seconds / 1e9);
}

#[test]
#[ignore = "needs a GPU: cargo test --release -p party-node --lib cuda::measure -- --ignored --nocapture"]
fn what_a_gpu_reaches() {
    let gpu = Gpu::open(0).unwrap();
    #[allow(clippy::print_stdout, reason = "the table is what this is for")]
    {
        println!("{}, {:?} bytes free and in all", gpu.name(), gpu.memory_info().unwrap());
    }
    vectors(&gpu);
    comparison(&gpu);
    products(&gpu);
    convolutions(&gpu);
    gpu.check().unwrap();
}

fn vectors(gpu: &Gpu) {
    let n = 1 << 26;
    let bytes = 8.0 * n as f64;
    let key = [7; 8];
    let (mut x, y) = (gpu.keystream(&key, [1; 3], n), gpu.keystream(&key, [2; 3], n));
    line("add_assign of 2^26 words", seconds(gpu, || gpu.add_assign(x.span_mut(), y.span())), 3.0 * bytes, "GB/s");
    line(
        "keystream of 2^26 words",
        seconds(gpu, || gpu.keystream_fill(&key, [3; 3], x.span_mut())),
        bytes,
        "GB/s made",
    );
    let add = || gpu.keystream_add(&key, [3; 3], x.span_mut());
    line("keystream_add of 2^26 words", seconds(gpu, add), bytes, "GB/s made");
    line("bit_planes 0..31 of 2^26 words", seconds(gpu, || drop(gpu.bit_planes(y.span(), 0, 31))), bytes, "GB/s read");
    line("pack of 2^26 words to 17 bits", seconds(gpu, || drop(gpu.pack(y.span(), 17))), bytes, "GB/s read");
    line("an empty step (2^10 words)", seconds(gpu, || gpu.add_constant(x.slice_mut(0..1024), 1)), 8192.0, "GB/s");
    let host = vec![1; 1 << 23];
    line("upload of 2^23 words", seconds(gpu, || gpu.write(x.span_mut(), &host)), 8.0 * host.len() as f64, "GB/s");
    let part = x.slice(0..1 << 23);
    line("download of 2^23 words", seconds(gpu, || drop(gpu.download(part).unwrap())), 8.0 * host.len() as f64, "GB/s");
}

/// The local steps of a sign of a million words in a window of 32 bits: planes and ten leaves.
fn comparison(gpu: &Gpu) {
    let n = 1_000_000_usize;
    let width = n.div_ceil(64);
    let known = gpu.keystream(&[7; 8], [4; 3], n);
    let ends: Vec<usize> = (0..10).map(|i| 4 + 3 * i).collect();
    let first = |i: usize| if i == 0 { 0 } else { ends[i - 1] };
    let starts: Vec<usize> = (0..10).map(|i| if i == 0 { 0 } else { 15 + 7 * (i - 1) }).collect();
    let leaf = |i: usize| Leaf {
        planes: first(i)..ends[i],
        monomials: starts[i],
        generate: i,
        propagate: (i > 0).then_some(9 + i),
    };
    let leaves: Vec<Leaf> = (0..10).map(leaf).collect();
    let monomials = gpu.keystream(&[7; 8], [5; 3], 78 * width);
    let mut out = gpu.zeros(19 * width);
    let whole = || {
        let planes = gpu.bit_planes(known.span(), 0, 32);
        gpu.leaf_bits(out.span_mut(), planes.span(), monomials.span(), width, &leaves, true);
    };
    line("planes and leaves of a sign of 10^6", seconds(gpu, whole), n as f64, "G elements/s");
}

fn products(gpu: &Gpu) {
    for [rows, depth, columns] in
        [[43, 784, 128], [128, 784, 128], [784, 128, 128], [1024; 3], [2048; 3], [4096; 3], [8192, 500, 50]]
    {
        let (x, y) = (gpu.keystream(&[7; 8], [6; 3], rows * depth), gpu.keystream(&[7; 8], [7; 3], depth * columns));
        let plain = |x, rows, cols| Operand { x, y: None, kx: 1, ky: 0, rows, cols, transposed: false };
        let (a, b) = (plain(x.span(), rows, depth), plain(y.span(), depth, columns));
        let mut out = gpu.zeros(rows * columns);
        let amount = (rows * depth * columns) as f64;
        let shape = format!("{rows} x {depth} x {columns}");
        let time = seconds(gpu, || gpu.gemm_by_multiply_add(a, b, out.span_mut()));
        line(&format!("product {shape}, multiply-add"), time, amount, "G MAC/s");
        for splitting in [Splitting::Digits, Splitting::Residues] {
            let time = seconds(gpu, || {
                gpu.gemm_split(&gpu.split_left(a, splitting), &gpu.split_right(b, splitting), out.span_mut());
            });
            line(&format!("product {shape}, {splitting:?}"), time, amount, "G MAC/s");
        }
    }
}

/// The two convolutions of LeNet on a batch of 128.
fn convolutions(gpu: &Gpu) {
    let first = ConvShape {
        images: 128,
        height: 28,
        width: 28,
        channels: 1,
        kernel: [5, 5],
        stride: [1, 1],
        padding: [0; 4],
        dilation: [1, 1],
        groups: 1,
        out_channels: 20,
    };
    let second = ConvShape { height: 12, width: 12, channels: 20, out_channels: 50, ..first };
    for shape in [first, second] {
        let [images, weights, results] = [shape.input_len(), shape.weights_len(), shape.output_len()];
        let [mut x, mut w, mut g] = [images, weights, results].map(|len| gpu.keystream(&[7; 8], [8; 3], len));
        let [x2, w2, g2] = [x.clone(), w.clone(), g.clone()];
        let of = |x| Sum { x, y: None, kx: 1, ky: 0 };
        let amount = (results * shape.terms()) as f64;
        let name = format!("{} -> {}", shape.channels, shape.out_channels);
        let time = seconds(gpu, || gpu.conv(&shape, of(x2.span()), of(w2.span()), g.span_mut()));
        line(&format!("convolution {name}"), time, amount, "G MAC/s");
        let time = seconds(gpu, || gpu.conv_weights(&shape, of(x2.span()), of(g2.span()), w.span_mut()));
        line(&format!("convolution {name}, weights"), time, amount, "G MAC/s");
        let time = seconds(gpu, || gpu.conv_images(&shape, of(g2.span()), of(w2.span()), x.span_mut()));
        line(&format!("convolution {name}, images"), time, amount, "G MAC/s");
    }
}
