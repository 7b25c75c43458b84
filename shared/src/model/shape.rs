//! What one sample looks like between two layers.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Shape of one sample: channels, height, width, in the order in which PyTorch and ONNX name them. A vector is one
/// position with many channels, a sequence has height 1.
///
/// In memory channels are last, sample after sample: element `(c, y, x)` of a sample lies at
/// `(y width + x) channels + c`. A convolution then reads runs of channels, and a linear layer is a convolution of
/// one position.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Shape {
    /// Channels of an image, features of a vector.
    pub channels: usize,
    /// Rows of an image; 1 for vectors and sequences.
    pub height: usize,
    /// Columns of an image, steps of a sequence; 1 for vectors.
    pub width: usize,
}

impl Shape {
    /// Features without positions.
    pub const fn vector(features: usize) -> Self {
        Self { channels: features, height: 1, width: 1 }
    }

    /// An image.
    pub const fn image(channels: usize, height: usize, width: usize) -> Self {
        Self { channels, height, width }
    }

    /// Elements of one sample.
    pub const fn len(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Whether it has no elements.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Positions, each with a value for every channel.
    pub const fn positions(&self) -> usize {
        self.height * self.width
    }

    /// Where the elements of a sample lie in memory, in the order of PyTorch: channel, row, column.
    pub fn channels_first(&self) -> impl Iterator<Item = usize> + use<> {
        let (channels, positions) = (self.channels, self.positions());
        (0..channels).flat_map(move |channel| (0..positions).map(move |position| position * channels + channel))
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { channels, height: 1, width: 1 } => write!(f, "{channels}"),
            Self { channels, height: 1, width } => write!(f, "{channels}x{width}"),
            Self { channels, height, width } => write!(f, "{channels}x{height}x{width}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_order_is_channels_last() {
        let order: Vec<usize> = Shape::image(2, 1, 3).channels_first().collect();
        assert_eq!(order, [0, 2, 4, 1, 3, 5]);
        assert!(Shape::vector(4).channels_first().eq(0..4));
    }
}
