//! The sealed model: this party's share of the trained parameters, in a file that only its owner reads.
//!
//! Layout, little-endian: magic (8 bytes), format version (u32), party (u32), job digest (32 bytes), element count
//! (u64), then the first and then the second component of every parameter (u64 each), in the order of
//! `Model::initial_parameters`.
//!
//! One such file says nothing about the model, any two of them say everything. The share is not encrypted at rest: who
//! reads the files of two parties has the model, so each party must keep its file where the others cannot reach.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use shared::ids::PartyId;
use shared::share::Share;

/// Name of the file in the party's folder.
pub const FILE_NAME: &str = "model.share";

const MAGIC: &[u8; 8] = b"TREFMODL";
const FORMAT_VERSION: u32 = 1;

/// A party's share of a model, and what it belongs to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SealedModel {
    /// Whose share.
    pub party: PartyId,
    /// Digest of the job that trained it.
    pub job_digest: [u8; 32],
    /// The parameters.
    pub parameters: Share,
}

/// Why a sealed model could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SealedModelError {
    /// The file system is full.
    #[error("the disk is full: {path} needs {bytes} bytes; free some space and run the job again")]
    DiskFull {
        /// Which file.
        path: PathBuf,
        /// How large it would be.
        bytes: u64,
    },
    /// Any other failure of the file system.
    #[error("{path} cannot be written: {source}")]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The bytes are no sealed model of a known version.
    #[error("this is no sealed model: {0}")]
    Malformed(&'static str),
    /// The stream failed or ended early.
    #[error("the sealed model cannot be read: {0}")]
    Read(#[from] io::Error),
}

impl SealedModel {
    /// Writes `model.share` into `folder`, whole or not at all; returns its path.
    pub fn save(&self, folder: &Path) -> Result<PathBuf, SealedModelError> {
        let path = folder.join(FILE_NAME);
        let unfinished = folder.join(format!("{FILE_NAME}.unfinished"));
        let saved = self.write_and_rename(&unfinished, &path, folder);
        if saved.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        saved.map_err(|source| self.explain(source, &path)).map(|()| path)
    }

    /// Reads what [`SealedModel::save`] wrote. Memory grows with the bytes that are there, not with what they claim.
    pub fn read(from: &mut impl Read) -> Result<Self, SealedModelError> {
        let malformed = |what| Err(SealedModelError::Malformed(what));
        if &read_array::<8>(from)? != MAGIC {
            return malformed("it does not begin with the mark of one");
        }
        if u32::from_le_bytes(read_array(from)?) != FORMAT_VERSION {
            return malformed("its format version is unknown");
        }
        let Some(party) = PartyId::new(u32::from_le_bytes(read_array(from)?) as usize) else {
            return malformed("it names a party that does not exist");
        };
        let job_digest = read_array(from)?;
        let elements = u64::from_le_bytes(read_array(from)?);
        let parameters = Share { first: read_words(from, elements)?, second: read_words(from, elements)? };
        if from.read(&mut [0])? != 0 {
            return malformed("it goes on after its last parameter");
        }
        Ok(Self { party, job_digest, parameters })
    }

    fn write_and_rename(&self, unfinished: &Path, path: &Path, folder: &Path) -> io::Result<()> {
        // What an interrupted run left may have another owner or mode.
        match fs::remove_file(unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(unfinished)?;
        let mut buffered = BufWriter::new(&file);
        self.write(&mut buffered)?;
        buffered.flush()?;
        drop(buffered);
        file.sync_all()?;
        fs::rename(unfinished, path)?;
        File::open(folder)?.sync_all()
    }

    fn write(&self, to: &mut impl Write) -> io::Result<()> {
        to.write_all(MAGIC)?;
        to.write_all(&FORMAT_VERSION.to_le_bytes())?;
        to.write_all(&u32::from(u8::from(self.party)).to_le_bytes())?;
        to.write_all(&self.job_digest)?;
        to.write_all(&(self.parameters.len() as u64).to_le_bytes())?;
        let words = self.parameters.first.iter().chain(&self.parameters.second);
        words.copied().try_for_each(|word| to.write_all(&word.to_le_bytes()))
    }

    fn explain(&self, source: io::Error, path: &Path) -> SealedModelError {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                SealedModelError::DiskFull { path, bytes: 56 + 16 * self.parameters.len() as u64 }
            }
            _ => SealedModelError::Write { path, source },
        }
    }
}

fn read_array<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn read_words(from: &mut impl Read, count: u64) -> io::Result<Vec<u64>> {
    let due = count.checked_mul(8).ok_or(io::ErrorKind::InvalidData)?;
    let mut bytes = Vec::new();
    from.take(due).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != due {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes"))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    fn model(words: Vec<u64>) -> SealedModel {
        let second = words.iter().map(|word| !word).collect();
        let parameters = Share { first: words, second };
        SealedModel { party: PartyId::ALL[2], job_digest: [7; 32], parameters }
    }

    proptest! {
        #[test]
        fn a_model_comes_back_and_a_cut_one_is_refused(words: Vec<u64>, cut in 1usize..2000) {
            let mut bytes = Vec::new();
            model(words.clone()).write(&mut bytes).unwrap();
            prop_assert_eq!(SealedModel::read(&mut &bytes[..]).unwrap(), model(words));
            let kept = bytes.len().saturating_sub(cut);
            prop_assert!(SealedModel::read(&mut &bytes[..kept]).is_err());
        }

        #[test]
        fn any_bytes_give_a_model_or_an_error(tail: Vec<u8>) {
            let mut bytes = MAGIC.to_vec();
            bytes.extend(FORMAT_VERSION.to_le_bytes());
            bytes.extend(tail);
            let _ = SealedModel::read(&mut &bytes[..]);
        }
    }

    #[test]
    fn the_file_is_whole_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("model.share.unfinished"), "left by an interrupted run").unwrap();
        let path = model(vec![1, 2, 3]).save(folder.path()).unwrap();
        model(vec![4, 5]).save(folder.path()).unwrap();
        assert_eq!(SealedModel::read(&mut File::open(&path).unwrap()).unwrap(), model(vec![4, 5]));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_full_disk_is_named() {
        let mut full = BufWriter::new(OpenOptions::new().write(true).open("/dev/full").unwrap());
        let sealed = model(vec![0; 10_000]);
        let error = sealed.explain(sealed.write(&mut full).unwrap_err(), Path::new("runs/x/model.share"));
        assert_eq!(
            error.to_string(),
            "the disk is full: runs/x/model.share needs 160056 bytes; free some space and run the job again"
        );
        // Nothing more to flush into it.
        drop(full.into_parts());
    }

    #[test]
    fn a_missing_folder_is_named_and_leaves_nothing() {
        let error = model(vec![1]).save(Path::new("/nonexistent/folder")).unwrap_err();
        assert!(error.to_string().starts_with("/nonexistent/folder/model.share cannot be written"), "{error}");
    }
}
