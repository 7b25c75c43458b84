//! Comparison: the carry of `t + l`, where the evaluators know `t` and the helper knows `l`.
//!
//! `x = t + l` is already a masked value, whatever `x` came from, so no round is spent on masking it. The bits below
//! the sign are cut into leaves of 3 or 4. Per leaf, "generates a carry" and "propagates a carry" are linear in the
//! monomials of the helper's bits, with coefficients that both evaluators know; the helper deals the monomials ahead.
//! One round opens the leaves under masks that the helper knows; a tree of masked gates combines them: two nodes at a
//! time, which takes the fewest bytes, or four at a time where the job says that rounds are dear.

use std::collections::BTreeMap;
use std::ops::Range;

use shared::job::ProtocolSpec;

use super::value::{Bits, TileShare};
use super::{ProtocolError, Purpose, Role, Tile};
use crate::compute::circuit::{self, Half, Leaf, Product};
use crate::compute::{Slice, Words, elementwise};

/// `[x >= 0]`, bit by bit.
///
/// | | |
/// |---|---|
/// | Computes | the negated bit `k-1` of `x`: the sign, exactly, for `abs(x) < 2^(k-1)` in units of the last place |
/// | Holds | `x` of `n` elements -> `n` shared bits; `k` = `compare_bits` of the job |
/// | Rounds | 1 + depth of the tree: 5 for `k = 32`, 6 for `k = 64`, 3 for either where [`ProtocolSpec::saves_rounds`]; one more if nothing before it lets the helper run ahead |
/// | Bytes | [`carry_bytes`]: `19.75 n` over the three parties for `k = 32`, `41.75 n` for `k = 64`; `21.5 n` and `50.75 n` with fewer rounds |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | carry trees over shared bits as in Mohassel, Rindal, "ABY3", eprint 2018/403, on masked values as in Chaudhari et al., "ASTRA", eprint 2019/429; leaves of monomials dealt ahead are ours |
pub async fn sign(tile: &Tile<'_>, x: &TileShare) -> Result<Bits, ProtocolError> {
    let mut signs = signs(tile, x, &[0]).await?;
    Ok(signs.pop().expect("one threshold, one bit"))
}

/// `[x >= c]` for several public thresholds `c`.
///
/// | | |
/// |---|---|
/// | Computes | [`sign`] of `x - c` for each `c` |
/// | Holds | `x` of `n` elements, `m` thresholds -> `m` times `n` shared bits |
/// | Rounds | those of [`sign`] |
/// | Bytes | [`carries_bytes`]: at most `9.75 n + 10 m n` over the three parties for `k = 32`; less where thresholds agree in their low bits |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | [`sign`]; that one set of monomials serves all thresholds, and one wire all that agree so far, is ours |
///
/// A threshold moves `t` and leaves `l` as it is, so the helper deals the monomials of `l` once. Their halves are
/// coefficients of what is exchanged and never masks; each wire that is exchanged has a mask of its own.
pub async fn signs(tile: &Tile<'_>, x: &TileShare, thresholds: &[u64]) -> Result<Vec<Bits>, ProtocolError> {
    let k = tile.party().spec().compare_bits;
    assert!((6..=64).contains(&k), "the last gate folds bit k-1 in, and a single leaf has no gate");
    let carries = carries(tile, x.known(tile).words(), thresholds, k - 1, Top::FoldedIn).await?;
    Ok(carries.into_iter().map(Bits::negated).collect())
}

/// The carry out of the low `bits` bits of `t + l`.
///
/// | | |
/// |---|---|
/// | Computes | `[(t mod 2^bits) + (l mod 2^bits) >= 2^bits]` |
/// | Holds | evaluators `t`, helper `l`, `n` words each -> `n` shared bits |
/// | Rounds | 1 + depth of the tree over the leaves, with the helper ahead |
/// | Bytes | [`carry_bytes`] |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | as [`sign`] |
pub async fn carry(tile: &Tile<'_>, known: Slice<'_>, bits: u32) -> Result<Bits, ProtocolError> {
    let mut carries = carries(tile, known, &[0], bits, Top::LeftOut).await?;
    Ok(carries.pop().expect("one threshold, one bit"))
}

