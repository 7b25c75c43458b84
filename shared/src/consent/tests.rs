//! A hostile orchestrator: whatever it alters, a party notices before it starts.

use proptest::prelude::*;

use super::*;
use crate::fleet::Millis;
use crate::ids::{Epoch, PartyId};
use crate::job::{PROTOCOL_VERSION, ProtocolSpec, Start as Beginning, Training};
use crate::model::{Loss, Model, TrainSpec};
use crate::signing::{Nonce, SecretKey, Signed};
use crate::wire::{Roster, RosterEntry};

const NOW: Millis = 1_800_000_000_000;
const DATA: [u8; 32] = [7; 32];

struct Federation {
    keys: [SecretKey; 3],
    policy: Policy,
    proposal: Proposal,
}

impl Federation {
    fn new() -> Self {
        Self::with("automatic", "")
    }

    fn with(approval: &str, more: &str) -> Self {
        let keys = [0; 3].map(|_| SecretKey::generate().unwrap().0);
        let roster = keys.each_ref().map(SecretKey::public);
        let text = format!(
            "roster = [\"{}\", \"{}\", \"{}\"]\n\
             [[rule]]\n\
             name = \"tumours\"\n\
             submitters = [\"ada@clinic\"]\n\
             data = [\"{}\"]\n\
             purposes = [\"tumour detection\"]\n\
             reveal = {{ test-accuracy = [\"parties\"], weights = [\"ada@clinic\"] }}\n\
             approval = \"{approval}\"\n{more}",
            roster[0],
            roster[1],
            roster[2],
            Hash(DATA),
        );
        let policy = Policy::parse(&text).unwrap();
        let training = Training {
            model: Model::mlp(3, &[], 2, Loss::SoftmaxCrossEntropy),
            train: TrainSpec::default(),
            train_rows: 10,
            test_rows: 10,
            data_digest: DATA,
            start: Beginning::Seeded,
            max_steps: None,
            calibration_steps: 0,
        };
        let spec = JobSpec {
            version: PROTOCOL_VERSION.into(),
            lanes: 4,
            threads: 1,
            protocol: ProtocolSpec::default(),
            work: Work::Train(Box::new(training)),
            reveal: vec![Reveal::TestAccuracy],
            peer_timeout_seconds: 8,
        };
        let proposal = Proposal {
            spec,
            name: JobId("tumours-1".into()),
            submitter: "ada@clinic".into(),
            purpose: "tumour detection".into(),
            roster,
            run: 1,
        };
        Self { keys, policy, proposal }
    }

    fn judge(&self, proposal: &Proposal) -> Verdict {
        self.policy.judge(proposal.digest(), proposal, &Ledger::default(), NOW)
    }

    fn refusal(&self, change: impl FnOnce(&mut Proposal)) -> String {
        let mut proposal = self.proposal.clone();
        change(&mut proposal);
        match self.judge(&proposal) {
            Verdict::Refused(refusal) => refusal.to_string(),
            allowed => panic!("{allowed:?}"),
        }
    }

    fn decide(&self, party: usize, now: Millis) -> Signed<Decision> {
        let verdict = self.judge(&self.proposal);
        let decision = Decision::new(self.proposal.digest(), PartyId::ALL[party], &verdict, now).unwrap();
        self.keys[party].sign(decision)
    }

    fn start(&self, epoch: u64) -> Start {
        let decisions = [0, 1, 2].map(|party| self.decide(party, NOW));
        Start { job: self.proposal.digest(), epoch: Epoch(epoch), decisions }
    }

    fn enter(&self, gate: &mut Gate, start: &Start) -> Result<(), StartError> {
        gate.enter(&self.policy, &self.proposal, start, NOW)
    }
}

#[test]
fn what_all_three_agreed_to_starts_once() {
    let federation = Federation::new();
    let (mut gate, mut start) = (Gate::default(), federation.start(1));
    assert_eq!(federation.enter(&mut gate, &start), Ok(()));
    let fenced = StartError::Fenced { epoch: Epoch(1), newest: Epoch(1) };
    assert_eq!(federation.enter(&mut gate, &start), Err(fenced), "an attempt is let in once");
    start.epoch = Epoch(3);
    assert_eq!(federation.enter(&mut gate, &start), Ok(()), "the next attempt, under the same consent");
    start.epoch = Epoch(2);
    assert!(matches!(federation.enter(&mut gate, &start), Err(StartError::Fenced { .. })));
}

