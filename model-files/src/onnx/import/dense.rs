//! Products with constant matrices.

use shared::model::Layer;

use super::{Activation, Affine, Importer, Inputs, OnnxError, Op, Role, Tensor};

impl<'a> Importer<'a> {
    pub(super) fn gemm(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        let value = inputs.activation(op, 0)?;
        if op.integer("transA", 0) != 0 {
            return Err(op.refused("its first input is transposed, which mixes samples", "transA = 0 is supported"));
        }
        let weights = inputs.constant(op, 1)?;
        let weights = if op.integer("transB", 0) == 0 { (*weights).clone() } else { self.flipped(op, &weights)? };
        let alpha = op.float("alpha", 1.0);
        let weights = Tensor { values: weights.values.iter().map(|w| w * alpha).collect(), ..weights };
        let beta = op.float("beta", 1.0);
        let bias = match inputs.optional_constant(op, 2)? {
            None => None,
            Some(bias) => {
                let outputs = *weights.dims.last().unwrap_or(&0);
                bias.check_finite()?;
                let why = format!("a bias of dimensions {:?}", bias.dims);
                let bias = bias.broadcast(&[1, outputs]);
                let bias = bias.ok_or_else(|| op.refused(why, "one number for every output is supported"))?;
                Some(bias.values.iter().map(|b| b * beta).collect())
            }
        };
        self.linear(op, &value, &weights, bias)
    }

    pub(super) fn matmul(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        let nearest = "MatMul of values with a constant matrix behind them is supported";
        let value = inputs.activation(op, 0).map_err(|_| op.refused("its first input is a constant", nearest))?;
        let weights = inputs.constant(op, 1).map_err(|_| op.refused("both inputs depend on the sample", nearest))?;
        let [rows] = weights.dims[..] else { return self.linear(op, &value, &weights, None) };
        // A vector is a matrix of one column, which the result loses.
        let column = Tensor { dims: vec![rows, 1], ..(*weights).clone() };
        let mut result = self.linear(op, &value, &column, None)?;
        result.axes.pop();
        Ok(result)
    }

    fn flipped(&self, op: &Op<'a>, weights: &Tensor) -> Result<Tensor, OnnxError> {
        if weights.dims.len() != 2 {
            return Err(op.refused(format!("weights of dimensions {:?}", weights.dims), "a matrix is supported"));
        }
        Ok(weights.transposed(&[1, 0]))
    }

    /// `x W + b` over the last axis, which must count channels.
    pub(super) fn linear(
        &mut self,
        op: &Op<'a>,
        value: &Activation,
        weights: &Tensor,
        bias: Option<Vec<f64>>,
    ) -> Result<Activation, OnnxError> {
        weights.check_finite()?;
        let leading = weights.dims.len().saturating_sub(2);
        let [inputs, outputs] = weights.dims[leading..] else {
            return Err(op.refused(format!("weights of dimensions {:?}", weights.dims), "a matrix is supported"));
        };
        if weights.dims[..leading].iter().any(|size| *size != 1) {
            return Err(op.refused("a matrix for each sample", "one matrix for all samples is supported"));
        }
        let Some(last) = value.axes.last() else {
            return Err(op.refused("samples are single numbers", "samples must be vectors, at least"));
        };
        if last.role != Role::Channels {
            let nearest = "a product over the channels of every position is supported: put them last (Transpose)";
            return Err(op.refused("a product over positions", nearest));
        }
        if last.size != inputs {
            let why = format!("{inputs} rows of weights for {} values", last.size);
            return Err(op.refused(why, "both must be equal"));
        }
        let layer = Layer::Linear { outputs, bias: bias.is_some() };
        let source = self.source(op, value)?;
        let parameters = [weights.values.clone(), bias.unwrap_or_default(), vec![]];
        let result = self.add_with(op, op.name(), layer, &[source], parameters)?;
        Ok(value.like(result, self.shape_at(result)))
    }

    pub(super) fn linear_regressor(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        let value = inputs.activation(op, 0)?;
        let post = op.text("post_transform", "NONE");
        if post != "NONE" {
            return Err(op.refused(format!("post_transform {post}"), "NONE is supported"));
        }
        let targets = usize::try_from(op.integer("targets", 1)).unwrap_or(0);
        self.scores(op, &value, targets)
    }

    /// The scores of a linear classifier; its label is not computed.
    pub(super) fn linear_classifier(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        let value = inputs.activation(op, 0)?;
        let classes = op.floats("intercepts").len();
        let labels = op.integers("classlabels_ints").map_or(0, <[i64]>::len).max(op.texts("classlabels_strings"));
        if classes == 0 || labels != classes {
            let why = format!("{classes} intercepts for {labels} classes");
            return Err(op.refused(why, "one for each class, as skl2onnx writes them, is supported"));
        }
        let scores = self.scores(op, &value, classes)?;
        let post = match op.text("post_transform", "NONE") {
            "NONE" => return Ok(scores),
            "LOGISTIC" => Layer::Sigmoid,
            "SOFTMAX" => Layer::Softmax,
            other => return Err(op.refused(format!("post_transform {other}"), "LOGISTIC and SOFTMAX are supported")),
        };
        let source = self.source(op, &scores)?;
        let result = self.add_with(op, &format!("{}/scores", op.name()), post, &[source], Default::default())?;
        Ok(scores.like(result, self.shape_at(result)))
    }

    fn scores(&mut self, op: &Op<'a>, value: &Activation, outputs: usize) -> Result<Activation, OnnxError> {
        let coefficients = op.floats("coefficients");
        let inputs = value.axes.last().map_or(0, |axis| axis.size);
        if outputs == 0 || coefficients.len() != outputs * inputs {
            let why = format!("{} coefficients for {inputs} values and {outputs} results", coefficients.len());
            return Err(op.refused(why, "one for each pair is due"));
        }
        let name = format!("{}: coefficients", op.name());
        let weights = Tensor { name, dims: vec![outputs, inputs], values: coefficients }.transposed(&[1, 0]);
        let intercepts = op.floats("intercepts");
        Tensor::vector(&format!("{}: intercepts", op.name()), intercepts.clone()).check_finite()?;
        self.linear(op, value, &weights, (!intercepts.is_empty()).then_some(intercepts))
    }

    pub(super) fn scaler(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        let value = inputs.activation(op, 0)?;
        let channels = value.channels();
        let (offset, scale) = (op.floats("offset"), op.floats("scale"));
        if [&offset, &scale].iter().any(|list| list.len() != 1 && list.len() != channels) || value.axes.len() != 1 {
            return Err(op.refused("offsets and scales do not fit the values", "one for each value is supported"));
        }
        Tensor::vector(&format!("{}: offset", op.name()), offset.clone()).check_finite()?;
        Tensor::vector(&format!("{}: scale", op.name()), scale.clone()).check_finite()?;
        let centred = Affine::shift(op.name(), offset.iter().map(|x| -x).collect());
        self.affine(op, value, &centred.then(&Affine::scale(op.name(), scale)))
    }

    /// Division by the sum of magnitudes changes nothing where those are probabilities.
    pub(super) fn normalizer(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        let value = inputs.activation(op, 0)?;
        if op.text("norm", "MAX") == "L1" && self.sums_to_one(&value) {
            return Ok(value);
        }
        Err(op.refused("samples are divided by their norm", "L1 behind a softmax or two classes is supported"))
    }
}
