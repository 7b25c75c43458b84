//! Convolutions and their transposes.

use shared::model::Conv;

use super::{Network, column_sums};
use crate::compute::{ConvShape, SliceMut, Words, elementwise};
use crate::protocol::{
    DoubledPartial, ProtocolError, Tile, TileShare, View, conv_doubled, conv_images_doubled, conv_weights_doubled,
    trunc,
};

impl Network<'_> {
    /// The convolution of a layer on `rows` images; of a transposed one, the convolution that it transposes.
    fn conv_shape(&self, index: usize, conv: &Conv, transposed: bool, rows: usize) -> ConvShape {
        let (mut images, mut results) = (self.wiring.input(index), self.wiring.output(index));
        if transposed {
            std::mem::swap(&mut images, &mut results);
        }
        ConvShape {
            images: rows,
            height: images.height,
            width: images.width,
            channels: images.channels,
            kernel: conv.kernel,
            stride: conv.stride,
            padding: conv.padding,
            dilation: conv.dilation,
            groups: conv.groups,
            out_channels: results.channels,
        }
    }

    fn kernels(&self, tile: &Tile<'_>, index: usize) -> View<'_> {
        self.view(tile, &self.wiring.place(index).weights)
    }

    /// One truncated product, and the bias.
    pub(super) async fn conv(
        &self,
        tile: &Tile<'_>,
        index: usize,
        (conv, transposed): (&Conv, bool),
        x: &TileShare,
        rows: usize,
    ) -> Result<TileShare, ProtocolError> {
        let shape = self.conv_shape(index, conv, transposed, rows);
        let pass = if transposed { conv_images_doubled } else { conv_doubled };
        let mut out = tile.device().zeros(rows * self.wiring.output(index).len());
        pass(tile, &shape, x.view(), self.kernels(tile, index), out.all_mut());
        let mut output = truncated(tile, out).await?;
        let biases = &self.wiring.place(index).biases;
        if !biases.is_empty() {
            output.add_row(self.view(tile, biases));
        }
        Ok(output)
    }

    /// Gradient of the images: one truncated product.
    pub(super) async fn conv_backward(
        &self,
        tile: &Tile<'_>,
        index: usize,
        (conv, transposed): (&Conv, bool),
        gradient: &TileShare,
        rows: usize,
    ) -> Result<TileShare, ProtocolError> {
        let shape = self.conv_shape(index, conv, transposed, rows);
        let pass = if transposed { conv_doubled } else { conv_images_doubled };
        let mut out = tile.device().zeros(rows * self.wiring.input(index).len());
        pass(tile, &shape, gradient.view(), self.kernels(tile, index), out.all_mut());
        truncated(tile, out).await
    }

    /// Adds the gradients of kernels and biases. Local.
    #[allow(clippy::too_many_arguments, reason = "a layer's gradients are exactly what these name")]
    pub(super) fn conv_gradients(
        &self,
        tile: &Tile<'_>,
        index: usize,
        (conv, transposed): (&Conv, bool),
        x: &TileShare,
        gradient: &TileShare,
        rows: usize,
        mut into: SliceMut<'_>,
    ) {
        let (shape, place) = (self.conv_shape(index, conv, transposed, rows), self.wiring.place(index));
        let (images, results) = if transposed { (gradient, x) } else { (x, gradient) };
        conv_weights_doubled(tile, &shape, images.view(), results.view(), into.at(place.weights.clone()));
        if !place.biases.is_empty() {
            let sums = column_sums(tile, gradient, place.biases.len());
            elementwise::add_assign(into.at(place.biases.clone()), sums.addends());
        }
    }
}

async fn truncated(tile: &Tile<'_>, doubled: Words) -> Result<TileShare, ProtocolError> {
    trunc(tile, DoubledPartial(doubled), tile.party().fixed().bits() + 1).await
}
