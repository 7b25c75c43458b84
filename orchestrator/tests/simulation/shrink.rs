//! The smallest history that still shows a violation: leaves out ever smaller pieces while one remains.

use crate::history::Operation;
use crate::world::{Planted, World};

/// A history from which no single operation can be left out, and what it violates.
pub(crate) fn shrink(planted: Planted, history: &[Operation], crowd: bool, what: &str) -> (Vec<Operation>, String) {
    let (mut history, mut what) = (history.to_vec(), what.to_owned());
    let mut piece = history.len().div_ceil(2);
    loop {
        let (mut at, mut smaller) = (0, false);
        while at < history.len() {
            let end = (at + piece).min(history.len());
            let without = [&history[..at], &history[end..]].concat();
            match World::run(planted, &without, crowd) {
                Err(violated) => (history, what, smaller) = (without, violated, true),
                Ok(_) => at = end,
            }
        }
        if piece == 1 && !smaller {
            return (history, what);
        }
        piece = if smaller { piece } else { piece.div_ceil(2) }.clamp(1, history.len().max(1));
    }
}
