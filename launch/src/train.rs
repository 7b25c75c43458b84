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
use crate::model_file::ModelFile;
use crate::plain::{self, Beginning, Outcome, Shadow};
use crate::report::{Findings, Report};
use crate::{device, job, print, settings};

/// Longest time that the plaintext twin may hold up the start.
const TWIN_TIME: Duration = Duration::from_millis(500);

/// Runs a training job, or prints its configuration.
pub(crate) fn run(args: &RunArgs) -> Result<(), LaunchError> {
    let settings = settings::load(args, std::env::vars())?;
    if args.job.print_config {
        print(&settings.describe());
        return Ok(());
    }
    let file = settings.job.model.file.as_ref();
    let file = file.map(|file| ModelFile::read(file, &settings.job.protocol)).transpose()?;
    let data = job::records(&settings.job, file.as_ref())?;
    let start = file.as_ref().map(ModelFile::weights);
    let encoded = data::encode(&data, start, settings.job.protocol.fraction_bits)?;
    let spec = job::spec(&settings.job, &data, file.as_ref(), encoded.digests)?;
    let Work::Train(training) = &spec.work else { unreachable!("a job file describes a training") };
    if args.shadow {
        let shadow = Shadow::new(&spec, training, start, &data);
        print(&if args.job.output == Output::Json { shadow.json() + "\n" } else { shadow.text() });
        return Ok(());
    }
    let mut remarks = device::remarks(spec.lanes);
    let beginning = Beginning { model: &training.model, weights: start };
    let plain = twin(&spec, beginning, training, &data, &mut remarks);
    remarks.extend(file.iter().flat_map(|file| file.imported.notes.clone()));
    announce(args, &spec, &data, &remarks);

    let interrupt = Interrupt::install();
    let folder = RunFolder::create(Path::new(&settings.job.job.folder), &settings.job.job.name)?;
    folder.write("job.toml", &settings.effective())?;
    let mut follower = Follower::new(&folder, args.job.verbose, false)?;
    let start = Start::new(&args.job, &settings);
    let completed = local::run(&spec, Some(encoded.messages), &start, &folder, &mut follower, &interrupt)?;
    let plain = if plain.complete { plain } else { plain::run(beginning, &training.train, &data) };
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
    print(&if args.job.output == Output::Json { report.json() + "\n" } else { report.text() });
    folder.write("report.txt", &report.text())?;
    folder.write("report.json", &report.json())
}

/// Trains the plaintext twin, for a short while if it is a long job; remarks when numbers of a layer would leave
/// the range that the protocols are made for.
fn twin(
    spec: &JobSpec,
    beginning: Beginning<'_>,
    training: &Training,
    data: &Dataset,
    remarks: &mut Vec<String>,
) -> Outcome {
    let plain = plain::run_until(beginning, &training.train, data, Some(Instant::now() + TWIN_TIME));
    let excesses = plain::excesses(&training.model, &plain.ranges, &spec.protocol);
    remarks.extend(excesses.iter().map(plain::Excess::text));
    plain
}

fn announce(args: &RunArgs, spec: &JobSpec, data: &Dataset, remarks: &[String]) {
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
