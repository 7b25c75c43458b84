//! Comparison: the carry of `t + l`, where the evaluators know `t` and the helper knows `l`.
//!
//! `x = t + l` is already a masked value, whatever `x` came from, so no round is spent on masking it. The bits below
//! the sign are cut into leaves of 3 or 4. Per leaf, "generates a carry" and "propagates a carry" are linear in the
//! monomials of the helper's bits, with coefficients that both evaluators know; the helper deals the monomials ahead.
//! One round opens the leaves under masks that the helper knows; a tree of masked AND gates combines them.

use super::value::{Bits, TileShare};
use super::{ProtocolError, Purpose, Role, Tile};
use crate::compute::elementwise;

/// `[x >= 0]`, bit by bit.
///
/// | | |
/// |---|---|
/// | Computes | the negated bit `k-1` of `x`: the sign, exactly, for `abs(x) < 2^(k-1)` in units of the last place |
/// | Holds | `x` of `n` elements -> `n` shared bits; `k` = `compare_bits` of the job |
/// | Rounds | 1 + depth of the tree: 5 for `k = 32`, 6 for `k = 64`; one more if nothing before it lets the helper run ahead |
/// | Bytes | [`carry_bytes`]: `19.75 n` over the three parties for `k = 32`, `41.75 n` for `k = 64` |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | carry trees over shared bits as in Mohassel, Rindal, "ABY3", eprint 2018/403, on masked values as in Chaudhari et al., "ASTRA", eprint 2019/429; leaves of monomials dealt ahead are ours |
pub async fn sign(tile: &Tile<'_>, x: &TileShare) -> Result<Bits, ProtocolError> {
    let k = tile.party().spec().compare_bits;
    assert!((6..=64).contains(&k), "the last gate folds bit k-1 in, and a single leaf has no gate");
    let known = x.known(tile);
    let mut top = vec![0; known.len().div_ceil(64)];
    tile.device().bit_planes(&known, k as usize - 1, 1, &mut top);
    let fold = tile.is_helper().then_some(&top[..]);
    let carry = carry(tile, &known, k - 1, fold).await?;
    if tile.is_helper() {
        return Ok(carry);
    }
    let mut m = carry.m;
    elementwise::xor_assign(&mut m, &top);
    Ok(Bits { m, s: carry.s }.negated())
}

/// The carry out of the low `bits` bits of `t + l`.
///
/// | | |
/// |---|---|
/// | Computes | `[(t mod 2^bits) + (l mod 2^bits) >= 2^bits]`, xor a bit that the helper folds in (5 bits or more) |
/// | Holds | evaluators `t`, helper `l`, `n` words each -> `n` shared bits |
/// | Rounds | 1 + depth of the tree over the leaves, with the helper ahead |
/// | Bytes | [`carry_bytes`] |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | as [`sign`] |
pub async fn carry(tile: &Tile<'_>, known: &[u64], bits: u32, fold: Option<&[u64]>) -> Result<Bits, ProtocolError> {
    if known.is_empty() {
        return Ok(Bits { m: vec![], s: vec![] });
    }
    let width = known.len().div_ceil(64);
    let mut planes = vec![0; width * bits as usize];
    tile.device().bit_planes(known, 0, bits as usize, &mut planes);
    let planes: Vec<&[u64]> = planes.chunks(width).collect();
    let leaves = leaf_sizes(bits);
    let wires = if tile.is_helper() {
        deal_leaves(tile, &planes, &leaves, width)
    } else {
        open_leaves(tile, &planes, &leaves, width).await?
    };
    carry_tree(tile, wires, leaves.len(), width, fold).await
}

/// Sizes of the leaves, lowest first: threes, with fours or a two below to fit.
fn leaf_sizes(bits: u32) -> Vec<usize> {
    let bits = bits as usize;
    let mut sizes = match bits % 3 {
        1 if bits >= 4 => vec![4],
        2 if bits >= 8 => vec![4, 4],
        0 => vec![],
        rest => vec![rest],
    };
    let rest = bits - sizes.iter().sum::<usize>();
    sizes.extend(std::iter::repeat_n(3, rest / 3));
    sizes
}

/// Helper: deals the monomials of its bits; its wires are the masks of the leaf bits.
fn deal_leaves(tile: &Tile<'_>, planes: &[&[u64]], leaves: &[usize], width: usize) -> Vec<Bits> {
    let op = tile.op();
    let mut low = 0;
    let mut monomials = Vec::new();
    for &size in leaves {
        for product in &subset_products(&planes[low..low + size], width)[1..] {
            monomials.extend_from_slice(product);
        }
        low += size;
    }
    op.deal_bits(Purpose::Monomials, monomials);
    let (mut mask, mask_b) = op.masks(Purpose::Leaf, (2 * leaves.len() - 1) * width);
    elementwise::xor_assign(&mut mask, &mask_b);
    Bits { m: vec![], s: mask }.planes(width)
}

