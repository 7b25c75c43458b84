//! The plain kernel: 4 x 4 sums in registers, no instruction set assumed.

use super::pack::{View, Window, pack_plain};
use super::{Blocking, Kernel, Tile};

#[derive(Clone, Copy)]
pub(super) struct Portable;

const SIDE: usize = 4;

impl Kernel for Portable {
    type Session = ();
    const BLOCKING: Blocking = Blocking { mr: SIDE, nr: SIDE, mc: 128, kc: 256, nc: 1024, kc_step: 1 };

    fn row_width(self, _rows: usize) -> usize {
        SIDE
    }

    fn col_width(self, _cols: usize) -> usize {
        SIDE
    }

    fn session(self) {}

    fn pack_left(self, view: View<'_>, window: Window, panel: &mut [u64]) {
        pack_plain(view, window, panel);
    }

    fn pack_right(self, view: View<'_>, window: Window, panel: &mut [u64]) {
        pack_plain(view, window, panel);
    }

    fn multiply(self, (): &mut (), left: &[u64], right: &[u64], out: &mut [u64], tile: Tile) {
        let mut sums = [[0u64; SIDE]; SIDE];
        for (left, right) in left.as_chunks::<SIDE>().0.iter().zip(right.as_chunks::<SIDE>().0) {
            for (sums, left) in sums.iter_mut().zip(left) {
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = sum.wrapping_add(left.wrapping_mul(*right));
                }
            }
        }
        for (row, sums) in sums.iter().enumerate().take(tile.rows) {
            for (out, sum) in tile.row(row, out).iter_mut().zip(sums) {
                *out = out.wrapping_add(*sum);
            }
        }
    }
}
