//! Exclusive-ors of products of bit planes: the local work of a comparison, many gates at a time.
//!
//! Planes of one width lie end to end; a plane is named by its number.

use std::ops::Range;

use super::cpu::elementwise as host;
use super::words::{Slice, SliceMut, Words};

/// A leaf of a carry tree at the evaluators: which wires it gives, and from what.
#[derive(Debug)]
pub struct Leaf {
    /// Whose planes it reads, and where the first of them is.
    pub source: usize,
    /// See [`Leaf::source`].
    pub first: usize,
    /// Bits of the leaf.
    pub size: usize,
    /// Where the dealt halves of the monomials of the helper's bits begin: a plane for each but the empty one.
    pub monomials: usize,
    /// The wire that says whether the leaf generates a carry.
    pub generate: usize,
    /// The wire that says whether it passes a carry on, if anybody asks.
    pub propagate: Option<usize>,
}

/// A product of wires at the evaluators.
#[derive(Debug)]
pub struct Product {
    /// The wires.
    pub factors: Vec<usize>,
    /// For every set of factors but the empty one, where this party's half of the product of their masks is.
    pub masks: Vec<Half>,
}

/// Where a half of a product of masks is.
#[derive(Clone, Copy, Debug)]
pub enum Half {
    /// A single mask, of a wire: it is the party's own.
    Own(usize),
    /// A product that the helper dealt.
    Dealt(usize),
}

/// The products of all sets of some planes but the empty set, for every leaf of such a size.
pub fn monomials(planes: Slice<'_>, sizes: &[usize], width: usize) -> Words {
    #[cfg(feature = "cuda")]
    if let Slice::Gpu(gpu, planes) = planes {
        return gpu.leaf_monomials(planes, width, sizes).into();
    }
    let planes = planes.on_host();
    let (mut all, mut first) = (Vec::new(), 0);
    for size in sizes {
        let products = subset_products(&planes[first * width..(first + size) * width], width);
        all.extend_from_slice(&products[width..]);
        first += size;
    }
    all.into()
}

/// Products of some planes, one for each set.
pub fn products(planes: Slice<'_>, sets: &[Vec<usize>], width: usize) -> Words {
    #[cfg(feature = "cuda")]
    if let Slice::Gpu(gpu, planes) = planes {
        return gpu.mask_products(planes, width, sets).into();
    }
    let planes = planes.on_host();
    let mut all = Vec::with_capacity(sets.len() * width);
    for set in sets {
        let start = all.len();
        all.extend_from_slice(&planes[plane(set[0], width)]);
        for &factor in &set[1..] {
            host::and_assign(&mut all[start..], &planes[plane(factor, width)]);
        }
    }
    all.into()
}

/// Evaluator: adds its addends of the bits of leaves, as linear forms in the monomials of `l`.
///
/// A leaf propagates if `t_i xor l_i = 1` for all `i`: monomial `S` has the coefficient "all `t_i` outside `S`".
/// It generates if for some `j` both bits are 1 and all higher ones propagate: the lowest element of `S` is that `j`,
/// and the coefficient is `t_j` and all `t_i` above `j` outside `S`.
pub fn add_leaves(
    wires: SliceMut<'_>,
    leaves: &[Leaf],
    sources: &[Words],
    dealt: Slice<'_>,
    width: usize,
    adds_constant: bool,
) {
    #[cfg(feature = "cuda")]
    if let SliceMut::Gpu(gpu, wires) = wires {
        let all = Words::concat(sources.iter().map(Words::all));
        let firsts: Vec<usize> =
            sources.iter().scan(0, |end, planes| Some(std::mem::replace(end, *end + planes.len() / width))).collect();
        gpu.leaf_bits(wires, all.all().on(&gpu).span(), dealt.on(&gpu).span(), width, leaves, &firsts, adds_constant);
        return;
    }
    let (sources, dealt) = (sources.iter().map(|planes| planes.all().on_host()).collect::<Vec<_>>(), dealt.on_host());
    wires.change(|wires| {
        for leaf in leaves {
            let planes = &sources[leaf.source][leaf.first * width..(leaf.first + leaf.size) * width];
            let products = subset_products(planes, width);
            let full = (1 << leaf.size) - 1;
            let product = |subset: usize| &products[plane(subset, width)];
            for subset in 1..=full {
                let monomial = &dealt[plane(leaf.monomials + subset - 1, width)];
                let outside = full & !subset;
                let lowest = subset & subset.wrapping_neg();
                let above = outside & !(lowest - 1);
                host::xor_and_assign(&mut wires[plane(leaf.generate, width)], product(above | lowest), monomial);
                if let Some(propagate) = leaf.propagate {
                    host::xor_and_assign(&mut wires[plane(propagate, width)], product(outside), monomial);
                }
            }
            if let (Some(propagate), true) = (leaf.propagate, adds_constant) {
                host::xor_assign(&mut wires[plane(propagate, width)], product(full));
            }
        }
    });
}