/// Evaluators: their shares of the leaf bits, opened under masks. All generate bits, then all propagate bits but the
/// lowest leaf's, which nobody needs.
async fn open_leaves(
    tile: &Tile<'_>,
    planes: &[&[u64]],
    leaves: &[usize],
    width: usize,
) -> Result<Vec<Bits>, ProtocolError> {
    let op = tile.op();
    let count: usize = leaves.iter().map(|size| (1 << size) - 1).sum();
    let monomials = op.dealt(Purpose::Monomials, count * width).await?;
    let mask = op.own_mask(Purpose::Leaf, (2 * leaves.len() - 1) * width);
    let mut mine = mask.clone();
    let (mut low, mut at) = (0, 0);
    for (i, &size) in leaves.iter().enumerate() {
        let end = at + ((1 << size) - 1) * width;
        let products = subset_products(&planes[low..low + size], width);
        let (generates, propagates) = mine.split_at_mut(leaves.len() * width);
        let generate = &mut generates[i * width..(i + 1) * width];
        let propagate = if i == 0 { None } else { Some(&mut propagates[(i - 1) * width..i * width]) };
        leaf_bits(&products, &monomials[at..end], generate, propagate, tile.role() == Role::A);
        (low, at) = (low + size, end);
    }
    let theirs = op.exchange(&mine).await?;
    elementwise::xor_assign(&mut mine, &theirs);
    Ok(Bits { m: mine, s: mask }.planes(width))
}

/// The product of every subset of planes; index bit `i` says whether plane `i` is in. The empty product is all ones.
fn subset_products(planes: &[&[u64]], width: usize) -> Vec<Vec<u64>> {
    let mut products = vec![vec![u64::MAX; width]];
    for subset in 1_usize..1 << planes.len() {
        let plane = planes[subset.ilog2() as usize];
        let rest = subset ^ 1 << subset.ilog2();
        let product = if rest == 0 { plane.to_vec() } else { elementwise::and(&products[rest], plane) };
        products.push(product);
    }
    products
}

/// Adds a leaf's bits as linear forms in the monomials of `l`.
///
/// The leaf propagates if `t_i xor l_i = 1` for all `i`: monomial `S` has the coefficient "all `t_i` outside `S`".
/// It generates if for some `j` both bits are 1 and all higher ones propagate: the lowest element of `S` is that `j`,
/// and the coefficient is `t_j` and all `t_i` above `j` outside `S`.
fn leaf_bits(
    products: &[Vec<u64>],
    monomials: &[u64],
    generate: &mut [u64],
    mut propagate: Option<&mut [u64]>,
    adds_constant: bool,
) {
    let (full, width) = (products.len() - 1, generate.len());
    for subset in 1..=full {
        let monomial = &monomials[(subset - 1) * width..subset * width];
        let outside = full & !subset;
        let lowest = subset & subset.wrapping_neg();
        let above = outside & !(lowest - 1);
        elementwise::xor_and_assign(generate, &products[above | lowest], monomial);
        if let Some(propagate) = &mut propagate {
            elementwise::xor_and_assign(propagate, &products[outside], monomial);
        }
    }
    if let (Some(propagate), true) = (propagate, adds_constant) {
        elementwise::xor_assign(propagate, &products[full]);
    }
}

/// Combines leaves pairwise: `(G, P) after (g, p) = (G ^ P g, P p)`. The last gate folds in a bit of the helper.
async fn carry_tree(
    tile: &Tile<'_>,
    wires: Vec<Bits>,
    leaves: usize,
    width: usize,
    fold: Option<&[u64]>,
) -> Result<Bits, ProtocolError> {
    let mut wires = wires.into_iter();
    let generates: Vec<_> = wires.by_ref().take(leaves).collect();
    let propagates = std::iter::once(None).chain(wires.map(Some));
    let mut nodes: Vec<(Bits, Option<Bits>)> = generates.into_iter().zip(propagates).collect();
    while nodes.len() > 1 {
        let (mut left, mut right) = (Vec::new(), Vec::new());
        for pair in nodes.chunks_exact(2) {
            let above = pair[1].1.as_ref().expect("only the lowest node lacks a propagate bit");
            for part in [Some(&pair[0].0), pair[0].1.as_ref()].into_iter().flatten() {
                left.push(above);
                right.push(part);
            }
        }
        let fold = if nodes.len() == 2 { fold } else { None };
        let gates = and_folding(tile, &Bits::concat(left), &Bits::concat(right), fold).await?.planes(width);
        let mut gates = gates.into_iter();
        let odd = (nodes.len() % 2 == 1).then(|| nodes.pop().expect("there is a last node"));
        let mut next = Vec::with_capacity(nodes.len() / 2 + 1);
        let mut nodes_left = nodes.into_iter();
        while let (Some((_, lower_p)), Some((upper_g, _))) = (nodes_left.next(), nodes_left.next()) {
            let generate = upper_g.xor(&gates.next().expect("a gate per pair"));
            let propagate = lower_p.map(|_| gates.next().expect("a second gate where the lower node propagates"));
            next.push((generate, propagate));
        }
        next.extend(odd);
        nodes = next;
    }
    Ok(nodes.pop().expect("one node is left").0)
}

