//! Protocol functions against plaintext, their cost, and what a party sees: every bit masked, no mask twice.

#![allow(clippy::unwrap_used, reason = "a test program: what cannot fail may panic")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use party_node::protocol::{
    Bits, DoubledPartial, Factor, ProtocolError, Purpose, Replicated, Term, Tile, TileShare, and, carry_bytes, inject,
    inject_again, inject_sum, inject_sums, input, join, mul, mul_doubled, open, open_to_owner, sign, signs,
    square_doubled, to_arithmetic, trunc, trunc_floor,
};
use party_node::world::{Cost, Run, TouchedStreams, World};
use proptest::prelude::*;
use shared::ids::PartyId;
use shared::job::{ProtocolSpec, Truncation};
use shared::share;

/// Numbers that a comparison with the default window handles, edges included.
fn comparable() -> impl Strategy<Value = Vec<u64>> {
    let number = prop_oneof![any::<i32>(), Just(0), Just(1), Just(-1), Just(i32::MIN), Just(i32::MAX)];
    prop::collection::vec(number.prop_map(|x| i64::from(x).cast_unsigned()), 1..150)
}

fn is_positive(x: u64) -> u64 {
    u64::from(x.cast_signed() >= 0)
}

/// What a sign of `n` elements costs when nothing precedes it.
fn sign_cost(n: usize) -> Cost {
    let (bytes, depth) = carry_bytes(&Default::default(), 31);
    Cost { rounds: 1 + depth, sent_bytes: bytes * n.div_ceil(64) }
}

