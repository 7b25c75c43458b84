//! Logistic regression on shares, step by step: scores, errors, gradient, truncated update. Only the weights are opened.
//!
//! `cargo run --release -p party-node --features test-world --example logistic`
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use party_node::ops::sigmoid;
use party_node::protocol::{
    DoubledPartial, Matrix, Party, ProtocolError, Replicated, matmul, matmul_doubled, open, trunc,
};
use party_node::world::World;
use shared::fixed::FixedPoint;
use shared::ids::PartyId;
use shared::share::Share;

const ROWS: usize = 128;
const COLS: usize = 3;

/// One step of gradient descent on all rows. A learning rate of 4 over 128 rows is a factor of 2^-5, and costs nothing:
/// the truncation of the gradient drops five bits more.
fn step(party: &Party, x: &Share, y: &Share, weights: &Replicated, helper: usize) -> Result<Replicated, ProtocolError> {
    let updated = party.run(&[PartyId::ALL[helper]], |tile, _| async move {
        let features = Matrix::new(tile.view(x), ROWS, COLS);
        let before = tile.enter(weights, 0..COLS);
        let scores = matmul(&tile, features, Matrix::new(before.view(), COLS, 1)).await?;
        let errors = sigmoid(&tile, &scores).await?.minus(&tile.enter(y, 0..ROWS));
        // Twice the gradient, still additive and untruncated; it starts as twice a weight decay of 1 over all rows.
        let mut gradient = DoubledPartial::from_share(&tile, &before, 1 << party.fixed().bits());
        matmul_doubled(&tile, features.t(), Matrix::new(errors.view(), ROWS, 1), gradient.addends_mut());
        let step = trunc(&tile, gradient, party.fixed().bits() + 1 + 5).await?;
        Ok(tile.leave(before.minus(&step)))
    })?;
    Ok(updated.into_iter().next().expect("one tile"))
}

fn main() {
    // Points of a grid; the label says on which side of the line 2 a - b + 0.3 = 0 they lie. The third column is 1.
    let point = |i: usize| [(i % 16) as f64 / 8.0 - 1.0, (i / 16) as f64 / 4.0 - 1.0, 1.0];
    let label = |i: usize| f64::from(u8::from(2.0 * point(i)[0] - point(i)[1] + 0.3 > 0.0));
    let encode = |values: Vec<f64>| -> Vec<u64> { values.iter().map(|&v| FixedPoint::DEFAULT.constant(v)).collect() };
    let world = World::new(1);
    let x = world.share(0, &encode((0..ROWS).flat_map(point).collect()));
    let y = world.share(1, &encode((0..ROWS).map(label).collect()));

    let runs = world.run(|party| {
        let (x, y) = (&x[party.me().index()], &y[party.me().index()]);
        let mut weights = Replicated::zeros(party.device(), COLS);
        for number in 0..60 {
            weights = step(party, x, y, &weights, number % 3)?;
        }
        let weights = &weights;
        party.run(&[PartyId::ALL[0]], |tile, _| async move { open(&tile, &tile.enter(weights, 0..COLS)).await })
    });

    let [(opened, trace), ..] = runs;
    let weights: Vec<f64> =
        opened.expect("no peer fails").concat().iter().map(|&word| FixedPoint::DEFAULT.decode(word)).collect();
    let score = |i: usize| point(i).iter().zip(&weights).map(|(x, w)| x * w).sum::<f64>();
    let hits = (0..ROWS).filter(|&i| (score(i) > 0.0) == (label(i) == 1.0)).count();
    println!("weights {weights:.3?}: {hits} of {ROWS} points on the right side, {} rounds", trace.rounds());
    assert!(hits >= ROWS - 6, "{hits} hits");
}
