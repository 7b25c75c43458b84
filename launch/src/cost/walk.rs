//! A walk through the protocols without data: who sends how much, and how long the chains of messages get.

use shared::job::{ProtocolSpec, Truncation};

use super::Cost;
use super::carries::Carries;

/// Elements that a tile of an element-wise operation holds at most.
const TILE_ELEMENTS_MAX: usize = 1 << 15;
/// What stands in front of a message and of a frame.
const MESSAGE_HEADER_BYTES: usize = 12;
const FRAME_HEADER_BYTES: usize = 4;

/// Elements in each of three tiles. Party `i` is the helper of tile `i`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sizes([usize; 3]);

impl Sizes {
    /// As a batch is cut.
    pub(super) fn cut(rows: usize) -> Self {
        let tiles = rows.min(3);
        Self([0, 1, 2].map(|i| if i < tiles { rows * (i + 1) / tiles - rows * i / tiles } else { 0 }))
    }

    /// All in the first tile.
    pub(super) fn first(elements: usize) -> Self {
        Self([elements, 0, 0])
    }

    /// So many for each.
    pub(super) fn times(self, factor: usize) -> Self {
        Self(self.0.map(|size| size * factor))
    }

    /// The same number in every tile that there is.
    pub(super) fn replaced(self, elements: usize) -> Self {
        Self(self.0.map(|size| if size > 0 { elements } else { 0 }))
    }

    /// Words that the elements' bits fill.
    pub(super) fn words(self) -> Self {
        Self(self.0.map(|size| size.div_ceil(64)))
    }

    /// Bytes of the elements' bits.
    fn plane(self) -> Self {
        self.words().times(8)
    }

    /// Bytes of the elements, packed.
    fn packed(self, bits: u32) -> Self {
        Self(self.0.map(|size| (size * bits as usize).div_ceil(8)))
    }

    fn tiles(self) -> impl Iterator<Item = usize> {
        (0..3).filter(move |&tile| self.0[tile] > 0)
    }
}

/// What has been sent so far, and the chains of messages behind what each party knows in each tile.
pub(super) struct Walk {
    spec: ProtocolSpec,
    depths: [[u32; 3]; 3],
    rows: Sizes,
    /// Tiles that each of the three stands for.
    pieces: usize,
    bytes: usize,
    messages: usize,
}

impl Walk {
    pub(super) fn new(spec: &ProtocolSpec) -> Self {
        Self { spec: *spec, depths: [[0; 3]; 3], rows: Sizes([0; 3]), pieces: 1, bytes: 0, messages: 0 }
    }

    pub(super) fn spec(&self) -> &ProtocolSpec {
        &self.spec
    }

    /// Fraction bits.
    pub(super) fn fraction(&self) -> u32 {
        self.spec.fraction_bits.bits()
    }

    /// A call on a batch: each party knows in all tiles what it knew in any.
    pub(super) fn begin(&mut self, rows: usize) {
        let known = [0, 1, 2].map(|party| self.depths.iter().map(|tile| tile[party]).max().unwrap_or(0));
        (self.depths, self.rows, self.pieces) = ([known; 3], Sizes::cut(rows), 1);
    }

    /// A call on single elements, which are cut as small as caches like it.
    pub(super) fn begin_elements(&mut self, elements: usize) {
        self.begin(elements);
        self.pieces = elements.div_ceil(3 * TILE_ELEMENTS_MAX).max(1);
    }

    /// So many elements for each row of the call.
    pub(super) fn each(&self, per_row: usize) -> Sizes {
        self.rows.times(per_row)
    }

    /// Payload of the three parties so far.
    #[cfg(test)]
    pub(super) fn payload(&self) -> usize {
        self.bytes
    }

    /// Payload bytes, mean over the parties, and the longest chain so far.
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
    pub(super) fn cost(&self) -> Cost {
        let rounds = self.depths.iter().flatten().copied().max().unwrap_or(0);
        Cost { bytes: self.bytes as f64 / 3.0, rounds: rounds.into() }
    }

    /// What stands in front of messages and of frames, of which a round has one for each peer.
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
    pub(super) fn header_bytes(&self) -> f64 {
        (self.messages * MESSAGE_HEADER_BYTES) as f64 / 3.0 + self.cost().rounds * (2 * FRAME_HEADER_BYTES) as f64
    }

