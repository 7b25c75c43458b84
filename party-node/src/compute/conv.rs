//! Geometry of convolutions: what slides over what, and how long the slices are. Computes nothing.

/// A convolution of a batch of images with one set of weights.
///
/// Images lie channels last: element `(image, y, x, c)` at `((image * height + y) * width + x) * channels + c`. The
/// result lies the same way, with [`ConvShape::out_height`], [`ConvShape::out_width`] and `out_channels`. Weights are
/// row-major [`ConvShape::terms`]` x out_channels`, terms in the order (kernel row, kernel column, channel of the
/// group). Group `g` reads the `g`-th block of `channels / groups` channels and writes the `g`-th block of
/// `out_channels / groups` columns.
///
/// A convolution along one dimension has height 1 and a kernel of one row.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConvShape {
    /// Images of the batch; none is fine.
    pub images: usize,
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
    /// Channels of an image.
    pub channels: usize,
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
    /// Rows and columns from one output to the next.
    pub stride: [usize; 2],
    /// Rows and columns of zeros around an image: top, left, bottom, right.
    pub padding: [usize; 4],
    /// Rows and columns from one element of the kernel to the next.
    pub dilation: [usize; 2],
    /// Blocks of channels that do not see each other.
    pub groups: usize,
    /// Channels of the result.
    pub out_channels: usize,
}

impl ConvShape {
    /// Panics if no convolution has this shape. Shapes are ours: what comes from outside is checked before.
    pub fn check(&self) {
        let Self { kernel, stride, dilation, .. } = *self;
        assert!(kernel.into_iter().chain(stride).chain(dilation).all(|n| n > 0), "no zero in the steps of {self:?}");
        assert!(self.height > 0 && self.width > 0, "images of {self:?} have elements");
        assert!(self.groups > 0 && self.channels > 0 && self.out_channels > 0, "{self:?} has channels");
        assert_eq!(self.channels % self.groups, 0, "groups divide the channels of {self:?}");
        assert_eq!(self.out_channels % self.groups, 0, "groups divide the output channels of {self:?}");
        for axis in [0, 1] {
            assert!(self.kernel_extent(axis) <= self.padded(axis), "the kernel of {self:?} fits into the padded image");
        }
    }

    /// Rows of the result.
    pub fn out_height(&self) -> usize {
        self.out_extent(0)
    }

    /// Columns of the result.
    pub fn out_width(&self) -> usize {
        self.out_extent(1)
    }

    /// Elements of an image that one element of the result is a sum over, padding included.
    pub fn terms(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.group_channels()
    }

    /// Words of the images.
    pub fn input_len(&self) -> usize {
        self.images * self.height * self.width * self.channels
    }

    /// Words of the result.
    pub fn output_len(&self) -> usize {
        self.pixels() * self.out_channels
    }

    /// Words of the weights.
    pub fn weights_len(&self) -> usize {
        self.terms() * self.out_channels
    }

    /// Pixels of the result, over all images.
    pub(super) fn pixels(&self) -> usize {
        self.images * self.out_height() * self.out_width()
    }

    /// Channels that a group reads.
    pub(super) fn group_channels(&self) -> usize {
        self.channels / self.groups
    }

    /// Channels that a group writes.
    pub(super) fn group_out_channels(&self) -> usize {
        self.out_channels / self.groups
    }

    /// Rows (0) or columns (1) of a padded image.
    pub(super) fn padded(&self, axis: usize) -> usize {
        [self.height, self.width][axis] + self.padding[axis] + self.padding[axis + 2]
    }

    /// Whether the patches that the kernel meets, put below each other, are the images as they lie in memory: then the
    /// convolution is a matrix product.
    pub(super) fn is_product(&self) -> bool {
        let Self { kernel, stride, dilation, .. } = *self;
        let pointwise = kernel == [1, 1] && stride == [1, 1];
        let whole = kernel == [self.height, self.width] && dilation == [1, 1];
        self.groups == 1 && self.padding == [0; 4] && (pointwise || whole)
    }

    /// Whether every channel is a group of its own.
    pub(super) fn is_depthwise(&self) -> bool {
        self.group_channels() == 1 && self.group_out_channels() == 1
    }

    /// Rows or columns from the first to the last element of the kernel.
    fn kernel_extent(&self, axis: usize) -> usize {
        (self.kernel[axis] - 1) * self.dilation[axis] + 1
    }

    fn out_extent(&self, axis: usize) -> usize {
        (self.padded(axis) - self.kernel_extent(axis)) / self.stride[axis] + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: ConvShape = ConvShape {
        images: 2,
        height: 7,
        width: 9,
        channels: 6,
        kernel: [3, 2],
        stride: [2, 3],
        padding: [1, 0, 2, 1],
        dilation: [2, 1],
        groups: 2,
        out_channels: 4,
    };

    #[test]
    fn sizes_follow_from_the_shape() {
        PLAIN.check();
        assert_eq!([PLAIN.out_height(), PLAIN.out_width()], [3, 3]);
        assert_eq!((PLAIN.terms(), PLAIN.weights_len()), (18, 72));
        assert_eq!((PLAIN.input_len(), PLAIN.output_len()), (756, 72));
    }

    #[test]
    #[should_panic(expected = "fits into")]
    fn a_kernel_larger_than_the_image_is_refused() {
        ConvShape { kernel: [6, 2], ..PLAIN }.check();
    }

    #[test]
    #[should_panic(expected = "groups divide the output")]
    fn groups_must_divide_the_output_channels() {
        ConvShape { out_channels: 5, ..PLAIN }.check();
    }

    #[test]
    #[should_panic(expected = "no zero")]
    fn a_stride_of_zero_is_refused() {
        ConvShape { stride: [0, 1], ..PLAIN }.check();
    }
}
