//! Losses: the gradient that the backward pass starts from.

use shared::model::Loss;

use crate::activation::{sigmoid, softmax};
use crate::arithmetic::Arithmetic;

/// Derivative by the scores of each sample's loss, not yet divided by the batch. Where a magnitude has no derivative it
/// is 1, as the comparison `x >= 0` gives it.
pub(crate) fn gradient(loss: Loss, scores: &[f64], y: &[f64], outputs: usize, arithmetic: &mut Arithmetic) -> Vec<f64> {
    let mut predicted: Vec<f64> = match loss {
        Loss::BinaryCrossEntropy => scores.iter().map(|&score| sigmoid(score)).collect(),
        Loss::SoftmaxCrossEntropy => softmax(scores, outputs),
        Loss::MeanSquared | Loss::MeanAbsolute => scores.to_vec(),
    };
    arithmetic.settle(&mut predicted);
    let difference = predicted.iter().zip(y).map(|(predicted, y)| predicted - y);
    match loss {
        Loss::MeanAbsolute => difference.map(|d| if d >= 0.0 { 1.0 } else { -1.0 }).collect(),
        _ => difference.collect(),
    }
}
