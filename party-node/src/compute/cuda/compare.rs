//! The local steps of a comparison on a device: all leaves at once, and all gates of a level at once. What belongs where
//! is the caller's plan; a plane is `width` words, and wires and monomials are planes end to end.

use std::ops::Range;

use super::{Gpu, Memory, Span, SpanMut};

/// Planes that a leaf or a gate has at most.
const FACTORS_MAX: usize = 4;

/// A leaf of an evaluator.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// Its planes, up to four.
    pub planes: Range<usize>,
    /// Where its monomials begin.
    pub monomials: usize,
    /// Where its generate bit goes.
    pub generate: usize,
    /// Where its propagate bit goes, if anybody needs that.
    pub propagate: Option<usize>,
}

/// Wires whose masks a helper multiplies.
#[derive(Clone, Debug)]
pub struct MaskSet<'a> {
    /// Up to four of them.
    pub wires: &'a [usize],
    /// Whether the bit that is folded in goes here.
    pub folds: bool,
}

/// A product of wires of an evaluator.
#[derive(Clone, Debug)]
pub struct Product<'a> {
    /// Up to four wires.
    pub wires: &'a [usize],
    /// For each set of them, counted from 1 in binary, where its share of the product of their masks lies.
    pub masks: Vec<Mask>,
}

/// Where a share of a product of masks lies.
#[derive(Clone, Copy, Debug)]
pub enum Mask {
    /// The mask of a single wire.
    Wire(usize),
    /// A product that was dealt.
    Dealt(usize),
}

impl Gpu {
    /// Helper: the products of every non-empty subset of the planes of each leaf, leaf by leaf; bit `i` of a subset's
    /// number says whether plane `i` is in.
    pub fn leaf_monomials(&self, planes: Span<'_>, width: usize, leaves: &[Range<usize>]) -> Memory {
        let (mut list, mut end) = (Vec::with_capacity(3 * leaves.len()), 0);
        for leaf in leaves {
            check(leaf, planes, width);
            list.extend([leaf.start, leaf.len(), end].map(|size| size as u64));
            end += (1 << leaf.len()) - 1;
        }
        let (list, out, n) = (self.constant(&list), self.uninitialised(end * width), leaves.len() * width);
        let arguments = [out.span().address, planes.address, list.address, width as u64, n as u64];
        self.each("leaf_monomials", n, &arguments);
        out
    }

    /// Evaluator: adds (exclusive or) its share of every leaf's generate and propagate bits to `out`, as linear forms in
    /// the dealt monomials; `adds_constant` for the one that adds what both know.
    pub fn leaf_bits(
        &self,
        out: SpanMut<'_>,
        planes: Span<'_>,
        monomials: Span<'_>,
        width: usize,
        leaves: &[Leaf],
        adds_constant: bool,
    ) {
        let mut list = Vec::with_capacity(5 * leaves.len());
        for leaf in leaves {
            check(&leaf.planes, planes, width);
            let last = leaf.propagate.unwrap_or(0).max(leaf.generate);
            let end = leaf.monomials + (1 << leaf.planes.len()) - 1;
            assert!((last + 1) * width <= out.len() && end * width <= monomials.len(), "{leaf:?} has its places");
            list.extend([leaf.planes.start, leaf.planes.len(), leaf.monomials, leaf.generate].map(|at| at as u64));
            list.push(leaf.propagate.map_or(u64::MAX, |at| at as u64));
        }
        let (list, n) = (self.constant(&list), leaves.len() * width);
        let spans = [out.address, planes.address, monomials.address, list.address];
        self.each("leaf_bits", n, &[&spans[..], &[width as u64, u64::from(adds_constant), n as u64]].concat());
    }

