//! Agreement with the executable specification of the protocol core: results word for word, bytes by party, rounds.
//!
//! `tests/data/spec-vectors.csv` was made by `tools/spec-vectors`, which runs the specification on the product's own
//! streams (see there) and writes what it computed and counted; to make it again: `tools/spec-vectors`.

#![allow(clippy::unwrap_used, reason = "a test program: what cannot fail may panic")]

use party_node::protocol::{
    Matrix, Party, ProtocolError, Tile, TileShare, inject, inject_again, matmul, mul, mul_doubled, open, sign,
    to_arithmetic, trunc,
};
use party_node::world::{Run, World};
use shared::fixed::FixedPoint;
use shared::ids::PartyId;
use shared::job::{ProtocolSpec, Truncation};
use shared::share::{Share, join};

const VECTORS: &str = include_str!("data/spec-vectors.csv");

/// One line of the vectors.
struct Case<'a> {
    name: &'a str,
    helper: PartyId,
    spec: ProtocolSpec,
    rounds: u32,
    sent_bytes: Vec<usize>,
    /// Three components of a shared result, or one opened result.
    result: Vec<Vec<u64>>,
}

/// The shared inputs of all cases, by party.
struct Inputs {
    x: [Share; 3],
    y: [Share; 3],
    wide: [Share; 3],
}

fn words(field: &str) -> Vec<u64> {
    field.split(' ').map(|word| u64::from_str_radix(word, 16).unwrap()).collect()
}

fn shares(component: &[Vec<u64>]) -> [Share; 3] {
    PartyId::ALL.map(|p| Share { first: component[p.index()].clone(), second: component[p.next().index()].clone() })
}

fn lines(kind: &str) -> impl Iterator<Item = Vec<&'static str>> {
    VECTORS.lines().map(|line| line.split(',').collect::<Vec<_>>()).filter(move |fields| fields[0] == kind)
}

fn inputs() -> Inputs {
    let input = |name| {
        let fields = lines("input").find(|fields| fields[1] == name).unwrap();
        shares(&fields[2..].iter().map(|field| words(field)).collect::<Vec<_>>())
    };
    Inputs { x: input("x"), y: input("y"), wide: input("wide") }
}

fn cases() -> impl Iterator<Item = Case<'static>> {
    lines("case").map(|fields| {
        let number = |i: usize| fields[i].parse::<u32>().unwrap();
        let trunc = if fields[1].ends_with("fast") { Truncation::Fast } else { Truncation::Exact };
        Case {
            name: fields[1],
            helper: PartyId::new(number(2) as usize).unwrap(),
            spec: ProtocolSpec {
                fraction_bits: FixedPoint::new(number(3)).unwrap(),
                compare_bits: number(4),
                trunc,
                ..ProtocolSpec::default()
            },
            rounds: number(5),
            sent_bytes: fields[6].split(' ').map(|bytes| bytes.parse().unwrap()).collect(),
            result: fields[7..].iter().map(|field| words(field)).collect(),
        }
    })
}

/// The program of a case; an opened result comes as the first component.
async fn program(tile: &Tile<'_>, case: &Case<'_>, inputs: &Inputs) -> Result<Share, ProtocolError> {
    let me = tile.party().me().index();
    let enter = |shares: &[Share; 3]| tile.enter(&shares[me], 0..shares[me].len());
    let (x, y) = (enter(&inputs.x), enter(&inputs.y));
    let wide = if case.spec.compare_bits == 64 { enter(&inputs.wide) } else { x.clone() };
    let relu = async |x: &TileShare| inject(tile, &sign(tile, x).await?, x).await;
    let z = match case.name {
        "mul" => mul(tile, &x, &y).await?,
        "product" | "product-fast" => trunc(tile, mul_doubled(tile, &x, &y), tile.party().fixed().bits() + 1).await?,
        "matmul" => matmul(tile, Matrix::new(x.view(), 8, 8), Matrix::new(y.view(), 8, 8)).await?,
        "open" => return Ok(Share { first: open(tile, &x).await?, second: vec![] }),
        "sign" => to_arithmetic(tile, &sign(tile, &wide).await?, wide.len()).await?,
        "relu" => relu(&wide).await?.0,
        "relu-backward" => inject_again(tile, &relu(&x).await?.1, &y).await?,
        "maximum" => relu(&x.minus(&y)).await?.0.plus(&y),
        name => panic!("no program for {name}"),
    };
    Ok(tile.leave(z).into_share())
}

/// Partials of three helpers, summed inside each party and truncated once, in the next call.
fn mixed_partials(party: &Party, case: &Case<'_>, inputs: &Inputs) -> Result<Share, ProtocolError> {
    let me = party.me().index();
    let partials = party.run(&PartyId::ALL, |tile, _| async move {
        let enter = |shares: &[Share; 3]| tile.enter(&shares[me], 0..shares[me].len());
        Ok(mul_doubled(&tile, &enter(&inputs.x), &enter(&inputs.y)))
    })?;
    let [u0, u1, u2] = <[_; 3]>::try_from(partials).unwrap();
    let sum = u0.plus(&u1).plus(&u2.times(u64::MAX));
    let sum = &sum;
    let mut shares =
        party.run(&[case.helper], |tile, _| async move { Ok(tile.leave(trunc(&tile, sum.clone(), 17).await?)) })?;
    Ok(shares.pop().unwrap().into_share())
}

fn run(case: &Case<'_>, inputs: &Inputs) -> Run<Share> {
    // The seed of the world only splits inputs, and these come split; its keys are those of the vectors.
    let runs = World::new(0).with_keys(1).with_spec(case.spec).run(|party| {
        if case.name == "mixed-partials" {
            return mixed_partials(party, case, inputs);
        }
        let mut shares = party.run(&[case.helper], |tile, _| async move { program(&tile, case, inputs).await })?;
        Ok(shares.pop().unwrap())
    });
    Run::collect(runs.map(|(result, trace)| (result.expect("no party fails"), trace)))
}

#[test]
fn every_vector_of_the_specification_is_met() {
    let (inputs, mut seen) = (inputs(), 0);
    for case in cases() {
        let run = run(&case, &inputs);
        let what = format!("{} under helper {} with {:?}", case.name, case.helper, case.spec);
        let mut sent: Vec<usize> = run.sent.iter().map(|m| m.iter().map(|(_, payload)| payload.len()).sum()).collect();
        let mut rounds = run.cost.rounds;
        match case.name {
            "open" => run.outputs.iter().for_each(|out| assert_eq!(out.first, case.result[0], "{what}")),
            "sign" => {
                assert_eq!(join(&run.outputs).expect("the copies agree"), case.result[0], "{what}");
                // Less the conversion that lets us look: a round, and a word from every party.
                sent.iter_mut().for_each(|bytes| *bytes -= 8 * case.result[0].len());
                rounds -= 1;
            }
            _ => assert_eq!(run.outputs, shares(&case.result), "{what}"),
        }
        assert_eq!((rounds, &sent), (case.rounds, &case.sent_bytes), "{what}");
        seen += 1;
    }
    assert_eq!(seen, 42, "all vectors were read");
}
