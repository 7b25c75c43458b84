//! Values inside a tile, as one party sees them from its role. Linear operations are local.

use std::borrow::Cow;
use std::fmt;

use super::{Role, Tile};
use crate::compute::elementwise;

/// A shared vector `x = t + a + b`. Evaluators: `u = t`, `v` = their own of `a` and `b`. Helper: `u = a`, `v = b`.
#[derive(Clone, PartialEq, Eq)]
pub struct TileShare {
    pub(super) u: Vec<u64>,
    pub(super) v: Vec<u64>,
}

/// A borrowed [`TileShare`].
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub(super) u: &'a [u64],
    pub(super) v: &'a [u64],
}

impl View<'_> {
    /// A copy of its own.
    pub fn to_owned(self) -> TileShare {
        TileShare { u: self.u.to_vec(), v: self.v.to_vec() }
    }
}

impl fmt::Debug for TileShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TileShare(<{} elements>)", self.len())
    }
}

impl TileShare {
    /// A sharing of public zeros.
    pub fn zeros(len: usize) -> Self {
        Self { u: vec![0; len], v: vec![0; len] }
    }

    /// A sharing of a public value.
    pub fn public(tile: &Tile<'_>, values: Vec<u64>) -> Self {
        let zeros = vec![0; values.len()];
        if tile.is_helper() { Self { u: zeros.clone(), v: zeros } } else { Self { u: values, v: zeros } }
    }

    /// Elements shared.
    pub fn len(&self) -> usize {
        self.u.len()
    }

    /// Whether nothing is shared.
    pub fn is_empty(&self) -> bool {
        self.u.is_empty()
    }

    /// Borrows it.
    pub fn view(&self) -> View<'_> {
        View { u: &self.u, v: &self.v }
    }

    /// What this party knows of `x` alone: `t`, or the mask `a + b` at the helper.
    pub fn known(&self, tile: &Tile<'_>) -> Cow<'_, [u64]> {
        let mut known = Cow::Borrowed(&self.u[..]);
        if tile.is_helper() {
            elementwise::add_assign(known.to_mut(), &self.v);
        }
        known
    }

    /// `x += y`.
    pub fn add_assign(&mut self, y: &TileShare) {
        elementwise::add_assign(&mut self.u, &y.u);
        elementwise::add_assign(&mut self.v, &y.v);
    }

    /// `x -= y`.
    pub fn sub_assign(&mut self, y: &TileShare) {
        elementwise::sub_assign(&mut self.u, &y.u);
        elementwise::sub_assign(&mut self.v, &y.v);
    }

    /// `x - y`.
    #[must_use]
    pub fn minus(mut self, y: &TileShare) -> Self {
        self.sub_assign(y);
        self
    }

    /// `x + y`.
    #[must_use]
    pub fn plus(mut self, y: &TileShare) -> Self {
        self.add_assign(y);
        self
    }

    /// `k x` for a public integer.
    #[must_use]
    pub fn times(mut self, k: u64) -> Self {
        elementwise::scale(&mut self.u, k);
        elementwise::scale(&mut self.v, k);
        self
    }

    /// `x + k` for a public number.
    #[must_use]
    pub fn plus_public(mut self, tile: &Tile<'_>, k: u64) -> Self {
        if !tile.is_helper() {
            for word in &mut self.u {
                *word = word.wrapping_add(k);
            }
        }
        self
    }

    /// Adds a row to every row.
    pub fn add_row(&mut self, row: View<'_>) {
        for (into, row) in [(&mut self.u, row.u), (&mut self.v, row.v)] {
            for chunk in into.chunks_mut(row.len()) {
                elementwise::add_assign(chunk, row);
            }
        }
    }

    /// Applies a rearrangement (gather, sum of columns, ...) to both components: any linear map with public shape.
    #[must_use]
    pub fn map(&self, linear: impl Fn(&[u64]) -> Vec<u64>) -> Self {
        Self { u: linear(&self.u), v: linear(&self.v) }
    }

    /// Changes both components by a linear map of another value's: `linear(into, from)`, with public shape.
    pub fn update(&mut self, from: &TileShare, linear: impl Fn(&mut [u64], &[u64])) {
        linear(&mut self.u, &from.u);
        linear(&mut self.v, &from.v);
    }

    /// Applies a rearrangement to several values at once.
    pub fn merged(values: &[TileShare], linear: impl Fn(&[&[u64]]) -> Vec<u64>) -> Self {
        let part = |part: fn(&TileShare) -> &[u64]| linear(&values.iter().map(part).collect::<Vec<_>>());
        Self { u: part(|value| &value.u), v: part(|value| &value.v) }
    }

    /// Joins pieces end to end.
    pub fn concat(pieces: &[&TileShare]) -> Self {
        let join = |part: fn(&TileShare) -> &[u64]| pieces.iter().map(|p| part(p)).collect::<Vec<_>>().concat();
        Self { u: join(|p| &p.u), v: join(|p| &p.v) }
    }

    /// A piece of it.
    #[must_use]
    pub fn slice(&self, range: std::ops::Range<usize>) -> Self {
        Self { u: self.u[range.clone()].to_vec(), v: self.v[range].to_vec() }
    }
}

