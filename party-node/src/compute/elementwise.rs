//! Element-wise kernels of the protocols: plain loops over words, fused where a pass over memory would cost more.

use super::cpu::dispatch::multiversion;

multiversion! {
    /// `x += y`.
    pub fn add_assign(x: &mut [u64], y: &[u64]) {
        for (x, y) in x.iter_mut().zip(y) {
            *x = x.wrapping_add(*y);
        }
    }
}

multiversion! {
    /// `x -= y`.
    pub fn sub_assign(x: &mut [u64], y: &[u64]) {
        for (x, y) in x.iter_mut().zip(y) {
            *x = x.wrapping_sub(*y);
        }
    }
}

multiversion! {
    /// `x *= k`.
    pub fn scale(x: &mut [u64], k: u64) {
        for x in x {
            *x = x.wrapping_mul(k);
        }
    }
}

multiversion! {
    /// `x *= k`, each with a factor of its own.
    pub fn scale_each(x: &mut [u64], k: &[u64]) {
        for (x, k) in x.iter_mut().zip(k) {
            *x = x.wrapping_mul(*k);
        }
    }
}

multiversion! {
    /// `x ^= y`.
    pub fn xor_assign(x: &mut [u64], y: &[u64]) {
        for (x, y) in x.iter_mut().zip(y) {
            *x ^= y;
        }
    }
}

multiversion! {
    /// `x ^= y & z`.
    pub fn xor_and_assign(x: &mut [u64], y: &[u64], z: &[u64]) {
        for ((x, y), z) in x.iter_mut().zip(y).zip(z) {
            *x ^= y & z;
        }
    }
}

multiversion! {
    /// `x &= y`.
    pub fn and_assign(x: &mut [u64], y: &[u64]) {
        for (x, y) in x.iter_mut().zip(y) {
            *x &= y;
        }
    }
}

multiversion! {
    /// `k (x + c y)(z + c w)`, element by element.
    pub fn product_of_sums(k: u64, c: u64, left: [&[u64]; 2], right: [&[u64]; 2]) -> Vec<u64> {
        let ([x, y], [z, w]) = (left, right);
        let left = x.iter().zip(y).map(|(x, y)| x.wrapping_add(c.wrapping_mul(*y)));
        let right = z.iter().zip(w).map(|(z, w)| z.wrapping_add(c.wrapping_mul(*w)));
        left.zip(right).map(|(l, r)| k.wrapping_mul(l).wrapping_mul(r)).collect()
    }
}

multiversion! {
    /// `x = -x`.
    pub fn negate(x: &mut [u64]) {
        for x in x {
            *x = x.wrapping_neg();
        }
    }
}

multiversion! {
    /// Helper of a truncation: turns its mask `R` into the dealt value `-(R >> shift)`; returns the top bits of `R`.
    pub fn trunc_mask(mask: &mut [u64], shift: u32) -> Vec<u64> {
        let split = |mask: &mut u64| {
            let top = *mask >> 63;
            *mask = (*mask >> shift).wrapping_neg();
            top
        };
        mask.iter_mut().map(split).collect()
    }
}

multiversion! {
    /// Evaluator of a truncation: its addend of the wrap bit, `(1 - msb(w)) dealt + mask mod 2^shift`.
    pub fn trunc_wrap(w: &[u64], dealt: &[u64], mask: &[u64], shift: u32) -> Vec<u64> {
        let low = (1 << shift) - 1;
        let words = w.iter().zip(dealt).zip(mask);
        words.map(|((w, d), m)| ((1 ^ w >> 63).wrapping_mul(*d)).wrapping_add(*m) & low).collect()
    }
}

multiversion! {
    /// Evaluator of a truncation: `(w >> shift) - 2^(62-shift) + (wrap << (64-shift))` in `w`.
    pub fn trunc_finish(w: &mut [u64], mine: &[u64], theirs: &[u64], shift: u32) {
        let offset = 1_u64 << (62 - shift);
        for (w, (mine, theirs)) in w.iter_mut().zip(mine.iter().zip(theirs)) {
            let wrap = mine.wrapping_add(*theirs) << (64 - shift);
            *w = (*w >> shift).wrapping_sub(offset).wrapping_add(wrap);
        }
    }
}

multiversion! {
    /// `x -= mask << by`.
    pub fn sub_shifted(x: &mut [u64], mask: &[u64], by: u32) {
        for (x, m) in x.iter_mut().zip(mask) {
            *x = x.wrapping_sub(m << by);
        }
    }
}

multiversion! {
    /// `x += y + constant`, for `y` as it arrived: little-endian words.
    pub fn add_bytes(x: &mut [u64], y: &[u8], constant: u64) {
        for (x, y) in x.iter_mut().zip(y.as_chunks().0) {
            *x = x.wrapping_add(u64::from_le_bytes(*y)).wrapping_add(constant);
        }
    }
}

