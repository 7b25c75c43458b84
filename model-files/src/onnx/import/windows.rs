//! Convolutions and pooling, and the zeros around them.

use shared::model::{Conv, Layer, Pool, Shape};

use super::{Activation, Importer, Inputs, OnnxError, Op, Role, Tensor, arrange, shape_of};

/// Attributes that all windows have.
struct Window {
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    padding: [usize; 4],
}

impl<'a> Importer<'a> {
    pub(super) fn conv(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        let value = inputs.activation(op, 0)?;
        let (weights, axes) = self.kernels(op, &value, inputs)?;
        let input = self.sample_shape(op, &value)?;
        let groups = positive(op, "group", op.integer("group", 1))?;
        let kernel = [weights.dims[2], weights.dims[3]];
        let mut window = Window::read(op, axes, Some(kernel))?;
        window.pad_automatically(op, input)?;
        let outer = value.padding;
        let padding = [0, 1, 2, 3].map(|side| window.padding[side] + outer[side]);
        let channels = weights.dims[0];
        if channels.checked_rem(groups) != Some(0) || weights.dims[1] * groups != input.channels {
            let why =
                format!("weights of dimensions {:?} in {groups} groups for {} channels", weights.dims, input.channels);
            return Err(op.refused(why, "output channels, channels in a group, rows, columns are due"));
        }
        let bias = self.bias(op, inputs, channels)?;
        let conv = Conv {
            channels,
            kernel,
            stride: window.stride,
            padding,
            dilation: window.dilation,
            groups,
            bias: bias.is_some(),
        };
        let source = self.image(op, &Activation { padding: [0; 4], ..value }, input)?;
        // From (output channel, channel in group, row, column).
        let weights = weights.transposed(&[2, 3, 1, 0]).values;
        let parameters = [weights, bias.unwrap_or_default(), vec![]];
        let result = self.add_with(op, op.name(), Layer::Conv(conv), &[source], parameters)?;
        Ok(Activation::channels_first(result, self.shape_at(result), axes + 1))
    }

    pub(super) fn conv_transpose(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        let value = inputs.activation(op, 0)?;
        let (weights, axes) = self.kernels(op, &value, inputs)?;
        let input = self.sample_shape(op, &value)?;
        let groups = positive(op, "group", op.integer("group", 1))?;
        let kernel = [weights.dims[2], weights.dims[3]];
        let mut window = Window::read(op, axes, Some(kernel))?;
        let mut extra = pair(op, "output_padding", axes, 0)?;
        window.pad_transposed(op, axes, input, &mut extra)?;
        if weights.dims[0] != input.channels {
            let why = format!("weights of dimensions {:?} for {} channels", weights.dims, input.channels);
            return Err(op.refused(why, "channels, output channels of a group, rows, columns are due"));
        }
        let channels = weights.dims[1] * groups;
        let bias = self.bias(op, inputs, channels)?;
        let Window { stride, padding, dilation, .. } = window;
        let conv = Conv { channels, kernel, stride, padding, dilation, groups, bias: bias.is_some() };
        let source = self.image(op, &value, input)?;
        // From (channel, output channel of group, row, column).
        let weights = weights.transposed(&[2, 3, 1, 0]).values;
        let parameters = [weights, bias.unwrap_or_default(), vec![]];
        let result = self.add_with(op, op.name(), Layer::ConvTranspose { conv, extra }, &[source], parameters)?;
        Ok(Activation::channels_first(result, self.shape_at(result), axes + 1))
    }

    /// Weights with two axes of positions, and how many axes the file has.
    fn kernels(&self, op: &Op<'a>, value: &Activation, inputs: &Inputs) -> Result<(Tensor, usize), OnnxError> {
        let mut weights = (*inputs.constant(op, 1)?).clone();
        weights.check_finite()?;
        let axes = value.axes.len().saturating_sub(1);
        if weights.dims.len() != axes + 2 || !(1..=2).contains(&axes) {
            let why = format!("weights of dimensions {:?} for samples of {:?}", weights.dims, value.dims());
            return Err(op.refused(why, "one or two axes of positions are supported"));
        }
        if axes == 1 {
            weights.dims.insert(2, 1);
        }
        Ok((weights, axes))
    }

    fn bias(&self, op: &Op<'a>, inputs: &Inputs, channels: usize) -> Result<Option<Vec<f64>>, OnnxError> {
        let Some(bias) = inputs.optional_constant(op, 2)? else { return Ok(None) };
        bias.check_finite()?;
        if bias.values.len() != channels {
            return Err(op.refused(format!("{} biases", bias.values.len()), "one for each output channel is due"));
        }
        Ok(Some(bias.values.clone()))
    }

