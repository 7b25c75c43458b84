//! One suite for every device: whatever computes in Z_2^64 must agree with the plain loops bit for bit.

use super::{Compute, CpuDevice, Operand, Path, reference};

/// Runs the whole suite. Panics with the case that differs.
pub(super) fn conforms(device: &dyn Compute) {
    gemm_equals_the_reference(device);
    keystream_equals_the_reference(device);
    bit_planes_equal_the_reference(device);
}

/// Words that look random; the same seed gives the same words.
pub(in crate::compute) fn words(seed: u64, len: usize) -> Vec<u64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// How an operand of a test is formed.
#[derive(Clone, Copy, Debug)]
struct Form {
    kx: u64,
    /// None for an operand with one summand.
    ky: Option<u64>,
    transposed: bool,
}

const FORMS: [Form; 6] = [
    Form { kx: 1, ky: None, transposed: false },
    Form { kx: 1, ky: Some(2), transposed: true },
    Form { kx: 2u64.wrapping_neg(), ky: Some(2), transposed: false },
    Form { kx: 3, ky: None, transposed: true },
    Form { kx: 0x8000_0000_0000_0001, ky: Some(u64::MAX), transposed: true },
    Form { kx: 1, ky: Some(1), transposed: false },
];

fn operand<'a>(x: &'a [u64], y: &'a [u64], form: Form, rows: usize, cols: usize) -> Operand<'a> {
    let Form { kx, ky, transposed } = form;
    Operand { x, y: ky.map(|_| y), kx, ky: ky.unwrap_or(7), rows, cols, transposed }
}

fn check_gemm(
    device: &dyn Compute,
    [m, k, n]: [usize; 3],
    [left, right]: [Form; 2],
    fill: impl Fn(u64, usize) -> Vec<u64>,
) {
    let (ax, ay, bx, by) = (fill(1, m * k), fill(2, m * k), fill(3, k * n), fill(4, k * n));
    let a = operand(&ax, &ay, left, m, k);
    let b = operand(&bx, &by, right, k, n);
    let mut want = words(5, m * n);
    let mut got = want.clone();
    reference::gemm(a, b, &mut want);
    device.gemm(a, b, &mut got);
    assert!(got == want, "{}: {m} x {k} x {n}, left {left:?}, right {right:?}", device.name());
}

fn gemm_equals_the_reference(device: &dyn Compute) {
    const SHAPES: &[[usize; 3]] = &[
        [0, 3, 4],
        [3, 0, 4],
        [3, 4, 0],
        [1, 1, 1],
        [1, 5, 1],
        [2, 3, 5],
        [4, 4, 4],
        [5, 1, 17],
        [7, 9, 8],
        [8, 64, 16],
        [9, 65, 17],
        [12, 7, 33],
        [16, 63, 31],
        [23, 129, 24],
        [25, 10, 9],
        [31, 64, 47],
        [32, 64, 32],
        [33, 128, 64],
        [43, 128, 10],
        [48, 70, 65],
        [100, 43, 12],
        [193, 40, 20],
        [215, 33, 41],
    ];
    for (index, &shape) in SHAPES.iter().enumerate() {
        for offset in 0..FORMS.len() {
            let forms = [FORMS[(index + offset) % FORMS.len()], FORMS[(2 * index + offset + 1) % FORMS.len()]];
            check_gemm(device, shape, forms, words);
        }
    }
    for shape in
        [[43, 784, 128], [128, 784, 20], [784, 43, 32], [70, 2100, 9], [8, 20, 2100], [300, 300, 50], [150, 130, 120]]
    {
        check_gemm(device, shape, [FORMS[1], FORMS[2]], words);
    }
}

fn keystream_equals_the_reference(device: &dyn Compute) {
    let key = [1, 0x8000_0000, 3, 4, u32::MAX, 6, 7, 8];
    let nonce = [9, u32::MAX, 11];
    for len in (0..300).chain([511, 512, 513, 1024, 1037, 4096, 5001]) {
        let mut stream = vec![0; len];
        reference::keystream(&key, nonce, &mut stream);
        let start = words(6, len);
        let combined = |with: fn(u64, u64) -> u64| -> Vec<u64> {
            start.iter().zip(&stream).map(|(&word, &mask)| with(word, mask)).collect()
        };
        let run = |fill: &dyn Fn(&mut [u64])| {
            let mut out = start.clone();
            fill(&mut out);
            out
        };
        assert_eq!(run(&|out| device.keystream(&key, nonce, out)), stream, "{}: {len} words", device.name());
        assert_eq!(run(&|out| device.keystream_add(&key, nonce, out)), combined(u64::wrapping_add));
        assert_eq!(run(&|out| device.keystream_sub(&key, nonce, out)), combined(u64::wrapping_sub));
        assert_eq!(run(&|out| device.keystream_xor(&key, nonce, out)), combined(|word, mask| word ^ mask));
    }
}

fn bit_planes_equal_the_reference(device: &dyn Compute) {
    for len in [0, 1, 63, 64, 65, 130, 511, 512, 513, 1000, 4096] {
        let words = words(7, len);
        for (low, count) in [(0, 0), (0, 1), (0, 64), (1, 31), (16, 31), (0, 32), (31, 33), (63, 1), (5, 40)] {
            let mut want = vec![0; count * len.div_ceil(64)];
            let mut got = vec![u64::MAX; want.len()];
            reference::bit_planes(&words, low, count, &mut want);
            device.bit_planes(&words, low, count, &mut got);
            assert!(got == want, "{}: bits {low}..+{count} of {len} words", device.name());
        }
    }
}

#[test]
fn every_cpu_path_conforms() {
    for path in Path::available() {
        for threads in [1, 3] {
            conforms(&CpuDevice::with_path(path, threads));
        }
    }
}