fn plus(cost: Cost, rounds: u32, sent_bytes: usize) -> Cost {
    Cost { rounds: cost.rounds + rounds, sent_bytes: cost.sent_bytes + sent_bytes }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn products_have_edges_too(seed: u64, helper in 0_usize..3) {
        let edges = [0, 1, u64::MAX, 1 << 63, (1 << 63) - 1, seed];
        let (x, y): (Vec<_>, Vec<_>) = edges.iter().flat_map(|x| edges.map(|y| (*x, y))).unzip();
        let (z, run) = World::new(seed).tile(helper, [&x, &y], async |tile, [x, y]| mul(tile, &x, &y).await);
        prop_assert_eq!(z, x.iter().zip(&y).map(|(x, y)| x.wrapping_mul(*y)).collect::<Vec<_>>());
        prop_assert_eq!(run.cost, Cost { rounds: 1, sent_bytes: 24 * x.len() });
    }

    #[test]
    fn squares_and_public_multiples_are_truncated_alike(
        x in prop::collection::vec(-1_i64 << 29..1 << 29, 1..40), k in -1000_i64..1000, helper in 0_usize..3, seed: u64,
    ) {
        let words: Vec<u64> = x.iter().map(|x| x.cast_unsigned()).collect();
        let (z, _) = World::new(seed).tile(helper, [&words], async |tile, [x]| {
            // x^2 + k x + x^2, as one partial.
            let square = square_doubled(tile, &x);
            let sum = square.clone().plus(&DoubledPartial::from_share(tile, &x, k.cast_unsigned())).plus(&square);
            trunc_floor(tile, sum, 17).await
        });
        let want: Vec<u64> = x.iter().map(|x| ((2 * x * x + k * x) >> 16).cast_unsigned()).collect();
        prop_assert_eq!(z, want);
    }

    #[test]
    fn a_sum_of_injections_costs_one_exchange(x in comparable(), k: u64, helper in 0_usize..3, seed: u64) {
        let n = x.len();
        let y: Vec<u64> = x.iter().rev().map(|x| x.rotate_left(13)).collect();
        let (z, run) = World::new(seed).tile(helper, [&x, &y], async |tile, [x, y]| {
            let (b, c) = (sign(tile, &x).await?, sign(tile, &x.clone().times(u64::MAX)).await?);
            inject_sum(tile, &[Term::Share(&b, &y, None), Term::Public(&c, k), Term::Share(&c, &x, None)], n).await
        });
        for ((x, y), z) in x.iter().zip(&y).zip(z) {
            // -2^31 has no negative in the window: it compares as itself.
            let negated = u64::from((1 - (1 << 31)..=0).contains(&x.cast_signed()));
            let want = is_positive(*x).wrapping_mul(*y).wrapping_add(negated.wrapping_mul(k.wrapping_add(*x)));
            prop_assert_eq!(z, want);
        }
        let signs = plus(sign_cost(n), carry_bytes(&Default::default(), 31).1, sign_cost(n).sent_bytes);
        prop_assert_eq!(run.cost, plus(signs, 1, (16 + 16 + 8 + 16) * n));
    }

    #[test]
    fn kept_bits_serve_again_and_again(x in comparable(), helper in 0_usize..3, seed: u64) {
        let (n, y): (_, Vec<u64>) = (x.len(), x.iter().map(|x| x.wrapping_mul(0x1234_5678_9abc_def1)).collect());
        let (z, run) = World::new(seed).tile(helper, [&x, &y], async |tile, [x, y]| {
            let (relu, kept) = inject(tile, &sign(tile, &x).await?, &x).await?;
            let once = inject_again(tile, &kept, &y).await?;
            let twice = inject_again(tile, &kept, &once.clone().plus(&relu)).await?;
            Ok(TileShare::concat(&[&once, &twice]))
        });
        for (i, (x, y)) in x.iter().zip(&y).enumerate() {
            let b = is_positive(*x);
            prop_assert_eq!((z[i], z[n + i]), (b.wrapping_mul(*y), b.wrapping_mul(y.wrapping_add(*x))));
        }
        prop_assert_eq!(run.cost, plus(sign_cost(n), 3, (32 + 24 + 24) * n));
    }

    #[test]
    fn bits_combine_as_in_the_clear(x in comparable(), helper in 0_usize..3, seed: u64) {
        let n = x.len();
        let y: Vec<u64> = x.iter().map(|x| (x.wrapping_mul(0x9e37_79b9_0000_0000).cast_signed() >> 32).cast_unsigned()).collect();
        let (z, run) = World::new(seed).tile(helper, [&x, &y], async |tile, [x, y]| {
            let (b, c) = (sign(tile, &x).await?, sign(tile, &y).await?);
            let both = and(tile, &b, &c).await?;
            let width = n.div_ceil(64);
            let planes = Bits::concat([&both, &b.clone().xor(&c), &b.clone().negated()]).planes(width);
            let reversed = planes[0].gather(n, |i| n - 1 - i);
            let mut all = vec![];
            for bits in planes.iter().chain([&reversed]) {
                all.push(to_arithmetic(tile, bits, n).await?);
            }
            Ok(TileShare::concat(&all.iter().collect::<Vec<_>>()))
        });
        for i in 0..n {
            let (b, c) = (is_positive(x[i]), is_positive(y[i]));
            prop_assert_eq!([z[i], z[n + i], z[2 * n + i]], [b & c, b ^ c, 1 - b]);
            prop_assert_eq!(z[3 * n + i], z[n - 1 - i]);
        }
        let words = n.div_ceil(64);
        let signs = plus(sign_cost(n), carry_bytes(&Default::default(), 31).1, sign_cost(n).sent_bytes);
        prop_assert_eq!(run.cost, plus(signs, 1 + 4, 24 * words + 4 * 24 * n));
    }

    #[test]
    fn a_tile_s_helper_shares_what_it_alone_knows(x: Vec<u64>, helper in 0_usize..3, seed: u64) {
        let n = x.len();
        let (z, run) = World::new(seed).tile(helper, [], async |tile, []| {
            input(tile, tile.is_helper().then(|| x.clone()), n).await
        });
        prop_assert_eq!(&z, &x);
        prop_assert_eq!(run.cost, Cost { rounds: 1, sent_bytes: 8 * n });
    }

    #[test]
    fn all_learn_what_is_opened(x: Vec<u64>, helper in 0_usize..3, seed: u64) {
        let world = World::new(seed);
        let shares = world.share(0, &x);
        let runs = world.run(|party| {
            let share = &shares[party.me().index()];
            party.run(&[PartyId::ALL[helper]], |tile, _| async move { open(&tile, &tile.enter(share, 0..share.len())).await })
        });
        let run = Run::collect(runs.map(|(result, trace)| (result.unwrap(), trace)));
        prop_assert!(run.outputs.iter().all(|opened| opened[0] == x));
        prop_assert_eq!(run.cost, Cost { rounds: 1, sent_bytes: 24 * x.len() });
    }

    #[test]
    fn an_owner_learns_the_sum_of_fresh_addends_and_no_party_anything(x: Vec<u64>, helper in 0_usize..3, seed: u64) {
        let run = |keys| {
            let world = World::new(seed).with_keys(keys);
            let shares = world.share(0, &x);
            Run::collect(world.run(|party| {
                let share = &shares[party.me().index()];
                party.run(&[PartyId::ALL[helper]], |tile, _| async move {
                    Ok(open_to_owner(&tile, &tile.enter(share, 0..share.len())))
                })
            }).map(|(result, trace)| (result.unwrap().remove(0), trace)))
        };
        let (one, two) = (run(1), run(2));
        prop_assert_eq!(share::Addend::join(&one.outputs), Some(x.clone()));
        prop_assert_eq!(one.cost, Cost { rounds: 0, sent_bytes: 0 });
        // Every word of every addend changes with the keys: none leaves a component bare.
        let words = |addend: &share::Addend| -> Vec<u64> {
            let zeros = share::Addend::new(vec![0; addend.len()]);
            share::Addend::join(&[addend.clone(), zeros.clone(), zeros]).unwrap()
        };
        for (one, two) in one.outputs.iter().zip(&two.outputs) {
            prop_assert!(words(one).iter().zip(words(two)).all(|(one, two)| *one != two));
        }
    }

    #[test]
    fn rows_are_cut_into_tiles_and_come_back(rows in 1_usize..50, width in 1_usize..9, seed: u64) {
        let x: Vec<u64> = (0..rows * width).map(|i| seed.rotate_left(u32::try_from(i).unwrap())).collect();
        let world = World::new(seed);
        let shares = world.share(0, &x);
        let runs = world.run(|party| {
            let share = &shares[party.me().index()];
            let pieces = party.run_rows(rows, width, |tile, rows| async move {
                let x = tile.enter(share, rows.start * width..rows.end * width);
                Ok(tile.leave(mul(&tile, &x, &x).await?))
            })?;
            Ok(Replicated::concat(&pieces).into_share())
        });
        let run = Run::collect(runs.map(|(result, trace)| (result.unwrap(), trace)));
        prop_assert_eq!(share::join(&run.outputs).unwrap(), x.iter().map(|x| x.wrapping_mul(*x)).collect::<Vec<_>>());
        prop_assert_eq!(run.cost, Cost { rounds: 1, sent_bytes: 24 * x.len() });
    }
}