/// An additive sharing of `2xy` over the three parties: what one product per party gives. Only truncation accepts it.
/// Partials of different helpers, tiles and lanes may be summed.
#[derive(Clone, PartialEq, Eq)]
pub struct DoubledPartial(pub(crate) Vec<u64>);

impl fmt::Debug for DoubledPartial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DoubledPartial(<{} elements>)", self.0.len())
    }
}

impl DoubledPartial {
    /// `2 k x` for a public integer `k`.
    pub fn from_share(tile: &Tile<'_>, x: &TileShare, k: u64) -> Self {
        // Each component once: a from H, t from A, b from B.
        let mut addend = if tile.role() == Role::B { x.v.clone() } else { x.u.clone() };
        elementwise::scale(&mut addend, k.wrapping_mul(2));
        Self(addend)
    }

    /// Sum of two.
    #[must_use]
    pub fn plus(mut self, other: &DoubledPartial) -> Self {
        elementwise::add_assign(&mut self.0, &other.0);
        self
    }

    /// Public multiple.
    #[must_use]
    pub fn times(mut self, k: u64) -> Self {
        elementwise::scale(&mut self.0, k);
        self
    }

    /// Public multiples, element by element.
    #[must_use]
    pub fn times_each(mut self, factors: &[u64]) -> Self {
        elementwise::scale_each(&mut self.0, factors);
        self
    }

    /// This party's addend, element by element.
    pub fn addends(&mut self) -> &mut [u64] {
        &mut self.0
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Shared bits `m ^ s_A ^ s_B`, packed 64 to a word. Evaluators know `m` and their own `s`; the helper `l = s_A ^ s_B`.
#[derive(Clone, PartialEq, Eq)]
pub struct Bits {
    /// Masked bits; empty at the helper.
    pub(super) m: Vec<u64>,
    /// Own share of the mask; the whole mask at the helper.
    pub(super) s: Vec<u64>,
}

impl fmt::Debug for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bits(<{} words>)", self.s.len())
    }
}

impl Bits {
    /// Which of two dealt entries the bit stands for, packed: the masked bit at the evaluators, who take the entry of
    /// that number; the mask at the helper, who swaps the entries where it is set.
    pub(crate) fn selector(&self) -> &[u64] {
        if self.m.is_empty() { &self.s } else { &self.m }
    }

    /// Exclusive or.
    #[must_use]
    pub fn xor(mut self, other: &Bits) -> Self {
        elementwise::xor_assign(&mut self.m, &other.m);
        elementwise::xor_assign(&mut self.s, &other.s);
        self
    }

    /// Negation.
    #[must_use]
    pub fn negated(mut self) -> Self {
        for word in &mut self.m {
            *word = !*word;
        }
        self
    }

    /// Exclusive or with public bits.
    #[must_use]
    pub fn xor_public(mut self, plane: &[u64]) -> Self {
        elementwise::xor_assign(&mut self.m, plane);
        self
    }

    /// Joins planes end to end.
    pub fn concat<'a>(planes: impl IntoIterator<Item = &'a Bits>) -> Self {
        let mut all = Self { m: vec![], s: vec![] };
        for plane in planes {
            all.m.extend_from_slice(&plane.m);
            all.s.extend_from_slice(&plane.s);
        }
        all
    }

    /// Cuts into planes of `width` words.
    pub fn planes(&self, width: usize) -> Vec<Self> {
        let count = self.s.len() / width.max(1);
        let cut = |part: &[u64], i: usize| part.get(i * width..(i + 1) * width).map_or(vec![], <[u64]>::to_vec);
        (0..count).map(|i| Self { m: cut(&self.m, i), s: cut(&self.s, i) }).collect()
    }

    /// Gathers single bits: bit `i` of the result is bit `pick(i)` of this plane.
    #[must_use]
    pub fn gather(&self, len: usize, pick: impl Fn(usize) -> usize) -> Self {
        let gather = |part: &[u64]| {
            if part.is_empty() {
                return vec![];
            }
            let mut out = vec![0; len.div_ceil(64)];
            for i in 0..len {
                out[i / 64] |= elementwise::bit(part, pick(i)) << (i % 64);
            }
            out
        };
        Self { m: gather(&self.m), s: gather(&self.s) }
    }
}
