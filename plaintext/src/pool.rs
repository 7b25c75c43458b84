//! Maxima and means of windows.

use std::ops::Range;

use shared::model::{Layer, Pool, Shape};

/// The windows of a pooling layer: rows and columns of the image that each covers.
pub(crate) struct Windows {
    input: Shape,
    rows: Vec<Range<usize>>,
    columns: Vec<Range<usize>>,
    /// What sums are divided by; the cells inside the image by default.
    divisor: Option<usize>,
}

impl Windows {
    /// None for layers that do not pool.
    pub(crate) fn of(layer: &Layer, input: Shape, output: Shape) -> Option<Self> {
        match *layer {
            Layer::MaxPool(pool) => Some(Self::sliding(pool, input, output, None)),
            Layer::AveragePool { pool, count_padding } => {
                let cells = pool.kernel[0] * pool.kernel[1];
                Some(Self::sliding(pool, input, output, count_padding.then_some(cells)))
            }
            Layer::AdaptiveAveragePool { .. } => {
                let along = |size: usize, count: usize| {
                    (0..count).map(|i| i * size / count..((i + 1) * size).div_ceil(count)).collect()
                };
                let rows = along(input.height, output.height);
                Some(Self { input, rows, columns: along(input.width, output.width), divisor: None })
            }
            _ => None,
        }
    }

    fn sliding(pool: Pool, input: Shape, output: Shape, divisor: Option<usize>) -> Self {
        let along = |axis: usize, size: usize, count: usize| {
            let Pool { kernel, stride, padding } = pool;
            let start = move |i: usize| i * stride[axis];
            let range = move |i| {
                let start = start(i);
                start.saturating_sub(padding[axis])..(start + kernel[axis]).saturating_sub(padding[axis]).min(size)
            };
            (0..count).map(range).collect()
        };
        let rows = along(0, input.height, output.height);
        Self { input, rows, columns: along(1, input.width, output.width), divisor }
    }

    /// The largest value of every window, and where it came from: the first of those that tie.
    pub(crate) fn largest(&self, x: &[f64]) -> (Vec<f64>, Vec<usize>) {
        let (mut values, mut winners) = (Vec::new(), Vec::new());
        self.for_each(x.len(), |cells, _| {
            let start = values.len();
            for (order, cell) in cells.enumerate() {
                let channels = &x[cell..cell + self.input.channels];
                if order == 0 {
                    values.extend_from_slice(channels);
                    winners.extend(cell..cell + self.input.channels);
                } else {
                    for (channel, value) in channels.iter().enumerate() {
                        if *value > values[start + channel] {
                            (values[start + channel], winners[start + channel]) = (*value, cell + channel);
                        }
                    }
                }
            }
        });
        (values, winners)
    }

    /// The mean of every window.
    pub(crate) fn means(&self, x: &[f64]) -> Vec<f64> {
        let mut values = Vec::new();
        self.for_each(x.len(), |cells, divisor| {
            let start = values.len();
            values.resize(start + self.input.channels, 0.0);
            for cell in cells {
                values[start..].iter_mut().zip(&x[cell..]).for_each(|(sum, value)| *sum += value);
            }
            values[start..].iter_mut().for_each(|sum| *sum /= divisor);
        });
        values
    }

    /// Gradient of what the means were taken of.
    pub(crate) fn means_back(&self, delta: &[f64]) -> Vec<f64> {
        let windows = self.rows.len() * self.columns.len();
        let samples = delta.len() / (windows * self.input.channels);
        let mut back = vec![0.0; samples * self.input.len()];
        let mut deltas = delta.chunks_exact(self.input.channels);
        self.for_each(back.len(), |cells, divisor| {
            let delta = deltas.next().expect("a gradient for every window");
            for cell in cells {
                back[cell..].iter_mut().zip(delta).for_each(|(sum, delta)| *sum += delta / divisor);
            }
        });
        back
    }

    /// Visits the windows of all samples: where the channels of each cell start, and what a mean divides by.
    #[allow(clippy::cast_precision_loss, reason = "windows have far fewer than 2^52 cells")]
    fn for_each(&self, len: usize, mut visit: impl FnMut(&mut dyn Iterator<Item = usize>, f64)) {
        for sample in 0..len / self.input.len() {
            for rows in &self.rows {
                for columns in &self.columns {
                    let divisor = self.divisor.unwrap_or(rows.len() * columns.len()) as f64;
                    let of_row = |row: usize| columns.clone().map(move |column| row * self.input.width + column);
                    let positions = rows.clone().flat_map(of_row);
                    let start = sample * self.input.positions();
                    visit(&mut positions.map(|position| (start + position) * self.input.channels), divisor);
                }
            }
        }
    }
}

/// Gradient of what the largest were taken from.
pub(crate) fn largest_back(delta: &[f64], winners: &[usize], len: usize) -> Vec<f64> {
    let mut back = vec![0.0; len];
    delta.iter().zip(winners).for_each(|(delta, winner)| back[*winner] += delta);
    back
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(layer: Layer, input: Shape) -> Windows {
        Windows::of(&layer, input, layer.output(&[input]).unwrap()).unwrap()
    }

    #[test]
    fn ties_go_to_the_first_and_cells_outside_never_win() {
        let image = Shape::image(1, 2, 3);
        let pool = Pool { kernel: [2, 2], stride: [1, 1], padding: [1, 0, 0, 1] };
        let max = windows(Layer::MaxPool(pool), image);
        let (values, winners) = max.largest(&[-1.0, -1.0, -3.0, -1.0, -2.0, -2.0]);
        assert_eq!(values, [-1.0, -1.0, -3.0, -1.0, -1.0, -2.0]);
        assert_eq!(winners, [0, 1, 2, 0, 1, 5]);
        assert_eq!(largest_back(&[1.0; 6], &winners, 6), [2.0, 2.0, 1.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn means_count_padding_or_do_not() {
        let image = Shape::image(1, 2, 2);
        let pool = Pool { kernel: [2, 2], stride: [2, 2], padding: [1, 1, 1, 1] };
        let mean = |count_padding| windows(Layer::AveragePool { pool, count_padding }, image);
        assert_eq!(mean(false).means(&[4.0, 8.0, 12.0, 16.0]), [4.0, 8.0, 12.0, 16.0]);
        assert_eq!(mean(true).means(&[4.0, 8.0, 12.0, 16.0]), [1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn adaptive_windows_are_those_of_pytorch() {
        // torch.nn.AdaptiveAvgPool1d(3) of 0..5 takes 0..2, 1..4, 3..5.
        let line = windows(Layer::AdaptiveAveragePool { output: [1, 3] }, Shape::image(1, 1, 5));
        assert_eq!(line.means(&[0.0, 1.0, 2.0, 3.0, 4.0]), [0.5, 2.0, 3.5]);
        assert_eq!(line.means_back(&[2.0, 3.0, 2.0]), [1.0, 2.0, 1.0, 2.0, 1.0]);
    }
}
