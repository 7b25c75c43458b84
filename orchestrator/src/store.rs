//! The scheduler's state on disk: one SQLite file that operators can look into with the `sqlite3` they have. Knows
//! nothing of scheduling: it keeps records.
//!
//! Order matters: step, then [`Store::save`], then the actions. A crash before the save undoes a step that nobody saw;
//! a crash after it loses actions that hosts bring back when they report what they hold.

mod schema;

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Transaction, params};
use shared::fleet::Millis;
use shared::ids::JobDigest;

use crate::schedule::{Action, Changes, Meta, Records};

/// Entries of the journal that are kept.
const JOURNAL_MAX: i64 = 200_000;
/// A reader that holds the file up is waited for no longer than this.
const BUSY: Duration = Duration::from_secs(5);

/// Why the state cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database says no.
    #[error("{path}: {source}")]
    Database {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The file system says no.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another orchestrator has it.
    #[error("{0} is in use by another orchestrator")]
    InUse(PathBuf),
    /// Written by a later version.
    #[error("{path} has schema {found}, this version knows up to {known}: use the version that wrote it, or a backup")]
    TooNew {
        /// Which file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest known.
        known: i64,
    },
    /// The file is not sound.
    #[error("{path} is damaged: {verdict}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        verdict: String,
    },
    /// A record that makes no sense.
    #[error("{path}: the record of {what} cannot be read: {source}")]
    Record {
        /// Which file.
        path: PathBuf,
        /// Whose.
        what: String,
        /// Why.
        source: serde_json::Error,
    },
}

/// What happened to a job, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JournalEntry {
    /// When.
    pub at: Millis,
    /// To which.
    pub job: JobDigest,
    /// Where it went.
    pub state: String,
    /// Why.
    pub reason: String,
}

impl JournalEntry {
    /// The entries for the actions of a step.
    pub fn of_actions(now: Millis, actions: &[Action]) -> Vec<Self> {
        let moved = actions.iter().filter_map(|action| match action {
            Action::Moved { job, state, reason } => {
                Some(Self { at: now, job: *job, state: state.name().into(), reason: reason.to_string() })
            }
            _ => None,
        });
        moved.collect()
    }
}

/// The database.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    path: PathBuf,
    /// Held until the store is dropped, or its process ends in whatever way.
    _lock: File,
}

impl Store {
    /// Opens the file, or makes it; brings an older one up to date. Only one process can have it open for writing.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let lock = lock(path)?;
        let database = |source| StoreError::Database { path: path.into(), source };
        let mut connection = Connection::open(path).map_err(database)?;
        connection.busy_timeout(BUSY).map_err(database)?;
        // Readers do not block the writer, and a commit is on the disk when it returns.
        connection.pragma_update(None, "journal_mode", "wal").map_err(database)?;
        connection.pragma_update(None, "synchronous", "full").map_err(database)?;
        schema::migrate(&mut connection, path)?;
        Ok(Self { connection, path: path.into(), _lock: lock })
    }

    /// What the scheduler is rebuilt from.
    pub fn load(&self) -> Result<Records, StoreError> {
        let meta = self.records::<Meta>("SELECT key, record FROM meta WHERE key = 'scheduler'")?;
        Ok(Records {
            jobs: self.records("SELECT digest, record FROM jobs")?,
            hosts: self.records("SELECT id, record FROM hosts")?,
            meta: meta.into_iter().next().unwrap_or_default(),
        })
    }

    /// Writes what a step changed, all or nothing; it is on the disk when this returns. After an error the scheduler is
    /// ahead of its disk: the orchestrator must end and begin again from what is there.
    pub fn save(&mut self, changes: &Changes, journal: &[JournalEntry]) -> Result<(), StoreError> {
        if *changes == Changes::default() && journal.is_empty() {
            return Ok(());
        }
        let path = self.path.clone();
        let database = |source| StoreError::Database { path: path.clone(), source };
        let transaction = self.connection.transaction().map_err(database)?;
        write(&transaction, &path, changes)?;
        write_journal(&transaction, journal).map_err(database)?;
        transaction.commit().map_err(database)
    }

    /// What happened to a job, oldest first.
    pub fn journal(&self, job: &JobDigest) -> Result<Vec<JournalEntry>, StoreError> {
        let read = || -> rusqlite::Result<Vec<JournalEntry>> {
            let sql = "SELECT at, state, reason FROM journal WHERE job = ?1 ORDER BY sequence";
            let mut statement = self.connection.prepare(sql)?;
            let rows = statement.query_map([job.to_string()], |row| {
                Ok(JournalEntry {
                    at: row.get::<_, i64>(0)?.cast_unsigned(),
                    job: *job,
                    state: row.get(1)?,
                    reason: row.get(2)?,
                })
            })?;
            rows.collect()
        };
        read().map_err(|source| self.database(source))
    }

    /// Copies the state as it is now to a new file, while the orchestrator works. The copy is complete or does not
    /// exist.
    pub fn backup(&self, to: &Path) -> Result<(), StoreError> {
        backup(&self.connection, to)
    }

    /// Whether the file is sound.
    pub fn check(&self) -> Result<(), StoreError> {
        let verdict: String = self
            .connection
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .map_err(|source| self.database(source))?;
        if verdict == "ok" { Ok(()) } else { Err(StoreError::Damaged { path: self.path.clone(), verdict }) }
    }

    fn records<R: serde::de::DeserializeOwned>(&self, sql: &str) -> Result<Vec<R>, StoreError> {
        let read = || -> rusqlite::Result<Vec<(String, String)>> {
            let mut statement = self.connection.prepare(sql)?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect()
        };
        let rows = read().map_err(|source| self.database(source))?;
        let parse = |(what, text): (String, String)| {
            serde_json::from_str(&text).map_err(|source| StoreError::Record { path: self.path.clone(), what, source })
        };
        rows.into_iter().map(parse).collect()
    }

    fn database(&self, source: rusqlite::Error) -> StoreError {
        StoreError::Database { path: self.path.clone(), source }
    }
}

