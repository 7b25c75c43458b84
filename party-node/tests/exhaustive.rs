//! The arithmetic of truncation and comparison, proved by trying everything in small rings on the real code, and 10^8
//! random truncations at full width (release builds; fewer with debug assertions).
//!
//! Multiples of 2^56 in Z_2^64 behave as Z_2^8: a truncation of `v 2^56` by `56 + F` bits under a mask `R 2^56` computes
//! what one of `v` by `F` bits under `R` computes in Z_2^8.

#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small test values")]

use std::sync::Arc;

use party_node::compute::Compute;
use party_node::protocol::{
    Bits, DoubledPartial, Party, ProtocolError, Purpose, Tile, TileShare, carry, mul_doubled, sign, signs,
    to_arithmetic, trunc, trunc_floor,
};
use party_node::world::{TouchedStreams, World};
use shared::fixed::FixedPoint;
use shared::ids::PartyId;
use shared::job::{ProtocolSpec, Truncation};
use shared::share::{Share, join};

/// What a run of `program` at all parties gives, joined.
fn joined(world: &World, program: impl Fn(&Party) -> Result<Share, ProtocolError> + Sync) -> Vec<u64> {
    join(&world.run(program).map(|(share, _)| share.expect("no party fails"))).expect("the copies agree")
}

/// One tile under `helper`, from this party's share to its share of the result.
fn in_tile(
    party: &Party,
    helper: PartyId,
    program: &impl AsyncFn(&Tile<'_>) -> Result<TileShare, ProtocolError>,
) -> Result<Share, ProtocolError> {
    let mut shares = party.run(&[helper], |tile, _| async move {
        let result = program(&tile).await?;
        Ok(tile.leave(result).into_share())
    })?;
    Ok(shares.pop().expect("one tile"))
}

/// Devices on which the mask of a product is `(i mod 256) 2^56` for element `i` in the stream of one pair of parties and
/// 0 in the others': the sum of the two masks takes every value in Z_2^8 once in 256 elements, whatever else is added.
fn every_mask(pair: usize) -> impl Fn(PartyId) -> Arc<dyn Compute> + Send + Sync + 'static {
    move |_| {
        Arc::new(TouchedStreams::new(move |key, nonce, words| {
            if nonce[2] & 0xff == Purpose::Product as u32 {
                for (i, word) in (0..).zip(words) {
                    *word = if key[1] as usize == pair { (i % 256) << 56 } else { 0 };
                }
            }
        }))
    }
}

/// Truncates every `v` of `range` by `drop` bits in Z_2^8, under all 256 masks each.
fn truncate_small(range: std::ops::RangeInclusive<i64>, drop: u32, helper: PartyId, kind: Kind) -> Vec<i64> {
    let v: Vec<u64> = range.map(|v| v as u64).collect();
    let fast = ProtocolSpec { trunc: Truncation::Fast, ..ProtocolSpec::default() };
    // Both masks of the product get their turn at running through all values.
    let pair = if drop.is_multiple_of(2) { helper } else { helper.prev() };
    let mut world = World::new(u64::from(drop)).with_device(every_mask(pair.index()));
    if kind == Kind::Fast {
        world = world.with_spec(fast);
    }
    // One sharing of each v for all masks. Partials are doubled, so the components are multiples of 2^55.
    let repeated = |part: &[u64]| part.iter().flat_map(|word| std::iter::repeat_n(word << 55, 256)).collect();
    let shares = world.share(0, &v).map(|s| Share { first: repeated(&s.first), second: repeated(&s.second) });
    let z = joined(&world, |party| {
        in_tile(party, helper, &async |tile: &Tile<'_>| {
            let share = &shares[party.me().index()];
            let v = DoubledPartial::from_share(tile, &tile.enter(share, 0..share.len()), 1);
            if kind == Kind::Floor { trunc_floor(tile, v, 56 + drop).await } else { trunc(tile, v, 56 + drop).await }
        })
    });
    z.into_iter().map(u64::cast_signed).collect()
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Exact,
    Floor,
    Fast,
}

