//! Values inside a tile, as one party sees them from its role. Linear operations are local.

use std::fmt;
use std::ops::Range;

use shared::ids::PartyId;
use shared::share::Share;

use super::{Role, Tile};
use crate::compute::{Compute, Slice, SliceMut, Words, elementwise, moves};

/// One party's part of a replicated sharing, on its device: what outlasts a tile.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Replicated {
    /// `x_i`.
    pub first: Words,
    /// `x_{i+1}`.
    pub second: Words,
}

/// A borrowed [`Replicated`], or a [`Share`] that is not on a device yet.
#[derive(Clone, Copy)]
pub struct ReplicatedView<'a> {
    first: Slice<'a>,
    second: Slice<'a>,
}

impl fmt::Debug for Replicated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Replicated(<{} elements>)", self.len())
    }
}

impl Replicated {
    /// A share on the device that will compute with it.
    pub fn on(device: &dyn Compute, share: Share) -> Self {
        Self { first: device.hold(share.first), second: device.hold(share.second) }
    }

    /// A sharing of public zeros.
    pub fn zeros(device: &dyn Compute, len: usize) -> Self {
        Self { first: device.zeros(len), second: device.zeros(len) }
    }

    /// The part of `party` in a sharing of words that all parties know.
    pub fn of_public(device: &dyn Compute, party: PartyId, words: Vec<u64>) -> Self {
        Self::on(device, Share::of_public(party, words))
    }

    /// Off the device, for a file or an owner.
    pub fn into_share(self) -> Share {
        Share { first: self.first.into_host(), second: self.second.into_host() }
    }

    /// Pieces joined end to end.
    pub fn concat(pieces: &[Self]) -> Self {
        let join = |part: fn(&Self) -> &Words| Words::concat(pieces.iter().map(|piece| part(piece).all()));
        Self { first: join(|piece| &piece.first), second: join(|piece| &piece.second) }
    }

    /// A copy of some elements.
    #[must_use]
    pub fn piece(&self, range: Range<usize>) -> Self {
        Self { first: self.first.at(range.clone()).to_words(), second: self.second.at(range).to_words() }
    }

    /// Elements shared.
    pub fn len(&self) -> usize {
        self.first.len()
    }

    /// Whether nothing is shared.
    pub fn is_empty(&self) -> bool {
        self.first.is_empty()
    }
}

impl<'a> From<&'a Replicated> for ReplicatedView<'a> {
    fn from(share: &'a Replicated) -> Self {
        Self { first: share.first.all(), second: share.second.all() }
    }
}

impl<'a> From<&'a Share> for ReplicatedView<'a> {
    fn from(share: &'a Share) -> Self {
        Self { first: Slice::from(&share.first), second: Slice::from(&share.second) }
    }
}

impl<'a> ReplicatedView<'a> {
    /// Some elements.
    #[must_use]
    pub fn at(self, range: Range<usize>) -> Self {
        Self { first: self.first.at(range.clone()), second: self.second.at(range) }
    }

    /// As a party sees it from its role.
    pub(super) fn seen_as(self, role: Role) -> View<'a> {
        let Self { first, second } = self;
        if role == Role::B { View { u: second, v: first } } else { View { u: first, v: second } }
    }
}

/// A shared vector `x = t + a + b`. Evaluators: `u = t`, `v` = their own of `a` and `b`. Helper: `u = a`, `v = b`.
#[derive(Clone, PartialEq, Eq)]
pub struct TileShare {
    pub(super) u: Words,
    pub(super) v: Words,
}

/// A borrowed [`TileShare`].
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub(super) u: Slice<'a>,
    pub(super) v: Slice<'a>,
}

impl View<'_> {
    /// A copy of its own.
    pub fn to_owned(self) -> TileShare {
        TileShare { u: self.u.to_words(), v: self.v.to_words() }
    }
}

impl fmt::Debug for TileShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TileShare(<{} elements>)", self.len())
    }
}

impl TileShare {
    /// A sharing of public zeros.
    pub fn zeros(tile: &Tile<'_>, len: usize) -> Self {
        Self { u: tile.device().zeros(len), v: tile.device().zeros(len) }
    }

    /// A sharing of a public value.
    pub fn public(tile: &Tile<'_>, values: Vec<u64>) -> Self {
        let len = values.len();
        if tile.is_helper() {
            return Self::zeros(tile, len);
        }
        Self { u: tile.device().hold(values), v: tile.device().zeros(len) }
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
        View { u: self.u.all(), v: self.v.all() }
    }