#[test]
fn what_no_rule_allows_is_refused_and_named() {
    let federation = Federation::new();
    assert!(matches!(federation.judge(&federation.proposal), Verdict::Allowed { .. }));
    let refused = |change: fn(&mut Proposal)| federation.refusal(change);
    assert!(refused(|job| job.submitter = "eve".into()).contains("\"eve\" may not submit"));
    assert!(refused(|job| job.purpose = "marketing".into()).contains("not for \"marketing\""));
    assert!(refused(|job| job.spec.version = "trefoil-0".into()).contains("the job is for trefoil-0"));
    let other_data = refused(|job| {
        if let Work::Train(training) = &mut job.spec.work {
            training.data_digest = [8; 32];
        }
    });
    assert!(other_data.contains("data 08080808 is not listed"), "{other_data}");
    assert!(refused(|job| job.spec.reveal.push(Reveal::TestConfusion)).contains("test-confusion may not be revealed"));
    let secret_model = refused(|job| {
        if let Work::Train(training) = &mut job.spec.work {
            training.start = Beginning::Shared { model_digest: [9; 32] };
        }
    });
    assert!(secret_model.contains("data 09090909 is not listed"), "{secret_model}");
}

#[test]
fn weights_go_to_whom_the_policy_names_and_to_nobody_else() {
    let federation = Federation::with("automatic", "");
    let mut proposal = federation.proposal.clone();
    proposal.spec.reveal.push(Reveal::Weights);
    assert!(matches!(federation.judge(&proposal), Verdict::Allowed { .. }));
    let mut policy = federation.policy.clone();
    policy.rules[0].submitters = vec!["*".into()];
    proposal.submitter = "eve".into();
    let verdict = policy.judge(proposal.digest(), &proposal, &Ledger::default(), NOW);
    let Verdict::Refused(Refusal::Rules(lacks)) = verdict else { panic!("{verdict:?}") };
    assert_eq!(lacks, ["tumours: weights may not be revealed to \"eve\""]);
    // Nobody becomes all parties by calling themselves so, nor do names in a list open a result to all parties.
    proposal.submitter = "parties".into();
    assert!(matches!(policy.judge(proposal.digest(), &proposal, &Ledger::default(), NOW), Verdict::Refused(_)));
}

#[test]
fn runs_and_expiry_are_counted() {
    let federation = Federation::with("by-hand", "runs_max = 1\nexpires = 1900000000\n");
    let (job, mut ledger) = (federation.proposal.digest(), Ledger::default());
    let judge =
        |proposal: &Proposal, ledger: &Ledger, now| federation.policy.judge(proposal.digest(), proposal, ledger, now);
    let Verdict::Allowed { rule, approval, .. } = judge(&federation.proposal, &ledger, NOW) else { panic!() };
    assert_eq!(approval, Approval::ByHand);
    ledger.count(&rule, job);
    assert!(matches!(judge(&federation.proposal, &ledger, NOW), Verdict::Allowed { .. }), "the same job again");
    let again = Proposal { run: 2, ..federation.proposal.clone() };
    assert!(matches!(judge(&again, &ledger, NOW), Verdict::Refused(_)), "another run");
    assert!(matches!(judge(&federation.proposal, &ledger, 1_900_000_000_000), Verdict::Refused(_)));
    let Verdict::Allowed { until, .. } = judge(&federation.proposal, &ledger, 1_899_999_999_000) else { panic!() };
    assert_eq!(until, 1_900_000_000_000, "a decision does not outlive its rule");
}

#[test]
fn swapped_peers_are_refused() {
    let federation = Federation::new();
    let stranger = SecretKey::generate().unwrap().0.public();
    let swapped = federation.refusal(|job| job.roster[1] = stranger);
    assert_eq!(swapped, "the key of P1 is not the one in this party's own roster");
    let exchanged = federation.refusal(|job| job.roster.swap(1, 2));
    assert!(exchanged.contains("P1"), "{exchanged}");
    // At the gate too, with consents of the strangers' own making.
    let mut proposal = federation.proposal.clone();
    proposal.roster[1] = stranger;
    let start = Start { job: proposal.digest(), ..federation.start(1) };
    let verdict = Gate::default().enter(&federation.policy, &proposal, &start, NOW);
    assert_eq!(verdict, Err(StartError::Refused(Refusal::Roster(PartyId::ALL[1]))));
}

