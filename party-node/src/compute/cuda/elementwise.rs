//! The steps of [`crate::compute::elementwise`] on a device, under the same names. As there, the shortest vector decides
//! how many elements there are.

use super::{Gpu, Memory, Span, SpanMut};

/// The fewest elements that several vectors have.
macro_rules! shortest {
    ($($span:expr),+) => { [$($span.len()),+].into_iter().min().expect("at least one vector") };
}

impl Gpu {
    /// `x += y`.
    pub fn add_assign(&self, x: SpanMut<'_>, y: Span<'_>) {
        let n = shortest!(x, y);
        self.each("add_assign", n, &[x.address, y.address, n as u64]);
    }

    /// `x -= y`.
    pub fn sub_assign(&self, x: SpanMut<'_>, y: Span<'_>) {
        let n = shortest!(x, y);
        self.each("sub_assign", n, &[x.address, y.address, n as u64]);
    }

    /// `x + y`.
    pub fn sum(&self, x: Span<'_>, y: Span<'_>) -> Memory {
        self.pairwise("add", x, y)
    }

    /// `x - y`.
    pub fn difference(&self, x: Span<'_>, y: Span<'_>) -> Memory {
        self.pairwise("sub", x, y)
    }

    /// `x *= k`.
    pub fn scale(&self, x: SpanMut<'_>, k: u64) {
        self.each("scale", x.len(), &[x.address, x.address, k, x.len() as u64]);
    }

    /// `k x`.
    pub fn scaled(&self, x: Span<'_>, k: u64) -> Memory {
        let out = self.uninitialised(x.len());
        self.each("scale", x.len(), &[out.span().address, x.address, k, x.len() as u64]);
        out
    }

    /// `x += k y`.
    pub fn add_scaled(&self, x: SpanMut<'_>, y: Span<'_>, k: u64) {
        let n = shortest!(x, y);
        self.each("add_scaled", n, &[x.address, y.address, k, n as u64]);
    }

    /// `x *= k`, each with a factor of its own.
    pub fn scale_each(&self, x: SpanMut<'_>, k: Span<'_>) {
        let n = shortest!(x, k);
        self.each("scale_each", n, &[x.address, k.address, n as u64]);
    }

    /// `x ^= y`.
    pub fn xor_assign(&self, x: SpanMut<'_>, y: Span<'_>) {
        let n = shortest!(x, y);
        self.each("xor_assign", n, &[x.address, y.address, n as u64]);
    }

    /// `x ^= y & z`.
    pub fn xor_and_assign(&self, x: SpanMut<'_>, y: Span<'_>, z: Span<'_>) {
        let n = shortest!(x, y, z);
        self.each("xor_and_assign", n, &[x.address, y.address, z.address, n as u64]);
    }

    /// `x &= y`.
    pub fn and_assign(&self, x: SpanMut<'_>, y: Span<'_>) {
        let n = shortest!(x, y);
        self.each("and_assign", n, &[x.address, y.address, n as u64]);
    }

    /// `k (x + c y)(z + c w)`, element by element.
    pub fn product_of_sums(&self, k: u64, c: u64, left: [Span<'_>; 2], right: [Span<'_>; 2]) -> Memory {
        let ([x, y], [z, w]) = (left, right);
        let n = shortest!(x, y, z, w);
        let out = self.uninitialised(n);
        let arguments = [out.span().address, k, c, x.address, y.address, z.address, w.address, n as u64];
        self.each("product_of_sums", n, &arguments);
        out
    }

    /// An evaluator's addend of an untruncated product, added to its mask:
    /// `out += x.u (y.v + y.u) + x.v y.u`, without the `y.u` in brackets unless `with_both`.
    pub fn mul_addend(&self, out: SpanMut<'_>, x: [Span<'_>; 2], y: [Span<'_>; 2], with_both: bool) {
        let n = shortest!(out, x[0], x[1], y[0], y[1]);
        let spans = [out.address, x[0].address, x[1].address, y[0].address, y[1].address];
        self.each("mul_addend", n, &[&spans[..], &[u64::from(with_both), n as u64]].concat());
    }