/// Copies a state that another process may be writing: for the backup command beside a running orchestrator.
pub fn backup_file(from: &Path, to: &Path) -> Result<(), StoreError> {
    let database = |source| StoreError::Database { path: from.into(), source };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(from, flags).map_err(database)?;
    connection.busy_timeout(BUSY).map_err(database)?;
    backup(&connection, to)
}

fn backup(from: &Connection, to: &Path) -> Result<(), StoreError> {
    let file = |source| StoreError::File { path: to.into(), source };
    if to.exists() {
        return Err(file(std::io::ErrorKind::AlreadyExists.into()));
    }
    // A name of its own until it is whole, so that a crash leaves nothing that looks like a backup.
    let partial = to.with_added_extension("partial");
    match std::fs::remove_file(&partial) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(file(error)),
        _ => {}
    }
    from.backup("main", &partial, None::<fn(rusqlite::backup::Progress)>)
        .map_err(|source| StoreError::Database { path: partial.clone(), source })?;
    File::open(&partial).and_then(|written| written.sync_all()).map_err(file)?;
    std::fs::rename(&partial, to).map_err(file)?;
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(file)
}

/// Takes the file beside the database that says who has it. The system lets go of it with the process.
fn lock(path: &Path) -> Result<File, StoreError> {
    let beside = path.with_added_extension("lock");
    let file = |source| StoreError::File { path: beside.clone(), source };
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&beside).map_err(file)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(path.into())),
        Err(TryLockError::Error(source)) => Err(file(source)),
    }
}

fn write(transaction: &Transaction<'_>, path: &Path, changes: &Changes) -> Result<(), StoreError> {
    let database = |source| StoreError::Database { path: path.into(), source };
    for (digest, job) in &changes.jobs {
        let key = digest.to_string();
        match job {
            None => transaction.execute("DELETE FROM jobs WHERE digest = ?1", [&key]),
            Some(job) => {
                let sql = "INSERT OR REPLACE INTO jobs (digest, name, state, priority, submitted_at, record) \
                           VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
                let (of, record) = (&job.submission, json(path, &key, job)?);
                let submitted = job.submitted_at.cast_signed();
                let row = params![key, of.name.0, job.state.name(), of.priority, submitted, record];
                transaction.execute(sql, row)
            }
        }
        .map_err(database)?;
    }
    for (id, host) in &changes.hosts {
        match host {
            None => transaction.execute("DELETE FROM hosts WHERE id = ?1", [&*id.0]),
            Some(host) => {
                let sql = "INSERT OR REPLACE INTO hosts (id, machine, drained, record) VALUES (?1, ?2, ?3, ?4)";
                let row = params![&*id.0, &*host.machine.0, host.drained, json(path, &id.0, host)?];
                transaction.execute(sql, row)
            }
        }
        .map_err(database)?;
    }
    if let Some(meta) = &changes.meta {
        let sql = "INSERT OR REPLACE INTO meta (key, record) VALUES ('scheduler', ?1)";
        let record = json(path, "scheduler", meta)?;
        transaction.execute(sql, [record]).map_err(database)?;
    }
    Ok(())
}

fn json(path: &Path, what: &str, record: &impl serde::Serialize) -> Result<String, StoreError> {
    serde_json::to_string(record).map_err(|source| StoreError::Record { path: path.into(), what: what.into(), source })
}

fn write_journal(transaction: &Transaction<'_>, journal: &[JournalEntry]) -> rusqlite::Result<()> {
    if journal.is_empty() {
        return Ok(());
    }
    let sql = "INSERT INTO journal (at, job, state, reason) VALUES (?1, ?2, ?3, ?4)";
    let mut statement = transaction.prepare(sql)?;
    for JournalEntry { at, job, state, reason } in journal {
        statement.execute(params![at.cast_signed(), job.to_string(), state, reason])?;
    }
    let newest = transaction.last_insert_rowid();
    transaction.execute("DELETE FROM journal WHERE sequence <= ?1", [newest - JOURNAL_MAX])?;
    Ok(())
}

#[cfg(test)]
mod tests;