/// What happens to the bit above those that carry.
#[derive(Clone, Copy, PartialEq)]
enum Top {
    LeftOut,
    /// The bit of the sum, `t ^ l ^ carry`, in place of the carry; takes five bits or more below it.
    FoldedIn,
}

/// The carry out of the low bits of `t - c + l` for every threshold `c`.
async fn carries(
    tile: &Tile<'_>,
    known: Slice<'_>,
    thresholds: &[u64],
    bits: u32,
    top: Top,
) -> Result<Vec<Bits>, ProtocolError> {
    if known.is_empty() {
        return Ok(vec![Bits { m: Words::none(), s: Words::none() }; thresholds.len()]);
    }
    let forest = Forest::new(&tile.party().spec(), thresholds, bits, known.len().div_ceil(64));
    let all = bits as usize + usize::from(top == Top::FoldedIn);
    if tile.is_helper() {
        let planes = forest.planes(tile, known, 0..all);
        let wires = deal_leaves(tile, planes.at(0..bits as usize * forest.width), &forest);
        let fold = (top == Top::FoldedIn).then(|| planes.at(bits as usize * forest.width..planes.len()));
        return carry_trees(tile, wires, &forest, fold).await;
    }
    let planes: Vec<_> = (0..thresholds.len())
        .map(|i| {
            if thresholds[i] == 0 {
                return forest.planes(tile, known, forest.first_bit(i)..all);
            }
            let moved = elementwise::plus_constant(known, thresholds[i].wrapping_neg());
            forest.planes(tile, moved.all(), forest.first_bit(i)..all)
        })
        .collect();
    let wires = open_leaves(tile, &planes, &forest).await?;
    let mut carries = carry_trees(tile, wires, &forest, None).await?;
    if top == Top::FoldedIn {
        for (carry, planes) in carries.iter_mut().zip(&planes) {
            elementwise::xor_assign(&mut carry.m, planes.at(planes.len() - forest.width..planes.len()));
        }
    }
    Ok(carries)
}

/// The trees of several thresholds, one bit plane of `width` words to a wire. Thresholds that agree in all bits up to
/// the end of a leaf have the same wires there, and the same node above them: it belongs to the first of them.
struct Forest {
    /// Bits of the leaves, lowest first.
    sizes: Vec<usize>,
    /// Nodes that a gate joins at most.
    arity: usize,
    width: usize,
    thresholds: usize,
    /// Leaf by leaf, whose node stands for each threshold's.
    owners: Vec<usize>,
}

impl Forest {
    fn new(spec: &ProtocolSpec, thresholds: &[u64], bits: u32, width: usize) -> Self {
        let arity = if spec.saves_rounds() { 4 } else { 2 };
        let sizes = leaf_sizes(bits as usize, arity);
        let mut forest = Self { sizes, arity, width, thresholds: thresholds.len(), owners: vec![] };
        let first_alike = |threshold: &u64, end: usize| {
            thresholds.iter().position(|other| (other ^ threshold) << (64 - end) == 0).expect("it is like itself")
        };
        let ends = forest.leaves().map(|leaf| leaf.end);
        forest.owners = ends.flat_map(|end| thresholds.iter().map(move |c| first_alike(c, end))).collect();
        forest
    }

    fn owner(&self, leaf: usize, threshold: usize) -> usize {
        self.owners[leaf * self.thresholds + threshold]
    }

    /// Thresholds that have a node of their own where this leaf is the last.
    fn owners(&self, leaf: usize) -> impl Iterator<Item = usize> {
        (0..self.thresholds).filter(move |&threshold| self.owner(leaf, threshold) == threshold)
    }

