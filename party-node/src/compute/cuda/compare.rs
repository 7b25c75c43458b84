//! The local steps of a comparison on a device: all leaves at once, and all gates of a level at once. What belongs where
//! is the caller's plan; a plane is `width` words, and wires and monomials are planes end to end.

use std::ops::Range;

use super::{Gpu, Memory, Span, SpanMut};
use crate::compute::circuit::{Half, Leaf, Product};

/// Planes that a leaf or a gate has at most.
const FACTORS_MAX: usize = 4;

impl Gpu {
    /// Helper: the products of every non-empty subset of the planes of each leaf, leaf by leaf; bit `i` of a subset's
    /// number says whether plane `i` is in. Leaves of these sizes follow one another.
    pub fn leaf_monomials(&self, planes: Span<'_>, width: usize, sizes: &[usize]) -> Memory {
        let (mut list, mut first, mut end) = (Vec::with_capacity(3 * sizes.len()), 0, 0);
        for &size in sizes {
            check(first..first + size, planes, width);
            list.extend([first, size, end].map(|size| size as u64));
            first += size;
            end += (1 << size) - 1;
        }
        let (list, out, n) = (self.constant(&list), self.uninitialised(end * width), sizes.len() * width);
        let arguments = [out.span().address, planes.address, list.address, width as u64, n as u64];
        self.each("leaf_monomials", n, &arguments);
        out
    }

    /// Evaluator: adds (exclusive or) its share of every leaf's generate and propagate bits to `out`, as linear forms in
    /// the dealt monomials; `adds_constant` for the one that adds what both know. The planes of source `i` begin at
    /// `firsts[i]`.
    #[allow(clippy::too_many_arguments, reason = "what an evaluator knows of its leaves")]
    pub fn leaf_bits(
        &self,
        out: SpanMut<'_>,
        planes: Span<'_>,
        monomials: Span<'_>,
        width: usize,
        leaves: &[Leaf],
        firsts: &[usize],
        adds_constant: bool,
    ) {
        let mut list = Vec::with_capacity(5 * leaves.len());
        for leaf in leaves {
            let first = firsts[leaf.source] + leaf.first;
            check(first..first + leaf.size, planes, width);
            let last = leaf.propagate.unwrap_or(0).max(leaf.generate);
            let end = leaf.monomials + (1 << leaf.size) - 1;
            assert!((last + 1) * width <= out.len() && end * width <= monomials.len(), "{leaf:?} has its places");
            list.extend([first, leaf.size, leaf.monomials, leaf.generate].map(|at| at as u64));
            list.push(leaf.propagate.map_or(u64::MAX, |at| at as u64));
        }
        let (list, n) = (self.constant(&list), leaves.len() * width);
        let spans = [out.address, planes.address, monomials.address, list.address];
        self.each("leaf_bits", n, &[&spans[..], &[width as u64, u64::from(adds_constant), n as u64]].concat());
    }

    /// Helper: the product of the masks of each set of wires.
    pub fn mask_products(&self, masks: Span<'_>, width: usize, sets: &[Vec<usize>]) -> Memory {
        let mut list = Vec::with_capacity(5 * sets.len());
        for set in sets {
            list.push(set.len() as u64);
            list.extend(wires(set, masks, width));
        }
        let (list, n) = (self.constant(&list), sets.len() * width);
        let out = self.uninitialised(n);
        let arguments = [out.span().address, masks.address, list.address, width as u64, n as u64];
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
        sums: &[Vec<Product>],
        adds_known: bool,
    ) {
        assert_eq!(out.len(), sums.len() * width, "a plane for every sum");
        let (mut starts, mut list) = (vec![0], Vec::new());
        for sum in sums {
            for product in sum {
                let [a, b, c, d] = wires(&product.factors, known, width);
                let sets = (1 << product.factors.len()) - 1;
                assert_eq!(product.masks.len(), sets, "a mask for every set of wires of {product:?}");
                list.extend([product.factors.len() as u64, a, b, c, d]);
                list.extend(product.masks.iter().map(|half| place(*half, masks, dealt, width)));
                list.resize(list.len() + 15 - sets, 0);
            }
            starts.push(list.len() as u64 / 20);
        }
        let (starts, list) = (self.constant(&starts), self.constant(&list));
        let spans = [out.address, known.address, masks.address, dealt.address, starts.address, list.address];
        let sizes = [width as u64, u64::from(adds_known), out.len() as u64];
        self.each("sums_of_products", out.len(), &[&spans[..], &sizes].concat());
    }
}

fn check(leaf: Range<usize>, planes: Span<'_>, width: usize) {
    assert!(leaf.len() <= FACTORS_MAX && leaf.end * width <= planes.len(), "leaf {leaf:?} has planes");
}

fn wires(wires: &[usize], planes: Span<'_>, width: usize) -> [u64; FACTORS_MAX] {
    let inside = wires.iter().all(|wire| (wire + 1) * width <= planes.len());
    assert!(inside && (1..=FACTORS_MAX).contains(&wires.len()), "wires {wires:?}");
    std::array::from_fn(|i| wires.get(i).map_or(0, |wire| *wire as u64))
}

/// Where a half of a product of masks lies, as the kernel counts it.
fn place(half: Half, masks: Span<'_>, dealt: Span<'_>, width: usize) -> u64 {
    let (at, all, top) = match half {
        Half::Own(at) => (at, masks, 0),
        Half::Dealt(at) => (at, dealt, 1 << 63),
    };
    assert!((at + 1) * width <= all.len(), "{half:?} names a plane that there is");
    at as u64 | top
}
