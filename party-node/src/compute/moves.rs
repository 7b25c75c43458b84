//! Words and bits in a new order.

use super::cpu::elementwise as host;
use super::elementwise::bit;
use super::words::{Slice, SliceMut, Words};

/// Words from the places that are named.
pub fn gather(x: Slice<'_>, places: impl Iterator<Item = usize>) -> Words {
    match x {
        Slice::Host(x) => places.map(|place| x[place]).collect(),
        #[cfg(feature = "cuda")]
        Slice::Gpu(gpu, x) => gpu.gather(x, &places.map(|place| place as u64).collect::<Vec<_>>()).into(),
    }
}

/// So many bits, packed, each from the place that `pick` names; none if there are none to pick from.
pub fn gather_bits(plane: Slice<'_>, len: usize, pick: impl Fn(usize) -> usize) -> Words {
    match plane {
        Slice::Host([]) => Words::none(),
        Slice::Host(plane) => {
            let mut out = vec![0; len.div_ceil(64)];
            for i in 0..len {
                out[i / 64] |= bit(plane, pick(i)) << (i % 64);
            }
            out.into()
        }
        #[cfg(feature = "cuda")]
        Slice::Gpu(_, plane) if plane.is_empty() => Words::none(),
        #[cfg(feature = "cuda")]
        Slice::Gpu(gpu, plane) => gpu.gather_bits(plane, &(0..len).map(|i| pick(i) as u64).collect::<Vec<_>>()).into(),
    }
}

/// Pieces of equal length that go from lines of some pieces to lines of others, in every line alike.
pub struct Pieces<'a> {
    /// Pieces of a line that is read.
    pub from_count: usize,
    /// Pieces of a line that is written.
    pub into_count: usize,
    /// Words of a piece.
    pub inner: usize,
    /// Where each goes in a line, and where it comes from.
    pub places: &'a [[usize; 2]],
}

impl Pieces<'_> {
    /// Puts copies of the pieces where they go. Nothing may go to a place twice.
    pub fn copy<'a>(&self, into: impl Into<SliceMut<'a>>, from: Slice<'_>) {
        match into.into() {
            SliceMut::Host(into) => self.each(into, &from.on_host(), |into, from| into.copy_from_slice(from)),
            #[cfg(feature = "cuda")]
            SliceMut::Gpu(gpu, into) => {
                let (from, places) = (from.on(&gpu), self.list());
                gpu.copy_places(into, self.into_count, from.span(), self.from_count, self.inner, &places);
            }
        }
    }

    /// Adds the pieces to what is where they go.
    pub fn add<'a>(&self, into: impl Into<SliceMut<'a>>, from: Slice<'_>) {
        match into.into() {
            SliceMut::Host(into) => self.each(into, &from.on_host(), host::add_assign),
            #[cfg(feature = "cuda")]
            SliceMut::Gpu(gpu, into) => {
                let (from, places) = (from.on(&gpu), self.list());
                gpu.add_places(into, self.into_count, from.span(), self.from_count, self.inner, &places);
            }
        }
    }

    #[cfg(feature = "cuda")]
    fn list(&self) -> Vec<[u64; 2]> {
        self.places.iter().map(|place| place.map(|at| at as u64)).collect()
    }

    fn each(&self, into: &mut [u64], from: &[u64], put: impl Fn(&mut [u64], &[u64])) {
        let Self { from_count, into_count, inner, places } = *self;
        if let Some((first, step)) = self.evenly_spaced() {
            for (into, from) in into.iter_mut().zip(from.chunks_exact(step)) {
                put(std::slice::from_mut(into), std::slice::from_ref(&from[first]));
            }
            return;
        }
        let from = from.chunks_exact((from_count * inner).max(1));
        for (into, from) in into.chunks_exact_mut((into_count * inner).max(1)).zip(from) {
            for [to, at] in places {
                put(&mut into[to * inner..(to + 1) * inner], &from[at * inner..(at + 1) * inner]);
            }
        }
    }

    /// Where single words start and how far they lie apart, if they are the same part of equal pieces of a line: then
    /// lines need not be told apart, which is what takes time where a piece is one word.
    fn evenly_spaced(&self) -> Option<(usize, usize)> {
        let Self { from_count, into_count, inner, places } = *self;
        let (step, first) = (from_count / into_count.max(1), places.first()?[1]);
        let even = places.iter().enumerate().all(|(i, place)| *place == [i, first + i * step]);
        let every = places.len() == into_count && step * into_count == from_count;
        (inner == 1 && even && first < step && every).then_some((first, step))
    }
}