#[test]
fn joined_programs_share_their_rounds() {
    let x = [3, 5];
    let chain = async |tile: &Tile<'_>, x: &TileShare, length: usize| {
        let mut z = x.clone();
        for _ in 0..length {
            z = mul(tile, &z, x).await?;
        }
        Ok::<_, ProtocolError>(z)
    };
    for helper in 0..3 {
        let (z, run) = World::new(1).tile(helper, [&x], async |tile, [x]| {
            let (left, right) = (tile.fork(), tile.fork());
            let ((a, b), c) = join(join(chain(tile, &x, 2), chain(&left, &x, 5)), chain(&right, &x, 3)).await?;
            tile.rejoin(&left);
            tile.rejoin(&right);
            // What follows depends on the longest of the three.
            mul(tile, &a.plus(&b), &c).await
        });
        assert_eq!(z, x.map(|x| (x.pow(3) + x.pow(6)) * x.pow(4)));
        assert_eq!(run.cost, Cost { rounds: 5 + 1, sent_bytes: 24 * 2 * (2 + 5 + 3 + 1) });
    }
}

#[test]
fn no_elements_cost_nothing_but_rounds() {
    let (z, run) =
        World::new(1).tile(1, [&[]], async |tile, [x]| Ok(inject(tile, &sign(tile, &x).await?, &x).await?.0));
    assert!(z.is_empty());
    assert_eq!(run.cost.sent_bytes, 0);
}

