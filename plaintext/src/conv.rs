//! Convolutions as matrix products: the windows of an image become rows, for a few samples at a time.

use std::ops::Range;

use shared::model::{Conv, Shape};

use crate::matrix::{Matrix, add_product, product};

/// Rows of a matrix of windows that are worth a product of their own.
const ROWS: usize = 128;

/// A convolution from an image to a map of its windows. A transposed convolution is the same, from the map back to the
/// image.
pub(crate) struct Correlation {
    conv: Conv,
    /// What windows are cut from.
    image: Shape,
    /// One position for each window.
    map: Shape,
}

impl Correlation {
    pub(crate) fn new(conv: Conv, image: Shape, map: Shape) -> Self {
        Self { conv, image, map }
    }

    /// Maps of images.
    pub(crate) fn forward(&self, images: &[f64], weights: &[f64]) -> Vec<f64> {
        let mut maps = vec![0.0; images.len() / self.image.len() * self.map.len()];
        let weights = self.kernels(weights);
        for (images, maps) in self.blocks(images, self.image).zip(maps.chunks_mut(self.block() * self.map.len())) {
            for group in 0..self.conv.groups {
                let (windows, channels) = (self.windows(images, group), self.map_channels(group));
                let windows = Matrix::new(&windows, maps.len() / self.map.channels, self.window());
                add_product(&mut maps[channels.start..], self.map.channels, windows, weights.columns(&channels));
            }
        }
        maps
    }

    /// Images from maps, by the transposed linear map.
    pub(crate) fn back(&self, maps: &[f64], weights: &[f64]) -> Vec<f64> {
        let mut images = vec![0.0; maps.len() / self.map.len() * self.image.len()];
        let weights = self.kernels(weights);
        for (maps, images) in self.blocks(maps, self.map).zip(images.chunks_mut(self.block() * self.image.len())) {
            let maps = Matrix::new(maps, maps.len() / self.map.channels, self.map.channels);
            for group in 0..self.conv.groups {
                let channels = self.map_channels(group);
                let windows = product(maps.columns(&channels), weights.columns(&channels).transposed());
                self.add_windows(images, group, &windows);
            }
        }
        images
    }

    /// Adds the gradient of the kernels: what the images hold, times what the maps' gradients are.
    pub(crate) fn add_gradient(&self, images: &[f64], maps: &[f64], weights: &mut [f64]) {
        for (images, maps) in self.blocks(images, self.image).zip(self.blocks(maps, self.map)) {
            let rows = maps.len() / self.map.channels;
            let maps = Matrix::new(maps, rows, self.map.channels);
            for group in 0..self.conv.groups {
                let (windows, channels) = (self.windows(images, group), self.map_channels(group));
                let windows = Matrix::new(&windows, rows, self.window()).transposed();
                add_product(&mut weights[channels.start..], self.map.channels, windows, maps.columns(&channels));
            }
        }
    }

