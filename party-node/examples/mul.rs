//! Three parties multiply secret numbers. Nobody sees the factors; only the products are opened.
//!
//! `cargo run --release -p party-node --features test-world --example mul`
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use party_node::protocol::{ProtocolError, mul_doubled, open, trunc};
use party_node::world::{Run, World};
use shared::fixed::FixedPoint;
use shared::ids::PartyId;

fn main() -> Result<(), ProtocolError> {
    let fixed = FixedPoint::DEFAULT;
    let (x, y) = ([1.5, -2.25, 1000.0], [4.0, 3.0, 0.125]);

    // The data owner's side: fixed-point words, split into three shares that are random each by itself.
    let world = World::new(2024);
    let x_shares = &world.share(0, &x.map(|value| fixed.constant(value)));
    let y_shares = &world.share(1, &y.map(|value| fixed.constant(value)));

    // The same program at all three parties, each on a thread of its own; P0 is the helper of this tile.
    let runs = world.run(|party| {
        let opened = party.run(&[PartyId::ALL[0]], |tile, _| async move {
            let me = party.me().index();
            let x = tile.enter(&x_shares[me], 0..3);
            let y = tile.enter(&y_shares[me], 0..3);
            // The product of two numbers with f fraction bits has 2f; the truncation drops f and the factor two.
            let product = trunc(&tile, mul_doubled(&tile, &x, &y), fixed.bits() + 1).await?;
            open(&tile, &product).await
        })?;
        Ok(opened.concat())
    });

    let [p0, p1, p2] = runs.map(|(result, trace)| result.map(|opened| (opened, trace)));
    let run = Run::collect([p0?, p1?, p2?]);
    let opened: Vec<f64> = run.outputs[0].iter().map(|&word| fixed.decode(word)).collect();
    println!("{x:?} times {y:?} is {opened:?}");
    println!("{} rounds, {} bytes sent by the three parties together", run.cost.rounds, run.cost.sent_bytes);
    for (opened, (x, y)) in opened.iter().zip(x.iter().zip(&y)) {
        assert!((opened - x * y).abs() < 1e-4, "{x} times {y} gave {opened}");
    }
    Ok(())
}
