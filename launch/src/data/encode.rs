//! From numbers to what each party receives: fixed point, then shares. The side of whoever owns data or model.

use std::fmt;
use std::time::Instant;

use sha2::{Digest, Sha256};
use shared::fixed::FixedPoint;
use shared::job::public_digest;
use shared::share::{SealedShare, split};
use shared::wire::{CONTROL_MESSAGE_MAX, DataShare, InferenceShare, ToParty, TrainingShare, WeightsShare};

use super::{DataError, Dataset};

/// A model's numbers, in the order of `Model::initial_parameters` and `Model::initial_buffers`.
#[derive(Clone, Copy)]
pub(crate) struct Weights<'a> {
    /// Parameters of all layers.
    pub(crate) parameters: &'a [f64],
    /// Running averages of all layers.
    pub(crate) buffers: &'a [f64],
}

impl fmt::Debug for Weights<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Weights(<{} parameters, {} averages>)", self.parameters.len(), self.buffers.len())
    }
}

/// What parties compare, to see that they mean the same: SHA-256 over a secret salt and the encoded words, which says
/// nothing about them. That of a public model has no salt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Digests {
    /// Of the rows.
    pub(crate) data: [u8; 32],
    /// Of the model; zeros if it is not sent.
    pub(crate) model: [u8; 32],
}

/// What a job works on in shares, one message per party.
pub(crate) struct Encoded {
    /// Goes into the job.
    pub(crate) digests: Digests,
    /// [`ToParty::Data`] for P0, P1 and P2.
    pub(crate) messages: [ToParty; 3],
    /// Wall seconds that the rows took to become shares.
    pub(crate) share_seconds: f64,
}

/// Encodes and splits a data set, and the model that training begins with, under fresh randomness.
pub(crate) fn encode(data: &Dataset, start: Option<Weights<'_>>, fixed: FixedPoint) -> Result<Encoded, DataError> {
    let parts = [&data.train.x, &data.train.y, &data.test.x, &data.test.y];
    let [parameters, buffers] = start.map_or([&[][..]; 2], |start| [start.parameters, start.buffers]);
    check_size(&[parts[0], parts[1], parts[2], parts[3], parameters, buffers])?;
    let begun = Instant::now();
    let words = parts.map(|part| words(part, fixed));
    let data_digest = salted_digest(&words);
    let [mut train_x, mut train_y, mut test_x, mut test_y] = words.map(|words| Parts::new(&words));
    let share_seconds = begun.elapsed().as_secs_f64();
    let (mut start, model_digest) = match start {
        Some(start) => {
            let (parts, digest) = secret_weights(start, fixed);
            (Some(parts), digest)
        }
        None => (None, [0; 32]),
    };
    let messages = std::array::from_fn(|party| {
        let share = TrainingShare {
            train_x: train_x.take(party),
            train_y: train_y.take(party),
            test_x: test_x.take(party),
            test_y: test_y.take(party),
            start: start.as_mut().map(|parts| parts.take(party)),
        };
        ToParty::Data(Box::new(DataShare::Training(share)))
    });
    Ok(Encoded { digests: Digests { data: data_digest, model: model_digest }, messages, share_seconds })
}

/// Encodes and splits rows, and the model to run on them unless it is public.
pub(crate) fn encode_inference(
    x: &[f64],
    weights: Weights<'_>,
    public_model: bool,
    fixed: FixedPoint,
) -> Result<Encoded, DataError> {
    check_size(&[x, weights.parameters, weights.buffers])?;
    let begun = Instant::now();
    let x = words(x, fixed);
    let data_digest = salted_digest(std::slice::from_ref(&x));
    let mut x = Parts::new(&x);
    let share_seconds = begun.elapsed().as_secs_f64();
    let (mut weights, model_digest) =
        if public_model { public_weights(weights, fixed) } else { secret_weights(weights, fixed) };
    let messages = std::array::from_fn(|party| {
        let share = InferenceShare { x: x.take(party), weights: weights.take(party) };
        ToParty::Data(Box::new(DataShare::Inference(share)))
    });
    Ok(Encoded { digests: Digests { data: data_digest, model: model_digest }, messages, share_seconds })
}

/// What P0, P1 and P2 receive, each taken once.
struct Parts<T>([Option<T>; 3]);

