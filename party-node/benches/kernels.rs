//! Rates of the CPU kernels, one line per kernel, path and size, each beside its floor:
//! `cargo bench -p party-node --bench kernels -- [filter]`. `mpc-launch bench micro` prints the most important of them;
//! `party_node::kernels` measures both.
//!
//! Figures are medians of repeated runs with the slowest and fastest beside them.

use std::io::{self, Write};

use party_node::compute::{ConvShape, CpuDevice, Path};
use party_node::kernels::{Figures, Kernel, Pass};

fn main() -> io::Result<()> {
    let filters: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut kernels: Vec<Kernel> = products().chain(convolutions()).collect();
    let parallel = kernels.len();
    kernels.extend(streams().chain(planes()));
    for path in Path::available() {
        run(&filters, &CpuDevice::with_path(path, 1), &kernels)?;
    }
    // Element-wise loops take the best path of the machine, and a comparison has many.
    run(&filters, &CpuDevice::new(1), &[Kernel::Sign { values: 1_000_000 }])?;
    if cores > 1 {
        run(&filters, &CpuDevice::new(cores), &kernels[..parallel])?;
    }
    Ok(())
}

/// Prints the lines whose name contains all filters.
fn run(filters: &[String], device: &CpuDevice, kernels: &[Kernel]) -> io::Result<()> {
    for kernel in kernels {
        let name = format!("{} {}, {}", kernel.name(), kernel.shape(), device_name(device));
        if filters.iter().all(|filter| name.contains(filter.as_str())) {
            let Figures { unit, achieved, floor, ratio, runs, seconds, seconds_min, seconds_max, .. } =
                kernel.measure(device, None);
            let at = |other: f64| achieved * seconds / other;
            let (low, high) = (at(seconds_max), at(seconds_min));
            writeln!(
                io::stdout(),
                "{name:<66} {achieved:8.3} ({low:.3}-{high:.3}) {unit} of {floor:.3}: {:.0} %, {runs} runs",
                100.0 * ratio
            )?;
        }
    }
    Ok(())
}

fn device_name(device: &CpuDevice) -> String {
    let plural = if device.threads() == 1 { "" } else { "s" };
    format!("{}, {} thread{plural}", device.path(), device.threads())
}

/// Shapes of training (rows x terms x columns), and whether the left factor is read transposed.
const SHAPES: [([usize; 3], bool); 9] = [
    ([128, 784, 128], false),
    ([43, 784, 128], false),
    ([784, 43, 128], true),
    ([43, 128, 128], false),
    ([128, 43, 128], true),
    ([43, 128, 10], false),
    ([43, 10, 128], false),
    ([512, 512, 512], false),
    ([1024, 1024, 1024], false),
];

fn products() -> impl Iterator<Item = Kernel> {
    SHAPES
        .into_iter()
        .flat_map(|(shape, transposed)| [false, true].map(|of_sums| Kernel::Product { shape, transposed, of_sums }))
}

/// Convolutions of training: images, height and width, channels, kernel, stride, padding, output channels, groups.
const CONVOLUTIONS: [[usize; 8]; 7] = [
    // LeNet.
    [128, 28, 1, 5, 1, 0, 20, 1],
    [128, 12, 20, 5, 1, 0, 50, 1],
    // ResNet: the first one, one of the first stage, one that halves the image, one of the last stage.
    [8, 32, 3, 3, 1, 1, 64, 1],
    [8, 32, 64, 3, 1, 1, 64, 1],
    [8, 32, 64, 3, 2, 1, 128, 1],
    [8, 4, 512, 3, 1, 1, 512, 1],
    // Depth-wise.
    [8, 32, 96, 3, 1, 1, 96, 96],
];

/// Each pass of each convolution, and a matrix product with the same number of multiplications.
fn convolutions() -> impl Iterator<Item = Kernel> {
    CONVOLUTIONS.into_iter().flat_map(|[images, side, channels, kernel, stride, padding, out_channels, groups]| {
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
        Pass::ALL.into_iter().flat_map(move |pass| {
            let (product, transposed) = pass.as_product(&shape);
            [Kernel::Convolution { shape, pass }, Kernel::Product { shape: product, transposed, of_sums: true }]
        })
    })
}

fn streams() -> impl Iterator<Item = Kernel> {
    let lengths = [512, 1 << 15, 8 << 20].into_iter();
    lengths.flat_map(|words| [false, true].map(|added| Kernel::Keystream { words, added }))
}

fn planes() -> impl Iterator<Item = Kernel> {
    let lengths = [4096, 1 << 15, 1 << 20].into_iter();
    lengths.flat_map(|words| {
        let planes = [31, 64].map(|bits| Kernel::BitPlanes { words, bits });
        planes.into_iter().chain([Kernel::Pack { words, bits: 17 }, Kernel::Unpack { words, bits: 17 }])
    })
}