#[test]
fn every_truncation_in_z_2_8_errs_by_at_most_one_unit_and_is_unbiased() {
    for (helper, drop) in PartyId::ALL.into_iter().flat_map(|helper| (0..=6).map(move |drop| (helper, drop))) {
        let z = truncate_small(-64..=64, drop, helper, Kind::Exact);
        for (v, z) in (-64..=64).zip(z.chunks(256)) {
            assert!(z.iter().all(|z| (0..=1).contains(&(z - (v >> drop)))), "{v} >> {drop}: {z:?}");
            // Up with probability equal to the dropped fraction: over all masks the results average to v / 2^drop.
            assert_eq!(z.iter().sum::<i64>() << drop, 256 * v, "{v} >> {drop} is biased");
        }
    }
}

#[test]
fn every_floor_in_z_2_8_is_exact() {
    for (helper, drop) in PartyId::ALL.into_iter().flat_map(|helper| (0..=6).map(move |drop| (helper, drop))) {
        let z = truncate_small(-64..=64, drop, helper, Kind::Floor);
        for (v, z) in (-64..=64).zip(z.chunks(256)) {
            assert!(z.iter().all(|z| *z == v >> drop), "{v} >> {drop}: {z:?}");
        }
    }
}

#[test]
fn the_range_is_tight_and_fast_truncation_fails_as_often_as_stated() {
    for helper in PartyId::ALL {
        for (v, z) in [-65, 65].into_iter().map(|v| (v, truncate_small(v..=v, 2, helper, Kind::Exact))) {
            assert!(z.iter().any(|z| !(0..=1).contains(&(z - (v >> 2)))), "{v} should not fit");
        }
        let z = truncate_small(-64..=64, 2, helper, Kind::Fast);
        for (v, z) in (-64_i64..=64).zip(z.chunks(256)) {
            let wrong = z.iter().filter(|z| !(0..=1).contains(&(*z - (v >> 2)))).count();
            assert_eq!(wrong as u64, v.unsigned_abs(), "of 256 masks, v = {v}");
        }
    }
}

/// Shares of `x = t + l` whose helper knows exactly the given `l`.
fn split_at_helper(world: &World, helper: PartyId, t: &[u64], l: &[u64]) -> [Share; 3] {
    // Any sharing of l among its two components: the first component of a sharing of zero, and the rest of l.
    let a = world.share(7, &vec![0; l.len()])[0].first.clone();
    let b: Vec<u64> = l.iter().zip(&a).map(|(l, a)| l.wrapping_sub(*a)).collect();
    let mut component = [const { Vec::new() }; 3];
    component[helper.index()] = a;
    component[helper.next().index()] = b;
    component[helper.prev().index()] = t.to_vec();
    PartyId::ALL.map(|p| Share { first: component[p.index()].clone(), second: component[p.next().index()].clone() })
}

#[test]
fn every_sign_in_z_2_8_is_right_for_every_mask_and_helper() {
    let pairs = || (0..256_u64).flat_map(|x| (0..256_u64).map(move |l| (x, l)));
    // What lies above the window is noise that must not matter.
    let noise = |i: u64| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) << 8;
    let l: Vec<u64> = pairs().map(|(x, l)| l | noise(x ^ l << 8)).collect();
    let t: Vec<u64> = pairs().zip(&l).map(|((x, l), full)| (x | noise(l)).wrapping_sub(*full)).collect();
    let want: Vec<u64> = pairs().map(|(x, _)| u64::from(x < 128)).collect();
    for helper in PartyId::ALL {
        for (keys, round_trip_ms) in [(1, 0), (2, 0), (3, 0), (1, 20), (2, 20)] {
            let spec = ProtocolSpec { compare_bits: 8, round_trip_ms, ..ProtocolSpec::default() };
            let world = World::new(3).with_spec(spec).with_keys(keys);
            let shares = split_at_helper(&world, helper, &t, &l);
            let bits = joined(&world, |party| {
                in_tile(party, helper, &async |tile: &Tile<'_>| {
                    let share = &shares[party.me().index()];
                    let x = tile.enter(share, 0..share.len());
                    to_arithmetic(tile, &sign(tile, &x).await?, share.len()).await
                })
            });
            assert_eq!(bits, want, "helper {helper}, keys {keys}");
        }
    }
}

