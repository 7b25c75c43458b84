//! The folder of a run: effective job file, logs, reports, and a private folder per party for its sealed output.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use shared::ids::PartyId;

use crate::exit::LaunchError;

/// A run's folder.
#[derive(Debug)]
pub(crate) struct RunFolder {
    /// Name of the run.
    pub(crate) job_id: String,
    path: PathBuf,
}

impl RunFolder {
    /// Makes `base/name` with a folder per party that only this user may enter; leaves nothing behind if it cannot.
    pub(crate) fn create(base: &Path, name: &str) -> Result<Self, LaunchError> {
        let job_id = if name.is_empty() { fresh_name() } else { name.to_owned() };
        let path = base.join(&job_id);
        let made_base = !base.exists();
        if !made_base && !base.is_dir() {
            return Err(refusal(base, &ErrorKind::NotADirectory.into()));
        }
        fs::create_dir_all(base).map_err(|error| refusal(base, &error))?;
        DirBuilder::new().mode(0o755).create(&path).map_err(|error| {
            if made_base {
                // Empty, as it was made just now.
                let _ = fs::remove_dir(base);
            }
            refusal(&path, &error)
        })?;
        let folder = Self { job_id, path: fs::canonicalize(&path).unwrap_or(path) };
        for party in PartyId::ALL {
            if let Err(error) = DirBuilder::new().mode(0o700).create(folder.party(party)) {
                folder.remove();
                return Err(refusal(&folder.party(party), &error));
            }
        }
        Ok(folder)
    }

    /// The folder itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A party's own folder.
    pub(crate) fn party(&self, party: PartyId) -> PathBuf {
        self.path.join(format!("p{}", party.index()))
    }

    /// Writes a whole file.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<(), LaunchError> {
        let path = self.path.join(name);
        fs::write(&path, text).map_err(|error| refusal(&path, &error))
    }

    /// Opens a party's log.
    pub(crate) fn log(&self, party: PartyId) -> Result<File, LaunchError> {
        let path = self.path.join(format!("p{}.log", party.index()));
        File::create(&path).map_err(|error| refusal(&path, &error))
    }

    /// Removes the folder and all in it.
    pub(crate) fn remove(&self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// What the system said about a file, and what to do.
pub(crate) fn refusal(path: &Path, error: &io::Error) -> LaunchError {
    let advice = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "; free some space, or set job.folder to another disk",
        ErrorKind::AlreadyExists => "; choose another --name",
        ErrorKind::PermissionDenied
        | ErrorKind::ReadOnlyFilesystem
        | ErrorKind::NotADirectory
        | ErrorKind::NotFound => "; set job.folder to a folder that can be written",
        _ => "",
    };
    LaunchError::Folder { path: path.display().to_string(), reason: format!("{error}{advice}") }
}

/// `20261122-151204-3fa91c`: UTC, then a random part.
pub(crate) fn fresh_name() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut random = [0; 3];
    getrandom::fill(&mut random).expect("the operating system gives randomness");
    let [a, b, c] = random;
    format!("{}-{a:02x}{b:02x}{c:02x}", utc(seconds))
}

/// Seconds since 1970 as `YYYYMMDD-HHMMSS`, by the Gregorian calendar's cycle of 400 years.
fn utc(seconds: u64) -> String {
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    // Counted from 1 March of year 0, so that the leap day comes last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = 400 * era + year_of_era + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}-{:02}{:02}{:02}", time / 3600, time / 60 % 60, time % 60)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn party_folders_are_private() {
        let base = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(&base.path().join("runs"), "a").unwrap();
        for party in PartyId::ALL {
            let mode = fs::metadata(folder.party(party)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700);
        }
        let error = RunFolder::create(&base.path().join("runs"), "a").unwrap_err().to_string();
        assert!(error.contains("choose another --name"), "{error}");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named_and_nothing_is_left() {
        let base = tempfile::tempdir().unwrap();
        let file = base.path().join("runs");
        fs::write(&file, "").unwrap();
        let error = RunFolder::create(&file.join("deeper"), "a").unwrap_err().to_string();
        assert!(error.contains("runs") && error.contains("job.folder"), "{error}");
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 1);
        let full = refusal(Path::new("runs/a"), &io::Error::from(ErrorKind::StorageFull)).to_string();
        assert!(full.starts_with("run folder runs/a:") && full.contains("free some space"), "{full}");
    }

    /// `/dev/full` takes no byte, as a full disk does.
    #[test]
    fn a_full_disk_is_named() {
        let base = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(base.path(), "a").unwrap();
        std::os::unix::fs::symlink("/dev/full", folder.path().join("report.txt")).unwrap();
        let error = folder.write("report.txt", "text").unwrap_err().to_string();
        assert!(error.contains("report.txt") && error.contains("free some space"), "{error}");
    }

    #[test]
    fn dates_follow_the_calendar() {
        assert_eq!(utc(0), "19700101-000000");
        assert_eq!(utc(951_782_399), "20000228-235959");
        assert_eq!(utc(951_782_400), "20000229-000000");
        assert_eq!(utc(1_795_359_123), "20261122-145203");
    }
}
