use rusqlite::Connection;
use shared::fleet::{DeviceKind, Requirements, Submission};
use shared::ids::JobId;

use super::*;
use crate::schedule::{Event, Scheduler, Settings};

fn submission(number: u8) -> Submission {
    Submission {
        digest: JobDigest([number; 32]),
        name: JobId(format!("job-{number}")),
        submitter: "ada".into(),
        priority: -3,
        requirements: Requirements {
            lanes: 2,
            kind: DeviceKind::Gpu,
            memory_bytes: u64::MAX,
            labels: ["certified".to_owned()].into(),
            one_host: true,
            colocate: false,
        },
        deadline: Some(u64::MAX),
        time_limit_ms: None,
        max_restarts: 1,
    }
}

fn submit(store: &mut Store, scheduler: &mut Scheduler, number: u8) {
    let actions = scheduler.step(1_000, Event::Submit(Box::new(submission(number))));
    store.save(&scheduler.take_changes(), &JournalEntry::of_actions(1_000, &actions)).unwrap();
}

#[test]
fn what_is_saved_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orchestrator.db");
    let mut scheduler = Scheduler::new(Settings::default());
    {
        let mut store = Store::open(&path).unwrap();
        submit(&mut store, &mut scheduler, 1);
        submit(&mut store, &mut scheduler, 2);
    }
    let store = Store::open(&path).unwrap();
    let mut restored = Scheduler::restore(Settings::default(), store.load().unwrap());
    assert_eq!(restored.step(2_000, Event::Restarted), scheduler.step(2_000, Event::Restarted));
    _ = (restored.take_changes(), scheduler.take_changes());
    assert_eq!(restored, scheduler);
    let journal = store.journal(&JobDigest([2; 32])).unwrap();
    assert_eq!((journal.len(), journal[0].state.as_str()), (1, "awaiting-consent"));
    store.check().unwrap();
}

#[test]
fn an_operator_reads_the_state_with_plain_sql() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orchestrator.db");
    let mut store = Store::open(&path).unwrap();
    submit(&mut store, &mut Scheduler::new(Settings::default()), 1);
    let sql = "SELECT name, state, json_extract(record, '$.submission.requirements.lanes') FROM jobs";
    let reader = Connection::open(&path).unwrap();
    let row: (String, String, i64) =
        reader.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    assert_eq!(row, ("job-1".into(), "awaiting-consent".into(), 2));
}

#[test]
fn a_database_of_the_first_schema_is_brought_up_to_date() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orchestrator.db");
    let old = Connection::open(&path).unwrap();
    old.execute_batch(schema::MIGRATIONS[0]).unwrap();
    let none = r#"{"devices":null,"jobs":null}"#;
    let quotas = format!(r#"[{{"devices":4,"jobs":null}},{none},{none}]"#);
    let meta = format!(r#"{{"now":7,"next_sequence":5,"quotas":{quotas}}}"#);
    old.execute("INSERT INTO meta VALUES ('scheduler', ?1)", [meta]).unwrap();
    old.pragma_update(None, "user_version", 1).unwrap();
    drop(old);
    let mut store = Store::open(&path).unwrap();
    let records = store.load().unwrap();
    assert_eq!((records.meta.next_sequence, records.meta.quotas[0].devices), (5, Some(4)));
    let mut scheduler = Scheduler::restore(Settings::default(), records);
    submit(&mut store, &mut scheduler, 1);
    assert_eq!(store.journal(&JobDigest([1; 32])).unwrap().len(), 1);
}

#[test]
fn a_database_of_a_later_version_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orchestrator.db");
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(Store::open(&path), Err(StoreError::TooNew { found: 99, .. })));
}

#[test]
fn two_orchestrators_cannot_share_a_database() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orchestrator.db");
    let first = Store::open(&path).unwrap();
    assert!(matches!(Store::open(&path), Err(StoreError::InUse(_))));
    drop(first);
    Store::open(&path).unwrap();
}

#[test]
fn a_backup_is_the_state_and_overwrites_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orchestrator.db");
    let mut store = Store::open(&path).unwrap();
    submit(&mut store, &mut Scheduler::new(Settings::default()), 1);
    let (inside, beside) = (folder.path().join("inside.db"), folder.path().join("beside.db"));
    store.backup(&inside).unwrap();
    backup_file(&path, &beside).unwrap();
    for copy in [&inside, &beside] {
        let copied = Store::open(copy).unwrap();
        assert_eq!(copied.load().unwrap(), store.load().unwrap());
    }
    assert!(matches!(store.backup(&inside), Err(StoreError::File { .. })));
}

#[test]
fn a_record_that_makes_no_sense_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orchestrator.db");
    let mut store = Store::open(&path).unwrap();
    submit(&mut store, &mut Scheduler::new(Settings::default()), 1);
    Connection::open(&path).unwrap().execute("UPDATE jobs SET record = '{}'", []).unwrap();
    let error = store.load().unwrap_err().to_string();
    assert!(error.contains(&JobDigest([1; 32]).to_string()), "{error}");
}
