//! Inference over in-memory transports: results equal float64, whoever holds the model and however many lanes there are.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop and say where")]

use party_node::train::{InferenceData, LaneOutcome, PartyData, StoredWeights};
use party_node::world::World;
use shared::job::{Inference, JobSpec, PROTOCOL_VERSION, ProtocolSpec, Reveal, Work};
use shared::model::{Layer, Loss, Model};
use shared::share::{Addend, Share};

mod lanes;

const ROWS: usize = 29;
const INPUTS: usize = 6;

fn model() -> Model {
    let mut model = Model::mlp(INPUTS, &[8, 5], 3, Loss::MeanSquared);
    model.nodes[3].layer = Layer::Tanh;
    model
}

fn rows() -> Vec<f64> {
    (0..ROWS * INPUTS).map(|i| 3.0 * (i as f64 * 0.7).sin()).collect()
}

fn job(lanes: u16, public_model: bool) -> JobSpec {
    let work =
        Inference { model: model(), rows: ROWS, public_model, batch: 0, data_digest: [0; 32], model_digest: [0; 32] };
    JobSpec {
        version: PROTOCOL_VERSION.into(),
        lanes,
        threads: 1,
        protocol: ProtocolSpec::default(),
        work: Work::Infer(Box::new(work)),
        reveal: vec![Reveal::Predictions],
        peer_timeout_seconds: 20,
    }
}

fn run(job: &JobSpec, parameters: &[f64]) -> Vec<Vec<LaneOutcome>> {
    let (world, fixed) = (World::new(5), job.protocol.fraction_bits);
    let encode = |values: &[f64]| -> Vec<u64> { values.iter().map(|&value| fixed.constant(value)).collect() };
    let (x, words) = (world.share(0, &encode(&rows())), encode(parameters));
    let secret = world.share(1, &words);
    let Work::Infer(work) = &job.work else { unreachable!("it infers") };
    lanes::run(job, |party| {
        let parameters =
            if work.public_model { Share::of_public(party, words.clone()) } else { secret[party.index()].clone() };
        let weights = StoredWeights { parameters, averages: Share::zeros(0) };
        PartyData::Inference(InferenceData { x: x[party.index()].clone(), weights })
    })
}

/// Joins what the parties hand out, lane after lane.
fn predictions(job: &JobSpec, outcomes: &[Vec<LaneOutcome>]) -> Vec<f64> {
    let party = |lanes: &Vec<LaneOutcome>| {
        let parts = lanes.iter().map(|lane| {
            let (what, addend) = lane.result.clone().unwrap();
            assert_eq!(what, Reveal::Predictions);
            addend
        });
        Addend::concat(&parts.collect::<Vec<_>>())
    };
    let parts: Vec<Addend> = outcomes.iter().map(party).collect();
    let words = Addend::join(&parts.try_into().unwrap()).unwrap();
    words.into_iter().map(|word| job.protocol.fraction_bits.decode(word)).collect()
}

/// The network of [`model`] in float64.
fn plain(parameters: &[f64]) -> Vec<f64> {
    let (mut value, mut width, mut offset) = (rows(), INPUTS, 0);
    for (outputs, activation) in [(8, f64::max as fn(f64, f64) -> f64), (5, |x, _| x.tanh()), (3, |x, _| x)] {
        let (weights, biases) = parameters[offset..offset + (width + 1) * outputs].split_at(width * outputs);
        let score = |row: &[f64], out: usize| -> f64 {
            row.iter().enumerate().map(|(i, x)| x * weights[i * outputs + out]).sum::<f64>() + biases[out]
        };
        let next = value.chunks(width).flat_map(|row| (0..outputs).map(|out| activation(score(row, out), 0.0)));
        (value, offset, width) = (next.collect(), offset + (width + 1) * outputs, outputs);
    }
    value
}

#[test]
fn predictions_equal_float64_for_secret_and_public_models_on_any_number_of_lanes() {
    let parameters = model().initial_parameters(3);
    let expected = plain(&parameters);
    for (lanes, public_model) in [(1, false), (1, true), (3, false), (3, true)] {
        let job = job(lanes, public_model);
        let outcomes = run(&job, &parameters);
        assert!(outcomes.iter().flatten().all(|lane| lane.opened.is_empty() && lane.parameters.is_none()));
        let got = predictions(&job, &outcomes);
        assert_eq!(got.len(), ROWS * 3);
        let worst = got.iter().zip(&expected).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
        assert!(worst < 2e-3, "{lanes} lanes, public {public_model}: off by {worst}");
    }
}
