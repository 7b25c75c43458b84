//! Opening: the one step that turns shares into a public value.

use super::value::TileShare;
use super::{ProtocolError, Role, Tile};
use crate::compute::elementwise;

/// Opens a value to all three parties. Callers name what they open in their `Reveals` row and check the reveal policy.
///
/// | | |
/// |---|---|
/// | Computes | `x` in the clear |
/// | Holds | `x` of `n` elements -> public |
/// | Rounds | 1 |
/// | Bytes | `8 n` sent by each party |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | `x` to all |
/// | Source | Araki et al., eprint 2016/768: each party sends the neighbour the component that it lacks |
pub async fn open(tile: &Tile<'_>, x: &TileShare) -> Result<Vec<u64>, ProtocolError> {
    let op = tile.op();
    // P_i lacks x_{i-1}, which P_{i-1} holds first.
    let first = if tile.role() == Role::B { &x.v } else { &x.u };
    let me = tile.party().me();
    op.send(me.next(), first);
    let mut opened = op.recv(me.prev(), x.len()).await?;
    elementwise::add_assign(&mut opened, &x.u);
    elementwise::add_assign(&mut opened, &x.v);
    Ok(opened)
}
