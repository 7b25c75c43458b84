//! Training and test rows, stratified by class, the same for the same seed.

use rand::seq::SliceRandom;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;

/// Row numbers, ascending.
#[derive(Debug, PartialEq)]
pub(super) struct Split {
    pub(super) train: Vec<usize>,
    pub(super) test: Vec<usize>,
}

impl Split {
    /// Keeps `ceil(fraction * rows)` rows for the test, each class in proportion (largest remainders first).
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "row counts"
    )]
    pub(super) fn stratified(strata: &[usize], fraction: f64, seed: u64) -> Self {
        let classes = strata.iter().max().map_or(0, |last| last + 1);
        let mut members = vec![Vec::new(); classes];
        for (row, &class) in strata.iter().enumerate() {
            members[class].push(row);
        }
        let wanted = (fraction * strata.len() as f64).ceil() as usize;
        let exact: Vec<f64> = members.iter().map(|rows| fraction * rows.len() as f64).collect();
        let mut quota: Vec<usize> = exact.iter().map(|share| share.floor() as usize).collect();
        let mut order: Vec<usize> = (0..classes).collect();
        order.sort_by(|&a, &b| exact[b].fract().total_cmp(&exact[a].fract()).then(a.cmp(&b)));
        let open = wanted.saturating_sub(quota.iter().sum());
        order.iter().take(open).for_each(|&class| quota[class] += 1);

        let mut stream = ChaCha12Rng::seed_from_u64(seed);
        let (mut train, mut test) = (Vec::new(), Vec::new());
        for (mut rows, quota) in members.into_iter().zip(quota) {
            rows.shuffle(&mut stream);
            test.extend_from_slice(&rows[..quota]);
            train.extend_from_slice(&rows[quota..]);
        }
        train.sort_unstable();
        test.sort_unstable();
        Self { train, test }
    }
}
