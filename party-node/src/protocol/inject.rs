//! Bits times numbers: the step from comparison back to arithmetic.

use shared::ids::PartyId;

use super::value::{Bits, TileShare};
use super::{ProtocolError, Purpose, Tile};
use crate::compute::{SliceMut, Words, elementwise};

/// What an injection leaves for another one with the same bits: the evaluators' halves of the helper's bits.
pub struct Kept {
    helper: PartyId,
    bits: Bits,
    halves: Words,
}

/// `b x` for shared bits and shared numbers.
///
/// | | |
/// |---|---|
/// | Computes | `z = b x` in `Z_{2^64}`, no truncation |
/// | Holds | `n` shared bits, `x` of `n` elements -> `z`; keeps what [`inject_again`] needs |
/// | Rounds | 1 |
/// | Bytes | `32 n` over the three parties: `16 n` ahead from the helper, `8 n` from each evaluator |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | bit times number as in Mohassel, Rindal, "ABY3", eprint 2018/403, on the masked values of Chaudhari et al., "ASTRA", eprint 2019/429 |
///
/// `b x = m x + (1 - 2m)(t l_b + l_b l_x)` for `b = m xor l_b`: each addend belongs to one evaluator, but for `m t`,
/// which both know.
pub async fn inject(tile: &Tile<'_>, bits: &Bits, x: &TileShare) -> Result<(TileShare, Kept), ProtocolError> {
    let (z, mut halves) = combine(tile, &[Term::Share(bits, x, None)], x.len()).await?;
    let halves = halves.pop().flatten().expect("one term, which brought no halves");
    Ok((z, Kept { helper: tile.helper(), bits: bits.clone(), halves }))
}

/// `b y` for the bits of an earlier injection in a tile with the same helper.
///
/// | | |
/// |---|---|
/// | Computes | `z = b y` in `Z_{2^64}` |
/// | Holds | what [`inject`] kept, `y` of `n` elements -> `z` |
/// | Rounds | 1 |
/// | Bytes | `24 n` over the three parties |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | as [`inject`]; the dealt halves of `l_b` are never used as a mask, so they may serve again |
pub async fn inject_again(tile: &Tile<'_>, kept: &Kept, y: &TileShare) -> Result<TileShare, ProtocolError> {
    assert_eq!(kept.helper, tile.helper(), "bits and halves mean nothing under another helper");
    Ok(combine(tile, &[Term::Share(&kept.bits, y, Some(&kept.halves))], y.len()).await?.0)
}

/// A summand of [`inject_sum`].
pub enum Term<'a> {
    /// Bits times shared numbers; halves of an earlier injection of the same bits, if there was one.
    Share(&'a Bits, &'a TileShare, Option<&'a Words>),
    /// Bits times one public number.
    Public(&'a Bits, u64),
}

/// Sum of several injections, for the price of one exchange.
///
/// | | |
/// |---|---|
/// | Computes | `z = sum b_j x_j` in `Z_{2^64}` |
/// | Holds | terms of `n` elements each -> `z` |
/// | Rounds | 1 |
/// | Bytes | over the three parties `16 n`, and `16 n` for each shared, `8 n` for each public factor |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | as [`inject`]; the addends are summed before they are masked |
pub async fn inject_sum(tile: &Tile<'_>, terms: &[Term<'_>], len: usize) -> Result<TileShare, ProtocolError> {
    Ok(combine(tile, terms, len).await?.0)
}

