//! Largest of two, of a row, and where it is.

use crate::protocol::{Bits, ProtocolError, Term, Tile, TileShare, and, inject, inject_sum, sign};

/// `x` where the bit is set, else `y`.
///
/// | | |
/// |---|---|
/// | Computes | `y + b (x - y)` |
/// | Holds | `n` shared bits, `x`, `y` of `n` elements -> `z` |
/// | Rounds | 1 |
/// | Bytes | `32 n` over the three parties |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | [`inject`] |
pub async fn select(tile: &Tile<'_>, bits: &Bits, x: &TileShare, y: &TileShare) -> Result<TileShare, ProtocolError> {
    Ok(inject(tile, bits, &x.clone().minus(y)).await?.0.plus(y))
}

/// The larger of two, element by element.
///
/// | | |
/// |---|---|
/// | Computes | `max(x, y)`, exact for `abs(x - y)` in the comparison window |
/// | Holds | `x`, `y` of `n` elements -> `z` |
/// | Rounds | those of [`sign`], and 1 |
/// | Bytes | those of [`sign`], and `32 n` over the three parties |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | [`sign`] and [`select`] |
pub async fn maximum(tile: &Tile<'_>, x: &TileShare, y: &TileShare) -> Result<TileShare, ProtocolError> {
    let larger = sign(tile, &x.clone().minus(y)).await?;
    select(tile, &larger, x, y).await
}

/// The smaller of two, element by element: as [`maximum`] in every respect.
///
/// | | |
/// |---|---|
/// | Computes | `min(x, y)`, exact for `abs(x - y)` in the comparison window |
/// | Holds | `x`, `y` of `n` elements -> `z` |
/// | Rounds, Bytes, Secure against, Reveals, Source | as [`maximum`] |
pub async fn minimum(tile: &Tile<'_>, x: &TileShare, y: &TileShare) -> Result<TileShare, ProtocolError> {
    let larger = sign(tile, &x.clone().minus(y)).await?;
    select(tile, &larger, y, x).await
}

/// Which column of each row is largest: one plane of `rows` bits per column, exactly one of them set.
///
/// | | |
/// |---|---|
/// | Computes | the first column that no other one exceeds |
/// | Holds | `x` of `rows x cols`, row-major -> `cols` planes of shared bits |
/// | Rounds | those of [`sign`], and `ceil(log2(cols - 1))` |
/// | Bytes | those of [`sign`] on `rows cols (cols - 1) / 2` differences; `24` per 64 gates, `rows cols (cols - 2)` of them |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | all pairs at once: a tournament would need `log2(cols)` comparisons one after another |
pub async fn argmax(tile: &Tile<'_>, x: &TileShare, cols: usize) -> Result<Vec<Bits>, ProtocolError> {
    let rows = x.len() / cols;
    let pairs: Vec<(usize, usize)> = (0..cols).flat_map(|i| (i + 1..cols).map(move |j| (i, j))).collect();
    let side = |column: fn(&(usize, usize)) -> usize| {
        x.gather(pairs.iter().map(column).flat_map(|column| (0..rows).map(move |row| row * cols + column)))
    };
    let differences = side(|pair| pair.0).minus(&side(|pair| pair.1));
    let wins = sign(tile, &differences).await?;
    // Column i against its opponent number `slot`: the bit of the pair, negated where i is the second of it.
    let opponent = |i: usize, slot: usize| if slot < i { slot } else { slot + 1 };
    let pair_index = |i: usize, j: usize| i * (2 * cols - i - 1) / 2 + (j - i - 1);
    let mut slots: Vec<Bits> = (0..cols - 1)
        .map(|slot| {
            let plane = wins.gather(cols * rows, |at| {
                let (i, row) = (at / rows, at % rows);
                let j = opponent(i, slot);
                pair_index(i.min(j), i.max(j)) * rows + row
            });
            plane.xor_public(&plane_where(cols * rows, |at| opponent(at / rows, slot) < at / rows))
        })
        .collect();
    let width = (cols * rows).div_ceil(64);
    while slots.len() > 1 {
        let half = slots.len() / 2;
        let (left, right) = (Bits::concat(&slots[..half]), Bits::concat(&slots[half..2 * half]));
        let mut next = and(tile, &left, &right).await?.planes(width);
        next.extend(slots.drain(..).skip(2 * half));
        slots = next;
    }
    let first = slots.pop().expect("at least two columns");
    Ok((0..cols).map(|i| first.gather(rows, |row| i * rows + row)).collect())
}