/// Evaluator: adds its addends of sums of products of wires `m ^ s`, given `m` and its halves of the products of the
/// masks `s`. One of the two evaluators adds the products of what both know.
///
/// `(m_1 ^ s_1) .. (m_k ^ s_k)` is the sum, over all sets of factors, of the product of their `s` and of the other `m`.
pub fn add_sums(
    gates: SliceMut<'_>,
    sums: &[Vec<Product>],
    m: Slice<'_>,
    own: Slice<'_>,
    dealt: Slice<'_>,
    width: usize,
    adds_known: bool,
) {
    #[cfg(feature = "cuda")]
    if let SliceMut::Gpu(gpu, gates) = gates {
        let [m, own, dealt] = [m, own, dealt].map(|words| words.on(&gpu));
        gpu.sums_of_products(gates, m.span(), own.span(), dealt.span(), width, sums, adds_known);
        return;
    }
    let (m, own, dealt) = (m.on_host(), own.on_host(), dealt.on_host());
    let half = |half: Half| match half {
        Half::Own(wire) => &own[plane(wire, width)],
        Half::Dealt(place) => &dealt[plane(place, width)],
    };
    gates.change(|gates| {
        for (into, sum) in gates.chunks_mut(width).zip(sums) {
            for product in sum {
                add_product(into, product, &m, half, adds_known);
            }
        }
    });
}

fn add_product<'a>(into: &mut [u64], product: &Product, m: &[u64], half: impl Fn(Half) -> &'a [u64], adds_known: bool) {
    let (width, all) = (into.len(), (1 << product.factors.len()) - 1);
    let wire = |factor: usize| &m[plane(factor, width)];
    let masks = |set: usize| half(product.masks[set - 1]);
    if let [x, y] = product.factors[..] {
        // Most gates: no product of known bits but this one.
        host::xor_and_assign(into, wire(y), masks(1));
        host::xor_and_assign(into, wire(x), masks(2));
        host::xor_assign(into, masks(3));
        if adds_known {
            host::xor_and_assign(into, wire(x), wire(y));
        }
        return;
    }
    let factors: Vec<u64> = product.factors.iter().flat_map(|&factor| wire(factor)).copied().collect();
    let products = subset_products(&factors, width);
    let known = |set: usize| &products[plane(set, width)];
    for set in 1..=all {
        host::xor_and_assign(into, known(all & !set), masks(set));
    }
    if adds_known {
        host::xor_assign(into, known(all));
    }
}

/// The product of every set of planes, end to end; bit `i` of a set says whether plane `i` is in. The empty product is
/// all ones.
fn subset_products(planes: &[u64], width: usize) -> Vec<u64> {
    let mut products = vec![0; width << (planes.len() / width)];
    products[..width].fill(u64::MAX);
    for set in 1..products.len() / width {
        let (top, rest) = (set.ilog2() as usize, set ^ 1 << set.ilog2());
        let (before, product) = products.split_at_mut(set * width);
        host::xor_and_assign(&mut product[..width], &before[plane(rest, width)], &planes[plane(top, width)]);
    }
    products
}

fn plane(number: usize, width: usize) -> Range<usize> {
    number * width..(number + 1) * width
}
