//! Opening: the one step that turns shares into a public value.

use shared::share::Addend;

use super::value::TileShare;
use super::{ProtocolError, Purpose, Role, Tile};
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
    Ok(opened.into_host())
}

/// This party's addend of a value for an owner outside the parties, who joins the three. Callers check the reveal policy.
///
/// | | |
/// |---|---|
/// | Computes | `x = z_0 + z_1 + z_2`, fresh and uniform but for their sum |
/// | Holds | `x` of `n` elements -> `z_i` |
/// | Rounds | 0 |
/// | Bytes | 0 between parties; `8 n` from each party to the owner |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing to any party; `x`, and nothing else, to whoever gets all three addends |
/// | Source | Araki et al., eprint 2016/768: each party adds what it shares with one neighbour and takes off what it shares with the other |
pub fn open_to_owner(tile: &Tile<'_>, x: &TileShare) -> Addend {
    let (op, me) = (tile.op(), tile.party().me());
    let first = if tile.role() == Role::B { &x.v } else { &x.u };
    let mut addend = op.stream(me.next(), Purpose::Zero, x.len());
    elementwise::sub_assign(&mut addend, &op.stream(me.prev(), Purpose::Zero, x.len()));
    elementwise::add_assign(&mut addend, first);
    Addend::new(addend.into_host())
}
