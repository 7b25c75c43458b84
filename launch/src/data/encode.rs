//! From a data set to what each party receives: fixed point, then shares. The data owner's side.

use sha2::{Digest, Sha256};
use shared::fixed::FixedPoint;
use shared::share::split;
use shared::wire::{CONTROL_MESSAGE_MAX, DataShare, ToParty};

use super::{DataError, Dataset};

/// A data set in shares, one message per party.
pub(crate) struct Encoded {
    /// SHA-256 over the encoded words and their shape.
    pub(crate) digest: [u8; 32],
    /// [`ToParty::Data`] for P0, P1 and P2.
    pub(crate) messages: [ToParty; 3],
}

/// Encodes and splits under fresh randomness.
pub(crate) fn encode(data: &Dataset, fixed: FixedPoint) -> Result<Encoded, DataError> {
    let parts = [&data.train.x, &data.train.y, &data.test.x, &data.test.y];
    // A word takes at most ten bytes in a control message.
    let bytes = 10 * parts.iter().map(|part| part.len()).sum::<usize>();
    if bytes > CONTROL_MESSAGE_MAX {
        return Err(DataError::TooMuch { bytes, max: CONTROL_MESSAGE_MAX });
    }
    let words = parts.map(|part| part.iter().map(|&value| fixed.constant(value)).collect::<Vec<u64>>());
    let digest = digest(&words, fixed);
    let [train_x, train_y, test_x, test_y] = words.map(|words| split(&words).map(Some));
    let mut sealed = [train_x, train_y, test_x, test_y];
    let messages = std::array::from_fn(|party| {
        let [train_x, train_y, test_x, test_y] =
            sealed.each_mut().map(|parts| parts[party].take().expect("each party's part is taken once"));
        ToParty::Data(Box::new(DataShare { train_x, train_y, test_x, test_y }))
    });
    Ok(Encoded { digest, messages })
}

fn digest(words: &[Vec<u64>; 4], fixed: FixedPoint) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(fixed.bits().to_le_bytes());
    for part in words {
        hash.update((part.len() as u64).to_le_bytes());
        part.iter().for_each(|word| hash.update(word.to_le_bytes()));
    }
    hash.finalize().into()
}