    /// The bits of every leaf.
    fn leaves(&self) -> impl Iterator<Item = Range<usize>> {
        let mut end = 0;
        self.sizes.iter().map(move |size| {
            end += size;
            end - size..end
        })
    }

    /// The first bit of the first leaf that a threshold owns; the end of all if it owns none.
    fn first_bit(&self, threshold: usize) -> usize {
        let shared = (0..self.sizes.len()).take_while(|&leaf| self.owner(leaf, threshold) != threshold).count();
        self.sizes[..shared].iter().sum()
    }

    /// Generate bits of all leaves, and propagate bits of all but the lowest, which nobody needs.
    fn leaf_wires(&self) -> [usize; 2] {
        let generates = (0..self.sizes.len()).map(|leaf| self.owners(leaf).count()).sum();
        [generates, generates - self.owners(0).count()]
    }

    /// What the evaluators do at every leaf of every threshold that owns one.
    fn at_evaluators(&self) -> Vec<Leaf> {
        let (mut generate, mut propagate) = (0.., self.leaf_wires()[0]..);
        let (mut leaves, mut monomials) = (Vec::new(), 0);
        for (i, bits) in self.leaves().enumerate() {
            leaves.extend(self.owners(i).map(|source| Leaf {
                source,
                first: bits.start - self.first_bit(source),
                size: bits.len(),
                monomials,
                generate: generate.next().expect("as many as there are"),
                propagate: if i == 0 { None } else { propagate.next() },
            }));
            monomials += (1 << bits.len()) - 1;
        }
        leaves
    }

    /// Some bit planes of words, end to end.
    fn planes(&self, tile: &Tile<'_>, words: Slice<'_>, bits: Range<usize>) -> Words {
        tile.device().bit_planes(words, bits.start, bits.len())
    }
}

/// Sizes of the leaves, lowest first: threes, with fours or a two below to fit; fours throughout, with what is left
/// below, if that saves a level of gates that join four nodes.
fn leaf_sizes(bits: usize, arity: usize) -> Vec<usize> {
    let mut threes = match bits % 3 {
        1 if bits >= 4 => vec![4],
        2 if bits >= 8 => vec![4, 4],
        0 => vec![],
        rest => vec![rest],
    };
    let rest = bits - threes.iter().sum::<usize>();
    threes.extend(std::iter::repeat_n(3, rest / 3));
    let mut fours = vec![4; bits.div_ceil(4)];
    fours[0] -= 4 * fours.len() - bits;
    if arity == 4 && levels(fours.len(), arity) < levels(threes.len(), arity) { fours } else { threes }
}

/// Levels of a tree over so many leaves.
fn levels(mut leaves: usize, arity: usize) -> u32 {
    let mut levels = 0;
    while leaves > 1 {
        leaves = leaves.div_ceil(arity);
        levels += 1;
    }
    levels
}

/// Helper: deals the monomials of its bits; its wires are the masks of the leaf bits.
fn deal_leaves(tile: &Tile<'_>, planes: Slice<'_>, forest: &Forest) -> Bits {
    let (op, width) = (tile.op(), forest.width);
    op.deal_bits(Purpose::Monomials, circuit::monomials(planes, &forest.sizes, width));
    let wires: usize = forest.leaf_wires().iter().sum();
    Bits { m: Words::none(), s: op.masks_of_bits(Purpose::Leaf, wires * width) }
}

/// Evaluators: their shares of the leaf bits, opened under masks. All generate bits, then all propagate bits.
/// `planes` are those of each threshold, from its first bit.
async fn open_leaves(tile: &Tile<'_>, planes: &[Words], forest: &Forest) -> Result<Bits, ProtocolError> {
    let (op, width) = (tile.op(), forest.width);
    let count: usize = forest.sizes.iter().map(|size| (1 << size) - 1).sum();
    let monomials = op.dealt(Purpose::Monomials, count * width).await?;
    let wires: usize = forest.leaf_wires().iter().sum();
    let mask = op.own_mask(Purpose::Leaf, wires * width);
    let mut mine = mask.clone();
    let adds_constant = tile.role() == Role::A;
    circuit::add_leaves(mine.all_mut(), &forest.at_evaluators(), planes, monomials.all(), width, adds_constant);
    op.open_xor(&mut mine).await?;
    Ok(Bits { m: mine, s: mask })
}

