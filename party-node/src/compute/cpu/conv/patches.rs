//! Where patches lie: padded images, the runs of adjacent words that a kernel meets in them, and loops over such runs.

use std::ops::Range;

use super::super::dispatch::multiversion;
use super::super::gemm::{Gather, Scatter};
use crate::compute::{ConvShape, HostSum};

/// Runs are copied in whole lines of this many words; what lies behind them must be readable and writable.
const LINE_WORDS: usize = 8;
/// Words to be left behind images whose patches are gathered.
pub(super) const SLACK_WORDS: usize = LINE_WORDS - 1;

/// The channels of a group in images, and in padded images that hold no others.
#[derive(Clone, Copy)]
pub(super) struct Images {
    height: usize,
    width: usize,
    channels: usize,
    first_channel: usize,
    group_channels: usize,
    top: usize,
    left: usize,
    padded_height: usize,
    padded_width: usize,
}

impl Images {
    pub(super) fn new(shape: &ConvShape, group: usize) -> Self {
        Self {
            height: shape.height,
            width: shape.width,
            channels: shape.channels,
            first_channel: group * shape.group_channels(),
            group_channels: shape.group_channels(),
            top: shape.padding[0],
            left: shape.padding[1],
            padded_height: shape.padded(0),
            padded_width: shape.padded(1),
        }
    }

    /// All channels, whatever the groups.
    pub(super) fn of_all_groups(shape: &ConvShape) -> Self {
        Self::new(&ConvShape { groups: 1, ..*shape }, 0)
    }

    /// Words of an image.
    pub(super) fn words(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Words of a padded image.
    pub(super) fn padded_words(&self) -> usize {
        self.padded_height * self.padded_width * self.group_channels
    }

    /// Whether images need no padding and hold no other channels.
    pub(super) fn is_whole(&self) -> bool {
        [self.height, self.width, self.channels] == [self.padded_height, self.padded_width, self.group_channels]
    }

    /// Writes an image of `images` to `padded`.
    pub(super) fn combine(&self, image: usize, images: HostSum<'_>, padded: &mut [u64]) {
        if !self.is_whole() {
            padded.fill(0);
        }
        let first = image * self.words();
        self.each_line(|outside, inside, steps| mix(images, first + outside, &mut padded[inside..], steps));
    }

    /// Adds what lies inside the padding to an image.
    pub(super) fn add_inside(&self, padded: &[u64], image: &mut [u64]) {
        self.each_line(|outside, inside, Steps { count, len, from, to }| {
            let back = Steps { count, len, from: to, to: from };
            add_runs(&padded[inside..], &mut image[outside..], back);
        });
    }

    /// Calls `line` with the start of every line in the image and in the padded image, and the steps that walk it.
    fn each_line(&self, mut line: impl FnMut(usize, usize, Steps)) {
        let (channels, group) = (self.channels, self.group_channels);
        let pixels = if self.is_whole() { self.height * self.width } else { self.width };
        let steps = if channels == group {
            Steps { count: 1, len: pixels * channels, from: 0, to: 0 }
        } else {
            Steps { count: pixels, len: group, from: channels, to: group }
        };
        for y in (0..self.height).step_by(pixels / self.width) {
            let outside = y * self.width * channels + self.first_channel;
            let inside = ((self.top + y) * self.padded_width + self.left) * group;
            line(outside, inside, steps);
        }
    }
}

/// The patches of padded images, as rows of a matrix: one for each pixel of the result, one column for each term.
#[derive(Clone, Copy)]
pub(super) struct Patches {
    out_height: usize,
    out_width: usize,
    image_words: usize,
    /// From a pixel to the one below, and to the next.
    pixel_steps: [usize; 2],
    /// From a run to the one in the next line of the kernel, and to the next in the same line.
    run_steps: [usize; 2],
    /// Runs in a line of the kernel.
    line_runs: usize,
    /// Terms that are adjacent in the images.
    run_words: usize,
}

impl Patches {
    /// The patches of one group.
    pub(super) fn new(shape: &ConvShape) -> Self {
        let ConvShape { kernel, stride, dilation, .. } = *shape;
        let channels = shape.group_channels();
        let line_words = shape.padded(1) * channels;
        let line_runs = if dilation[1] == 1 { 1 } else { kernel[1] };
        Self {
            out_height: shape.out_height(),
            out_width: shape.out_width(),
            image_words: shape.padded(0) * line_words,
            pixel_steps: [stride[0] * line_words, stride[1] * channels],
            run_steps: [dilation[0] * line_words, dilation[1] * channels],
            line_runs,
            run_words: kernel[1] / line_runs * channels,
        }
    }

    /// Words of a padded image.
    pub(super) fn image_words(&self) -> usize {
        self.image_words
    }

