//! The verb `run`: data, shares, three parties, plaintext twin, report.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use model_files::{onnx, safetensors};
use shared::config::JobFile;
use shared::job::{JobSpec, Reveal, Training, Work};

use crate::args::{Output, RunArgs, TrainingArgs};
use crate::data::{self, Dataset, Digests, Weights};
use crate::exit::LaunchError;
use crate::folder::RunFolder;
use crate::follow::Follower;
use crate::local::{self, Interrupt, Start};
use crate::model_file::ModelFile;
use crate::out::OutFile;
use crate::plain::{self, Outcome, Shadow};
use crate::report::{Findings, Report};
use crate::{device, job, print, settings};

/// Longest time that the plaintext twin may hold up the start.
const TWIN_TIME: Duration = Duration::from_millis(500);

/// Runs a training job, or prints its configuration.
pub(crate) fn run(args: &RunArgs) -> Result<(), LaunchError> {
    let settings = settings::load(args, std::env::vars())?;
    let args = &args.training;
    if args.job.print_config {
        print(&settings.describe());
        return Ok(());
    }
    let file = settings.job.model.file.as_ref();
    let file = file.map(|file| ModelFile::read(file, &settings.job.protocol)).transpose()?;
    let data = job::load(&settings.job, file.as_ref())?;
    if args.shadow {
        return shadow_only(args, &settings.job, &data, file.as_ref());
    }
    let begin = file.as_ref().map(ModelFile::weights);
    let encoded = data::encode(&data, begin, settings.job.protocol.fraction_bits)?;
    let spec = job::spec(&settings.job, &data, file.as_ref(), encoded.digests)?;
    let Work::Train(training) = &spec.work else { unreachable!("a job file describes a training") };
    let mut remarks = device::remarks(settings.job.job.device, spec.lanes);
    let plain = twin(&spec, training, &data, begin, &mut remarks);
    remarks.extend(file.iter().flat_map(|file| file.imported.notes.clone()));
    let export = settings.job.model.export.as_ref().map(|path| OutFile::create(path, &KINDS)).transpose()?;
    announce(args, &spec, &data, &remarks);

    let interrupt = Interrupt::install();
    let folder = RunFolder::create(Path::new(&settings.job.job.folder), &settings.job.job.name)?;
    folder.write("job.toml", &settings.effective())?;
    let mut follower = Follower::new(&folder, args.job.verbose, false)?;
    let start = Start::new(&args.job, &settings);
    let completed = local::run(&spec, Some(encoded.messages), &start, &folder, &mut follower, &interrupt)?;
    let revealed = match &completed.result {
        Some((Reveal::Weights, words)) => {
            Some(words.iter().map(|&word| spec.protocol.fraction_bits.decode(word)).collect::<Vec<f64>>())
        }
        _ => None,
    };
    if let Some(export) = export {
        write_model(export, training, revealed.as_deref())?;
    }
    let plain =
        if plain.complete { plain } else { plain::run_from(begin, &training.model, &training.train, &data, None) };
    let weight_difference = revealed.map(|weights| {
        let both = weights.iter().zip(&plain.parameters);
        both.map(|(mpc, plain)| (mpc - plain).abs()).fold(0.0, f64::max)
    });
    let report = Report::new(&Findings {
        job_id: &folder.job_id,
        spec: &spec,
        training,
        data: &data,
        completed: &completed,
        plain: &plain,
        weight_difference,
        run_folder: folder.path().display().to_string(),
        model: shared::ids::PartyId::ALL.map(|party| folder.party(party).display().to_string()).into(),
        remarks,
    });
    print(&if args.job.output == Output::Json { report.json() + "\n" } else { report.text() });
    folder.write("report.txt", &report.text())?;
    folder.write("report.json", &report.json())
}

/// Kinds of files that a trained model is written to.
const KINDS: [&str; 2] = ["onnx", "safetensors"];

/// Joins nothing but what the parties handed out: parameters, then running averages.
fn write_model(out: OutFile, training: &Training, revealed: Option<&[f64]>) -> Result<(), LaunchError> {
    let (model, wiring) = (&training.model, training.model.wiring()?);
    let due = wiring.parameters() + wiring.buffers();
    let values = revealed.filter(|values| values.len() == due).ok_or(LaunchError::PartsDiffer)?;
    let (parameters, averages) = values.split_at(wiring.parameters());
    match out.kind() {
        "onnx" => out.complete(|path| onnx::write(path, model, parameters, averages).map_err(io::Error::other)),
        _ => out.complete(|path| safetensors::write(path, model, parameters, averages).map_err(io::Error::other)),
    }
}

/// Trains in plaintext and prints what it found; no party starts.
fn shadow_only(
    args: &TrainingArgs,
    job: &JobFile,
    data: &Dataset,
    file: Option<&ModelFile>,
) -> Result<(), LaunchError> {
    let spec = job::spec(job, data, file, Digests::default())?;
    let Work::Train(training) = &spec.work else { unreachable!("a job file describes a training") };
    let shadow = Shadow::new(&spec, training, data, file.map(ModelFile::weights));
    print(&if args.job.output == Output::Json { shadow.json() + "\n" } else { shadow.text() });
    Ok(())
}

/// Trains the plaintext twin, for a short while if it is a long job; remarks when numbers of a layer would leave
/// the range that the protocols are made for.
fn twin(
    spec: &JobSpec,
    training: &Training,
    data: &Dataset,
    begin: Option<Weights<'_>>,
    remarks: &mut Vec<String>,
) -> Outcome {
    let deadline = Some(Instant::now() + TWIN_TIME);
    let plain = plain::run_from(begin, &training.model, &training.train, data, deadline);
    let excesses = plaintext::excesses(&training.model, &plain.ranges, &spec.protocol);
    remarks.extend(excesses.iter().map(plaintext::Excess::text));
    plain
}

fn announce(args: &TrainingArgs, spec: &JobSpec, data: &Dataset, remarks: &[String]) {
    remarks.iter().for_each(|remark| eprintln!("{remark}"));
    if args.job.output == Output::Json && !args.job.verbose {
        return;
    }
    for (column, count) in &data.missing {
        eprintln!("column {column:?}: {count} missing values, filled in");
    }
    let names: Vec<&str> = spec.reveal.iter().map(|reveal| reveal.name()).collect();
    let opened = if names.is_empty() { "nothing".into() } else { names.join(", ") };
    eprintln!(
        "training on {} ({} rows, {} features); parties: 3, lanes per party: {}; will be opened: {opened}",
        data.name,
        data.train.count,
        data.features.len(),
        spec.lanes
    );
}
