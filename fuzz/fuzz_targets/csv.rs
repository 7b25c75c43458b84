//! Records as a user brings them: the first byte chooses the options, the rest is the file.
#![no_main]

use shared::config::{DataSection, Header, Missing, TaskChoice};
use shared::job::ProtocolSpec;

#[allow(dead_code, unused_imports, unreachable_pub, reason = "a module of the launcher, of which this needs a part")]
#[path = "../../launch/src/data/mod.rs"]
mod data;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((options, file)) = bytes.split_first() else { return };
    let section = DataSection {
        file: Some("records.csv".into()),
        label: Some(if options & 1 == 0 { "1".into() } else { "y".into() }),
        header: [Header::Auto, Header::Yes, Header::No][usize::from(options >> 1 & 3) % 3],
        task: [TaskChoice::Auto, TaskChoice::Binary, TaskChoice::Multiclass, TaskChoice::Regression]
            [usize::from(options >> 3 & 3)],
        missing: if options & 32 == 0 { Missing::Impute } else { Missing::Refuse },
        test_fraction: if options & 64 == 0 { 0.2 } else { 0.9 },
        ..DataSection::default()
    };
    if let Ok(data) = data::parse("records.csv", file, &section, &ProtocolSpec::default()) {
        for rows in [&data.train, &data.test] {
            assert_eq!(rows.x.len(), rows.count * data.features.len());
            assert_eq!(rows.y.len(), rows.count * data.outputs());
            assert!(rows.x.iter().chain(&rows.y).all(|value| value.is_finite()));
        }
    }
});