    /// Calls `visit` with where some of `terms` of some of `pixels` lie in the images, and in a row-major piece with
    /// rows `stride` words apart. All are met once, those of a pixel in their order.
    #[inline(always)]
    fn each_run(
        &self,
        pixels: Range<usize>,
        terms: Range<usize>,
        stride: usize,
        mut visit: impl FnMut(usize, usize, Steps),
    ) {
        let mut pixel = pixels.start;
        while pixel < pixels.end {
            let (line, x) = (pixel / self.out_width, pixel % self.out_width);
            let (image, y) = (line / self.out_height, line % self.out_height);
            let count = (self.out_width - x).min(pixels.end - pixel);
            let patch = image * self.image_words + y * self.pixel_steps[0] + x * self.pixel_steps[1];
            let row = (pixel - pixels.start) * stride;
            let mut term = terms.start;
            while term < terms.end {
                let (run, skipped) = (term / self.run_words, term % self.run_words);
                let (kernel_line, run) = (run / self.line_runs, run % self.line_runs);
                let len = (self.run_words - skipped).min(terms.end - term);
                let at = patch + kernel_line * self.run_steps[0] + run * self.run_steps[1] + skipped;
                let steps = Steps { count, len, from: self.pixel_steps[1], to: stride };
                visit(at, row + term - terms.start, steps);
                term += len;
            }
            pixel += count;
        }
    }
}

/// Patches of images at hand. [`SLACK_WORDS`] words lie behind the last image.
pub(super) struct Gathered<'a> {
    pub(super) patches: Patches,
    pub(super) images: &'a [u64],
}

impl Gather for Gathered<'_> {
    fn stride(&self, cols: usize) -> usize {
        (cols + SLACK_WORDS).next_multiple_of(LINE_WORDS)
    }

    fn gather(&self, rows: Range<usize>, cols: Range<usize>, to: &mut [u64]) {
        let stride = self.stride(cols.len());
        self.patches.each_run(rows, cols, stride, |image, piece, steps| {
            copy_runs(&self.images[image..], &mut to[piece..], steps);
        });
    }
}

impl Scatter for Patches {
    fn add(&self, rows: Range<usize>, cols: Range<usize>, products: &[u64], part: &mut [u64]) {
        let stride = cols.len();
        self.each_run(rows, cols, stride, |image, piece, Steps { count, len, from, to }| {
            let back = Steps { count, len, from: to, to: from };
            add_runs(&products[piece..], &mut part[image..], back);
        });
    }
}

/// `count` runs of `len` words, so many words apart where they come from and where they go.
#[derive(Clone, Copy)]
pub(super) struct Steps {
    pub(super) count: usize,
    pub(super) len: usize,
    pub(super) from: usize,
    pub(super) to: usize,
}

multiversion! {
    /// Copies runs in whole lines, so that words behind each are overwritten.
    fn copy_runs(from: &[u64], to: &mut [u64], steps: Steps) {
        match steps.len.div_ceil(LINE_WORDS) {
            1 => copy_lines::<1>(from, to, steps),
            2 => copy_lines::<2>(from, to, steps),
            3 => copy_lines::<3>(from, to, steps),
            4 => copy_lines::<4>(from, to, steps),
            lines => {
                let len = lines * LINE_WORDS;
                for run in 0..steps.count {
                    to[run * steps.to..][..len].copy_from_slice(&from[run * steps.from..][..len]);
                }
            }
        }
    }
}

/// Copies runs whose number of lines is known when this is compiled: without a call for each.
#[inline(always)]
fn copy_lines<const LINES: usize>(from: &[u64], to: &mut [u64], steps: Steps) {
    for run in 0..steps.count {
        let from = &from[run * steps.from..][..LINES * LINE_WORDS];
        to[run * steps.to..][..LINES * LINE_WORDS].copy_from_slice(from);
    }
}

multiversion! {
    /// Adds runs to runs.
    fn add_runs(from: &[u64], to: &mut [u64], steps: Steps) {
        for run in 0..steps.count {
            let from = &from[run * steps.from..][..steps.len];
            let to = &mut to[run * steps.to..][..steps.len];
            for (to, from) in to.iter_mut().zip(from) {
                *to = to.wrapping_add(*from);
            }
        }
    }
}

multiversion! {
    /// Writes the runs of a sum from word `first` on.
    pub(super) fn mix(sum: HostSum<'_>, first: usize, to: &mut [u64], steps: Steps) {
        let HostSum { x, y, kx, ky } = sum;
        for run in 0..steps.count {
            let to = &mut to[run * steps.to..][..steps.len];
            let from = first + run * steps.from..first + run * steps.from + steps.len;
            let x = &x[from.clone()];
            match y {
                None => to.iter_mut().zip(x).for_each(|(to, x)| *to = kx.wrapping_mul(*x)),
                Some(y) => to.iter_mut().zip(x.iter().zip(&y[from])).for_each(|(to, (x, y))| {
                    *to = kx.wrapping_mul(*x).wrapping_add(ky.wrapping_mul(*y));
                }),
            }
        }
    }
}