    /// What this party knows of `x` alone: `t`, or the mask `a + b` at the helper.
    pub fn known(&self, tile: &Tile<'_>) -> Known<'_> {
        if !tile.is_helper() {
            return Known::Component(self.u.all());
        }
        let mut mask = self.u.clone();
        elementwise::add_assign(&mut mask, &self.v);
        Known::Mask(mask)
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

    /// Public multiples, element by element.
    #[must_use]
    pub fn times_each(mut self, factors: &[u64]) -> Self {
        elementwise::scale_each(&mut self.u, factors);
        elementwise::scale_each(&mut self.v, factors);
        self
    }

    /// `x + k` for a public number.
    #[must_use]
    pub fn plus_public(mut self, tile: &Tile<'_>, k: u64) -> Self {
        if !tile.is_helper() {
            elementwise::add_constant(&mut self.u, k);
        }
        self
    }

    /// Adds a row to every row.
    pub fn add_row(&mut self, row: View<'_>) {
        for (into, row) in [(&mut self.u, row.u), (&mut self.v, row.v)] {
            elementwise::add_row(into, row);
        }
    }

    /// Applies a linear map of public shape (gather, sum of columns, ...) to both components.
    #[must_use]
    pub fn map(&self, linear: impl Fn(Slice<'_>) -> Words) -> Self {
        Self { u: linear(self.u.all()), v: linear(self.v.all()) }
    }

    /// Changes both components by a linear map of another value's: `linear(into, from)`, with public shape.
    pub fn update(&mut self, from: &TileShare, linear: impl Fn(SliceMut<'_>, Slice<'_>)) {
        linear(self.u.all_mut(), from.u.all());
        linear(self.v.all_mut(), from.v.all());
    }

    /// Elements from the places that are named.
    #[must_use]
    #[allow(clippy::needless_pass_by_value, reason = "iterators are handed over, here once for each component")]
    pub fn gather(&self, places: impl Iterator<Item = usize> + Clone) -> Self {
        self.map(|part| moves::gather(part, places.clone()))
    }

    /// Joins pieces end to end.
    pub fn concat(pieces: &[&TileShare]) -> Self {
        let join = |part: fn(&TileShare) -> &Words| Words::concat(pieces.iter().map(|piece| part(piece).all()));
        Self { u: join(|piece| &piece.u), v: join(|piece| &piece.v) }
    }

    /// A piece of it.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        Self { u: self.u.at(range.clone()).to_words(), v: self.v.at(range).to_words() }
    }
}

/// What a party knows of a value alone.
pub enum Known<'a> {
    /// An evaluator: a component as it stands.
    Component(Slice<'a>),
    /// The helper: the sum of its components.
    Mask(Words),
}

impl Known<'_> {
    /// The words.
    pub fn words(&self) -> Slice<'_> {
        match self {
            Self::Component(words) => *words,
            Self::Mask(words) => words.all(),
        }
    }
}

/// An additive sharing of `2xy` over the three parties: what one product per party gives. Only truncation accepts it.
/// Partials of different helpers, tiles and lanes may be summed.
#[derive(Clone, PartialEq, Eq)]
pub struct DoubledPartial(pub(crate) Words);

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

    /// This party's addends.
    pub fn addends(&self) -> Slice<'_> {
        self.0.all()
    }

    /// This party's addends, to add to them.
    pub fn addends_mut(&mut self) -> SliceMut<'_> {
        self.0.all_mut()
    }

    /// The elements of another behind these.
    #[must_use]
    pub fn followed_by(mut self, other: &DoubledPartial) -> Self {
        self.0.append(&other.0);
        self
    }

    /// Sums of the columns of a matrix.
    #[must_use]
    pub fn column_sums(&self, columns: usize) -> Self {
        Self(elementwise::column_sums(&self.0, columns))
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
    pub(super) m: Words,
    /// Own share of the mask; the whole mask at the helper.
    pub(super) s: Words,
}

impl fmt::Debug for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bits(<{} words>)", self.s.len())
    }
}

impl Bits {
    /// Which of two dealt entries the bit stands for, packed: the masked bit at the evaluators, who take the entry of
    /// that number; the mask at the helper, who swaps the entries where it is set.
    pub(crate) fn selector(&self) -> Slice<'_> {
        if self.m.is_empty() { self.s.all() } else { self.m.all() }
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
        elementwise::complement(&mut self.m);
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
        let planes: Vec<&Bits> = planes.into_iter().collect();
        let join = |part: fn(&Bits) -> &Words| Words::concat(planes.iter().map(|plane| part(plane).all()));
        Self { m: join(|plane| &plane.m), s: join(|plane| &plane.s) }
    }

    /// Cuts into planes of `width` words.
    pub fn planes(&self, width: usize) -> Vec<Self> {
        let count = self.s.len() / width.max(1);
        let cut = |part: &Words, i: usize| match part.len() {
            0 => Words::none(),
            _ => part.at(i * width..(i + 1) * width).to_words(),
        };
        (0..count).map(|i| Self { m: cut(&self.m, i), s: cut(&self.s, i) }).collect()
    }

    /// Gathers single bits: bit `i` of the result is bit `pick(i)` of this plane.
    #[must_use]
    pub fn gather(&self, len: usize, pick: impl Fn(usize) -> usize) -> Self {
        let gather = |part: &Words| moves::gather_bits(part.all(), len, &pick);
        Self { m: gather(&self.m), s: gather(&self.s) }
    }
}