    fn send(&mut self, bytes: usize, messages: usize) {
        self.bytes += bytes;
        self.messages += messages * self.pieces;
    }

    /// The evaluators send each other so many bytes.
    fn exchange(&mut self, bytes: Sizes) {
        for tile in bytes.tiles() {
            let (a, b) = ((tile + 2) % 3, (tile + 1) % 3);
            let depths = &mut self.depths[tile];
            (depths[a], depths[b]) = (depths[a].max(depths[b] + 1), depths[b].max(depths[a] + 1));
            self.send(2 * bytes.0[tile], 2);
        }
    }

    /// The helper sends so many bytes to one evaluator; the other one has its half.
    fn deal(&mut self, bytes: Sizes) {
        for tile in bytes.tiles() {
            let depths = &mut self.depths[tile];
            depths[(tile + 1) % 3] = depths[(tile + 1) % 3].max(depths[tile] + 1);
            self.send(bytes.0[tile], 1);
        }
    }

    /// Two programs side by side.
    pub(super) fn join(&mut self, first: impl FnOnce(&mut Self), second: impl FnOnce(&mut Self)) {
        let before = self.depths;
        first(self);
        let after = std::mem::replace(&mut self.depths, before);
        second(self);
        for (depth, other) in self.depths.iter_mut().flatten().zip(after.iter().flatten()) {
            *depth = (*depth).max(*other);
        }
    }

    /// The tiles meet, and the first one works on what they brought.
    pub(super) fn meet(&mut self, conclude: impl FnOnce(&mut Self)) {
        let tiles: Vec<usize> = self.rows.tiles().collect();
        let known = [0, 1, 2].map(|party| tiles.iter().map(|&tile| self.depths[tile][party]).max().unwrap_or(0));
        self.depths[0] = known;
        conclude(self);
        let outcome = self.depths[0];
        for tile in tiles {
            self.depths[tile] = [0, 1, 2].map(|party| self.depths[tile][party].max(outcome[party]));
        }
    }

    pub(super) fn trunc_exact(&mut self, n: Sizes, shift: u32) {
        self.exchange(n.times(8));
        self.deal(n.times(8));
        self.deal(n.packed(shift));
        self.exchange(n.packed(shift));
    }

    /// A product of fixed-point numbers.
    pub(super) fn product(&mut self, n: Sizes) {
        if self.spec.trunc == Truncation::Exact {
            return self.trunc_exact(n, self.fraction() + 1);
        }
        self.exchange(n.times(8));
        self.deal(n.times(8));
    }

    /// Carries out of so many bits, against thresholds.
    pub(super) fn carries(&mut self, n: Sizes, bits: u32, thresholds: &[u64]) {
        let Carries { monomials, leaves, levels } = Carries::new(&self.spec, bits, thresholds);
        let plane = n.plane();
        self.deal(plane.times(monomials));
        self.exchange(plane.times(leaves));
        for [products, gates] in levels {
            self.deal(plane.times(products));
            self.exchange(plane.times(gates));
        }
    }

    pub(super) fn signs(&mut self, n: Sizes, thresholds: &[u64]) {
        self.carries(n, self.spec.compare_bits - 1, thresholds);
    }

    pub(super) fn sign(&mut self, n: Sizes) {
        self.signs(n, &[0]);
    }

    /// AND of so many bits.
    pub(super) fn and(&mut self, n: Sizes) {
        self.deal(n.plane());
        self.exchange(n.plane());
    }

    /// A sum of bits times shared numbers, and of bits times public ones.
    pub(super) fn inject_sum(&mut self, n: Sizes, shared: usize, public: usize) {
        (0..2 * shared + public).for_each(|_| self.deal(n.times(8)));
        self.exchange(n.times(8));
    }

    pub(super) fn inject(&mut self, n: Sizes) {
        self.inject_sum(n, 1, 0);
    }

    pub(super) fn inject_again(&mut self, n: Sizes) {
        self.inject_sum(n, 0, 1);
    }

    /// Several sums over the same vectors of bits, with so many shared factors in all.
    pub(super) fn inject_sums(&mut self, n: Sizes, bits: usize, sums: usize, factors: usize) {
        self.deal(n.times(8 * bits));
        self.deal(n.times(8 * factors));
        self.exchange(n.times(8 * sums));
    }

    /// A table of so many words for each element.
    pub(super) fn table(&mut self, n: Sizes, words: usize) {
        self.deal(n.times(8 * words));
    }
}