/// A plane of public bits.
fn plane_where(len: usize, set: impl Fn(usize) -> bool) -> Vec<u64> {
    let mut plane = vec![0; len.div_ceil(64)];
    for at in (0..len).filter(|&at| set(at)) {
        plane[at / 64] |= 1 << (at % 64);
    }
    plane
}

/// The largest value of each row.
///
/// | | |
/// |---|---|
/// | Computes | `max` over the columns |
/// | Holds | `x` of `rows x cols`, row-major -> `rows` values |
/// | Rounds | those of [`argmax`], and 1 |
/// | Bytes | those of [`argmax`], and `16 rows (cols + 1)` over the three parties |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | [`argmax`] and [`inject_sum`] |
pub async fn row_max(tile: &Tile<'_>, x: &TileShare, cols: usize) -> Result<TileShare, ProtocolError> {
    let rows = x.len() / cols;
    let largest = argmax(tile, x, cols).await?;
    let columns: Vec<TileShare> = (0..cols).map(|column| x.gather((0..rows).map(|row| row * cols + column))).collect();
    let terms: Vec<Term<'_>> = largest.iter().zip(&columns).map(|(bits, x)| Term::Share(bits, x, None)).collect();
    inject_sum(tile, &terms, rows).await
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::carry_bytes;
    use crate::world::{Cost, World, assert_masked};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn the_larger_and_the_smaller_match_plaintext(
            pairs in prop::collection::vec((-1_i64 << 29..1 << 29, -1_i64 << 29..1 << 29), 1..70), helper in 0_usize..3,
        ) {
            let words = |part: fn(&(i64, i64)) -> i64| pairs.iter().map(|p| part(p).cast_unsigned()).collect::<Vec<_>>();
            let (x, y) = (words(|p| p.0), words(|p| p.1));
            let (sign, depth) = carry_bytes(&Default::default(), 31);
            let want = Cost { rounds: 1 + depth + 1, sent_bytes: sign * x.len().div_ceil(64) + 32 * x.len() };
            let (z, run) = World::new(1).tile(helper, [&x, &y], async |tile, [x, y]| maximum(tile, &x, &y).await);
            prop_assert_eq!((z, run.cost), (words(|p| p.0.max(p.1)), want));
            let (z, run) = World::new(1).tile(helper, [&x, &y], async |tile, [x, y]| minimum(tile, &x, &y).await);
            prop_assert_eq!((z, run.cost), (words(|p| p.0.min(p.1)), want));
        }

        #[test]
        fn row_max_matches_plaintext(x in prop::collection::vec(-1_i64 << 29..1 << 29, 60), cols in 2_usize..7, helper in 0_usize..3) {
            let x: Vec<u64> = x[..60 / cols * cols].iter().map(|x| (x / 7 * 7).cast_unsigned()).collect();
            let (z, _) = World::new(1).tile(helper, [&x], async |tile, [x]| row_max(tile, &x, cols).await);
            let want: Vec<u64> = x.chunks(cols).map(|row| row.iter().map(|x| x.cast_signed()).max().unwrap().cast_unsigned()).collect();
            prop_assert_eq!(z, want);
        }
    }

    #[test]
    fn ties_go_to_the_first() {
        let x: Vec<u64> = vec![5; 8];
        let (z, _) = World::new(1).tile(2, [&x], async |tile, [x]| {
            let planes = argmax(tile, &x, 4).await?;
            crate::protocol::to_arithmetic(tile, &planes[0], 2).await
        });
        assert_eq!(z, [1, 1]);
    }

    #[test]
    fn a_selection_sends_only_masked_words() {
        let x: Vec<u64> = (0..64).map(|i| i << 16).collect();
        let program = async |tile: &Tile<'_>, [x, y]: [TileShare; 2]| minimum(tile, &x, &y).await;
        let run = |keys| World::new(1).with_keys(keys).tile(1, [&x, &vec![7; 64]], program).1;
        assert_masked(&run(2), &run(3));
    }

    #[test]
    fn max_sends_only_masked_words() {
        let x: Vec<u64> = (0..256).map(|i| (i * 37) << 16 & 0xff_ffff).collect();
        let run = |keys| World::new(1).with_keys(keys).tile(0, [&x], async |t, [x]| row_max(t, &x, 4).await).1;
        assert_masked(&run(2), &run(3));
    }
}
