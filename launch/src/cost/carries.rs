//! How many bits the comparisons exchange: leaves, and gates over them, as the parties build them.

use std::collections::BTreeSet;

use shared::job::ProtocolSpec;

/// Bits for each element of the carries out of so many bits, against some thresholds.
pub(super) struct Carries {
    /// Monomials of the helper's bits, dealt ahead.
    pub(super) monomials: usize,
    /// Leaf bits that are opened.
    pub(super) leaves: usize,
    /// Level by level: products of masks, dealt ahead, and gates.
    pub(super) levels: Vec<[usize; 2]>,
}

/// A node of a tree: generate and propagate bit, numbered. What thresholds agree in belongs to the first of them.
#[derive(Clone, Copy)]
struct Node {
    threshold: usize,
    generate: usize,
    propagate: Option<usize>,
}

/// The nodes that end with the same bit.
struct Place {
    end: usize,
    nodes: Vec<Node>,
}

impl Carries {
    pub(super) fn new(spec: &ProtocolSpec, bits: u32, thresholds: &[u64]) -> Self {
        let arity = if spec.saves_rounds() { 4 } else { 2 };
        let sizes = leaf_sizes(bits as usize, arity);
        let mut places = leaf_places(&sizes, thresholds);
        let leaves = places.iter().flat_map(|place| &place.nodes).map(|node| 1 + usize::from(node.propagate.is_some()));
        let mut all = Self {
            monomials: sizes.iter().map(|size| (1 << size) - 1).sum(),
            leaves: leaves.sum(),
            levels: Vec::new(),
        };
        let mut wires = all.leaves;
        while places.len() > 1 {
            let mut level = Level { thresholds, wires, gates: 0, products: BTreeSet::new() };
            places = places.chunks(arity).map(|group| level.join(group)).collect();
            all.levels.push([level.products.len(), level.gates]);
            wires += level.gates;
        }
        all
    }
}

/// The first threshold that ends alike.
fn owner(thresholds: &[u64], threshold: usize, end: usize) -> usize {
    let alike = |other: &u64| (other ^ thresholds[threshold]) << (64 - end) == 0;
    thresholds.iter().position(alike).unwrap_or(threshold)
}

fn leaf_places(sizes: &[usize], thresholds: &[u64]) -> Vec<Place> {
    let (mut end, mut wires) = (0, 0..);
    let mut place = |(leaf, size): (usize, &usize)| {
        end += size;
        let owners = (0..thresholds.len()).filter(|&threshold| owner(thresholds, threshold, end) == threshold);
        let nodes = owners.map(|threshold| Node {
            threshold,
            generate: wires.next().unwrap_or_default(),
            propagate: if leaf == 0 { None } else { wires.next() },
        });
        Place { end, nodes: nodes.collect() }
    };
    sizes.iter().enumerate().map(&mut place).collect()
}

/// Gates of one level.
struct Level<'a> {
    thresholds: &'a [u64],
    wires: usize,
    gates: usize,
    products: BTreeSet<Vec<usize>>,
}

impl Level<'_> {
    fn join(&mut self, group: &[Place]) -> Place {
        let (highest, lower) = (&group[group.len() - 1], &group[..group.len() - 1]);
        let joined = |node: &Node| if lower.is_empty() { *node } else { self.after(node, lower) };
        Place { end: highest.end, nodes: highest.nodes.iter().map(joined).collect() }
    }

    /// A node after those below it.
    fn after(&mut self, node: &Node, lower: &[Place]) -> Node {
        let mut propagates: Vec<usize> = node.propagate.into_iter().collect();
        let mut last = None;
        for place in lower.iter().rev() {
            let owner = owner(self.thresholds, node.threshold, place.end);
            let Some(below) = place.nodes.iter().find(|below| below.threshold == owner) else { continue };
            self.multiply(&[&propagates[..], &[below.generate]].concat());
            propagates.extend(below.propagate);
            last = below.propagate;
        }
        let generate = self.gate();
        let propagate = last.map(|_| {
            self.multiply(&propagates);
            self.gate()
        });
        Node { threshold: node.threshold, generate, propagate }
    }

    fn gate(&mut self) -> usize {
        self.gates += 1;
        self.wires + self.gates - 1
    }

    /// Notes the products of two masks or more that a product of bits needs.
    fn multiply(&mut self, factors: &[usize]) {
        for set in (1..1_usize << factors.len()).filter(|set| set.count_ones() > 1) {
            let mut product: Vec<usize> =
                (0..factors.len()).filter(|i| set >> i & 1 == 1).map(|i| factors[i]).collect();
            product.sort_unstable();
            self.products.insert(product);
        }
    }
}

/// Threes, with fours or a two to fit; fours where that saves a level of gates that join four nodes.
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

fn levels(leaves: usize, arity: usize) -> u32 {
    if leaves <= 1 { 0 } else { 1 + levels(leaves.div_ceil(arity), arity) }
}
