//! Views of an operand, and panels: the order in which a kernel reads it.

use super::super::dispatch::multiversion;
use crate::compute::HostOperand;

/// An operand as a kernel walks it: `outer` is its row (left factor) or column (right factor), `inner` the summed index.
#[derive(Clone, Copy)]
pub(in super::super) struct View<'a> {
    pub(in super::super) x: &'a [u64],
    pub(in super::super) y: Option<&'a [u64]>,
    pub(in super::super) kx: u64,
    pub(in super::super) ky: u64,
    /// Distance between neighbours that are not adjacent in memory.
    pub(in super::super) stride: usize,
    /// Whether neighbours along `outer` are the adjacent ones.
    pub(in super::super) outer_adjacent: bool,
}

impl<'a> View<'a> {
    /// The left factor: rows outside, columns summed.
    pub(super) fn left(m: &HostOperand<'a>) -> Self {
        let stride = if m.transposed { m.rows } else { m.cols };
        Self { x: m.x, y: m.y, kx: m.kx, ky: m.ky, stride, outer_adjacent: m.transposed }
    }

    /// The right factor: columns outside, rows summed.
    pub(super) fn right(m: &HostOperand<'a>) -> Self {
        let stride = if m.transposed { m.rows } else { m.cols };
        Self { x: m.x, y: m.y, kx: m.kx, ky: m.ky, stride, outer_adjacent: !m.transposed }
    }

    /// The same operand with the roles of `outer` and `inner` exchanged.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn flipped(self) -> Self {
        Self { outer_adjacent: !self.outer_adjacent, ..self }
    }

    /// `len` adjacent elements from `slow * stride + fast` on, in both summands.
    #[inline(always)]
    pub(super) fn run(&self, slow: usize, fast: usize, len: usize) -> (&'a [u64], Option<&'a [u64]>) {
        let at = slow * self.stride + fast;
        (&self.x[at..at + len], self.y.map(|y| &y[at..at + len]))
    }
}

/// Which part of an operand a panel holds. The panel is padded with zeros to `width` outer indices.
#[derive(Clone, Copy)]
pub(super) struct Window {
    pub(super) outer: usize,
    pub(super) outers: usize,
    pub(super) width: usize,
    pub(super) inner: usize,
    pub(super) inners: usize,
}

multiversion! {
    /// Fills `panel[i * width + o]` with element `(outer + o, inner + i)`; plain loops.
    pub(super) fn pack_plain(view: View<'_>, window: Window, panel: &mut [u64]) {
        let Window { outer, outers, width, inner, inners } = window;
        if view.outer_adjacent {
            for (i, line) in panel.chunks_exact_mut(width).take(inners).enumerate() {
                let (line, padding) = line.split_at_mut(outers);
                let (x, y) = view.run(inner + i, outer, outers);
                for (to, &x) in line.iter_mut().zip(x) {
                    *to = view.kx.wrapping_mul(x);
                }
                for (to, &y) in line.iter_mut().zip(y.unwrap_or_default()) {
                    *to = to.wrapping_add(view.ky.wrapping_mul(y));
                }
                padding.fill(0);
            }
        } else {
            for o in 0..width {
                let column = panel[o..].iter_mut().step_by(width).take(inners);
                if o >= outers {
                    column.for_each(|to| *to = 0);
                    continue;
                }
                match view.run(outer + o, inner, inners) {
                    (x, None) => column.zip(x).for_each(|(to, &x)| *to = view.kx.wrapping_mul(x)),
                    (x, Some(y)) => column.zip(x.iter().zip(y)).for_each(|(to, (&x, &y))| {
                        *to = view.kx.wrapping_mul(x).wrapping_add(view.ky.wrapping_mul(y));
                    }),
                }
            }
        }
    }
}