/// A node of a tree: its generate and propagate bits among all wires. Those over the lowest leaf have no propagate bit.
#[derive(Clone, Copy)]
struct Node {
    owner: usize,
    generate: usize,
    propagate: Option<usize>,
}

/// The nodes whose last leaf is the same.
struct Place {
    leaf: usize,
    nodes: Vec<Node>,
}

/// Combines neighbours: `(G, P) after (g, p) = (G ^ P g, P p)`, two or up to four of them at a time. The last gates fold
/// in a bit of the helper.
async fn carry_trees(
    tile: &Tile<'_>,
    mut wires: Bits,
    forest: &Forest,
    fold: Option<Slice<'_>>,
) -> Result<Vec<Bits>, ProtocolError> {
    let width = forest.width;
    let mut places = leaf_places(forest);
    while places.len() > 1 {
        let first_gate = wires.s.len() / width;
        let level = Level::new(forest, &places, first_gate);
        let fold = if places.len() <= forest.arity { fold } else { None };
        let gates = sums_of_products(tile, &wires, &level.sums, width, fold).await?;
        wires.m.append(&gates.m);
        wires.s.append(&gates.s);
        level.generated.iter().for_each(|&(gate, highest)| wires.xor_wire(gate, highest, width));
        places = level.places;
    }
    let root = places.pop().expect("one place is left");
    let of = |threshold: usize| {
        let owner = forest.owner(root.leaf, threshold);
        let node = root.nodes.iter().find(|node| node.owner == owner).expect("every owner has a node");
        wires.picked(&[node.generate], width)
    };
    Ok((0..forest.thresholds).map(of).collect())
}

/// A level of the trees: its gates, and what is above them.
struct Level {
    /// What each gate adds up.
    sums: Vec<Sum>,
    /// Gates that lack the generate bit of the highest node, and where that is.
    generated: Vec<(usize, usize)>,
    places: Vec<Place>,
}

/// A bit as a sum of products of wires, the longest product last.
type Sum = Vec<Vec<usize>>;

impl Level {
    fn new(forest: &Forest, places: &[Place], first_gate: usize) -> Self {
        let mut level = Self { sums: vec![], generated: vec![], places: vec![] };
        for group in places.chunks(forest.arity) {
            let (highest, lower) = group.split_last().expect("a chunk is not empty");
            let join = |node: &Node| level.join(forest, node, lower, first_gate);
            let nodes = if lower.is_empty() { highest.nodes.clone() } else { highest.nodes.iter().map(join).collect() };
            level.places.push(Place { leaf: highest.leaf, nodes });
        }
        level
    }

    /// A node after those below it.
    fn join(&mut self, forest: &Forest, highest: &Node, lower: &[Place], first_gate: usize) -> Node {
        let mut propagates = vec![highest.propagate.expect("only the lowest place lacks propagate bits")];
        let (mut generate, mut propagate) = (Sum::new(), None);
        for place in lower.iter().rev() {
            let owner = forest.owner(place.leaf, highest.owner);
            let node = place.nodes.iter().find(|node| node.owner == owner).expect("every owner has a node");
            generate.push([&propagates[..], &[node.generate]].concat());
            propagates.extend(node.propagate);
            propagate = node.propagate;
        }
        let mut gate = |sum| {
            self.sums.push(sum);
            first_gate + self.sums.len() - 1
        };
        let generate = gate(generate);
        let propagate = propagate.map(|_| gate(vec![propagates]));
        self.generated.push((generate, highest.generate));
        Node { owner: highest.owner, generate, propagate }
    }
}