multiversion! {
    /// `x ^= y`, for `y` as it arrived.
    pub fn xor_bytes(x: &mut [u64], y: &[u8]) {
        for (x, y) in x.iter_mut().zip(y.as_chunks().0) {
            *x ^= u64::from_le_bytes(*y);
        }
    }
}

multiversion! {
    /// `x >>= by`, logical.
    pub fn shift_right(x: &mut [u64], by: u32) {
        for x in x {
            *x >>= by;
        }
    }
}

/// Bit `i` of a plane, as 0 or 1.
pub fn bit(plane: &[u64], i: usize) -> u64 {
    plane[i / 64] >> (i % 64) & 1
}

multiversion! {
    /// One word per bit of a plane: 0 or 1.
    pub fn bits_to_words(plane: &[u64], len: usize) -> Vec<u64> {
        let mut words = vec![0; len];
        for (chunk, bits) in words.chunks_mut(64).zip(plane) {
            for (i, word) in chunk.iter_mut().enumerate() {
                *word = bits >> i & 1;
            }
        }
        words
    }
}

multiversion! {
    /// `bit * (a + b)`, element by element: what the helper deals for an injection.
    pub fn bit_times_sum(plane: &[u64], a: &[u64], b: &[u64]) -> Vec<u64> {
        let mut words = vec![0; a.len()];
        let chunks = words.chunks_mut(64).zip(a.chunks(64)).zip(b.chunks(64)).zip(plane);
        for (((words, a), b), bits) in chunks {
            for (i, (word, (a, b))) in words.iter_mut().zip(a.iter().zip(b)).enumerate() {
                *word = (bits >> i & 1).wrapping_neg() & a.wrapping_add(*b);
            }
        }
        words
    }
}

multiversion! {
    /// Evaluator of an injection: `z += m own + (1 - 2m)(t l_b + l_b l_x)` and `t_out += m t`.
    pub fn inject_addend(z: &mut [u64], t_out: &mut [u64], m: &[u64], x: [&[u64]; 2], dealt: [&[u64]; 2]) {
        let ([t, own], [lb, lblx]) = (x, dealt);
        let (out, inputs) = (z.chunks_mut(64).zip(t_out.chunks_mut(64)), t.chunks(64).zip(own.chunks(64)));
        let dealt = lb.chunks(64).zip(lblx.chunks(64));
        for ((((z, t_out), (t, own)), (lb, lblx)), bits) in out.zip(inputs).zip(dealt).zip(m) {
            for i in 0..z.len() {
                let m = (bits >> i & 1).wrapping_neg();
                let selected = t[i].wrapping_mul(lb[i]).wrapping_add(lblx[i]);
                let signed = (selected ^ m).wrapping_sub(m);
                z[i] = z[i].wrapping_add(m & own[i]).wrapping_add(signed);
                t_out[i] = t_out[i].wrapping_add(m & t[i]);
            }
        }
    }
}

multiversion! {
    /// Evaluator of an injection of public factors: `z += (1 - 2m) k l_b` and `t_out += m k`.
    pub fn inject_public_addend(z: &mut [u64], t_out: &mut [u64], m: &[u64], k: u64, lb: &[u64]) {
        for (i, lb) in lb.iter().enumerate() {
            let m = bit(m, i).wrapping_neg();
            let signed = (k.wrapping_mul(*lb) ^ m).wrapping_sub(m);
            z[i] = z[i].wrapping_add(signed);
            t_out[i] = t_out[i].wrapping_add(m & k);
        }
    }
}

/// Bytes of `len` packed values of `bits` bits.
pub fn packed_bytes(len: usize, bits: u32) -> usize {
    (len * bits as usize).div_ceil(8)
}

/// Two values of so many bits or fewer lie within eight bytes, at whatever bit they begin.
const PAIRED_BITS_MAX: u32 = 28;
/// And so does one.
const SINGLE_BITS_MAX: u32 = 57;

fn low_bits(bits: u32) -> u64 {
    u64::MAX >> (64 - bits)
}

