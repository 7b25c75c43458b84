//! Which way of multiplying matrices is fastest on a device: measured once and kept on disk.

use std::time::Instant;

use super::driver::Int8Gemm;
use super::{CudaError, Gpu, Operand, SpanMut, Splitting, compiler, source};

/// Multiply-adds of a product from which a way of multiplying pays.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Thresholds {
    /// Splitting into digits, up to `residues`.
    pub(super) digits: u64,
    /// Splitting into residues.
    pub(super) residues: u64,
}

impl Thresholds {
    /// 64-bit multiply-add for everything.
    pub(super) const NEVER: Self = Self { digits: u64::MAX, residues: u64::MAX };
}

/// Matrices with fewer rows, columns or terms are padded too much to be split.
const SPLIT_SIZE_MIN: usize = 64;
/// Cubes that are measured.
const SIZES: [usize; 4] = [256, 512, 1024, 2048];
/// Runs of which the fastest counts.
const RUNS: usize = 3;

impl Gpu {
    /// `out += a * b`, row-major `a.rows x b.cols`, the fastest way that is known. Panics if the shapes do not fit: they
    /// are ours.
    pub fn gemm(&self, a: Operand<'_>, b: Operand<'_>, out: SpanMut<'_>) {
        match self.choice([a.rows, a.cols, b.cols]) {
            None => self.gemm_by_multiply_add(a, b, out),
            Some(splitting) => {
                assert_eq!(a.cols, b.rows, "inner dimensions agree");
                self.gemm_split(&self.split_left(a, splitting), &self.split_right(b, splitting), out);
            }
        }
    }

    /// How a product of `rows x depth` with `depth x columns` is best done: by splitting its operands, or not. Whoever
    /// multiplies an operand more than once splits it once.
    pub fn choice(&self, [rows, depth, columns]: [usize; 3]) -> Option<Splitting> {
        let thresholds = self.0.thresholds.get().unwrap_or(&Thresholds::NEVER);
        let products = rows as u64 * depth as u64 * columns as u64;
        match () {
            () if rows.min(depth).min(columns) < SPLIT_SIZE_MIN => None,
            () if products >= thresholds.residues => Some(Splitting::Residues),
            () if products >= thresholds.digits => Some(Splitting::Digits),
            () => None,
        }
    }

    /// Finds out what is fastest, unless it is known from an earlier start with this device and these kernels.
    pub(super) fn learn_choice(&self) {
        if let Err(error) = self.try_int8_product() {
            tracing::warn!(%error, device = %self.name(), "no int8 products: large products will be slower");
            return;
        }
        let place = compiler::kept(&file_name(&self.name()));
        let known = place.as_ref().and_then(|place| std::fs::read_to_string(place).ok()).and_then(|text| parse(&text));
        let thresholds = known.unwrap_or_else(|| {
            let measured = self.measure();
            if let (Some(place), Ok(())) = (place, self.check()) {
                let text = format!("{} {}\n", measured.digits, measured.residues);
                let folder = place.parent().map_or(Ok(()), std::fs::create_dir_all);
                if let Err(error) = folder.and_then(|()| std::fs::write(&place, text)) {
                    tracing::debug!(%error, place = %place.display(), "what was measured is not kept");
                }
            }
            measured
        });
        tracing::debug!(device = %self.name(), ?thresholds, "products of matrices");
        // A second start of the same device would find the same.
        let _ = self.0.thresholds.set(thresholds);
    }

    /// A small int8 product, whose failure is none of the device's: it can do without.
    fn try_int8_product(&self) -> Result<(), CudaError> {
        let size = SPLIT_SIZE_MIN;
        let (factors, out) = (self.zeros(size * size / 8), self.zeros(size * size / 2));
        self.check()?;
        let (a, out) = (factors.span().address, out.span().address);
        let product = Int8Gemm { rows: size, columns: size, depth: size, a, a_line: size, b: a, b_line: size, out };
        self.0.driver.int8_gemm(&product)?;
        self.0.driver.synchronise()
    }

