//! The verb `run`: data, shares, three parties, plaintext twin, report.

use std::path::Path;
use std::time::{Duration, Instant};

use shared::job::{JobSpec, Training, Work};

use crate::args::{Output, RunArgs};
use crate::data::{self, Dataset};
use crate::exit::LaunchError;
use crate::folder::RunFolder;
use crate::follow::Follower;
use crate::local::{self, Interrupt, Start};
use crate::plain::{self, Outcome, Shadow};
use crate::report::{Findings, Report};
use crate::settings::{self, Settings};
use crate::{device, job, print};

/// Longest time that the plaintext twin may hold up the start.
const TWIN_TIME: Duration = Duration::from_millis(500);

/// Runs a training job, or prints its configuration.
pub(crate) fn run(args: &RunArgs) -> Result<(), LaunchError> {
    let settings = settings::load(args, std::env::vars())?;
    if args.print_config {
        print(&settings.describe());
        return Ok(());
    }
    let data = job::load(&settings.job)?;
    if args.shadow {
        return shadow_only(args, &settings, &data);
    }
    let encoded = data::encode(&data, settings.job.protocol.fraction_bits)?;
    let spec = job::spec(&settings.job, &data, encoded.digest)?;
    let Work::Train(training) = &spec.work else { unreachable!("a job file describes a training") };
    let mut remarks = device::remarks(spec.lanes);
    let plain = twin(&spec, training, &data, &mut remarks);
    announce(args, &spec, &data, &remarks);

    let interrupt = Interrupt::install();
    let folder = RunFolder::create(Path::new(&settings.job.job.folder), &settings.job.job.name)?;
    folder.write("job.toml", &effective(&settings))?;
    let mut follower = Follower::new(&folder, args.verbose, false)?;
    let start = start(args, &settings);
    let completed = local::run(&spec, Some(encoded.messages), &start, &folder, &mut follower, &interrupt)?;
    let plain = if plain.complete { plain } else { plain::run(&training.model, &training.train, &data) };
    let report = Report::new(&Findings {
        job_id: &folder.job_id,
        spec: &spec,
        training,
        data: &data,
        completed: &completed,
        plain: &plain,
        run_folder: folder.path().display().to_string(),
        model: shared::ids::PartyId::ALL.map(|party| folder.party(party).display().to_string()).into(),
        remarks,
    });
    print(&if args.output == Output::Json { report.json() + "\n" } else { report.text() });
    folder.write("report.txt", &report.text())?;
    folder.write("report.json", &report.json())
}

/// Trains in plaintext and prints what it found; no party starts.
fn shadow_only(args: &RunArgs, settings: &Settings, data: &Dataset) -> Result<(), LaunchError> {
    let spec = job::spec(&settings.job, data, [0; 32])?;
    let Work::Train(training) = &spec.work else { unreachable!("a job file describes a training") };
    let shadow = Shadow::new(&spec, training, data);
    print(&if args.output == Output::Json { shadow.json() + "\n" } else { shadow.text() });
    Ok(())
}

/// Trains the plaintext twin, for a short while if it is a long job; remarks when numbers of a layer would leave
/// the range that the protocols are made for.
fn twin(spec: &JobSpec, training: &Training, data: &Dataset, remarks: &mut Vec<String>) -> Outcome {
    let plain = plain::run_until(&training.model, &training.train, data, Some(Instant::now() + TWIN_TIME));
    let excesses = plain::excesses(&training.model, &plain.ranges, &spec.protocol);
    remarks.extend(excesses.iter().map(plain::Excess::text));
    plain
}

fn announce(args: &RunArgs, spec: &JobSpec, data: &Dataset, remarks: &[String]) {
    remarks.iter().for_each(|remark| eprintln!("{remark}"));
    if args.output == Output::Json && !args.verbose {
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

fn start(args: &RunArgs, settings: &Settings) -> Start {
    let job = &settings.job.job;
    Start {
        program: args.party_program.clone(),
        metrics: job.metrics,
        startup_timeout_seconds: job.startup_timeout_seconds,
        progress_timeout_seconds: job.progress_timeout_seconds,
    }
}

/// The job file that would repeat this run.
fn effective(settings: &Settings) -> String {
    toml::to_string(&settings.job).expect("a job file holds nothing that TOML cannot")
}
