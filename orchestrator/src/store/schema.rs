//! The tables, and how those of older versions become those of this one.

use std::path::Path;

use rusqlite::Connection;

use super::StoreError;

/// One step from each version of the schema to the next. Steps are only ever added: a released one never changes.
pub(super) const MIGRATIONS: &[&str] = &[
    "CREATE TABLE jobs (
        digest TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        state TEXT NOT NULL,
        priority INTEGER NOT NULL,
        submitted_at INTEGER NOT NULL,
        record TEXT NOT NULL
    ) STRICT;
    CREATE TABLE hosts (
        id TEXT PRIMARY KEY,
        machine TEXT NOT NULL,
        drained INTEGER NOT NULL,
        record TEXT NOT NULL
    ) STRICT;
    CREATE TABLE meta (key TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT;",
    "CREATE TABLE journal (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        at INTEGER NOT NULL,
        job TEXT NOT NULL,
        state TEXT NOT NULL,
        reason TEXT NOT NULL
    ) STRICT;
    CREATE INDEX journal_by_job ON journal (job, sequence);",
];

/// Brings a database to the newest schema, each step all or nothing.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let database = |source| StoreError::Database { path: path.into(), source };
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(database)?;
    let known = i64::try_from(MIGRATIONS.len()).expect("few migrations");
    let Some(from) = usize::try_from(found).ok().filter(|_| found <= known) else {
        return Err(StoreError::TooNew { path: path.into(), found, known });
    };
    for (version, step) in (found + 1..).zip(&MIGRATIONS[from..]) {
        let transaction = connection.transaction().map_err(database)?;
        transaction.execute_batch(step).map_err(database)?;
        transaction.pragma_update(None, "user_version", version).map_err(database)?;
        transaction.commit().map_err(database)?;
    }
    Ok(())
}