    /// Times every way on cubes of growing size.
    fn measure(&self) -> Thresholds {
        let seconds: Vec<[f64; 3]> = SIZES.iter().map(|&size| self.time(size)).collect();
        let volume = |size: usize| (size as u64).pow(3);
        // The smallest size from which on one way stays ahead of the others.
        let from = |way: usize, others: &[usize]| {
            let ahead = |times: &&[f64; 3]| others.iter().all(|&other| times[way] < times[other]);
            let count = seconds.iter().rev().take_while(ahead).count();
            if count == 0 { u64::MAX } else { volume(SIZES[SIZES.len() - count]) }
        };
        let residues = from(2, &[0, 1]);
        let digits = from(1, &[0]);
        Thresholds { digits, residues }
    }

    /// Seconds of a product of cubes by multiply-add, by digits, by residues.
    fn time(&self, size: usize) -> [f64; 3] {
        let x = self.keystream(&[7; 8], [0; 3], 2 * size * size);
        let operand = |i: usize| {
            let x = x.slice(i * size * size..(i + 1) * size * size);
            Operand { x, y: None, kx: 1, ky: 0, rows: size, cols: size, transposed: false }
        };
        let mut out = self.zeros(size * size);
        [None, Some(Splitting::Digits), Some(Splitting::Residues)].map(|splitting| {
            let mut best = f64::INFINITY;
            for run in 0..=RUNS {
                let begun = Instant::now();
                let (a, b, out) = (operand(0), operand(1), out.span_mut());
                match splitting {
                    None => self.gemm_by_multiply_add(a, b, out),
                    Some(way) => self.gemm_split(&self.split_left(a, way), &self.split_right(b, way), out),
                }
                if self.synchronise().is_err() {
                    return f64::INFINITY;
                }
                // The first one warms up.
                if run > 0 {
                    best = best.min(begun.elapsed().as_secs_f64());
                }
            }
            best
        })
    }
}

/// Under which name the measurement of a device is kept.
pub(super) fn file_name(device: &str) -> String {
    let what = format!("{device}\n{}", source::source());
    format!("products-{}.txt", compiler::digest(&what))
}

fn parse(text: &str) -> Option<Thresholds> {
    let (digits, residues) = text.trim().split_once(' ')?;
    Some(Thresholds { digits: digits.parse().ok()?, residues: residues.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::conformance::words;
    use crate::compute::{self, reference};

    #[test]
    fn every_choice_gives_the_same_product() {
        let Some(gpu) = Gpu::emulated(1 << 28) else { return };
        let thresholds = Thresholds { digits: 64 * 64 * 65, residues: 64 * 64 * 66 };
        gpu.0.thresholds.set(thresholds).unwrap();
        let choices = [[64, 64, 64], [64, 65, 64], [66, 64, 64], [63, 6400, 64]];
        let wanted = [None, Some(Splitting::Digits), Some(Splitting::Residues), None];
        assert_eq!(choices.map(|shape| gpu.choice(shape)), wanted);
        for [rows, depth, columns] in [[64, 64, 64], [64, 65, 64], [66, 64, 64]] {
            let (a, b) = (words(1, rows * depth), words(2, depth * columns));
            let mut want = words(3, rows * columns);
            let mut out = gpu.upload(&want);
            let (da, db) = (gpu.upload(&a), gpu.upload(&b));
            let left = Operand { x: da.span(), y: None, kx: 3, ky: 0, rows, cols: depth, transposed: false };
            let right = Operand { x: db.span(), y: None, kx: 5, ky: 0, rows: depth, cols: columns, transposed: false };
            gpu.gemm(left, right, out.span_mut());
            let left = compute::HostOperand { x: &a[..], y: None, kx: 3, ky: 0, rows, cols: depth, transposed: false };
            let right = compute::HostOperand {
                x: &b[..],
                y: None,
                kx: 5,
                ky: 0,
                rows: depth,
                cols: columns,
                transposed: false,
            };
            reference::gemm(left, right, &mut want);
            assert_eq!(gpu.download(out.span()).unwrap(), want);
        }
    }

    #[test]
    fn int8_products_are_tried_without_harm() {
        let Some(gpu) = Gpu::emulated(1 << 24) else { return };
        gpu.try_int8_product().unwrap();
        gpu.check().unwrap();
    }

    #[test]
    fn a_measurement_survives_its_file() {
        assert_eq!(parse("12 18446744073709551615\n"), Some(Thresholds { digits: 12, residues: u64::MAX }));
        assert_eq!(parse("12"), None);
        assert_eq!(parse("twelve 5"), None);
    }
}