    /// `x = -x`.
    pub fn negate(&self, x: SpanMut<'_>) {
        self.scale(x, u64::MAX);
    }

    /// `x += k`.
    pub fn add_constant(&self, x: SpanMut<'_>, k: u64) {
        self.each("add_constant", x.len(), &[x.address, k, x.len() as u64]);
    }

    /// `x = !x`.
    pub fn not(&self, x: SpanMut<'_>) {
        self.each("xor_constant", x.len(), &[x.address, u64::MAX, x.len() as u64]);
    }

    /// Helper of a truncation: turns its mask `R` into the dealt value `-(R >> shift)`; returns the top bits of `R`.
    pub fn trunc_mask(&self, mask: SpanMut<'_>, shift: u32) -> Memory {
        let top = self.uninitialised(mask.len());
        let arguments = [mask.address, top.span().address, shift.into(), mask.len() as u64];
        self.each("trunc_mask", mask.len(), &arguments);
        top
    }

    /// Evaluator of a truncation: its addend of the wrap bit, `(1 - msb(w)) dealt + mask mod 2^shift`.
    pub fn trunc_wrap(&self, w: Span<'_>, dealt: Span<'_>, mask: Span<'_>, shift: u32) -> Memory {
        let n = shortest!(w, dealt, mask);
        let out = self.uninitialised(n);
        let arguments = [out.span().address, w.address, dealt.address, mask.address, shift.into(), n as u64];
        self.each("trunc_wrap", n, &arguments);
        out
    }

    /// Evaluator of a truncation: `(w >> shift) - 2^(62-shift) + (wrap << (64-shift))` in `w`.
    pub fn trunc_finish(&self, w: SpanMut<'_>, mine: Span<'_>, theirs: Span<'_>, shift: u32) {
        let n = shortest!(w, mine, theirs);
        self.each("trunc_finish", n, &[w.address, mine.address, theirs.address, shift.into(), n as u64]);
    }

    /// [`Gpu::add_words`] and [`Gpu::trunc_wrap`] in one pass.
    #[allow(clippy::too_many_arguments, reason = "both steps' operands")]
    pub fn trunc_open(
        &self,
        w: SpanMut<'_>,
        theirs: Span<'_>,
        constant: u64,
        dealt: Span<'_>,
        mask: Span<'_>,
        shift: u32,
    ) -> Memory {
        let n = shortest!(w, theirs, dealt, mask);
        let wrap = self.uninitialised(n);
        let spans = [w.address, wrap.span().address, theirs.address, dealt.address, mask.address];
        self.each("trunc_open", n, &[&spans[..], &[constant, shift.into(), n as u64]].concat());
        wrap
    }