    fn kernels<'a>(&self, weights: &'a [f64]) -> Matrix<'a> {
        Matrix::new(weights, self.window(), self.map.channels)
    }

    /// Values of one window and group.
    fn window(&self) -> usize {
        self.conv.kernel[0] * self.conv.kernel[1] * self.image.channels / self.conv.groups
    }

    fn map_channels(&self, group: usize) -> Range<usize> {
        let channels = self.map.channels / self.conv.groups;
        group * channels..(group + 1) * channels
    }

    /// Samples that go into one product.
    fn block(&self) -> usize {
        ROWS.div_ceil(self.map.positions())
    }

    fn blocks<'a>(&self, values: &'a [f64], shape: Shape) -> impl Iterator<Item = &'a [f64]> {
        values.chunks(self.block() * shape.len())
    }

    /// The windows of some samples, a row each: kernel row by kernel row, channels last.
    fn windows(&self, images: &[f64], group: usize) -> Vec<f64> {
        let samples = images.len() / self.image.len();
        let mut windows = Vec::with_capacity(samples * self.map.positions() * self.window());
        let channels = self.image.channels / self.conv.groups;
        self.for_each_cell(samples, group, |cell| match cell {
            Some(at) => windows.extend_from_slice(&images[at..at + channels]),
            None => windows.resize(windows.len() + channels, 0.0),
        });
        windows
    }

    /// Adds the values of windows where they were cut from.
    fn add_windows(&self, images: &mut [f64], group: usize, windows: &[f64]) {
        let mut runs = windows.chunks_exact(self.image.channels / self.conv.groups);
        self.for_each_cell(images.len() / self.image.len(), group, |cell| {
            let run = runs.next().expect("a run for every cell of every window");
            if let Some(at) = cell {
                images[at..].iter_mut().zip(run).for_each(|(sum, value)| *sum += value);
            }
        });
    }

    /// Where the group's channels of each cell of each window lie; none for cells outside the image.
    fn for_each_cell(&self, samples: usize, group: usize, mut visit: impl FnMut(Option<usize>)) {
        let Conv { kernel: [rows, columns], stride, padding: [top, left, ..], dilation, .. } = self.conv;
        let inside = |start: usize, step: usize, margin: usize, size: usize| {
            (start + step).checked_sub(margin).filter(|at| *at < size)
        };
        let first = group * self.image.channels / self.conv.groups;
        for sample in 0..samples {
            for window in 0..self.map.positions() {
                let (y, x) = (window / self.map.width * stride[0], window % self.map.width * stride[1]);
                for row in 0..rows {
                    let row = inside(y, row * dilation[0], top, self.image.height);
                    for column in 0..columns {
                        let column = inside(x, column * dilation[1], left, self.image.width);
                        visit(row.zip(column).map(|(row, column)| {
                            let position = sample * self.image.positions() + row * self.image.width + column;
                            position * self.image.channels + first
                        }));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_start_above_the_image_and_reach_over_gaps() {
        // 1 2 3 / 4 5 6 / 7 8 9 under the kernel (1, 10 / 100, 1000), one row of zeros above, two columns apart.
        let image: Vec<f64> = (1..=9).map(f64::from).collect();
        let conv = Conv { dilation: [1, 2], padding: [1, 0, 0, 0], ..Conv::square(1, 2) };
        let map = Conv::square(1, 2);
        let weights = [1.0, 10.0, 100.0, 1000.0];
        let dilated = Correlation::new(conv, Shape::image(1, 3, 3), Shape::image(1, 3, 1));
        assert_eq!(dilated.forward(&image, &weights), [3100.0, 6431.0, 9764.0]);
        let plain = Correlation::new(map, Shape::image(1, 3, 3), Shape::image(1, 2, 2));
        assert_eq!(plain.forward(&image, &weights), [5421.0, 6532.0, 8754.0, 9865.0]);
        let strided = Correlation::new(map.strided(2).padded(1), Shape::image(1, 3, 3), Shape::image(1, 2, 2));
        assert_eq!(strided.forward(&image, &weights), [1000.0, 3200.0, 7040.0, 9865.0]);
    }

    #[test]
    fn a_transposed_convolution_spreads_its_input() {
        // torch.nn.functional.conv_transpose2d of (1 2 / 3 4) with (1 2 / 3 4), stride 2.
        let conv = Conv::square(1, 2).strided(2);
        let spread = Correlation::new(conv, Shape::image(1, 4, 4), Shape::image(1, 2, 2));
        let image = spread.back(&[1.0, 2.0, 3.0, 4.0], &[1.0, 2.0, 3.0, 4.0]);
        let rows = [[1.0, 2.0, 2.0, 4.0], [3.0, 4.0, 6.0, 8.0], [3.0, 6.0, 4.0, 8.0], [9.0, 12.0, 12.0, 16.0]];
        assert_eq!(image, rows.concat());
    }

    #[test]
    fn groups_do_not_mix() {
        // Two channels, each with a 1x1 kernel of its own.
        let conv = Conv { groups: 2, ..Conv::square(4, 1) };
        let shape = Shape::image(2, 1, 2);
        let grouped = Correlation::new(conv, shape, Shape::image(4, 1, 2));
        let maps = grouped.forward(&[1.0, 2.0, 3.0, 4.0], &[1.0, 10.0, 100.0, 1000.0]);
        assert_eq!(maps, [1.0, 10.0, 200.0, 2000.0, 3.0, 30.0, 400.0, 4000.0]);
    }
}