/// What one party saw in one run: words that came, words that it drew from its streams, words that it sent.
struct View {
    received: Vec<u64>,
    drawn: Vec<u64>,
    sent: Vec<u64>,
}

/// A program on 64 numbers and everything that a protocol sends in it.
async fn everything(tile: &Tile<'_>, x: TileShare) -> Result<(), ProtocolError> {
    let z = trunc(tile, mul_doubled(tile, &x, &x), 16).await?;
    // On an input, whose sharing is the same in all runs: what it compares would show.
    let bits = sign(tile, &x).await?;
    // The monomials of its mask are dealt once for three thresholds, two of which share wires.
    let above = signs(tile, &x, &[0, 5 << 20, 3 << 18]).await?;
    let forms = [vec![(0, Factor::Share(&x)), (1, Factor::Public(9))], vec![(0, Factor::Share(&z))]];
    inject_sums(tile, &[&above[0], &above[1].clone().xor(&above[2])], &forms, 64).await?;
    let (relu, kept) = inject(tile, &bits, &z).await?;
    let again = inject_again(tile, &kept, &x).await?;
    let sum = inject_sum(tile, &[Term::Share(&bits, &again, None), Term::Public(&bits, 3)], 64).await?;
    let product = mul(tile, &relu, &sum).await?;
    let floor = trunc_floor(tile, DoubledPartial::from_share(tile, &product, 1), 16).await?;
    let shared = input(tile, tile.is_helper().then(|| vec![7; 64]), 64).await?;
    mul(tile, &floor, &shared).await?;
    Ok(())
}

/// What the parties see under one set of keys; `without` names a purpose whose streams are all zeros.
fn views(keys: u32, spec: ProtocolSpec, without: Option<Purpose>) -> [View; 3] {
    let drawn: Arc<[Mutex<Vec<u64>>; 3]> = Arc::default();
    let watch = drawn.clone();
    let world = World::new(1).with_spec(spec).with_keys(keys).with_device(move |party| {
        let watch = watch.clone();
        Arc::new(TouchedStreams::new(move |_, nonce, words: &mut [u64]| {
            if without.is_some_and(|purpose| nonce[2] & 0xff == purpose as u32) {
                words.fill(0);
            } else {
                watch[party.index()].lock().expect("no holder panics").extend_from_slice(words);
            }
        }))
    });
    let shares = world.share(0, &(0..64).map(|i| i << 18).collect::<Vec<_>>());
    let runs = world.run(|party| {
        let share = &shares[party.me().index()];
        party.run(&[PartyId::ALL[0]], |tile, _| async move { everything(&tile, tile.enter(share, 0..64)).await })
    });
    let sent = Run::collect(runs.map(|(result, trace)| (result.expect("no party fails"), trace))).sent;
    PartyId::ALL.map(|me| {
        let received = sent.iter().flatten().filter(|(to, _)| *to == me).flat_map(|(_, payload)| words(payload));
        View {
            received: received.collect(),
            drawn: drawn[me.index()].lock().expect("no holder panics").clone(),
            sent: sent[me.index()].iter().flat_map(|(_, payload)| words(payload)).collect(),
        }
    })
}

/// 64 elements fill words, packed or not.
fn words(payload: &[u8]) -> impl Iterator<Item = u64> {
    assert!(payload.len().is_multiple_of(8));
    payload.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()))
}

/// Runs on the same shares that are compared.
const RUNS: u32 = 80;

/// What a party saw in lanes of 16 bits, and how many of them it received.
fn lanes(view: &View) -> (Vec<u16>, usize) {
    let words = view.received.iter().chain(&view.drawn).chain(&view.sent);
    (words.flat_map(|word| [0, 16, 32, 48].map(|by| (word >> by & 0xffff) as u16)).collect(), 4 * view.received.len())
}

