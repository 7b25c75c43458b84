use proptest::prelude::*;

use super::*;

const P1: PartyId = PartyId::ALL[1];

fn log(length: u64) -> (SecretKey, Vec<String>, Chain) {
    let (key, _) = SecretKey::generate().unwrap();
    let mut chain = Chain::new(P1);
    let lines = (0..length).map(|number| {
        let job = JobDigest([u8::try_from(number % 3).unwrap(); 32]);
        let event = match number % 3 {
            0 => AuditEvent::Asked { job, submitter: "ada".into(), purpose: "tumour detection".into() },
            1 => AuditEvent::Started { job, epoch: Epoch(number) },
            _ => AuditEvent::Revealed { job, what: Reveal::TestAccuracy, size: 1 },
        };
        let peers = [(PartyId::ALL[0], Head { entries: number, hash: Hash([9; 32]) })].into();
        chain.append(&key, 1_000 + number, event, peers)
    });
    let lines = lines.collect();
    (key, lines, chain)
}

fn verdict(key: &SecretKey, lines: &[String], anchors: &[Head]) -> Result<u64, AuditError> {
    Chain::verify(&lines.concat(), P1, &key.public(), anchors).map(|(entries, _)| entries.len() as u64)
}

#[test]
fn a_log_is_read_back_and_goes_on() {
    let (key, mut lines, chain) = log(7);
    let (entries, mut resumed) = Chain::verify(&lines.concat(), P1, &key.public(), &[chain.head()]).unwrap();
    assert_eq!((entries.len(), &resumed), (7, &chain));
    // A clock that went back does not make a log that cannot be verified.
    lines.push(resumed.append(&key, 5, AuditEvent::Policy { digest: Hash([1; 32]) }, BTreeMap::new()));
    assert_eq!(verdict(&key, &lines, &[chain.head(), resumed.head()]), Ok(8));
    assert_eq!(verdict(&key, &[], &[]), Ok(0));
}

#[test]
fn a_changed_line_is_found() {
    let (key, lines, _) = log(5);
    let mut changed = lines.clone();
    changed[2] = changed[2].replace("test-accuracy", "weights");
    assert_eq!(verdict(&key, &changed, &[]), Err(AuditError::Signature { line: 3, source: SigningError::Signature }));
}

#[test]
fn lines_moved_taken_out_or_repeated_are_found() {
    let (key, lines, _) = log(5);
    let mut moved = lines.clone();
    moved.swap(1, 2);
    assert_eq!(verdict(&key, &moved, &[]), Err(AuditError::Chain { line: 2 }));
    let without = [&lines[..2], &lines[3..]].concat();
    assert_eq!(verdict(&key, &without, &[]), Err(AuditError::Chain { line: 3 }));
    assert_eq!(verdict(&key, &lines[1..], &[]), Err(AuditError::Chain { line: 1 }));
    let repeated = [&lines[..3], &lines[2..]].concat();
    assert_eq!(verdict(&key, &repeated, &[]), Err(AuditError::Chain { line: 4 }));
}

#[test]
fn missing_newest_lines_are_found_by_an_anchor() {
    let (key, lines, chain) = log(5);
    assert_eq!(verdict(&key, &lines[..3], &[]), Ok(3), "a chain alone cannot know");
    let anchor = chain.anchor(&key);
    let head = anchor.verify(&key.public()).unwrap().head;
    assert_eq!(verdict(&key, &lines[..3], &[head]), Err(AuditError::Truncated { found: 3, known: 5 }));
    assert_eq!(verdict(&key, &[], &[head]), Err(AuditError::Truncated { found: 0, known: 5 }));
}

#[test]
fn a_log_written_anew_with_the_right_key_is_found_by_an_anchor() {
    let (key, lines, chain) = log(3);
    let mut anew = Chain::new(P1);
    let event = |number| AuditEvent::Started { job: JobDigest([0; 32]), epoch: Epoch(number) };
    let forged: Vec<String> = (0..5).map(|number| anew.append(&key, number, event(number), BTreeMap::new())).collect();
    assert_eq!(verdict(&key, &forged, &[]), Ok(5));
    assert_eq!(verdict(&key, &forged, &[chain.head()]), Err(AuditError::Rewritten { line: 3 }));
    assert_eq!(verdict(&key, &lines, &[chain.head()]), Ok(3));
}

#[test]
fn lines_of_another_party_or_key_are_found() {
    let (key, lines, _) = log(3);
    let (other, foreign, _) = log(3);
    assert!(matches!(verdict(&other, &lines, &[]), Err(AuditError::Signature { line: 1, .. })));
    let mixed = [&lines[..1], &foreign[1..]].concat();
    assert!(matches!(verdict(&key, &mixed, &[]), Err(AuditError::Signature { line: 2, .. })));
    let as_p0 = Chain::verify(&lines.concat(), PartyId::ALL[0], &key.public(), &[]);
    assert_eq!(as_p0.unwrap_err(), AuditError::Party { line: 1, found: P1 });
}

#[test]
fn a_line_cut_off_by_a_crash_is_told_from_a_forged_one() {
    let (key, lines, _) = log(3);
    let text = lines.concat();
    let cut = &text[..text.len() - 10];
    assert_eq!(Chain::verify(cut, P1, &key.public(), &[]).unwrap_err(), AuditError::Torn { line: 3 });
}

#[test]
fn an_export_has_a_line_for_each_entry_of_the_job() {
    let (key, lines, _) = log(9);
    let (entries, _) = Chain::verify(&lines.concat(), P1, &key.public(), &[]).unwrap();
    assert_eq!(export(&entries, None).lines().count(), 9);
    let of_one = export(&entries, Some(JobDigest([1; 32])));
    assert_eq!(of_one.lines().count(), 3);
    assert!(of_one.lines().all(|line| serde_json::from_str::<Entry>(line).is_ok()));
}

proptest! {
    #[test]
    fn no_bit_of_a_log_can_change(bit: prop::sample::Index) {
        let (key, lines, chain) = log(3);
        let mut bytes = lines.concat().into_bytes();
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        // What is no text is refused before it gets here.
        if let Ok(text) = String::from_utf8(bytes) {
            let read = Chain::verify(&text, P1, &key.public(), &[chain.head()]);
            prop_assert!(read.is_err(), "{:?}", read);
        }
    }

    #[test]
    fn any_text_is_a_log_or_an_error(text: String) {
        let key = PublicKey([3; 32]);
        let _ = Chain::verify(&text, P1, &key, &[]);
    }
}