    /// A sample's shape, counted channel by channel.
    fn sample_shape(&self, op: &Op<'a>, value: &Activation) -> Result<Shape, OnnxError> {
        let refused = || op.refused("its input has more axes", "batch, channels, rows, columns are supported");
        shape_of(&value.dims()).ok_or_else(refused)
    }

    pub(super) fn max_pool(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        if op.proto.output.get(1).is_some_and(|name| self.uses.contains_key(name.as_str())) {
            return Err(op.refused("its second result, the indices, is taken", "the largest values are supported"));
        }
        self.pool(op, inputs, |pool, _| Layer::MaxPool(pool))
    }

    pub(super) fn average_pool(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        let count_padding = op.integer("count_include_pad", 0) != 0;
        self.pool(op, inputs, |pool, padded| Layer::AveragePool { pool, count_padding: count_padding || padded })
    }

    fn pool(
        &mut self,
        op: &Op<'a>,
        inputs: &Inputs,
        layer: impl Fn(Pool, bool) -> Layer,
    ) -> Result<Activation, OnnxError> {
        let mut value = inputs.activation(op, 0)?;
        let axes = value.axes.len().saturating_sub(1);
        if !(1..=2).contains(&axes) {
            return Err(
                op.refused(format!("samples of dimensions {:?}", value.dims()), "images and sequences are supported")
            );
        }
        let input = self.sample_shape(op, &value)?;
        let mut window = Window::read(op, axes, None)?;
        if window.dilation != [1; 2] {
            return Err(op.refused("dilated windows", "dilations of 1 are supported"));
        }
        window.pad_automatically(op, input)?;
        // Zeros that Pad put there count, whatever the windows say of padding of their own.
        let padded = value.padding != [0; 4];
        if padded && (op.kind() == "MaxPool" || window.padding != [0; 4]) {
            return Err(op.refused("its input comes from Pad", "let its own attribute pads do it"));
        }
        let own = std::mem::take(&mut value.padding);
        window.padding = [0, 1, 2, 3].map(|side| window.padding[side] + own[side]);
        let rounded = window.padding;
        if op.integer("ceil_mode", 0) != 0 {
            window.round_up(input);
        }
        let Window { kernel, stride, padding, .. } = window;
        let layer = layer(Pool { kernel, stride, padding }, padded);
        if padding != rounded && matches!(layer, Layer::AveragePool { count_padding: true, .. }) {
            return Err(op.refused("ceil_mode with padding that counts", "either alone is supported"));
        }
        let source = self.image(op, &value, input)?;
        let result = self.add(op, layer, &[source])?;
        Ok(Activation::channels_first(result, self.shape_at(result), axes + 1))
    }

    pub(super) fn global_pool(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        let value = inputs.activation(op, 0)?;
        let input = self.sample_shape(op, &value)?;
        let source = self.image(op, &value, input)?;
        let layer = if op.kind() == "GlobalMaxPool" {
            let kernel = [input.height, input.width];
            Layer::MaxPool(Pool { kernel, stride: [1; 2], padding: [0; 4] })
        } else {
            Layer::AdaptiveAveragePool { output: [1, 1] }
        };
        let result = self.add(op, layer, &[source])?;
        Ok(Activation::channels_first(result, self.shape_at(result), value.axes.len()))
    }

