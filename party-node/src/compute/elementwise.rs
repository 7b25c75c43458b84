//! Element-wise steps of the protocols on words wherever they lie: each runs where its first operand does.

use super::cpu::elementwise as host;
use super::words::{Payload, Slice, SliceMut, Words};

/// Names steps that change words in place, on the host and on a GPU: operands that are read, then numbers.
macro_rules! in_place {
    ($($(#[$doc:meta])* $name:ident, $gpu_name:ident($($read:ident),*; $($number:ident: $type:ty),*);)*) => {$(
        $(#[$doc])*
        pub fn $name<'a>(x: impl Into<SliceMut<'a>>, $($read: impl Into<Slice<'a>>,)* $($number: $type,)*) {
            match x.into() {
                SliceMut::Host(x) => host::$name(x, $(&$read.into().on_host(),)* $($number,)*),
                #[cfg(feature = "cuda")]
                SliceMut::Gpu(gpu, x) => gpu.$gpu_name(x, $($read.into().on(&gpu).span(),)* $($number,)*),
            }
        }
    )*};
}

in_place! {
    /// `x += y`.
    add_assign, add_assign(y;);
    /// `x -= y`.
    sub_assign, sub_assign(y;);
    /// `x ^= y`.
    xor_assign, xor_assign(y;);
    /// `x *= k`.
    scale, scale(; k: u64);
    /// `x += k`.
    add_constant, add_constant(; k: u64);
    /// `x = -x`.
    negate, negate(;);
    /// `x = !x`.
    complement, not(;);
    /// `x >>= by`, logical.
    shift_right, shift_right(; by: u32);
    /// `x -= mask << by`.
    sub_shifted, sub_shifted(mask; by: u32);
    /// Evaluator of a truncation: `(x >> shift) - 2^(62-shift) + (wrap << (64-shift))`, the wrap bit in two addends.
    trunc_finish, trunc_finish(mine, theirs; shift: u32);
}

/// `x *= k`, each with a factor of its own.
pub fn scale_each<'a>(x: impl Into<SliceMut<'a>>, k: &[u64]) {
    match x.into() {
        SliceMut::Host(x) => host::scale_each(x, k),
        #[cfg(feature = "cuda")]
        SliceMut::Gpu(gpu, x) => gpu.scale_each(x, gpu.upload(k).span()),
    }
}

/// `x += y + constant`, for `y` as it arrived: little-endian words.
pub fn add_bytes<'a>(x: impl Into<SliceMut<'a>>, y: &[u8], constant: u64) {
    match x.into() {
        SliceMut::Host(x) => host::add_bytes(x, y, constant),
        #[cfg(feature = "cuda")]
        SliceMut::Gpu(gpu, x) => gpu.add_words(x, gpu.upload_bytes(y).span(), constant),
    }
}

/// `x ^= y`, for `y` as it arrived.
pub fn xor_bytes<'a>(x: impl Into<SliceMut<'a>>, y: &[u8]) {
    match x.into() {
        SliceMut::Host(x) => host::xor_bytes(x, y),
        #[cfg(feature = "cuda")]
        SliceMut::Gpu(gpu, x) => gpu.xor_assign(x, gpu.upload_bytes(y).span()),
    }
}

/// Names steps that make words, on the host and on a GPU: operands that are read, then numbers.
macro_rules! making {
    ($($(#[$doc:meta])* $name:ident, $gpu_name:ident($first:ident $(, $read:ident)*; $($number:ident: $type:ty),*);)*) => {$(
        $(#[$doc])*
        pub fn $name<'a>(
            $first: impl Into<Slice<'a>>, $($read: impl Into<Slice<'a>>,)* $($number: $type,)*
        ) -> Words {
            match $first.into() {
                Slice::Host($first) => host::$name($first, $(&$read.into().on_host(),)* $($number,)*).into(),
                #[cfg(feature = "cuda")]
                Slice::Gpu(gpu, $first) => gpu.$gpu_name($first, $($read.into().on(gpu).span(),)* $($number,)*).into(),
            }
        }
    )*};
}

making! {
    /// Evaluator of a truncation: its addend of the wrap bit, `(1 - msb(w)) dealt + mask mod 2^shift`.
    trunc_wrap, trunc_wrap(w, dealt, mask; shift: u32);
    /// The low `bits` bits of every word, flipped where `flip` has ones.
    low_bits, masked_bits(words; flip: u64, bits: u32);
    /// One word per bit of a plane: 0 or 1.
    bits_to_words, bits_to_words(plane; len: usize);
    /// `bit * (a + b)`, element by element: what the helper deals for an injection.
    bit_times_sum, bit_times_sum(plane, a, b;);
    /// Sums of the columns of a matrix.
    column_sums, sums_by_channel(x; columns: usize);
    /// Sums of the rows of a matrix.
    row_sums, row_sums(x; columns: usize);
    /// The words so many times, end to end.
    repeated, repeat(x; times: usize);
    /// Every word so many times in a row.
    each_repeated, repeat_each(x; times: usize);
}

/// `x + k`.
pub fn plus_constant(x: Slice<'_>, k: u64) -> Words {
    match x {
        Slice::Host(x) => host::plus_constant(x, k).into(),
        #[cfg(feature = "cuda")]
        Slice::Gpu(gpu, x) => {
            let mut sum = gpu.copied(x);
            gpu.add_constant(sum.span_mut(), k);
            sum.into()
        }
    }
}

