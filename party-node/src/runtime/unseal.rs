//! From the data message to this party's shares: seeds stretched, sizes checked against the job, a public model against
//! its digest.

use shared::job::{Inference, Start, Training, Work, public_digest};
use shared::model::Model;
use shared::share::{SealedShare, Share};
use shared::wire::{
    CONTROL_MESSAGE_MAX, DataShare, Failure, FailureKind, InferenceShare, Setup, TrainingShare, WeightsShare,
};

use super::failure::failure;
use crate::train::{InferenceData, PartyData, StoredWeights, TrainingData};

/// Stretches the seeds to shares of the sizes that the job names; what came over the channel is dropped on the way.
pub(super) fn unseal(setup: &Setup, data: DataShare) -> Result<PartyData, Failure> {
    match (&setup.job.work, data) {
        (Work::Train(work), DataShare::Training(data)) => training(setup, work, data).map(PartyData::Training),
        (Work::Infer(work), DataShare::Inference(data)) => inference(setup, work, data).map(PartyData::Inference),
        _ => Err(refuse("the data message is not for the kind of work that the job names")),
    }
}

fn training(setup: &Setup, work: &Training, data: TrainingShare) -> Result<TrainingData, Failure> {
    let (inputs, outputs) = (work.model.inputs(), work.model.outputs());
    let start = match (work.start, data.start) {
        (Start::Seeded, None) => None,
        (Start::Shared { model_digest }, Some(start)) => {
            Some(weights(setup, &work.model, start, false, &model_digest)?)
        }
        _ => return Err(refuse("the data message and the job do not agree on what training begins with")),
    };
    Ok(TrainingData {
        train_x: open_share("training rows", data.train_x, work.train_rows, inputs)?,
        train_y: open_share("training targets", data.train_y, work.train_rows, outputs)?,
        test_x: open_share("test rows", data.test_x, work.test_rows, inputs)?,
        test_y: open_share("test targets", data.test_y, work.test_rows, outputs)?,
        start,
    })
}

fn inference(setup: &Setup, work: &Inference, data: InferenceShare) -> Result<InferenceData, Failure> {
    Ok(InferenceData {
        x: open_share("rows", data.x, work.rows, work.model.inputs())?,
        weights: weights(setup, &work.model, data.weights, work.public_model, &work.model_digest)?,
    })
}

fn weights(
    setup: &Setup,
    model: &Model,
    share: WeightsShare,
    public: bool,
    digest: &[u8; 32],
) -> Result<StoredWeights, Failure> {
    let wiring = model.wiring().expect("a job that was checked");
    let counts = (wiring.parameters(), wiring.buffers());
    match share {
        WeightsShare::Secret { parameters, buffers } if !public => Ok(StoredWeights {
            parameters: open_share("parameters", parameters, counts.0, 1)?,
            averages: open_share("running averages", buffers, counts.1, 1)?,
        }),
        WeightsShare::Public { parameters, buffers } if public => {
            if (parameters.len(), buffers.len()) != counts || public_digest(&[&parameters, &buffers]) != *digest {
                return Err(refuse("the public model is not the one whose digest the job names"));
            }
            let of_public = |words| Share::of_public(setup.party, words);
            Ok(StoredWeights { parameters: of_public(parameters), averages: of_public(buffers) })
        }
        _ => Err(refuse("the data message and the job do not agree on whether the model is public")),
    }
}

fn open_share(what: &str, sealed: SealedShare, rows: usize, width: usize) -> Result<Share, Failure> {
    // The two parties that receive words could not receive more, so a seed stands for no more either.
    let len = rows.checked_mul(width).filter(|len| *len <= CONTROL_MESSAGE_MAX / 8);
    len.and_then(|len| sealed.into_share(len)).ok_or_else(|| {
        refuse(&format!(
            "the share of the {what} is not {rows} x {width} elements as the job says: split the data again with the \
             program that writes the job"
        ))
    })
}

fn refuse(reason: &str) -> Failure {
    failure(FailureKind::Job, reason)
}