    /// Helper: the product of the masks of each set of wires, exclusive or `fold` where the set says so.
    pub fn mask_products(&self, masks: Span<'_>, width: usize, sets: &[MaskSet<'_>], fold: Option<Span<'_>>) -> Memory {
        let mut list = Vec::with_capacity(6 * sets.len());
        for set in sets {
            let [a, b, c, d] = wires(set.wires, masks, width);
            let folds = fold.filter(|_| set.folds).inspect(|fold| assert!(width <= fold.len(), "a plane is folded in"));
            list.extend([set.wires.len() as u64, u64::from(folds.is_some()), a, b, c, d]);
        }
        let (list, n) = (self.constant(&list), sets.len() * width);
        let out = self.uninitialised(n);
        let fold = fold.map_or(0, |fold| fold.address);
        let arguments = [out.span().address, masks.address, fold, list.address, width as u64, n as u64];
        self.each("mask_products", n, &arguments);
        out
    }

    /// Evaluator: adds (exclusive or) its share of every sum of products of wires to `out`, a plane for each sum. `known`
    /// are the masked wires, `masks` its shares of their masks, `dealt` those of products of masks; `adds_known` for the
    /// one that adds what both know.
    #[allow(clippy::too_many_arguments, reason = "what an evaluator knows of a gate")]
    pub fn sums_of_products(
        &self,
        out: SpanMut<'_>,
        known: Span<'_>,
        masks: Span<'_>,
        dealt: Span<'_>,
        width: usize,
        sums: &[Vec<Product<'_>>],
        adds_known: bool,
    ) {
        assert_eq!(out.len(), sums.len() * width, "a plane for every sum");
        let (mut starts, mut list) = (vec![0], Vec::new());
        for sum in sums {
            for product in sum {
                let [a, b, c, d] = wires(product.wires, known, width);
                let sets = (1 << product.wires.len()) - 1;
                assert_eq!(product.masks.len(), sets, "a mask for every set of wires of {product:?}");
                list.extend([product.wires.len() as u64, a, b, c, d]);
                list.extend(product.masks.iter().map(|mask| place(*mask, masks, dealt, width)));
                list.resize(list.len() + 15 - sets, 0);
            }
            starts.push(list.len() as u64 / 20);
        }
        let (starts, list) = (self.constant(&starts), self.constant(&list));
        let spans = [out.address, known.address, masks.address, dealt.address, starts.address, list.address];
        let sizes = [width as u64, u64::from(adds_known), out.len() as u64];
        self.each("sums_of_products", out.len(), &[&spans[..], &sizes].concat());
    }

    /// Exclusive or of planes into others: pairs `[into, from]`. No plane is in two pairs.
    pub fn xor_planes(&self, planes: SpanMut<'_>, width: usize, pairs: &[[usize; 2]]) {
        let list: Vec<u64> = pairs.as_flattened().iter().map(|at| *at as u64).collect();
        let inside = pairs.as_flattened().iter().all(|at| (at + 1) * width <= planes.len());
        assert!(inside, "pairs name planes that there are");
        let (list, n) = (self.constant(&list), pairs.len() * width);
        self.each("xor_planes", n, &[planes.address, list.address, width as u64, n as u64]);
    }

    /// Some planes, end to end.
    pub fn picked_planes(&self, planes: Span<'_>, width: usize, picked: &[usize]) -> Memory {
        let picked: Vec<u64> = picked.iter().map(|at| *at as u64).collect();
        self.gather_rows(planes, &picked, width)
    }
}

fn check(leaf: &Range<usize>, planes: Span<'_>, width: usize) {
    assert!(leaf.len() <= FACTORS_MAX && leaf.end * width <= planes.len(), "leaf {leaf:?} has planes");
}

fn wires(wires: &[usize], planes: Span<'_>, width: usize) -> [u64; FACTORS_MAX] {
    let inside = wires.iter().all(|wire| (wire + 1) * width <= planes.len());
    assert!(inside && (1..=FACTORS_MAX).contains(&wires.len()), "wires {wires:?}");
    std::array::from_fn(|i| wires.get(i).map_or(0, |wire| *wire as u64))
}

/// Where a mask lies, as the kernel counts it.
fn place(mask: Mask, masks: Span<'_>, dealt: Span<'_>, width: usize) -> u64 {
    let (at, all, top) = match mask {
        Mask::Wire(at) => (at, masks, 0),
        Mask::Dealt(at) => (at, dealt, 1 << 63),
    };
    assert!((at + 1) * width <= all.len(), "{mask:?} names a plane that there is");
    at as u64 | top
}