    /// [`Gpu::trunc_finish`], and [`Gpu::sub_shifted`] of the mask by `64 - shift` from the own component, in one pass.
    pub fn trunc_close(
        &self,
        w: SpanMut<'_>,
        own: SpanMut<'_>,
        [mine, theirs]: [Span<'_>; 2],
        mask: Span<'_>,
        shift: u32,
    ) {
        let n = shortest!(w, own, mine, theirs, mask);
        let spans = [w.address, own.address, mine.address, theirs.address, mask.address];
        self.each("trunc_close", n, &[&spans[..], &[shift.into(), n as u64]].concat());
    }

    /// What ends an exchange whose sum is public: `t += mine + theirs`, `mask = -mask`, in one pass.
    pub fn exchange_close(&self, t: SpanMut<'_>, mask: SpanMut<'_>, [mine, theirs]: [Span<'_>; 2]) {
        let n = shortest!(t, mask, mine, theirs);
        let spans = [t.address, mask.address, mine.address, theirs.address];
        self.each("exchange_close", n, &[&spans[..], &[n as u64]].concat());
    }

    /// `x -= mask << by`.
    pub fn sub_shifted(&self, x: SpanMut<'_>, mask: Span<'_>, by: u32) {
        let n = shortest!(x, mask);
        self.each("sub_shifted", n, &[x.address, mask.address, by.into(), n as u64]);
    }

    /// `x += y + constant`, for words that arrived.
    pub fn add_words(&self, x: SpanMut<'_>, y: Span<'_>, constant: u64) {
        let n = shortest!(x, y);
        self.each("add_words", n, &[x.address, y.address, constant, n as u64]);
    }

    /// `x >>= by`, logical.
    pub fn shift_right(&self, x: SpanMut<'_>, by: u32) {
        self.each("shift_right", x.len(), &[x.address, by.into(), x.len() as u64]);
    }

    /// The low bits of `x ^ flip`.
    pub fn masked_bits(&self, x: Span<'_>, flip: u64, bits: u32) -> Memory {
        let out = self.uninitialised(x.len());
        self.each("masked_bits", x.len(), &[out.span().address, x.address, flip, bits.into(), x.len() as u64]);
        out
    }

    /// One word per bit of a plane: 0 or 1.
    pub fn bits_to_words(&self, plane: Span<'_>, len: usize) -> Memory {
        assert!(len <= 64 * plane.len(), "{len} bits of {} words", plane.len());
        let out = self.uninitialised(len);
        self.each("bits_to_words", len, &[out.span().address, plane.address, len as u64]);
        out
    }

    /// `bit * (a + b)`, element by element: what the helper deals for an injection.
    pub fn bit_times_sum(&self, plane: Span<'_>, a: Span<'_>, b: Span<'_>) -> Memory {
        let n = a.len();
        assert!(n <= 64 * plane.len() && n <= b.len(), "a bit and a second addend for each of {n}");
        let out = self.uninitialised(n);
        self.each("bit_times_sum", n, &[out.span().address, plane.address, a.address, b.address, n as u64]);
        out
    }

    /// Evaluator of an injection: `z += m own + (1 - 2m)(t l_b + l_b l_x)` and `t_out += m t`.
    pub fn inject_addend(
        &self,
        z: SpanMut<'_>,
        t_out: SpanMut<'_>,
        m: Span<'_>,
        x: [Span<'_>; 2],
        dealt: [Span<'_>; 2],
    ) {
        let n = shortest!(z, t_out, x[0], x[1], dealt[0], dealt[1]);
        assert!(n <= 64 * m.len(), "a bit for each of {n}");
        let spans = [z.address, t_out.address, m.address, x[0].address, x[1].address];
        let arguments = [&spans[..], &[dealt[0].address, dealt[1].address, n as u64]].concat();
        self.each("inject_addend", n, &arguments);
    }

    /// Evaluator of an injection of public factors: `z += (1 - 2m) k l_b` and `t_out += m k`.
    pub fn inject_public_addend(&self, z: SpanMut<'_>, t_out: SpanMut<'_>, m: Span<'_>, k: u64, lb: Span<'_>) {
        let n = shortest!(lb, z, t_out);
        assert!(n <= 64 * m.len(), "a bit for each of {n}");
        let arguments = [z.address, t_out.address, m.address, k, lb.address, n as u64];
        self.each("inject_public_addend", n, &arguments);
    }

    /// Packs the low `bits` bits of every word without gaps: words of which [`packed_bytes`] bytes count.
    ///
    /// [`packed_bytes`]: crate::compute::elementwise::packed_bytes
    pub fn pack(&self, words: Span<'_>, bits: u32) -> Memory {
        let packed = (words.len() * bits as usize).div_ceil(64);
        let out = self.uninitialised(packed);
        let arguments = [out.span().address, words.address, words.len() as u64, bits.into(), packed as u64];
        self.each("pack", packed, &arguments);
        out
    }

    /// Undoes [`Gpu::pack`].
    pub fn unpack(&self, packed: Span<'_>, len: usize, bits: u32) -> Memory {
        assert!(len * bits as usize <= 64 * packed.len(), "{len} values of {bits} bits in {} words", packed.len());
        let out = self.uninitialised(len);
        self.each("unpack", len, &[out.span().address, packed.address, bits.into(), len as u64]);
        out
    }

    fn pairwise(&self, kernel: &'static str, x: Span<'_>, y: Span<'_>) -> Memory {
        let n = shortest!(x, y);
        let out = self.uninitialised(n);
        self.each(kernel, n, &[out.span().address, x.address, y.address, n as u64]);
        out
    }
}