impl<T> Parts<T> {
    fn take(&mut self, party: usize) -> T {
        self.0[party].take().expect("each party's part is taken once")
    }
}

impl Parts<SealedShare> {
    fn new(words: &[u64]) -> Self {
        Self(split(words).map(Some))
    }
}

fn secret_weights(weights: Weights<'_>, fixed: FixedPoint) -> (Parts<WeightsShare>, [u8; 32]) {
    let words = [words(weights.parameters, fixed), words(weights.buffers, fixed)];
    let digest = salted_digest(&words);
    let [mut parameters, mut buffers] = words.map(|words| Parts::new(&words));
    let share = |party| WeightsShare::Secret { parameters: parameters.take(party), buffers: buffers.take(party) };
    (Parts([0, 1, 2].map(share).map(Some)), digest)
}

fn public_weights(weights: Weights<'_>, fixed: FixedPoint) -> (Parts<WeightsShare>, [u8; 32]) {
    let (parameters, buffers) = (words(weights.parameters, fixed), words(weights.buffers, fixed));
    let digest = public_digest(&[&parameters, &buffers]);
    let share = |_| WeightsShare::Public { parameters: parameters.clone(), buffers: buffers.clone() };
    (Parts([0, 1, 2].map(share).map(Some)), digest)
}

fn words(values: &[f64], fixed: FixedPoint) -> Vec<u64> {
    values.iter().map(|&value| fixed.constant(value)).collect()
}

/// A word takes at most ten bytes in a control message.
fn check_size(parts: &[&[f64]]) -> Result<(), DataError> {
    let bytes = 10 * parts.iter().map(|part| part.len()).sum::<usize>();
    if bytes > CONTROL_MESSAGE_MAX {
        return Err(DataError::TooMuch { bytes, max: CONTROL_MESSAGE_MAX });
    }
    Ok(())
}

/// Without the salt, a party could try what it thinks that the words are; few rows have few possible values.
fn salted_digest(parts: &[Vec<u64>]) -> [u8; 32] {
    let mut salt = [0; 32];
    getrandom::fill(&mut salt).expect("the operating system gives randomness");
    let mut hash = Sha256::new();
    hash.update(salt);
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        part.iter().for_each(|word| hash.update(word.to_le_bytes()));
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights() -> Weights<'static> {
        Weights { parameters: &[1.0, -2.0], buffers: &[0.5] }
    }

    fn shares(encoded: Encoded) -> [InferenceShare; 3] {
        encoded.messages.map(|message| match message {
            ToParty::Data(data) => match *data {
                DataShare::Inference(share) => share,
                DataShare::Training(_) => panic!("it infers"),
            },
            _ => panic!("data"),
        })
    }

    #[test]
    fn rows_and_a_secret_model_come_out_of_their_shares() {
        let encoded = encode_inference(&[3.0, -4.0, 0.25], weights(), false, FixedPoint::DEFAULT).unwrap();
        let (mut x, mut parameters, mut buffers) = (vec![], vec![], vec![]);
        for InferenceShare { x: rows, weights } in shares(encoded) {
            let WeightsShare::Secret { parameters: some, buffers: averages } = weights else { panic!("secret") };
            x.push(rows.into_share(3).unwrap());
            parameters.push(some.into_share(2).unwrap());
            buffers.push(averages.into_share(1).unwrap());
        }
        for (parts, values) in [(x, &[3.0, -4.0, 0.25][..]), (parameters, &[1.0, -2.0]), (buffers, &[0.5])] {
            let joined = shared::share::join(&parts.try_into().unwrap()).unwrap();
            assert_eq!(joined, words(values, FixedPoint::DEFAULT));
        }
    }

    #[test]
    fn digests_tell_nothing_of_what_is_secret_and_everything_of_what_is_public() {
        let encode = |public| encode_inference(&[3.0], weights(), public, FixedPoint::DEFAULT).unwrap();
        let (one, two) = (encode(false), encode(false));
        assert_ne!(one.digests.data, two.digests.data);
        assert_ne!(one.digests.model, two.digests.model);
        let (one, two) = (encode(true), encode(true));
        assert_eq!(one.digests.model, two.digests.model);
        let [WeightsShare::Public { parameters, buffers }, ..] = shares(one).map(|share| share.weights) else {
            panic!("public")
        };
        assert_eq!(public_digest(&[&parameters, &buffers]), two.digests.model);
    }
}