/// The opened wires, as nodes.
fn leaf_places(forest: &Forest) -> Vec<Place> {
    let (mut generate, mut propagate) = (0.., forest.leaf_wires()[0]..);
    (0..forest.sizes.len())
        .map(|leaf| {
            let node = |owner| Node {
                owner,
                generate: generate.next().expect("as many as there are"),
                propagate: if leaf == 0 { None } else { propagate.next() },
            };
            Place { leaf, nodes: forest.owners(leaf).map(node).collect() }
        })
        .collect()
}

impl Bits {
    /// Some wires of `width` words, end to end.
    fn picked(&self, wires: &[usize], width: usize) -> Self {
        let pick = |part: &Words| {
            let wires = if part.is_empty() { &[] } else { wires };
            Words::concat(wires.iter().map(|wire| part.at(wire * width..(wire + 1) * width)))
        };
        Self { m: pick(&self.m), s: pick(&self.s) }
    }

    /// Exclusive or of one wire into another.
    fn xor_wire(&mut self, into: usize, from: usize, width: usize) {
        for part in [&mut self.m, &mut self.s] {
            if !part.is_empty() {
                let from = part.at(from * width..(from + 1) * width).to_words();
                elementwise::xor_assign(part.at_mut(into * width..(into + 1) * width), &from);
            }
        }
    }
}

/// Products of masks that some sums need, each of them once, in the order of their first use.
struct MaskProducts {
    sets: Vec<Vec<usize>>,
    places: BTreeMap<Vec<usize>, usize>,
}

impl MaskProducts {
    fn new(sums: &[Sum]) -> Self {
        let mut all = Self { sets: vec![], places: BTreeMap::new() };
        for product in sums.iter().flatten() {
            for set in 1..1_usize << product.len() {
                let wires = subset(product, set);
                if set.count_ones() > 1 && !all.places.contains_key(&wires) {
                    all.places.insert(wires.clone(), all.sets.len());
                    all.sets.push(wires);
                }
            }
        }
        all
    }

    /// Where an evaluator finds its halves of the products of masks that a sum takes.
    fn at_evaluator(&self, sum: &Sum) -> Vec<Product> {
        let half = |product: &Vec<usize>, set| match subset(product, set)[..] {
            [single] => Half::Own(single),
            ref several => Half::Dealt(self.places[several]),
        };
        let product = |factors: &Vec<usize>| Product {
            factors: factors.clone(),
            masks: (1..1 << factors.len()).map(|set| half(factors, set)).collect(),
        };
        sum.iter().map(product).collect()
    }
}

/// Some wires of a product, in ascending order; bit `i` of `set` says whether the one at `i` is in.
fn subset(product: &[usize], set: usize) -> Vec<usize> {
    let mut wires: Vec<usize> = (0..product.len()).filter(|i| set >> i & 1 == 1).map(|i| product[i]).collect();
    wires.sort_unstable();
    wires
}