#[test]
fn an_altered_reveal_policy_is_another_job() {
    let federation = Federation::new();
    let mut altered = federation.proposal.clone();
    altered.spec.reveal.push(Reveal::Weights);
    let (named, ledger) = (federation.proposal.digest(), Ledger::default());
    let verdict = federation.policy.judge(named, &altered, &ledger, NOW);
    assert_eq!(verdict, Verdict::Refused(Refusal::Digest), "the name of one job on another");
    let mut gate = Gate::default();
    let start = federation.start(1);
    let refused = gate.enter(&federation.policy, &altered, &start, NOW);
    assert_eq!(refused, Err(StartError::Refused(Refusal::Digest)));
    // Under its own name it lacks everybody's consent.
    let start = Start { job: altered.digest(), ..start };
    let refused = gate.enter(&federation.policy, &altered, &start, NOW);
    assert_eq!(refused, Err(StartError::Consent(ConsentError::Job(PartyId::ALL[0]))));
}

#[test]
fn a_consent_is_good_for_nothing_else() {
    let federation = Federation::new();
    let start = federation.start(1);
    let refused = |change: &dyn Fn(&mut Start), now| {
        let mut start = start.clone();
        change(&mut start);
        match Gate::default().enter(&federation.policy, &federation.proposal, &start, now) {
            Err(StartError::Consent(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    let (p1, p2) = (PartyId::ALL[1], PartyId::ALL[2]);
    let swapped = refused(&|start| start.decisions.swap(1, 2), NOW);
    assert!(matches!(swapped, ConsentError::Signature { party, .. } if party == p1), "{swapped}");
    assert!(matches!(
        refused(&|start| start.decisions[1].body.last = Epoch(u64::MAX), NOW),
        ConsentError::Signature { .. }
    ));
    let mine = federation.decide(1, NOW);
    let relabelled = federation.keys[2].sign(mine.body.clone());
    assert_eq!(refused(&|start| start.decisions[2] = relabelled.clone(), NOW), ConsentError::Party(p2));
    assert!(matches!(refused(&|start| start.epoch = Epoch(1001), NOW), ConsentError::Epoch { .. }));
    assert_eq!(refused(&|_| {}, NOW + 8 * 24 * 3_600_000), ConsentError::Expired(PartyId::ALL[0]));
    let no = Decision::denial(start.job, p1, "not now".into(), NOW).unwrap();
    let no = federation.keys[1].sign(no);
    assert_eq!(refused(&|start| start.decisions[1] = no.clone(), NOW), ConsentError::Denied(p1));
}

#[test]
fn a_yes_does_not_come_back_after_a_no() {
    let federation = Federation::new();
    let (mut gate, start) = (Gate::default(), federation.start(1));
    let p1 = PartyId::ALL[1];
    let no = federation.keys[1].sign(Decision::denial(start.job, p1, "stop".into(), NOW + 1).unwrap());
    gate.hear(&federation.policy, start.job, p1, &no).unwrap();
    assert_eq!(federation.enter(&mut gate, &start), Err(StartError::Consent(ConsentError::Replayed(p1))));
    let mut again = start.clone();
    again.decisions[1] = federation.decide(1, NOW + 2);
    assert_eq!(federation.enter(&mut gate, &again), Ok(()), "unless it is said anew");
    // What a gate remembers survives on disk.
    let bytes = serde_json::to_vec(&gate).unwrap();
    let mut restored: Gate = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(restored, gate);
    let replay = Start { epoch: Epoch(2), ..start };
    assert!(matches!(federation.enter(&mut restored, &replay), Err(StartError::Consent(ConsentError::Replayed(_)))));
}

#[test]
fn two_decisions_of_one_moment_cannot_both_count() {
    let federation = Federation::new();
    let (mut gate, start) = (Gate::default(), federation.start(1));
    federation.enter(&mut gate, &start).unwrap();
    let mut twin = Start { epoch: Epoch(2), ..start };
    twin.decisions[0].body.nonce = Nonce([9; 16]);
    twin.decisions[0] = federation.keys[0].sign(twin.decisions[0].body.clone());
    let replayed = StartError::Consent(ConsentError::Replayed(PartyId::ALL[0]));
    assert_eq!(federation.enter(&mut gate, &twin), Err(replayed));
}

#[test]
fn a_certificate_that_a_peer_did_not_endorse_is_refused() {
    let federation = Federation::new();
    let (job, epoch) = (federation.proposal.digest(), Epoch(4));
    let certificates: [Vec<u8>; 3] = [vec![1; 90], vec![2; 90], vec![3; 90]];
    let entry = |certificate: &Vec<u8>| RosterEntry { certificate: certificate.clone(), lanes: Vec::new() };
    let roster = Roster { parties: certificates.each_ref().map(entry) };
    let endorse = |party: usize, epoch| {
        let endorsement = Endorsement::of(job, PartyId::ALL[party], epoch, &certificates[party]);
        federation.keys[party].sign(endorsement)
    };
    let endorsements = [0, 1, 2].map(|party| endorse(party, epoch));
    let check = |roster: &Roster, endorsements: &[Signed<Endorsement>; 3]| {
        Gate::check_roster(&federation.policy, (job, epoch), roster, endorsements)
    };
    assert_eq!(check(&roster, &endorsements), Ok(()));
    let mut swapped = roster.clone();
    swapped.parties[2].certificate = vec![4; 90];
    assert_eq!(check(&swapped, &endorsements), Err(StartError::Certificate { party: PartyId::ALL[2] }));
    let old = [0, 1, 2].map(|party| endorse(party, Epoch(3)));
    assert!(matches!(check(&roster, &old), Err(StartError::Certificate { .. })), "of an attempt before");
    let mut forged = endorsements.clone();
    forged[2] = SecretKey::generate().unwrap().0.sign(forged[2].body.clone());
    assert!(matches!(check(&roster, &forged), Err(StartError::Endorsement { .. })));
}

#[test]
fn a_policy_with_a_mistake_is_no_policy() {
    let good = toml::to_string(&Federation::new().policy).unwrap();
    assert!(Policy::parse(&good).is_ok());
    let twice = format!("{good}\n{}", &good[good.find("[[rule]]").unwrap()..]);
    assert_eq!(Policy::parse(&twice), Err(PolicyError::Name("tumours".into())));
    for (from, to) in [("submitters", "submiters"), ("automatic", "sometimes"), ("test-accuracy", "accuracy")] {
        assert!(matches!(Policy::parse(&good.replace(from, to)), Err(PolicyError::Form(_))), "{from}");
    }
    let wrong = good.replace(&Hash(DATA).to_string(), "tumours.csv");
    assert!(matches!(Policy::parse(&wrong), Err(PolicyError::Data { .. })));
}

proptest! {
    #[test]
    fn any_text_is_a_policy_or_an_error(text: String) {
        let _ = Policy::parse(&text);
    }

    #[test]
    fn an_altered_policy_is_a_policy_or_an_error(at: usize, length in 0_usize..20, piece: String) {
        let text = toml::to_string(&Federation::new().policy).unwrap();
        let from = at % text.len();
        let to = (from + length).min(text.len());
        let _ = Policy::parse(&format!("{}{piece}{}", &text[..from], &text[to..]));
    }

    #[test]
    fn any_bytes_are_a_statement_or_an_error(bytes: Vec<u8>) {
        let _ = serde_json::from_slice::<Signed<Decision>>(&bytes);
        let _ = postcard::from_bytes::<Signed<Decision>>(&bytes);
        let _ = postcard::from_bytes::<Start>(&bytes);
        let _ = postcard::from_bytes::<Proposal>(&bytes);
    }

    #[test]
    fn a_signature_is_of_every_bit(bit in 0_usize..64 * 8) {
        let federation = Federation::new();
        let mut signed = federation.decide(0, NOW);
        signed.signature.0[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(signed.verify(&federation.keys[0].public()).is_err());
    }
}