    /// Means or sums over rows, columns or both.
    pub(super) fn reduce(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        let value = inputs.activation(op, 0)?;
        let given = match (op.integers("axes"), inputs.optional_constant(op, 1)?) {
            (Some(axes), _) => axes.to_vec(),
            (None, Some(axes)) => axes.integers(),
            (None, None) => vec![],
        };
        if given.is_empty() && op.integer("noop_with_empty_axes", 0) != 0 {
            return Ok(value);
        }
        if given.is_empty() {
            return Err(op.refused("over all axes, the batch among them", "name the axes of positions"));
        }
        let axes = given.iter().map(|&axis| self.axis(op, &value, axis)).collect::<Result<Vec<_>, _>>()?;
        match axes[..] {
            [axis] if value.axes[axis].role == Role::Channels && value.axes[axis].size > 1 => {
                return self.channel_mean(op, &value, axis);
            }
            _ if axes.iter().any(|&axis| value.axes[axis].role == Role::Channels && value.axes[axis].size > 1) => {
                return Err(op.refused("over channels and positions", "over positions it is supported"));
            }
            _ => {}
        }
        let source = self.source(op, &value)?;
        let shape = self.shape_at(source);
        let gone = |role| axes.iter().any(|&axis| value.axes[axis].role == role);
        let rows = if gone(Role::Height) { 1 } else { shape.height };
        let columns = if gone(Role::Width) { 1 } else { shape.width };
        let result = self.add(op, Layer::AdaptiveAveragePool { output: [rows, columns] }, &[source])?;
        let roles: Vec<Role> = value.axes.iter().map(|axis| axis.role).collect();
        let mut result = value.like(result, self.shape_at(result));
        assert_eq!(result.axes, arrange(&roles, Shape { height: rows, width: columns, ..shape }), "as reduced");
        if op.integer("keepdims", 1) == 0 {
            let kept = result.axes.iter().enumerate().filter(|(axis, _)| !axes.contains(axis));
            result.axes = kept.map(|(_, axis)| *axis).collect();
        }
        if op.kind() == "ReduceMean" {
            return Ok(result);
        }
        #[allow(clippy::cast_precision_loss, reason = "positions of an image")]
        let count = (shape.positions() / (rows * columns)) as f64;
        self.affine(op, result, &super::Affine::scale(op.name(), vec![count]))
    }

    /// Zeros around rows and columns, which the next window takes over.
    pub(super) fn pad(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        let value = inputs.activation(op, 0)?;
        let mode = op.text("mode", "constant");
        let number = inputs.optional_constant(op, 2)?.map_or(Some(0.0), |constant| constant.single());
        if mode != "constant" || number != Some(0.0) {
            return Err(op.refused(format!("mode {mode}"), "zeros are supported"));
        }
        let pads = inputs.constant(op, 1)?.integers();
        let rank = value.axes.len() + 1;
        let all: Vec<i64> = (0..).take(rank).collect();
        let given = inputs.optional_constant(op, 3)?.map_or(all, |axes| axes.integers());
        if pads.len() != 2 * given.len() || pads.iter().any(|&pad| pad < 0) {
            return Err(op.refused(format!("pads {pads:?}"), "as many zeros or more, not fewer, are supported"));
        }
        let mut result = value.clone();
        for (index, &axis) in given.iter().enumerate() {
            let sides = [pads[index], pads[given.len() + index]].map(|pad| usize::try_from(pad).unwrap_or(0));
            if sides == [0, 0] {
                continue;
            }
            let axis = self.axis(op, &value, axis)?;
            // The file's order counts, not ours: channels, rows and columns, or channels and columns.
            let side = match (rank - 1, axis) {
                (3, 1) => 0,
                (3, 2) | (2, 1) => 1,
                _ => return Err(op.refused("around channels", "around rows and columns zeros are supported")),
            };
            result.padding[side] += sides[0];
            result.padding[side + 2] += sides[1];
        }
        if result.padding != [0; 4] && (!value.is_channels_first() || value.affine.is_some()) {
            // A scale and a shift come before the zeros.
            let source = self.source(op, &Activation { padding: [0; 4], ..value.clone() })?;
            let plain = value.like(source, self.shape_at(source));
            return Ok(Activation { padding: result.padding, ..plain });
        }
        Ok(result)
    }
}

impl Window {
    fn read(op: &Op<'_>, axes: usize, kernel: Option<[usize; 2]>) -> Result<Self, OnnxError> {
        let given = if op.has("kernel_shape") { Some(pair(op, "kernel_shape", axes, 1)?) } else { None };
        let kernel = match (given, kernel) {
            (Some(given), Some(kernel)) if given != kernel => {
                let why = format!("kernel_shape {given:?} for weights of {kernel:?}");
                return Err(op.refused(why, "both must be equal"));
            }
            (given, kernel) => {
                given.or(kernel).ok_or_else(|| op.refused("no kernel_shape", "the operator asks for it"))?
            }
        };
        let padding = match op.integers("pads") {
            None | Some([]) => [0; 4],
            Some(&[left, right]) if axes == 1 => sizes(op, "pads", [0, left, 0, right])?,
            Some(&[top, left, bottom, right]) if axes == 2 => sizes(op, "pads", [top, left, bottom, right])?,
            Some(pads) => return Err(op.refused(format!("pads {pads:?}"), "two for every axis of positions are due")),
        };
        let stride = pair(op, "strides", axes, 1)?;
        let dilation = pair(op, "dilations", axes, 1)?;
        if [kernel, stride, dilation].concat().contains(&0) {
            return Err(op.refused("a kernel, stride or dilation of zero", "1 and more are supported"));
        }
        Ok(Self { kernel, stride, dilation, padding })
    }