/// Sums of products of wires of `width` words.
///
/// | | |
/// |---|---|
/// | Computes | for each sum, the exclusive or of its products of two to four wires; xor `fold`, which the helper knows |
/// | Holds | shared bits -> one wire for each sum |
/// | Rounds | 1 |
/// | Bytes | over the three parties and per bit plane, a bit for each product of two masks or more that occurs, ahead from the helper, and two for each sum |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | gates of several inputs on masked wires as in Patra, Schneider, Suresh, Yalame, "ABY2.0", eprint 2020/1225; products of masks that several gates share are ours |
///
/// `(m_1 ^ s_1) .. (m_k ^ s_k)` is the sum, over all sets of factors, of the product of their `s`, which the helper
/// deals, and of the other `m`, which both evaluators know. Sums that have a product of masks in common share it: its
/// halves are coefficients of what is exchanged and never masks.
async fn sums_of_products(
    tile: &Tile<'_>,
    wires: &Bits,
    sums: &[Sum],
    width: usize,
    fold: Option<Slice<'_>>,
) -> Result<Bits, ProtocolError> {
    let (op, needed) = (tile.op(), MaskProducts::new(sums));
    if width == 0 {
        return Ok(Bits { m: Words::none(), s: Words::none() });
    }
    if tile.is_helper() {
        let mut products = circuit::products(wires.s.all(), &needed.sets, width);
        for (fold, sum) in fold.iter().flat_map(|fold| sums.iter().map(move |sum| (fold, sum))) {
            // The product of all masks of a sum's longest product stands in that sum alone, and with no factor.
            let longest = sum.last().expect("a sum has products");
            let at = needed.places[&subset(longest, usize::MAX)] * width;
            elementwise::xor_assign(products.at_mut(at..at + width), *fold);
        }
        op.deal_bits(Purpose::Gate, products);
        return Ok(Bits { m: Words::none(), s: op.masks_of_bits(Purpose::GateMask, sums.len() * width) });
    }
    let mask = op.own_mask(Purpose::GateMask, sums.len() * width);
    let dealt = op.dealt(Purpose::Gate, needed.sets.len() * width).await?;
    let mut mine = mask.clone();
    let sums: Vec<_> = sums.iter().map(|sum| needed.at_evaluator(sum)).collect();
    let adds_known = tile.role() == Role::A;
    circuit::add_sums(mine.all_mut(), &sums, wires.m.all(), wires.s.all(), dealt.all(), width, adds_known);
    op.open_xor(&mut mine).await?;
    Ok(Bits { m: mine, s: mask })
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
    sums_of_products(tile, &Bits::concat([x, y]), &[vec![vec![0, 1]]], x.s.len(), None).await
}

/// Payload bytes of [`carry`] over the three parties, per plane word (64 elements), and its rounds.
pub fn carry_bytes(spec: &ProtocolSpec, bits: u32) -> (usize, u32) {
    carries_bytes(spec, bits, &[0])
}