#[test]
fn every_sign_against_thresholds_in_z_2_8_is_right_for_every_mask_and_helper() {
    let pairs = || (0..256_u64).flat_map(|x| (0..256_u64).map(move |l| (x, l)));
    let l: Vec<u64> = pairs().map(|(_, l)| l).collect();
    let t: Vec<u64> = pairs().map(|(x, l)| x.wrapping_sub(l)).collect();
    // The second shares all but the top leaf with the first, the third is the first again, the last two nothing.
    let thresholds = [3, 3 + 64, 3, 128, 5, 250];
    let want = thresholds.iter().flat_map(|c| pairs().map(move |(x, _)| u64::from(x.wrapping_sub(*c) & 0xff < 128)));
    let want: Vec<u64> = want.collect();
    for (helper, round_trip_ms) in PartyId::ALL.into_iter().flat_map(|helper| [(helper, 0), (helper, 20)]) {
        let spec = ProtocolSpec { compare_bits: 8, round_trip_ms, ..ProtocolSpec::default() };
        let world = World::new(3).with_spec(spec);
        let shares = split_at_helper(&world, helper, &t, &l);
        let bits = joined(&world, |party| {
            in_tile(party, helper, &async |tile: &Tile<'_>| {
                let share = &shares[party.me().index()];
                let all = signs(tile, &tile.enter(share, 0..share.len()), &thresholds).await?;
                to_arithmetic(tile, &Bits::concat(&all), all.len() * share.len()).await
            })
        });
        assert_eq!(bits, want, "helper {helper}");
    }
}

/// Carries of all pairs of `bits`-bit numbers whose first one lies in `ts`.
fn carries(bits: u32, ts: std::ops::Range<u64>, helper: PartyId, round_trip_ms: u32) {
    let pairs = || ts.clone().flat_map(|t| (0..1_u64 << bits).map(move |l| (t, l)));
    // Bits above the window are set at both sides and must not matter.
    let (t, l): (Vec<_>, Vec<_>) = pairs().map(|(t, l)| (t | u64::MAX << bits, l | u64::MAX << bits)).unzip();
    let world = World::new(1).with_spec(ProtocolSpec { round_trip_ms, ..ProtocolSpec::default() });
    let got = joined(&world, |party| {
        in_tile(party, helper, &async |tile: &Tile<'_>| {
            let known = if tile.is_helper() { &l } else { &t };
            to_arithmetic(tile, &carry(tile, known.into(), bits).await?, known.len()).await
        })
    });
    for ((t, l), got) in pairs().zip(got) {
        assert_eq!(got, u64::from(t + l >= 1 << bits), "{t} + {l} at {bits} bits, {round_trip_ms} ms");
    }
}

#[test]
fn every_carry_is_right_up_to_12_bits() {
    for (bits, helper) in (1..=12).zip(PartyId::ALL.into_iter().cycle()) {
        let (all, at_once) = (1_u64 << bits, (1 << 18_u32.saturating_sub(bits)).min(1 << bits));
        // All pairs; with debug assertions the widest only for a sample of first numbers, each with all second ones.
        let stride = if cfg!(debug_assertions) && bits > 9 { 1 << (2 * bits - 18) } else { 1 };
        for from in (0..all / at_once).step_by(stride) {
            // Trees of two nodes to a gate, and of up to four: with 12 bits, four leaves under one gate.
            for round_trip_ms in [0, 20] {
                carries(bits, from * at_once..(from + 1) * at_once, helper, round_trip_ms);
            }
        }
    }
}