    fn reach(&self, axis: usize) -> usize {
        (self.kernel[axis] - 1) * self.dilation[axis] + 1
    }

    /// `auto_pad`: as many windows as strides.
    fn pad_automatically(&mut self, op: &Op<'_>, input: Shape) -> Result<(), OnnxError> {
        let mode = op.text("auto_pad", "NOTSET");
        match mode {
            "NOTSET" => {}
            "VALID" => self.padding = [0; 4],
            "SAME_UPPER" | "SAME_LOWER" => {
                for (axis, size) in [input.height, input.width].into_iter().enumerate() {
                    let count = size.div_ceil(self.stride[axis]);
                    let all = ((count - 1) * self.stride[axis] + self.reach(axis)).saturating_sub(size);
                    self.split_padding(axis, all, mode == "SAME_UPPER");
                }
            }
            other => return Err(op.refused(format!("auto_pad {other}"), "NOTSET, VALID, SAME_UPPER, SAME_LOWER exist")),
        }
        Ok(())
    }

    fn split_padding(&mut self, axis: usize, all: usize, more_behind: bool) {
        let (less, more) = (all / 2, all - all / 2);
        (self.padding[axis], self.padding[axis + 2]) = if more_behind { (less, more) } else { (more, less) };
    }

    /// Padding of a transposed convolution that its output's size implies.
    fn pad_transposed(
        &mut self,
        op: &Op<'_>,
        axes: usize,
        input: Shape,
        extra: &mut [usize; 2],
    ) -> Result<(), OnnxError> {
        let mode = op.text("auto_pad", "NOTSET");
        let wanted = if op.has("output_shape") { Some(pair(op, "output_shape", axes, 1)?) } else { None };
        for (axis, size) in [input.height, input.width].into_iter().enumerate() {
            let wanted = match (wanted, mode) {
                (Some(wanted), _) => wanted[axis],
                (None, "SAME_UPPER" | "SAME_LOWER") => size * self.stride[axis],
                _ => continue,
            };
            let full = (size - 1) * self.stride[axis] + self.reach(axis) + extra[axis];
            match full.checked_sub(wanted) {
                // Rounded the other way than for a convolution.
                Some(all) => self.split_padding(axis, all, mode == "SAME_UPPER"),
                None => {
                    extra[axis] += wanted - full;
                    self.split_padding(axis, 0, true);
                }
            }
        }
        if mode == "VALID" {
            self.padding = [0; 4];
        }
        Ok(())
    }

    /// `ceil_mode`: cells behind the image so that one window more fits, unless it would lie in padding alone.
    fn round_up(&mut self, input: Shape) {
        for (axis, size) in [input.height, input.width].into_iter().enumerate() {
            let (front, stride) = (self.padding[axis], self.stride[axis]);
            let padded = size + front + self.padding[axis + 2];
            let Some(rest) = padded.checked_sub(self.kernel[axis]) else { continue };
            let last = rest.div_ceil(stride) * stride;
            if last > rest && last < size + front {
                self.padding[axis + 2] += last - rest;
            }
        }
    }
}

/// An attribute with one or two numbers, as rows and columns; for sequences the rows are `default`.
fn pair(op: &Op<'_>, name: &str, axes: usize, default: i64) -> Result<[usize; 2], OnnxError> {
    match op.integers(name) {
        None | Some([]) => sizes(op, name, [default; 2]),
        Some(&[columns]) if axes == 1 => sizes(op, name, [default, columns]),
        Some(&[rows, columns]) if axes == 2 => sizes(op, name, [rows, columns]),
        Some(other) => {
            let why = format!("{name} {other:?} for {axes} axes of positions");
            Err(op.refused(why, "one number for every axis is due"))
        }
    }
}

fn sizes<const N: usize>(op: &Op<'_>, name: &str, numbers: [i64; N]) -> Result<[usize; N], OnnxError> {
    let mut sizes = [0; N];
    for (size, number) in sizes.iter_mut().zip(numbers) {
        let fits = u32::try_from(number).ok().filter(|number| *number < 1 << 24);
        *size =
            fits.ok_or_else(|| op.refused(format!("{name} {numbers:?}"), "sizes below 2^24 are supported"))? as usize;
    }
    Ok(sizes)
}

fn positive(op: &Op<'_>, name: &str, number: i64) -> Result<usize, OnnxError> {
    let [size] = sizes(op, name, [number])?;
    if size == 0 { Err(op.refused(format!("{name} of zero"), "1 and more are supported")) } else { Ok(size) }
}