/// AND of shared bits.
///
/// | | |
/// |---|---|
/// | Computes | `z = x and y` |
/// | Holds | shared bits, `n` words of 64 -> shared bits |
/// | Rounds | 1 |
/// | Bytes | `24 n` over the three parties: one bit per gate from each evaluator and, ahead, from the helper |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | masked evaluation as in Chaudhari et al., "ASTRA", eprint 2019/429, in `Z_2` |
pub async fn and(tile: &Tile<'_>, x: &Bits, y: &Bits) -> Result<Bits, ProtocolError> {
    and_folding(tile, x, y, None).await
}

/// `x and y`, xor a bit of the helper at the last wire.
async fn and_folding(tile: &Tile<'_>, x: &Bits, y: &Bits, fold: Option<&[u64]>) -> Result<Bits, ProtocolError> {
    let (op, n) = (tile.op(), x.s.len());
    if tile.is_helper() {
        let mut product = elementwise::and(&x.s, &y.s);
        if let Some(fold) = fold {
            elementwise::xor_assign(&mut product[n - fold.len()..], fold);
        }
        op.deal_bits(Purpose::Gate, product);
        let (mut mask, mask_b) = op.masks(Purpose::GateMask, n);
        elementwise::xor_assign(&mut mask, &mask_b);
        return Ok(Bits { m: vec![], s: mask });
    }
    let mask = op.own_mask(Purpose::GateMask, n);
    let mut mine = op.dealt(Purpose::Gate, n).await?;
    elementwise::xor_assign(&mut mine, &mask);
    elementwise::xor_and_assign(&mut mine, &x.m, &y.s);
    elementwise::xor_and_assign(&mut mine, &y.m, &x.s);
    if tile.role() == Role::A {
        elementwise::xor_and_assign(&mut mine, &x.m, &y.m);
    }
    let theirs = op.exchange(&mine).await?;
    elementwise::xor_assign(&mut mine, &theirs);
    Ok(Bits { m: mine, s: mask })
}

/// Payload bytes of [`carry`] over the three parties, per plane word (64 elements), and its rounds.
pub fn carry_bytes(bits: u32) -> (usize, u32) {
    let leaves = leaf_sizes(bits);
    let monomials: usize = leaves.iter().map(|size| (1 << size) - 1).sum();
    let (mut nodes, mut gates, mut depth) = (leaves.len(), 0, 0);
    while nodes > 1 {
        gates += 2 * (nodes / 2) - 1;
        nodes = nodes.div_ceil(2);
        depth += 1;
    }
    (8 * (monomials + 2 * (2 * leaves.len() - 1) + 3 * gates), 1 + depth)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared::job::ProtocolSpec;

    use super::*;
    use crate::protocol::{inject, to_arithmetic};
    use crate::world::{World, assert_masked};

    fn spec(compare_bits: u32) -> ProtocolSpec {
        ProtocolSpec { compare_bits, ..ProtocolSpec::default() }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        #[test]
        fn sign_and_injection_are_exact(
            x in prop::collection::vec(any::<i32>(), 1..200), wide: bool, helper in 0_usize..3, seed: u64,
        ) {
            let k = if wide { 64 } else { 32 };
            let x: Vec<u64> = x.iter().map(|&x| (i64::from(x) << (if wide { x & 31 } else { 0 })).cast_unsigned()).collect();
            let world = World::new(seed).with_spec(spec(k));
            let (bits, run) = world.tile(helper, [&x], async |tile, [x]| {
                to_arithmetic(tile, &sign(tile, &x).await?, x.len()).await
            });
            let want: Vec<u64> = x.iter().map(|x| u64::from(x.cast_signed() >= 0)).collect();
            prop_assert_eq!(bits, want);
            let (bytes, depth) = carry_bytes(k - 1);
            prop_assert_eq!(run.cost.sent_bytes, bytes * x.len().div_ceil(64) + 24 * x.len());
            // Nothing comes before the sign here, so the evaluators wait once for what the helper deals.
            prop_assert_eq!(run.cost.rounds, 1 + depth + 1);

            let (relu, run) = world.tile(helper, [&x], async |tile, [x]| {
                Ok(inject(tile, &sign(tile, &x).await?, &x).await?.0)
            });
            let want: Vec<u64> = x.iter().map(|x| x.cast_signed().max(0).cast_unsigned()).collect();
            prop_assert_eq!(relu, want);
            prop_assert_eq!(run.cost.sent_bytes, bytes * x.len().div_ceil(64) + 32 * x.len());
        }
    }

    #[test]
    fn a_sign_costs_what_the_table_says() {
        // 6.6 and 13.9 bytes per element and party.
        assert_eq!(carry_bytes(31), (8 * (78 + 38 + 42), 5));
        assert_eq!(carry_bytes(63), (8 * (147 + 82 + 105), 6));
    }

    #[test]
    fn sign_sends_only_masked_words() {
        let x: Vec<u64> = (0..256).map(|i| i << 10).collect();
        let run = |keys| {
            World::new(1)
                .with_keys(keys)
                .tile(0, [&x], async |tile, [x]| Ok(inject(tile, &sign(tile, &x).await?, &x).await?.0))
                .1
        };
        assert_masked(&run(2), &run(3));
    }
}