/// A fast generator of ours for inputs and masks: splitmix64 at a counter. Statistics matter here, secrecy does not.
fn mix(seed: u64, i: u64) -> u64 {
    let mut z = seed.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Factors of every size, with products up to 2^61.
fn factors(seed: u64, i: u64) -> (i64, i64) {
    let (r, s) = (mix(seed, 2 * i), mix(seed, 2 * i + 1));
    let sizes = mix(seed ^ 1, i);
    let (x, y) = (r.cast_signed() >> (33 + sizes % 30), s.cast_signed() >> (33 + (sizes >> 8) % 30));
    if sizes >> 16 & 63 == 0 { ((1 << 30) - (x & 1), (y | 1).signum() << 31) } else { (x, y) }
}

#[test]
fn random_truncations_never_err_by_more_than_one_unit() {
    const TILE: u64 = 1 << 14;
    let total: u64 = if cfg!(debug_assertions) { 1_000_000 } else { 100_000_000 };
    let (batch, mut done, mut rounded_up) = (TILE * 120, 0, 0_u64);
    let helpers: Vec<PartyId> = PartyId::ALL.into_iter().cycle().take((batch / TILE) as usize).collect();
    for seed in 0.. {
        let shift = FixedPoint::new(8 + seed as u32 % 13).expect("8 to 20").bits() + 1;
        let world = World::new(seed).with_device(move |_| {
            Arc::new(TouchedStreams::instead(move |key: &[u32; 8], nonce: [u32; 3], words: &mut [u64]| {
                let position = u64::from(nonce[0]) << 48 ^ u64::from(nonce[1]) << 24 ^ u64::from(nonce[2]);
                let stream = mix(mix(seed, u64::from(key[1])), position);
                (0..).zip(words).for_each(|(i, word)| *word = mix(stream, i));
            }))
        });
        let runs = world.run(|party| {
            let me = party.me();
            party.run(&helpers, |tile, index| async move {
                let elements = || (0..TILE).map(move |i| index as u64 * TILE + i);
                let component = |of: PartyId, y: bool| -> Vec<u64> {
                    let random = |k: u64, i| mix(seed ^ k << 32 ^ u64::from(y), i);
                    let (x0, x1) = (move |i| random(2, i), move |i| random(3, i));
                    let secret = move |i| if y { factors(seed, i).1 } else { factors(seed, i).0 };
                    match of.index() {
                        0 => elements().map(x0).collect(),
                        1 => elements().map(x1).collect(),
                        _ => elements().map(|i| (secret(i) as u64).wrapping_sub(x0(i)).wrapping_sub(x1(i))).collect(),
                    }
                };
                let [x, y] = [false, true].map(|y| {
                    let share = Share { first: component(me, y), second: component(me.next(), y) };
                    tile.view(&share).to_owned()
                });
                let z = tile.leave(trunc(&tile, mul_doubled(&tile, &x, &y), shift).await?).into_share();
                // P0 gives two components, P1 the third, which P2 holds as well.
                Ok(if me.index() == 0 { add(z.first, &z.second) } else { z.second })
            })
        });
        let [p0, p1, _] = runs.map(|(result, _)| result.expect("no party fails").concat());
        for (i, z) in (0..).zip(add(p0, &p1)) {
            let (x, y) = factors(seed, i);
            let error = z.cast_signed() - ((x * y) >> (shift - 1));
            assert!((0..=1).contains(&error), "{x} * {y} >> {}: error {error}", shift - 1);
            rounded_up += error as u64;
        }
        done += batch;
        if done >= total {
            break;
        }
    }
    println!("{done} truncations, {rounded_up} rounded up, none further off");
}

fn add(mut x: Vec<u64>, y: &[u64]) -> Vec<u64> {
    x.iter_mut().zip(y).for_each(|(x, y)| *x = x.wrapping_add(*y));
    x
}
