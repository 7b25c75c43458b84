//! Linear layers: a product over the channels of every position.

use super::{Network, column_sums};
use crate::compute::{SliceMut, elementwise};
use crate::protocol::{Matrix, ProtocolError, Tile, TileShare, matmul, matmul_doubled};

impl Network<'_> {
    fn weights(&self, tile: &Tile<'_>, index: usize) -> Matrix<'_> {
        let (inputs, outputs) = (self.wiring.input(index).channels, self.wiring.output(index).channels);
        Matrix::new(self.view(tile, &self.wiring.place(index).weights), inputs, outputs)
    }

    /// `x W + b`.
    pub(super) async fn linear(
        &self,
        tile: &Tile<'_>,
        index: usize,
        x: &TileShare,
        rows: usize,
    ) -> Result<TileShare, ProtocolError> {
        let shape = self.wiring.input(index);
        let input = Matrix::new(x.view(), rows * shape.positions(), shape.channels);
        let mut output = matmul(tile, input, self.weights(tile, index)).await?;
        let biases = &self.wiring.place(index).biases;
        if !biases.is_empty() {
            output.add_row(self.view(tile, biases));
        }
        Ok(output)
    }

    /// `G W^T`.
    pub(super) async fn linear_backward(
        &self,
        tile: &Tile<'_>,
        index: usize,
        gradient: &TileShare,
        rows: usize,
    ) -> Result<TileShare, ProtocolError> {
        let shape = self.wiring.output(index);
        let gradient = Matrix::new(gradient.view(), rows * shape.positions(), shape.channels);
        matmul(tile, gradient, self.weights(tile, index).t()).await
    }

    /// Adds the layer's gradients: `X^T G` for the weights, column sums of `G` for the biases. Local.
    pub(super) fn linear_gradients(
        &self,
        tile: &Tile<'_>,
        index: usize,
        x: &TileShare,
        gradient: &TileShare,
        rows: usize,
        mut into: SliceMut<'_>,
    ) {
        let (shape, outputs) = (self.wiring.input(index), self.wiring.output(index).channels);
        let place = self.wiring.place(index);
        let rows = rows * shape.positions();
        let input = Matrix::new(x.view(), rows, shape.channels).t();
        let columns = Matrix::new(gradient.view(), rows, outputs);
        matmul_doubled(tile, input, columns, into.at(place.weights.clone()));
        if !place.biases.is_empty() {
            elementwise::add_assign(into.at(place.biases.clone()), column_sums(tile, gradient, outputs).addends());
        }
    }
}
