//! One suite for every device: whatever computes in Z_2^64 must agree with the plain loops bit for bit.

use proptest::prelude::*;

use super::{Compute, ConvShape, CpuDevice, HostSum, OperandIn, Path, SliceMut, Sum, SumIn, reference};

/// Runs the whole suite. Panics with the case that differs.
pub(super) fn conforms(device: &dyn Compute) {
    gemm_equals_the_reference(device);
    convolutions_equal_the_reference(device);
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

fn operand<S>(x: S, y: S, form: Form, rows: usize, cols: usize) -> OperandIn<S> {
    let Form { kx, ky, transposed } = form;
    OperandIn { x, y: ky.map(|_| y), kx, ky: ky.unwrap_or(7), rows, cols, transposed }
}

fn check_gemm(
    device: &dyn Compute,
    [m, k, n]: [usize; 3],
    [left, right]: [Form; 2],
    fill: impl Fn(u64, usize) -> Vec<u64>,
) {
    let (ax, ay, bx, by) = (fill(1, m * k), fill(2, m * k), fill(3, k * n), fill(4, k * n));
    let mut want = words(5, m * n);
    let mut got = device.hold(want.clone());
    reference::gemm(operand(&ax[..], &ay, left, m, k), operand(&bx[..], &by, right, k, n), &mut want);
    let [ax, ay, bx, by] = [ax, ay, bx, by].map(|words| device.hold(words));
    let (a, b) = (operand(ax.all(), ay.all(), left, m, k), operand(bx.all(), by.all(), right, k, n));
    device.gemm(a, b, got.all_mut());
    assert!(got.into_host() == want, "{}: {m} x {k} x {n}, left {left:?}, right {right:?}", device.name());
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

/// A 3 x 3 convolution that keeps the size of its images.
const SAME: ConvShape = ConvShape {
    images: 2,
    height: 6,
    width: 7,
    channels: 3,
    kernel: [3, 3],
    stride: [1, 1],
    padding: [1, 1, 1, 1],
    dilation: [1, 1],
    groups: 1,
    out_channels: 5,
};

fn sum<S>(x: S, y: S, Form { kx, ky, .. }: Form) -> SumIn<S> {
    SumIn { x, y: ky.map(|_| y), kx, ky: ky.unwrap_or(7) }
}

/// What a plain pass and a device's pass make of two operands and what was there before.
type Plain = fn(&ConvShape, HostSum<'_>, HostSum<'_>, &mut [u64]);
type Pass<'a> = &'a dyn Fn(Sum<'_>, Sum<'_>, SliceMut<'_>);

fn check_conv(device: &dyn Compute, shape: &ConvShape, left: Form, right: Form) {
    let check = |name: &str, [left_len, right_len, len]: [usize; 3], plain: Plain, pass: Pass<'_>| {
        let (ax, ay, bx, by) = (words(1, left_len), words(2, left_len), words(3, right_len), words(4, right_len));
        let mut want = words(5, len);
        let mut got = device.hold(want.clone());
        plain(shape, sum(&ax[..], &ay, left), sum(&bx[..], &by, right), &mut want);
        let [ax, ay, bx, by] = [ax, ay, bx, by].map(|words| device.hold(words));
        pass(sum(ax.all(), ay.all(), left), sum(bx.all(), by.all(), right), got.all_mut());
        let device = device.name();
        assert!(got.into_host() == want, "{device}: {name} of {shape:?}, left {left:?}, right {right:?}");
    };
    let [images, weights, result] = [shape.input_len(), shape.weights_len(), shape.output_len()];
    check("conv", [images, weights, result], reference::conv, &|images, weights, out| {
        device.conv(shape, images, weights, out);
    });
    check("conv_weights", [images, result, weights], reference::conv_weights, &|images, gradient, out| {
        device.conv_weights(shape, images, gradient, out);
    });
    check("conv_images", [result, weights, images], reference::conv_images, &|gradient, weights, out| {
        device.conv_images(shape, gradient, weights, out);
    });
}

fn convolutions_equal_the_reference(device: &dyn Compute) {
    let plain = ConvShape { padding: [0; 4], ..SAME };
    let depthwise = ConvShape { groups: 3, out_channels: 3, ..SAME };
    let shapes = [
        SAME,
        ConvShape { images: 0, ..SAME },
        ConvShape { images: 1, height: 1, width: 1, channels: 1, out_channels: 1, ..SAME },
        // Steps of all kinds.
        ConvShape { stride: [2, 1], ..SAME },
        ConvShape { stride: [2, 3], padding: [0, 2, 1, 0], ..SAME },
        ConvShape { stride: [4, 5], ..plain },
        ConvShape { dilation: [2, 1], padding: [2, 0, 1, 3], ..SAME },
        ConvShape { dilation: [1, 2], stride: [1, 2], ..SAME },
        ConvShape { dilation: [2, 3], padding: [3, 3, 3, 3], kernel: [2, 4], ..SAME },
        ConvShape { padding: [5, 0, 0, 6], ..SAME },
        // Products in disguise, and those that only look like one.
        ConvShape { kernel: [1, 1], ..plain },
        ConvShape { kernel: [1, 1], ..SAME },
        ConvShape { kernel: [1, 1], stride: [2, 2], ..plain },
        ConvShape { kernel: [6, 7], ..plain },
        ConvShape { kernel: [6, 7], ..SAME },
        ConvShape { kernel: [6, 4], dilation: [1, 2], ..plain },
        ConvShape { kernel: [1, 1], height: 1, width: 1, ..plain },
        // One dimension.
        ConvShape { height: 1, width: 40, kernel: [1, 5], padding: [0, 4, 0, 2], ..SAME },
        ConvShape { height: 40, width: 1, kernel: [5, 1], padding: [4, 0, 0, 0], stride: [3, 1], ..SAME },
        ConvShape { kernel: [1, 3], ..plain },
        ConvShape { kernel: [6, 1], ..plain },
        // Groups.
        ConvShape { channels: 6, groups: 2, out_channels: 4, ..SAME },
        ConvShape { channels: 12, groups: 3, out_channels: 30, dilation: [2, 2], padding: [1, 2, 3, 0], ..SAME },
        ConvShape { channels: 4, groups: 4, out_channels: 8, ..plain },
        ConvShape { channels: 4, groups: 2, out_channels: 2, stride: [2, 2], ..SAME },
        depthwise,
        ConvShape { images: 0, ..depthwise },
        ConvShape { channels: 37, groups: 37, out_channels: 37, stride: [2, 1], padding: [2, 0, 0, 1], ..SAME },
        ConvShape { channels: 16, groups: 16, out_channels: 16, dilation: [2, 3], ..depthwise },
        ConvShape { channels: 1, out_channels: 1, ..SAME },
        // Large enough for several threads and blocks, or so that the fast kernels pay.
        ConvShape { images: 4, height: 28, width: 28, channels: 1, kernel: [5, 5], out_channels: 20, ..plain },
        ConvShape { images: 4, height: 12, width: 12, channels: 20, kernel: [5, 5], out_channels: 50, ..plain },
        ConvShape { images: 1, height: 16, width: 16, channels: 32, out_channels: 64, ..SAME },
        ConvShape { images: 5, height: 9, width: 9, channels: 72, out_channels: 40, stride: [2, 2], ..SAME },
        ConvShape { images: 3, height: 4, width: 4, channels: 130, out_channels: 70, ..SAME },
        ConvShape { images: 7, height: 20, width: 20, channels: 96, groups: 96, out_channels: 96, ..SAME },
        ConvShape { images: 6, height: 16, width: 16, channels: 16, groups: 2, out_channels: 36, ..SAME },
    ];
    for (index, shape) in shapes.iter().enumerate() {
        let products = shape.output_len() * shape.terms();
        for offset in (0..FORMS.len()).take(if products > 1 << 20 { 1 } else { FORMS.len() }) {
            let form = |at: usize| FORMS[at % FORMS.len()];
            check_conv(device, shape, form(index + offset), form(2 * index + offset + 1));
        }
    }
}

prop_compose! {
    fn small_shape()(
        [height, width, group_channels, written] in [1_usize..9, 1..9, 1..10, 1..10],
        groups in 1_usize..4,
        images in 0_usize..4,
        kernel in [1_usize..5, 1..5],
        stride in [1_usize..4, 1..4],
        dilation in [1_usize..4, 1..4],
        padding in [0_usize..4, 0..4, 0..4, 0..4],
    ) -> ConvShape {
        let fit = |axis: usize, len: usize| {
            let last = len + padding[axis] + padding[axis + 2] - 1;
            kernel[axis].min(last / dilation[axis] + 1)
        };
        let kernel = [fit(0, height), fit(1, width)];
        let (channels, out_channels) = (groups * group_channels, groups * written);
        ConvShape { images, height, width, channels, kernel, stride, padding, dilation, groups, out_channels }
    }
}

proptest! {
    #[test]
    fn convolutions_of_any_shape_conform(shape in small_shape(), left in 0..FORMS.len(), right in 0..FORMS.len()) {
        for path in Path::available() {
            check_conv(&CpuDevice::with_path(path, 1), &shape, FORMS[left], FORMS[right]);
        }
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
        let run = |fill: &dyn Fn(SliceMut<'_>)| {
            let mut out = device.hold(start.clone());
            fill(out.all_mut());
            out.into_host()
        };
        assert_eq!(device.keystream(&key, nonce, len).into_host(), stream, "{}: {len} words", device.name());
        assert_eq!(run(&|out| device.keystream_add(&key, nonce, out)), combined(u64::wrapping_add));
        assert_eq!(run(&|out| device.keystream_xor(&key, nonce, out)), combined(|word, mask| word ^ mask));
    }
}

fn bit_planes_equal_the_reference(device: &dyn Compute) {
    for len in [0, 1, 63, 64, 65, 130, 511, 512, 513, 1000, 4096] {
        let words = words(7, len);
        for (low, count) in [(0, 0), (0, 1), (0, 64), (1, 31), (16, 31), (0, 32), (31, 33), (63, 1), (5, 40)] {
            let mut want = vec![0; count * len.div_ceil(64)];
            reference::bit_planes(&words, low, count, &mut want);
            let got = device.bit_planes(device.hold(words.clone()).all(), low, count);
            assert!(got.into_host() == want, "{}: bits {low}..+{count} of {len} words", device.name());
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
