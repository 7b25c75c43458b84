//! One operator of an ONNX graph, as a reader sees it.

use super::proto::{AttributeProto, NodeProto, TensorProto};
use super::{OnnxError, Unsupported};

/// A node with the version of its operator set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Op<'a> {
    pub(super) proto: &'a NodeProto,
    pub(super) opset: i64,
}

impl<'a> Op<'a> {
    /// Its operator.
    pub(super) fn kind(&self) -> &'a str {
        &self.proto.op_type
    }

    /// Its name, or that of its first result.
    pub(super) fn name(&self) -> &'a str {
        let result = self.proto.output.first().map_or("", String::as_str);
        if self.proto.name.is_empty() { result } else { &self.proto.name }
    }

    fn attribute(&self, name: &str) -> Option<&'a AttributeProto> {
        self.proto.attribute.iter().find(|attribute| attribute.name == name)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.attribute(name).is_some()
    }

    pub(super) fn integer(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).map_or(default, |attribute| attribute.i)
    }

    pub(super) fn float(&self, name: &str, default: f64) -> f64 {
        self.attribute(name).map_or(default, |attribute| shortest(attribute.f))
    }

    pub(super) fn text(&self, name: &str, default: &'a str) -> &'a str {
        self.attribute(name).map_or(default, |attribute| std::str::from_utf8(&attribute.s).unwrap_or(default))
    }

    pub(super) fn integers(&self, name: &str) -> Option<&'a [i64]> {
        self.attribute(name).map(|attribute| attribute.ints.as_slice())
    }

    pub(super) fn floats(&self, name: &str) -> Vec<f64> {
        self.attribute(name).map_or(Vec::new(), |a| a.floats.iter().map(|&x| f64::from(x)).collect())
    }

    /// How many texts an attribute lists.
    pub(super) fn texts(&self, name: &str) -> usize {
        self.attribute(name).map_or(0, |attribute| attribute.strings.len())
    }

    pub(super) fn tensor(&self, name: &str) -> Option<&'a TensorProto> {
        self.attribute(name).and_then(|attribute| attribute.t.as_ref())
    }

    /// It cannot be imported: why, and what could be.
    pub(super) fn refused(&self, why: impl Into<String>, nearest: &str) -> OnnxError {
        OnnxError::Operator(Box::new(Unsupported {
            node: self.name().to_owned(),
            operator: self.kind().to_owned(),
            domain: if self.proto.domain.is_empty() { "ai.onnx".into() } else { self.proto.domain.clone() },
            opset: self.opset,
            why: why.into(),
            nearest: nearest.to_owned(),
        }))
    }
}

/// The 64-bit number with the fewest digits that rounds to a 32-bit one: 1e-5 and not 9.99999974e-6.
fn shortest(x: f32) -> f64 {
    x.to_string().parse().unwrap_or_else(|_| f64::from(x))
}
