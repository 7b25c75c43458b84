//! No keystream is used twice: not within a run, not across forks, not by a restarted job.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use party_node::protocol::{
    ProtocolError, Recorder, Tile, TileShare, inject, inject_again, join, mul, mul_doubled, sign, trunc,
};
use party_node::world::{Run, TouchedStreams, World};
use shared::ids::PartyId;

/// A stretch of a job: every kind of stream, forks, several calls, rotating helpers.
fn job(world: &World) -> Run<()> {
    let shares = world.share(0, &(0..100).map(|i| i << 20).collect::<Vec<_>>());
    let runs = world.run(|party| {
        let share = &shares[party.me().index()];
        for _ in 0..3 {
            party.run_rows(share.len(), 1, |tile, rows| async move {
                let x = tile.enter(share, rows);
                let fork = tile.fork();
                let (z, y) = join(forward(&tile, &x), mul(&fork, &x, &x)).await?;
                tile.rejoin(&fork);
                mul(&tile, &z, &y).await
            })?;
        }
        Ok(())
    });
    Run::collect(runs.map(|(result, trace)| (result.expect("no party fails"), trace)))
}

async fn forward(tile: &Tile<'_>, x: &TileShare) -> Result<TileShare, ProtocolError> {
    let z = trunc(tile, mul_doubled(tile, x, x), 17).await?;
    let (relu, kept) = inject(tile, &sign(tile, &z).await?, &z).await?;
    inject_again(tile, &kept, &relu).await
}

#[test]
fn a_restarted_job_shares_no_keystream_with_the_run_before() {
    let epoch = |keys| job(&World::new(1).with_keys(keys));
    let (before, after) = (epoch(1), epoch(2));
    assert!(before.recorder.len() > 500, "{} streams were seen", before.recorder.len());
    assert!(before.recorder.is_disjoint(&after.recorder), "fresh keys, fresh streams");
    // The check has teeth: a restart under the old keys would run through the very same streams.
    assert!(!before.recorder.is_disjoint(&epoch(1).recorder));
}

/// Keystream words themselves, not their addresses: whatever the keys are, no word comes twice but at a stream's two ends.
#[test]
fn no_keystream_word_comes_twice_within_and_across_epochs() {
    let drawn = Arc::new(Mutex::new(Vec::new()));
    for keys in 1..=2 {
        let drawn = drawn.clone();
        job(&World::new(1).with_keys(keys).with_device(move |_| {
            let drawn = drawn.clone();
            Arc::new(TouchedStreams::new(move |_, _, words: &mut [u64]| {
                drawn.lock().expect("no holder panics").extend_from_slice(words);
            }))
        }));
    }
    let mut drawn = std::mem::take(&mut *drawn.lock().expect("no holder panics"));
    drawn.sort_unstable();
    assert!(drawn.len() > 20_000, "{} words were drawn", drawn.len());
    // 64-bit words of this many independent draws collide with probability below 2^-34.
    assert!(drawn.chunk_by(|x, y| x == y).all(|equal| equal.len() == 2), "each word has exactly two holders");
}

#[test]
fn forks_calls_and_tiles_have_positions_of_their_own() {
    // The recorder panics at the party that repeats a position, so a run that ends is the proof; its count is exact.
    let world = World::new(1);
    let shares = world.share(0, &[1, 2, 3]);
    let runs = world.run(|party| {
        let share = &shares[party.me().index()];
        for _ in 0..2 {
            party.run(&PartyId::ALL, |tile, _| async move {
                let x = tile.enter(share, 0..3);
                let (left, right) = (tile.fork(), tile.fork());
                join(join(mul(&tile, &x, &x), mul(&left, &x, &x)), mul(&right, &x, &x)).await
            })?;
        }
        Ok(())
    });
    // 2 calls, 3 tiles, 3 programs; a product draws 3 streams at its helper, 2 at A, 1 at B.
    assert_eq!(Run::collect(runs.map(|(result, trace)| (result.unwrap(), trace))).recorder.len(), 2 * 3 * 3 * 6);
}

#[test]
fn a_repeated_position_panics_at_every_party() {
    let recorder = Arc::new(Recorder::default());
    let repeats = |keys| {
        let repeated = Mutex::new([false; 3]);
        let runs = World::new(1).with_keys(keys).with_recorder(recorder.clone()).run(|party| {
            let product = || {
                party.run(&[PartyId::ALL[0]], |tile, _| async move {
                    let x = TileShare::zeros(&tile, 4);
                    mul(&tile, &x, &x).await
                })
            };
            let panic = catch_unwind(AssertUnwindSafe(product)).err().and_then(|panic| panic.downcast::<String>().ok());
            let used_twice = panic.is_some_and(|message| message.contains("used twice"));
            repeated.lock().expect("no holder panics")[party.me().index()] = used_twice;
            Ok(())
        });
        assert!(runs.iter().all(|(result, _)| result.is_ok()));
        repeated.into_inner().expect("no holder panics")
    };
    assert_eq!(repeats(1), [false; 3]);
    assert_eq!(repeats(2), [false; 3], "another epoch has other keys");
    assert_eq!(repeats(1), [true; 3], "the first epoch again, under its old keys");
}