/// `k (x + c y)(z + c w)`, element by element.
pub fn product_of_sums(k: u64, c: u64, left: [Slice<'_>; 2], right: [Slice<'_>; 2]) -> Words {
    let ([x, y], [z, w]) = (left, right);
    match x {
        Slice::Host(x) => host::product_of_sums(k, c, [x, &y.on_host()], [&z.on_host(), &w.on_host()]).into(),
        #[cfg(feature = "cuda")]
        Slice::Gpu(gpu, x) => {
            let [y, z, w] = [y, z, w].map(|words| words.on(gpu));
            gpu.product_of_sums(k, c, [x, y.span()], [z.span(), w.span()]).into()
        }
    }
}

/// `z += x w + v y`, element by element, and `x y` unless the other evaluator adds it, for a left factor `[x, v]` and a
/// right one `[y, w]`.
pub fn add_cross_products(z: &mut Words, with_both: bool, left: [Slice<'_>; 2], right: [Slice<'_>; 2]) {
    match z.all_mut() {
        SliceMut::Host(z) => {
            let ([x, v], [y, w]) = (left.map(Slice::on_host), right.map(Slice::on_host));
            host::add_cross_products(z, with_both.into(), [&x, &v], [&y, &w]);
        }
        #[cfg(feature = "cuda")]
        SliceMut::Gpu(gpu, z) => {
            let ([x, v], [y, w]) = (left.map(|words| words.on(&gpu)), right.map(|words| words.on(&gpu)));
            gpu.mul_addend(z, [x.span(), v.span()], [y.span(), w.span()], with_both);
        }
    }
}

/// `x += row`, for every row of `x`.
pub fn add_row<'a>(x: impl Into<SliceMut<'a>>, row: impl Into<Slice<'a>>) {
    match x.into() {
        SliceMut::Host(x) => {
            let row = row.into().on_host();
            x.chunks_mut(row.len()).for_each(|x| host::add_assign(x, &row));
        }
        #[cfg(feature = "cuda")]
        SliceMut::Gpu(gpu, x) => gpu.add_row(x, row.into().on(&gpu).span()),
    }
}

/// Helper of a truncation: turns its mask `R` into the dealt value `-(R >> shift)`; returns the top bits of `R`.
pub fn trunc_mask(mask: &mut Words, shift: u32) -> Words {
    match mask.all_mut() {
        SliceMut::Host(mask) => host::trunc_mask(mask, shift).into(),
        #[cfg(feature = "cuda")]
        SliceMut::Gpu(gpu, mask) => gpu.trunc_mask(mask, shift).into(),
    }
}

/// Evaluator of an injection: `z += m own + (1 - 2m)(t l_b + l_b l_x)` and `t_out += m t`, for `x = [t, own]` and
/// `dealt = [l_b, l_b l_x]`.
pub fn inject_addend(z: SliceMut<'_>, t_out: SliceMut<'_>, m: Slice<'_>, x: [Slice<'_>; 2], dealt: [Slice<'_>; 2]) {
    match (z, t_out) {
        (SliceMut::Host(z), SliceMut::Host(t_out)) => {
            let ([t, own], [lb, lblx]) = (x.map(Slice::on_host), dealt.map(Slice::on_host));
            host::inject_addend(z, t_out, &m.on_host(), [&t, &own], [&lb, &lblx]);
        }
        #[cfg(feature = "cuda")]
        (SliceMut::Gpu(gpu, z), SliceMut::Gpu(_, t_out)) => {
            let ([t, own], [lb, lblx]) = (x.map(|words| words.on(&gpu)), dealt.map(|words| words.on(&gpu)));
            let (x, dealt) = ([t.span(), own.span()], [lb.span(), lblx.span()]);
            gpu.inject_addend(z, t_out, m.on(&gpu).span(), x, dealt);
        }
        #[cfg(feature = "cuda")]
        _ => unreachable!("an injection makes both of its sums on one device"),
    }
}

/// Evaluator of an injection of public factors: `z += (1 - 2m) k l_b` and `t_out += m k`.
pub fn inject_public_addend(z: SliceMut<'_>, t_out: SliceMut<'_>, m: Slice<'_>, k: u64, lb: Slice<'_>) {
    match (z, t_out) {
        (SliceMut::Host(z), SliceMut::Host(t_out)) => {
            host::inject_public_addend(z, t_out, &m.on_host(), k, &lb.on_host());
        }
        #[cfg(feature = "cuda")]
        (SliceMut::Gpu(gpu, z), SliceMut::Gpu(_, t_out)) => {
            gpu.inject_public_addend(z, t_out, m.on(&gpu).span(), k, lb.on(&gpu).span());
        }
        #[cfg(feature = "cuda")]
        _ => unreachable!("an injection makes both of its sums on one device"),
    }
}

/// Bytes of `len` packed values of `bits` bits.
pub fn packed_bytes(len: usize, bits: u32) -> usize {
    (len * bits as usize).div_ceil(8)
}

/// Packs the low `bits` bits of every word, little-endian, without gaps, to be sent.
pub fn pack<'a>(words: impl Into<Slice<'a>>, bits: u32) -> Payload<'static> {
    match words.into() {
        Slice::Host(words) => Payload::Now(host::pack(words, bits).into()),
        #[cfg(feature = "cuda")]
        Slice::Gpu(gpu, words) => {
            Payload::Later(gpu.start_read(gpu.pack(words, bits).span(), packed_bytes(words.len(), bits)))
        }
    }
}

/// Bit `i` of a plane, as 0 or 1.
pub fn bit(plane: &[u64], i: usize) -> u64 {
    plane[i / 64] >> (i % 64) & 1
}