multiversion! {
    /// Packs the low `bits` bits of every word, little-endian, without gaps.
    pub fn pack(words: &[u64], bits: u32) -> Vec<u8> {
        // Eight values fill whole bytes, so that no eight of them wait for those before.
        let (eights, rest) = if bits <= PAIRED_BITS_MAX { words.as_chunks::<8>() } else { (&[][..], words) };
        let (low, each) = (low_bits(bits), bits as usize);
        // Of each pair: its first byte, the bit in it, and by how many bits that byte is ahead of the last pair's.
        let first_byte = |pair: u32| 2 * pair * bits / 8;
        let places = [0, 1, 2, 3].map(|pair: u32| {
            let ahead = first_byte(pair) - first_byte(pair.saturating_sub(1));
            (first_byte(pair) as usize, 2 * pair * bits % 8, 8 * ahead)
        });
        let mut bytes = vec![0; packed_bytes(words.len(), bits) + 8];
        for (index, eight) in eights.iter().enumerate() {
            // What is stored beyond a pair is zero and makes room for the next one.
            let (to, mut stored) = (&mut bytes[index * each..][..each + 8], 0);
            for ([one, two], (at, shift, ahead)) in eight.as_chunks().0.iter().zip(places) {
                stored = stored >> ahead | (one & low | (two & low) << bits) << shift;
                *to[at..].first_chunk_mut().expect("eight bytes follow") = stored.to_le_bytes();
            }
        }
        bytes.truncate(eights.len() * each);
        pack_one_by_one(rest, bits, &mut bytes);
        bytes
    }
}

multiversion! {
    /// Undoes [`pack`]; `bytes` must be [`packed_bytes`] long.
    pub fn unpack(bytes: &[u8], len: usize, bits: u32) -> Vec<u64> {
        let (low, each) = (low_bits(bits), bits as usize);
        let places = [0, 1, 2, 3, 4, 5, 6, 7].map(|i: u32| ((i * bits / 8) as usize, i * bits % 8));
        // The last ones would be loaded from beyond the end.
        let loadable = if bits <= SINGLE_BITS_MAX { bytes.len().saturating_sub(8) / each } else { 0 };
        let eights = (len / 8).min(loadable);
        let mut words = vec![0; len];
        let (whole, rest) = words.split_at_mut(8 * eights);
        for (index, eight) in whole.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let from = &bytes[index * each..][..each + 8];
            for (word, (at, shift)) in eight.iter_mut().zip(places) {
                *word = u64::from_le_bytes(*from[at..].first_chunk().expect("eight bytes follow")) >> shift & low;
            }
        }
        unpack_one_by_one(&bytes[eights * each..], bits, rest);
        words
    }
}

/// Appends packed words, from a whole byte on.
#[inline]
fn pack_one_by_one(words: &[u64], bits: u32, bytes: &mut Vec<u8>) {
    let (mut pending, mut held) = (0_u128, 0);
    for word in words {
        pending |= u128::from(word & low_bits(bits)) << held;
        held += bits;
        if held >= 64 {
            #[allow(clippy::cast_possible_truncation, reason = "the low half leaves now")]
            bytes.extend_from_slice(&(pending as u64).to_le_bytes());
            pending >>= 64;
            held -= 64;
        }
    }
    bytes.extend_from_slice(&pending.to_le_bytes()[..(held as usize).div_ceil(8)]);
}

/// Fills words with what is packed from the first byte on.
#[inline]
fn unpack_one_by_one(bytes: &[u8], bits: u32, words: &mut [u64]) {
    let (mut pending, mut held) = (0_u128, 0);
    let mut chunks = bytes.chunks(8);
    for to in words {
        if held < bits {
            let chunk = chunks.next().expect("the length was checked on arrival");
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            pending |= u128::from(u64::from_le_bytes(word)) << held;
            held += 64;
        }
        #[allow(clippy::cast_possible_truncation, reason = "masked to the low bits")]
        {
            *to = pending as u64 & low_bits(bits);
        }
        pending >>= bits;
        held -= bits;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn unpacking_undoes_packing(words: Vec<u64>, bits in 1_u32..=64) {
            let bytes = pack(&words, bits);
            prop_assert_eq!(bytes.len(), packed_bytes(words.len(), bits));
            let want: Vec<u64> = words.iter().map(|w| w & low_bits(bits)).collect();
            prop_assert_eq!(unpack(&bytes, words.len(), bits), want);
        }
    }

    #[test]
    fn packed_bits_follow_one_another() {
        let words: Vec<u64> = (1..=203_u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
        for bits in 1..=64 {
            for len in [0, 1, 7, 8, 9, 16, 203] {
                let bytes = pack(&words[..len], bits);
                let bit = |at: usize| u64::from(bytes[at / 8] >> (at % 8) & 1);
                let all = (0..len).flat_map(|word| (0..bits).map(move |i| (word, i)));
                assert!(all.enumerate().all(|(at, (word, i))| bit(at) == words[word] >> i & 1), "{len} of {bits} bits");
                assert!((len * bits as usize..8 * bytes.len()).all(|at| bit(at) == 0), "{len} of {bits} bits");
                let want: Vec<u64> = words[..len].iter().map(|word| word & low_bits(bits)).collect();
                assert_eq!(unpack(&bytes, len, bits), want, "{len} of {bits} bits");
            }
        }
    }
}