/// Payload bytes of the carries out of so many bits of `x - c` for every threshold `c`, as [`signs`] needs them, over
/// the three parties and per plane word, and their rounds.
pub fn carries_bytes(spec: &ProtocolSpec, bits: u32, thresholds: &[u64]) -> (usize, u32) {
    let forest = Forest::new(spec, thresholds, bits, 1);
    let monomials: usize = forest.sizes.iter().map(|size| (1 << size) - 1).sum();
    let mut wires: usize = forest.leaf_wires().iter().sum();
    let (mut planes, mut rounds, mut places) = (monomials + 2 * wires, 1, leaf_places(&forest));
    while places.len() > 1 {
        let level = Level::new(&forest, &places, wires);
        planes += MaskProducts::new(&level.sums).sets.len() + 2 * level.sums.len();
        wires += level.sums.len();
        rounds += 1;
        places = level.places;
    }
    (8 * planes, rounds)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared::job::ProtocolSpec;

    use super::*;
    use crate::protocol::{inject, to_arithmetic};
    use crate::world::{World, assert_masked};

    fn spec(compare_bits: u32, round_trip_ms: u32) -> ProtocolSpec {
        ProtocolSpec { compare_bits, round_trip_ms, ..ProtocolSpec::default() }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        #[test]
        fn sign_and_injection_are_exact(
            x in prop::collection::vec(any::<i32>(), 1..200), wide: bool, far: bool, helper in 0_usize..3, seed: u64,
        ) {
            let (k, round_trip_ms) = (if wide { 64 } else { 32 }, if far { 20 } else { 0 });
            let x: Vec<u64> = x.iter().map(|&x| (i64::from(x) << (if wide { x & 31 } else { 0 })).cast_unsigned()).collect();
            let world = World::new(seed).with_spec(spec(k, round_trip_ms));
            let (bits, run) = world.tile(helper, [&x], async |tile, [x]| {
                to_arithmetic(tile, &sign(tile, &x).await?, x.len()).await
            });
            let want: Vec<u64> = x.iter().map(|x| u64::from(x.cast_signed() >= 0)).collect();
            prop_assert_eq!(bits, want);
            let (bytes, depth) = carry_bytes(&spec(k, round_trip_ms), k - 1);
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]
        #[test]
        fn signs_against_thresholds_are_exact(
            x in prop::collection::vec(-1_i64 << 29..1 << 29, 1..150),
            thresholds in prop::collection::vec((-1_i64 << 12..1 << 12, 0_u32..18), 1..6),
            far: bool, helper in 0_usize..3, seed: u64,
        ) {
            let spec = spec(32, if far { 20 } else { 0 });
            // Many end in zeros, so that they share leaves; some are numbers that occur.
            let mut thresholds: Vec<i64> = thresholds.iter().map(|(c, by)| c << by).collect();
            thresholds.extend([x[0], thresholds[0], x[0] + 1]);
            let public: Vec<u64> = thresholds.iter().map(|c| c.cast_unsigned()).collect();
            let words: Vec<u64> = x.iter().map(|x| x.cast_unsigned()).collect();
            let (bits, run) = World::new(seed).with_spec(spec).tile(helper, [&words], async |tile, [x]| {
                let mut all = vec![];
                for bits in signs(tile, &x, &public).await? {
                    all.push(to_arithmetic(tile, &bits, x.len()).await?);
                }
                Ok(TileShare::concat(&all.iter().collect::<Vec<_>>()))
            });
            let want: Vec<u64> = thresholds.iter().flat_map(|c| x.iter().map(move |x| u64::from(x >= c))).collect();
            prop_assert_eq!(bits, want);
            let (bytes, depth) = carries_bytes(&spec, 31, &public);
            let arithmetic = 24 * x.len() * public.len();
            prop_assert_eq!(run.cost.sent_bytes, bytes * x.len().div_ceil(64) + arithmetic);
            prop_assert_eq!(run.cost.rounds, 1 + depth + u32::try_from(public.len()).unwrap());
        }
    }

    #[test]
    fn a_sign_costs_what_the_table_says() {
        // 6.6 and 13.9 bytes per element and party.
        let near = ProtocolSpec::default();
        assert_eq!(carry_bytes(&near, 31), (8 * (78 + 38 + 42), 5));
        assert_eq!(carry_bytes(&near, 63), (8 * (147 + 82 + 105), 6));
        // 7.2 and 16.9: gates of four, 17 bits for the lowest and 26 for others; at 63 bits leaves of four, too.
        let far = spec(32, 20);
        assert_eq!(carry_bytes(&far, 31), (8 * (78 + 38 + (17 + 26 + 6) + 7), 3));
        assert_eq!(carry_bytes(&far, 63), (8 * (15 * 15 + 7 + 62 + (17 + 3 * 26) + 17), 3));
    }

    #[test]
    fn few_rounds_are_taken_for_long_round_trips_alone() {
        let rounds = |round_trip_ms| carry_bytes(&spec(32, round_trip_ms), 31).1;
        assert_eq!([0, 1, 2, 10_000].map(rounds), [5, 5, 3, 3]);
        for bits in 2..=63 {
            for arity in [2, 4] {
                let sizes = leaf_sizes(bits, arity);
                assert_eq!(sizes.iter().sum::<usize>(), bits);
                assert!(sizes.iter().all(|size| (1..=4).contains(size)), "{bits}: {sizes:?}");
            }
            let of = |round_trip_ms| carry_bytes(&spec(32, round_trip_ms), u32::try_from(bits).unwrap());
            assert!(of(20).1 <= of(0).1 && of(20).0 >= of(0).0, "{bits} bits");
        }
    }

    /// Bits that take every value, each under masks of its own, through gates over two to four nodes.
    #[test]
    fn gates_of_every_arity_are_right_for_every_input() {
        const WIDTH: usize = 256;
        let every_value = |wires: usize| -> Vec<u64> {
            (0..wires).flat_map(|i| (0..256_u64).map(move |x| if x >> i & 1 == 1 { u64::MAX } else { 0 })).collect()
        };
        for nodes in 2..=4 {
            // From the highest node down: the generate bit of the first stays out; propagate bits have odd numbers.
            let wires = 2 * nodes - 1;
            let below = |node: usize| (0..node).map(|above| 2 * above + 1).chain([2 * node]).collect();
            let generate: Sum = (1..nodes).map(below).collect();
            let sums = [generate.clone(), vec![below(nodes - 1)]];
            for helper in 0..3 {
                let (bits, run) = World::new(5).tile(helper, [&[]], async |tile, [_]: [TileShare; 1]| {
                    let public = if tile.is_helper() { vec![] } else { every_value(wires) };
                    let bits = crate::protocol::random_bits(tile, wires * WIDTH).xor_public(&public);
                    let gates = sums_of_products(tile, &bits, &sums, WIDTH, None).await?;
                    to_arithmetic(tile, &Bits::concat([&bits, &gates]), (wires + 2) * WIDTH * 64).await
                });
                for at in 0..WIDTH * 64 {
                    let bit = |wire: usize| bits[wire * WIDTH * 64 + at];
                    let product = |factors: &Vec<usize>| factors.iter().map(|&wire| bit(wire)).product::<u64>();
                    assert_eq!(bit(wires), sums[0].iter().map(product).sum::<u64>() % 2, "{nodes} nodes");
                    assert_eq!(bit(wires + 1), product(&sums[1][0]), "{nodes} nodes");
                }
                // The second sum's products of masks are among those of the first.
                let dealt = [1, 5, 15][nodes - 2];
                assert_eq!(run.cost.sent_bytes, 8 * WIDTH * (dealt + 4) + 24 * (wires + 2) * WIDTH * 64);
            }
        }
    }

    #[test]
    fn thresholds_share_what_they_agree_in() {
        let near = ProtocolSpec::default();
        // Monomials once; every further threshold costs its wires and its gates.
        assert_eq!(carries_bytes(&near, 31, &[0, 1]), (8 * (78 + 2 * 38 + 2 * 42), 5));
        // Apart by 2^20: six leaves of ten are the same, and the gates on them.
        assert_eq!(carries_bytes(&near, 31, &[5, 5 + (1 << 20)]), (8 * (78 + 38 + 16 + 42 + 24), 5));
        // With gates of four, the lowest four leaves and their gates.
        let far = spec(32, 20);
        assert_eq!(carries_bytes(&far, 31, &[5, 5 + (1 << 28)]), (8 * (78 + 38 + 4 + 17 + 26 + 12 + 7 + 6), 3));
        for spec in [near, far] {
            assert_eq!(carries_bytes(&spec, 31, &[7, 7, 7]), carry_bytes(&spec, 31));
        }
    }

    #[test]
    fn sign_sends_only_masked_words() {
        let x: Vec<u64> = (0..256).map(|i| i << 10).collect();
        let thresholds = [0, 1 << 12, 9 << 12, 77];
        for round_trip_ms in [0, 20] {
            let world = |keys| World::new(1).with_spec(spec(32, round_trip_ms)).with_keys(keys);
            let program =
                async |tile: &Tile<'_>, [x]: [TileShare; 1]| Ok(inject(tile, &sign(tile, &x).await?, &x).await?.0);
            let run = |keys| world(keys).tile(0, [&x], program).1;
            assert_masked(&run(2), &run(3));
            let program = async |tile: &Tile<'_>, [x]: [TileShare; 1]| {
                let bits = signs(tile, &x, &thresholds).await?.remove(2);
                to_arithmetic(tile, &bits, x.len()).await
            };
            let run = |keys| world(keys).tile(0, [&x], program).1;
            assert_masked(&run(2), &run(3));
        }
    }
}
