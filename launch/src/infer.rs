//! The verb `infer`: rows and a trained model into shares, three parties, results joined for their owner, report.

use std::path::Path;
use std::time::Instant;

use shared::config::JobFile;
use shared::ids::PartyId;
use shared::job::{Inference, JobSpec, PROTOCOL_VERSION, Reveal, Work};
use shared::model::Model;

use crate::args::{InferArgs, Output};
use crate::data::{self, Digests, Samples};
use crate::exit::LaunchError;
use crate::folder::RunFolder;
use crate::follow::Follower;
use crate::local::{self, Interrupt, Start};
use crate::model_file::ModelFile;
use crate::out::{OutFile, write_results};
use crate::{device, print, settings};

mod report;

use report::{Findings, Report};

/// Rows on which results are compared with float64, the first ones: it shows what the parties' rounding does, and takes
/// this machine's time.
const COMPARED_ROWS_MAX: usize = 256;

/// Runs a model on rows, or prints the configuration.
pub(crate) fn run(args: &InferArgs) -> Result<(), LaunchError> {
    let begun = Instant::now();
    let settings = settings::load(args, std::env::vars())?;
    if args.job.print_config {
        print(&settings.describe());
        return Ok(());
    }
    let job = &settings.job;
    let missing = |what, flag, key| LaunchError::Missing { verb: "infer", what, flag, key };
    let model = job.model.file.as_ref().ok_or_else(|| missing("a model", "--model FILE", "model.file"))?;
    let rows = job.data.file.as_ref().ok_or_else(|| missing("rows", "--data FILE", "data.file"))?;
    let out = job.infer.out.as_ref().ok_or_else(|| missing("a place for its results", "--out FILE", "infer.out"))?;
    let reveal = reveal(job)?;
    let model = ModelFile::read(model, &job.protocol)?;
    let samples = data::load_samples(rows, job.data.header, model.input(), &job.protocol)?;
    let out_file = OutFile::create(out, &["npy", "csv"])?;
    let public_model = job.infer.public_model;
    let encoded = data::encode_inference(&samples.x, model.weights(), public_model, job.protocol.fraction_bits)?;
    let spec = spec(job, model.model(), samples.count, encoded.digests, reveal)?;
    let remarks = [device::remarks(spec.lanes), model.imported.notes.clone()].concat();
    announce(args, &spec, &model, &samples, &remarks);

    let interrupt = Interrupt::install();
    let folder = RunFolder::create(Path::new(&job.job.folder), &job.job.name)?;
    folder.write("job.toml", &settings.effective())?;
    let mut follower = Follower::new(&folder, args.job.verbose, false)?.in_rows();
    let start = Start::new(&args.job, &settings);
    let share_seconds = encoded.share_seconds;
    let completed = local::run(&spec, Some(encoded.messages), &start, &folder, &mut follower, &interrupt)?;
    let Some((Reveal::Predictions, words)) = &completed.result else { return Err(LaunchError::PartsDiffer) };
    if words.len() != samples.count * model.output().order.len() {
        return Err(LaunchError::PartsDiffer);
    }
    let results: Vec<f64> = words.iter().map(|&word| job.protocol.fraction_bits.decode(word)).collect();
    write_results(out_file, &results, model.output(), samples.single)?;
    let report = Report::new(&Findings {
        job_id: &folder.job_id,
        spec: &spec,
        model: &model,
        samples: &samples,
        completed: &completed,
        difference: difference(&model, &samples, &results),
        share_seconds,
        total_seconds: begun.elapsed().as_secs_f64(),
        out,
        run_folder: folder.path().display().to_string(),
        remarks,
    });
    print(&if args.job.output == Output::Json { report.json() + "\n" } else { report.text() });
    folder.write("report.txt", &report.text())?;
    folder.write("report.json", &report.json())
}

/// Largest difference from float64, and on how many rows.
fn difference(model: &ModelFile, samples: &Samples, results: &[f64]) -> (f64, usize) {
    let rows = samples.count.min(COMPARED_ROWS_MAX);
    let x = &samples.x[..rows * model.model().inputs()];
    let weights = model.weights();
    let (parameters, averages) = (weights.parameters.to_vec(), weights.buffers.to_vec());
    let plain = plaintext::Network::new(model.model(), parameters, averages).predict(x, rows);
    (results.iter().zip(&plain).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max), rows)
}

/// What the job gives away: predictions, and nothing else.
pub(crate) fn reveal(job: &JobFile) -> Result<Vec<Reveal>, LaunchError> {
    let named = job.reveal.open.clone().unwrap_or_else(|| vec![Reveal::Predictions]);
    match named.iter().find(|reveal| **reveal != Reveal::Predictions) {
        Some(other) => Err(LaunchError::NoSuchMetric { name: other.name(), task: "inference" }),
        None if named.is_empty() => Err(LaunchError::NotRevealed { what: "predictions", who: "infer" }),
        None => Ok(vec![Reveal::Predictions]),
    }
}

/// The job of running a model on so many rows.
pub(crate) fn spec(
    job: &JobFile,
    model: &Model,
    rows: usize,
    digests: Digests,
    reveal: Vec<Reveal>,
) -> Result<JobSpec, LaunchError> {
    let lanes = job.job.lanes;
    if usize::from(lanes) > rows {
        return Err(LaunchError::MoreLanesThanSamples { lanes, rows, what: "rows" });
    }
    let work = Inference {
        model: model.clone().pool_before_relu(),
        rows,
        public_model: job.infer.public_model,
        batch: job.infer.batch,
        data_digest: digests.data,
        model_digest: digests.model,
    };
    Ok(JobSpec {
        version: PROTOCOL_VERSION.into(),
        lanes,
        threads: device::threads_per_lane(lanes, job.job.threads),
        protocol: job.protocol,
        work: Work::Infer(Box::new(work)),
        reveal,
        peer_timeout_seconds: job.job.peer_timeout_seconds,
    })
}

fn announce(args: &InferArgs, spec: &JobSpec, model: &ModelFile, samples: &Samples, remarks: &[String]) {
    remarks.iter().for_each(|remark| eprintln!("{remark}"));
    if args.job.output == Output::Json && !args.job.verbose {
        return;
    }
    let Work::Infer(work) = &spec.work else { unreachable!("the spec of an inference") };
    eprintln!(
        "running {} ({} parameters, {}) on {} ({} rows); parties: {}, lanes per party: {}; no party learns a result",
        model.name,
        model.imported.parameters.len(),
        if work.public_model { "public" } else { "secret" },
        samples.name,
        samples.count,
        PartyId::ALL.len(),
        spec.lanes
    );
}