/// As [`inject_sum`] in every respect; keeps what [`inject_again`] needs for the bits of each term.
///
/// | | |
/// |---|---|
/// | Computes, Holds, Rounds, Bytes, Secure against, Reveals, Source | as [`inject_sum`] |
pub async fn inject_sum_keeping(
    tile: &Tile<'_>,
    terms: &[Term<'_>],
    len: usize,
) -> Result<(TileShare, Vec<Kept>), ProtocolError> {
    let (z, halves) = combine(tile, terms, len).await?;
    let keep = |(term, halves): (&Term<'_>, Option<Words>)| {
        let (bits, brought) = match term {
            Term::Share(bits, _, brought) => (*bits, *brought),
            Term::Public(bits, _) => (*bits, None),
        };
        Kept {
            helper: tile.helper(),
            bits: bits.clone(),
            halves: halves.or_else(|| brought.cloned()).unwrap_or_default(),
        }
    };
    Ok((z, terms.iter().zip(halves).map(keep).collect()))
}

/// Shared bits as the numbers 0 and 1 (integers, not fixed point).
///
/// | | |
/// |---|---|
/// | Computes | `z = b` in `Z_{2^64}` |
/// | Holds | `n` shared bits -> `z` |
/// | Rounds | 1 |
/// | Bytes | `24 n` over the three parties |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | as [`inject`] with the public factor 1 |
pub async fn to_arithmetic(tile: &Tile<'_>, bits: &Bits, len: usize) -> Result<TileShare, ProtocolError> {
    inject_sum(tile, &[Term::Public(bits, 1)], len).await
}

/// Several public linear forms of the same bits.
///
/// | | |
/// |---|---|
/// | Computes | `z_k = sum_j forms[k][j] b_j` in `Z_{2^64}` |
/// | Holds | `J` vectors of `n` shared bits -> one `z` of `n` elements per form |
/// | Rounds | 1 |
/// | Bytes | over the three parties `8 n` for each vector of bits, `16 n` for each form |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | as [`inject_sum`]; the dealt halves of the helper's bits serve every form |
pub async fn inject_forms(
    tile: &Tile<'_>,
    bits: &[Bits],
    forms: &[Vec<u64>],
    n: usize,
) -> Result<Vec<TileShare>, ProtocolError> {
    let sums: Vec<Vec<_>> =
        forms.iter().map(|form| form.iter().map(|&factor| Factor::Public(factor)).enumerate().collect()).collect();
    inject_sums(tile, &bits.iter().collect::<Vec<_>>(), &sums, n).await
}

/// What a bit is multiplied by in a sum of [`inject_sums`].
pub enum Factor<'a> {
    /// Shared numbers.
    Share(&'a TileShare),
    /// One public number.
    Public(u64),
}

/// Several sums of injections of the same bits: each summand names its bits and their factor.
///
/// | | |
/// |---|---|
/// | Computes | `z_k = sum b_j y` over the summands `(j, y)` of sum `k`, in `Z_{2^64}` |
/// | Holds | `J` vectors of `n` shared bits, factors -> one `z` of `n` elements per sum |
/// | Rounds | 1 |
/// | Bytes | over the three parties `8 n` for each vector of bits, `16 n` for each sum, `8 n` for each shared factor |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | as [`inject_sum`]; the dealt halves of the helper's bits serve every sum |
pub async fn inject_sums(
    tile: &Tile<'_>,
    bits: &[&Bits],
    sums: &[Vec<(usize, Factor<'_>)>],
    n: usize,
) -> Result<Vec<TileShare>, ProtocolError> {
    let op = tile.op();
    let cut = |all: &TileShare| (0..sums.len()).map(|k| all.slice(k * n..(k + 1) * n)).collect();
    let shared = sums.iter().flatten().filter_map(|(j, factor)| match factor {
        Factor::Share(y) => Some((bits[*j], *y)),
        Factor::Public(_) => None,
    });
    let shared_count = shared.clone().count();
    if tile.is_helper() {
        op.deal(Purpose::Bit, joined(bits.iter().map(|bits| elementwise::bits_to_words(&bits.s, n))));
        if shared_count > 0 {
            let products = shared.map(|(bits, y)| elementwise::bit_times_sum(&bits.s, &y.u, &y.v));
            op.deal(Purpose::BitTimesMask, joined(products));
        }
        // The exchange adds both masks to the public component, so the two others are their negatives.
        let (mut a, mut b) = op.masks(Purpose::Product, sums.len() * n);
        elementwise::scale(&mut a, u64::MAX);
        elementwise::scale(&mut b, u64::MAX);
        return Ok(cut(&TileShare { u: a, v: b }));
    }
    let halves = op.dealt(Purpose::Bit, bits.len() * n).await?;
    let products =
        if shared_count > 0 { op.dealt(Purpose::BitTimesMask, shared_count * n).await? } else { Words::none() };
    let mut products = (0..shared_count).map(|i| products.at(i * n..(i + 1) * n));
    let mut mask = op.own_mask(Purpose::Product, sums.len() * n);
    let (mut mine, mut t) = (mask.clone(), tile.device().zeros(sums.len() * n));
    for (k, sum) in sums.iter().enumerate() {
        let range = k * n..(k + 1) * n;
        for (j, factor) in sum {
            let (z, t) = (mine.at_mut(range.clone()), t.at_mut(range.clone()));
            let (m, halves) = (bits[*j].m.all(), halves.at(j * n..(j + 1) * n));
            match factor {
                Factor::Share(y) => {
                    let products = products.next().expect("dealt for every shared factor");
                    elementwise::inject_addend(z, t, m, [y.u.all(), y.v.all()], [halves, products]);
                }
                Factor::Public(k) => elementwise::inject_public_addend(z, t, m, *k, halves),
            }
        }
    }
    op.open_sum(&mut mine, 0).await?;
    elementwise::add_assign(&mut t, &mine);
    elementwise::scale(&mut mask, u64::MAX);
    Ok(cut(&TileShare { u: t, v: mask }))
}

/// All injections. Returns, beside the sum, the halves of `l_b` that each term used, unless it brought them.
async fn combine(
    tile: &Tile<'_>,
    terms: &[Term<'_>],
    n: usize,
) -> Result<(TileShare, Vec<Option<Words>>), ProtocolError> {
    let mut halves = Vec::with_capacity(terms.len());
    if tile.is_helper() {
        for term in terms {
            deal_term(tile, term, n);
            halves.push(Some(Words::none()));
        }
        let (mut a, mut b) = tile.op().masks(Purpose::Product, n);
        elementwise::scale(&mut a, u64::MAX);
        elementwise::scale(&mut b, u64::MAX);
        return Ok((TileShare { u: a, v: b }, halves));
    }
    let (mut z, mut t) = (tile.device().zeros(n), tile.device().zeros(n));
    for term in terms {
        halves.push(add_term(tile, term, z.all_mut(), t.all_mut()).await?);
    }
    let op = tile.op();
    let mut mask = op.own_mask(Purpose::Product, n);
    elementwise::add_assign(&mut z, &mask);
    op.open_sum(&mut z, 0).await?;
    elementwise::add_assign(&mut t, &z);
    elementwise::scale(&mut mask, u64::MAX);
    Ok((TileShare { u: t, v: mask }, halves))
}

fn deal_term(tile: &Tile<'_>, term: &Term<'_>, n: usize) {
    let op = tile.op();
    match term {
        Term::Share(bits, x, kept) => {
            if kept.is_none() {
                op.deal(Purpose::Bit, elementwise::bits_to_words(&bits.s, n));
            }
            op.deal(Purpose::BitTimesMask, elementwise::bit_times_sum(&bits.s, &x.u, &x.v));
        }
        Term::Public(bits, _) => drop(op.deal(Purpose::Bit, elementwise::bits_to_words(&bits.s, n))),
    }
}

/// Adds a term to `z` and `t`; returns its halves unless it brought them.
async fn add_term(
    tile: &Tile<'_>,
    term: &Term<'_>,
    z: SliceMut<'_>,
    t: SliceMut<'_>,
) -> Result<Option<Words>, ProtocolError> {
    let (op, n) = (tile.op(), z.len());
    match term {
        Term::Share(bits, x, kept) => {
            let dealt = match kept {
                Some(_) => None,
                None => Some(op.dealt(Purpose::Bit, n).await?),
            };
            let halves = kept.or(dealt.as_ref()).expect("halves come one way or the other");
            let products = op.dealt(Purpose::BitTimesMask, n).await?;
            elementwise::inject_addend(z, t, bits.m.all(), [x.u.all(), x.v.all()], [halves.all(), products.all()]);
            Ok(dealt)
        }
        Term::Public(bits, k) => {
            let halves = op.dealt(Purpose::Bit, n).await?;
            elementwise::inject_public_addend(z, t, bits.m.all(), *k, halves.all());
            Ok(Some(halves))
        }
    }
}

fn joined(pieces: impl Iterator<Item = Words>) -> Words {
    let pieces: Vec<Words> = pieces.collect();
    Words::concat(pieces.iter().map(Words::all))
}
