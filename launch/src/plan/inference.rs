//! The plan of running a trained model on rows.

use shared::config::JobFile;
use shared::job::{Inference, Work};
use shared::model::Layer;

use super::{DATA_BYTES, PROCESS_BYTES, Plan, Planned, scaling, simulator};
use crate::args::PlanArgs;
use crate::cost;
use crate::data::{self, Digests};
use crate::exit::LaunchError;
use crate::model_file::ModelFile;
use crate::scaling::{Calibration, Work as LaneWork};
use crate::{bench, infer, job};

/// Of each parameter, as measured: its share, and the message that brought it on its way.
const PARAMETER_BYTES: f64 = 34.0;
/// Of each parameter in each lane, as measured, if there are batch-norms: the folded network, and the pieces that it
/// was joined from.
const FOLDED_BYTES: f64 = 35.0;

pub(super) fn plan(args: &PlanArgs, calibration: &Calibration, job: &JobFile) -> Result<Planned, LaunchError> {
    let (job, model, rows, data) = match args.workload {
        Some(workload) => {
            let (mut job, data) = bench::training(workload, job, &args.training.job.set)?;
            job.infer.batch = job.train.batch;
            let model = job::model(&job, &data, None)?;
            (job, model, data.train.count, data.name)
        }
        None => {
            let missing = |what, flag, key| LaunchError::Missing { verb: "plan --infer", what, flag, key };
            let file = job.model.file.as_ref().ok_or_else(|| missing("a model", "--model FILE", "model.file"))?;
            let rows = job.data.file.as_ref().ok_or_else(|| missing("rows", "--data FILE", "data.file"))?;
            let model = ModelFile::read(file, &job.protocol)?;
            let samples = data::load_samples(rows, job.data.header, model.input(), &job.protocol)?;
            (job.clone(), model.model().clone(), samples.count, samples.name)
        }
    };
    let spec = infer::spec(&job, &model, rows, Digests::default(), infer::reveal(&job)?)?;
    let Work::Infer(work) = &spec.work else { unreachable!("the spec of an inference") };
    // Lanes have nothing to sum.
    let costs = |rows: usize, lanes: u16| cost::inference(&work.model, rows.div_ceil(lanes.into()), &spec.protocol);
    let block = |rows: usize, lanes: u16| LaneWork::new(&costs(rows, lanes).block, 0);
    let simulator = simulator(args, calibration, &spec);
    let batch = (work.block_rows() * usize::from(spec.lanes)).min(rows);
    let cost::Inference { once, block: parts } = costs(batch, spec.lanes);
    // Each lane folds for itself.
    let before = LaneWork::new(&once, 0);
    let seconds_once = simulator.forecast(&before, spec.lanes).seconds();
    let plan = Plan::new(args, &simulator, &job, &spec, &LaneWork::new(&parts, 0));
    let last = match rows % batch {
        0 => plan.seconds_per_step,
        rest => simulator.forecast(&block(rest, spec.lanes), spec.lanes).seconds(),
    };
    let steps = rows.div_ceil(batch);
    #[allow(clippy::cast_precision_loss, reason = "steps are far below 2^52")]
    let all = seconds_once + (steps - 1) as f64 * plan.seconds_per_step + last;
    let plan = Plan {
        parameters: work.model.parameters(),
        steps,
        batch,
        memory_bytes_per_party: memory(spec.lanes, work, batch),
        public_model: Some(work.public_model),
        bytes_once_per_party: f64::from(spec.lanes) * before.cost.bytes,
        rounds_once: before.cost.rounds,
        seconds_once,
        infer_seconds: Some(all),
        scaling: scaling::rows(&simulator, spec.lanes, work.block_rows().min(rows), block),
        ..plan
    };
    Ok(Planned { plan, data: format!("{data} ({rows} rows)"), parts })
}

/// Largest memory of a party: rows and parameters, and what the widest layer has in flight for a block.
#[allow(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
fn memory(lanes: u16, work: &Inference, batch: usize) -> f64 {
    let model = &work.model;
    let folds = model.nodes.iter().any(|node| matches!(node.layer, Layer::BatchNorm { .. }));
    let each = PARAMETER_BYTES + if folds { f64::from(lanes) * FOLDED_BYTES } else { 0.0 };
    let data = (work.rows * (model.inputs() + model.outputs())) as f64;
    let block = cost::inference_row_memory(model) * batch as f64;
    PROCESS_BYTES + DATA_BYTES * data + each * model.parameters() as f64 + block
}

#[cfg(test)]
mod tests {
    use shared::model::{Loss, ModelName, Shape};

    use super::*;

    /// Largest memory of the three processes, as `bench w3 --only w3-infer` gives it, also with other `model.kind` and
    /// `train.batch`: network, rows, rows of a block, bytes.
    #[test]
    fn memory_is_within_a_quarter_of_measurements() {
        let cases = [
            (ModelName::Lenet, 1280, 128, 190.9e6),
            (ModelName::Lenet, 1536, 339, 386.9e6),
            (ModelName::Mlp, 384, 128, 28.3e6),
            (ModelName::AlexnetCifar, 96, 32, 179.3e6),
            (ModelName::Resnet18, 24, 7, 827.6e6),
        ];
        for (name, rows, batch, measured) in cases {
            let model = name.build(Shape::image(1, 28, 28), &[128, 128], 10, Loss::SoftmaxCrossEntropy);
            let model = model.pool_before_relu();
            let work =
                Inference { model, rows, public_model: false, batch, data_digest: [0; 32], model_digest: [0; 32] };
            assert_eq!(work.block_rows(), batch, "{name}");
            let predicted = memory(1, &work, batch);
            assert!((predicted / measured - 1.0).abs() < 0.25, "{name}: {predicted:e} where {measured:e} were taken");
        }
    }
}
