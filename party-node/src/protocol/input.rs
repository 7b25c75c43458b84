//! Input: a party shares values that it alone knows.

use super::value::TileShare;
use super::{ProtocolError, Purpose, Role, Tile};

/// The helper of the tile shares its own values.
///
/// | | |
/// |---|---|
/// | Computes | a sharing of the helper's `values` |
/// | Holds | helper: `n` values, others: nothing -> `x` |
/// | Rounds | 1 |
/// | Bytes | `8 n` from the helper to B; A's component is a stream, the third is zero |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | Araki et al., eprint 2016/768, with a pseudo-random component instead of a sent one |
pub async fn input(tile: &Tile<'_>, values: Option<Vec<u64>>, len: usize) -> Result<TileShare, ProtocolError> {
    let op = tile.op();
    match (tile.role(), values) {
        (Role::Helper, Some(values)) => {
            assert_eq!(values.len(), len, "the caller's own values have the length that it names");
            let (u, v) = op.deal(Purpose::Input, tile.device().hold(values));
            Ok(TileShare { u, v })
        }
        (Role::Helper, None) => panic!("the helper brings the values"),
        _ => Ok(TileShare { u: tile.device().zeros(len), v: op.dealt(Purpose::Input, len).await? }),
    }
}