/// Two lanes, one of them received, whose sum, difference or exclusive or stays the same from one run to the next far
/// more often than chance has it: a mask that the receiver knows, or one that was used twice, even if only now and then.
fn related(runs: &[(Vec<u16>, usize)]) -> Option<(usize, usize)> {
    for xor in [false, true] {
        let mut meetings: HashMap<(usize, usize), u32> = HashMap::new();
        for pair in runs.windows(2) {
            let changes = pair[0].0.iter().zip(&pair[1].0).map(|(x, y)| {
                let change = x.wrapping_sub(*y);
                if xor { x ^ y } else { change.min(change.wrapping_neg()) }
            });
            let mut alike: HashMap<u16, Vec<usize>> = HashMap::new();
            for (lane, change) in changes.enumerate().filter(|(_, change)| *change != 0) {
                let earlier = alike.entry(change).or_default();
                // Lanes come received ones first. Its own among themselves are the recorder's business.
                for other in earlier.iter().filter(|other| **other < pair[0].1) {
                    let count = meetings.entry((*other, lane)).or_default();
                    *count += 1;
                    // By chance a given pair of 10^4 lanes meets this often in so few runs with probability below 10^-15.
                    if *count == 5 {
                        return Some((*other, lane));
                    }
                }
                earlier.push(lane);
            }
        }
    }
    None
}

/// Looks for what no party may see in runs on the same shares under different keys: a received bit that never changes
/// (it is not masked), words with too many or too few ones, and [`related`] lanes.
fn flaw(runs: &[[View; 3]]) -> Option<String> {
    for party in 0..3 {
        for i in 0..runs[0][party].received.len() {
            let ones = runs.iter().fold(0, |bits, run| bits | run[party].received[i]);
            let zeros = runs.iter().fold(0, |bits, run| bits | !run[party].received[i]);
            if (ones, zeros) != (u64::MAX, u64::MAX) {
                return Some(format!("word {i} at P{party} has a constant bit"));
            }
            // Half of all bits, to within 7 standard deviations: a product of masks, say, has ones in a quarter.
            let set: u32 = runs.iter().map(|run| run[party].received[i].count_ones()).sum();
            if set.abs_diff(32 * RUNS) > 7 * (16 * RUNS).isqrt() {
                return Some(format!("word {i} at P{party} is biased"));
            }
        }
        if let Some((one, two)) = related(&runs.iter().map(|run| lanes(&run[party])).collect::<Vec<_>>()) {
            return Some(format!("lanes {one} and {two} at P{party} share a mask"));
        }
    }
    None
}

#[test]
fn every_received_bit_is_masked_and_no_mask_is_known_or_used_twice() {
    for (trunc, round_trip_ms) in [(Truncation::Exact, 0), (Truncation::Fast, 0), (Truncation::Exact, 20)] {
        let spec = ProtocolSpec { trunc, round_trip_ms, ..ProtocolSpec::default() };
        let runs: Vec<_> = (1..=RUNS).map(|keys| views(keys, spec, None)).collect();
        assert!(runs[0][0].received.is_empty(), "the helper receives nothing");
        assert!(runs[0][1].received.len() > 500 && runs[0][2].received.len() > 500, "the evaluators do");
        assert_eq!(flaw(&runs), None);
    }
}

#[test]
fn the_search_for_flaws_finds_every_missing_mask() {
    let purposes = [
        Purpose::Product,
        Purpose::Output,
        Purpose::MaskTop,
        Purpose::Wrap,
        Purpose::Monomials,
        Purpose::Leaf,
        Purpose::Gate,
        Purpose::GateMask,
        Purpose::Bit,
        Purpose::BitTimesMask,
        Purpose::Input,
    ];
    for purpose in purposes {
        let runs: Vec<_> = (1..=RUNS).map(|keys| views(keys, ProtocolSpec::default(), Some(purpose))).collect();
        assert!(flaw(&runs).is_some(), "without {purpose:?} nothing is noticed");
    }
}
