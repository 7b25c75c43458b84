//! Every operation of a device against the host's, bit for bit.

use proptest::prelude::*;

use super::Gpu;
use crate::compute::conformance::words;
use crate::compute::elementwise as host;
use crate::compute::reference;

/// An emulated device for a test; `None`, with a line that says so, where there is no C++ compiler. On the machines that
/// judge a change there must be one.
pub(super) fn emulated() -> Option<Gpu> {
    let gpu = Gpu::emulated(1 << 30);
    if gpu.is_none() {
        assert!(std::env::var_os("CI").is_none(), "a C++ compiler belongs to the machines that check changes");
        #[allow(clippy::print_stderr, reason = "whoever runs the tests should know")]
        {
            eprintln!("skipped: no g++ to build the emulated GPU's kernels with");
        }
    }
    gpu
}

/// Lengths around the sizes of warps, blocks and grids.
fn len() -> impl Strategy<Value = usize> {
    prop_oneof![Just(0), Just(1), 63_usize..66, 2_usize..700, 2040_usize..2060, Just(40_000)]
}

/// Random words; every fourth of them all ones, zero, or a single bit.
fn edgy(seed: u64, len: usize) -> Vec<u64> {
    let mut all = words(seed, len);
    for (i, word) in all.iter_mut().enumerate().step_by(4) {
        *word = [0, u64::MAX, 1, 1 << 63, 1 << 62][i / 4 % 5];
    }
    all
}

/// A vector that an operation changes: on the device and on the host.
fn changed(
    gpu: &Gpu,
    start: &[u64],
    on_device: impl FnOnce(super::SpanMut<'_>),
    on_host: impl FnOnce(&mut [u64]),
) -> Result<(), TestCaseError> {
    let (mut device, mut want) = (gpu.upload(start), start.to_vec());
    on_device(device.span_mut());
    on_host(&mut want);
    prop_assert_eq!(gpu.download(device.span()).unwrap(), want);
    Ok(())
}

fn same(gpu: &Gpu, got: &super::Memory, want: &[u64]) -> Result<(), TestCaseError> {
    prop_assert_eq!(gpu.download(got.span()).unwrap(), want);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn vectors_move_as_they_are(n in len(), cut in 0.0..1.0, seed: u64) {
        let Some(gpu) = emulated() else { return Ok(()) };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a part of a length")]
        let middle = (n as f64 * cut) as usize;
        let x = words(seed, n);
        let mut device = gpu.upload(&x);
        same(&gpu, &device.clone(), &x)?;
        prop_assert_eq!(gpu.download(device.slice(middle..n)).unwrap(), &x[middle..]);
        same(&gpu, &gpu.concat(&[device.slice(middle..n), device.slice(0..middle)]), &[&x[middle..], &x[..middle]].concat())?;
        same(&gpu, &gpu.zeros(n), &vec![0; n])?;
        same(&gpu, &gpu.filled(seed, n), &vec![seed; n])?;
        let (mut first, second) = device.span_mut().split_at(middle);
        gpu.scale(second, 3);
        gpu.scale(first.again(), 5);
        let want: Vec<u64> = x.iter().enumerate().map(|(i, x)| x.wrapping_mul(if i < middle { 5 } else { 3 })).collect();
        same(&gpu, &device, &want)?;
        let bytes: Vec<u8> = bytemuck::cast_slice(&x)[..8 * n - n.min(3)].to_vec();
        let packed = gpu.upload_bytes(&bytes);
        let mut back = vec![0; bytes.len()];
        gpu.read(packed.span(), &mut back).unwrap();
        prop_assert_eq!(back, bytes);
    }

    #[test]
    fn sums_and_products_equal_the_hosts(n in len(), k: u64, c: u64, seed in 0_u64..1 << 32) {
        let Some(gpu) = emulated() else { return Ok(()) };
        let [x, y, z, w] = [1, 2, 3, 4].map(|i| edgy(seed + i, n));
        let [dx, dy, dz, dw] = [&x, &y, &z, &w].map(|v| gpu.upload(v));
        changed(&gpu, &x, |v| gpu.add_assign(v, dy.span()), |v| host::add_assign(v, &y))?;
        changed(&gpu, &x, |v| gpu.sub_assign(v, dy.span()), |v| host::sub_assign(v, &y))?;
        changed(&gpu, &x, |v| gpu.scale(v, k), |v| host::scale(v, k))?;
        changed(&gpu, &x, |v| gpu.scale_each(v, dy.span()), |v| host::scale_each(v, &y))?;
        changed(&gpu, &x, |v| gpu.xor_assign(v, dy.span()), |v| host::xor_assign(v, &y))?;
        changed(&gpu, &x, |v| gpu.xor_and_assign(v, dy.span(), dz.span()), |v| host::xor_and_assign(v, &y, &z))?;
        changed(&gpu, &x, |v| gpu.and_assign(v, dy.span()), |v| host::and_assign(v, &y))?;
        changed(&gpu, &x, |v| gpu.negate(v), |v| host::negate(v))?;
        changed(&gpu, &x, |v| gpu.not(v), |v| v.iter_mut().for_each(|v| *v = !*v))?;
        changed(&gpu, &x, |v| gpu.add_constant(v, k), |v| v.iter_mut().for_each(|v| *v = v.wrapping_add(k)))?;
        changed(&gpu, &x, |v| gpu.add_words(v, dy.span(), k), |v| host::add_bytes(v, bytemuck::cast_slice(&y), k))?;
        changed(&gpu, &x, |v| gpu.add_scaled(v, dy.span(), k), |v| {
            v.iter_mut().zip(&y).for_each(|(v, y)| *v = v.wrapping_add(k.wrapping_mul(*y)));
        })?;
        let pairs = |with: fn(u64, u64) -> u64| x.iter().zip(&y).map(|(x, y)| with(*x, *y)).collect::<Vec<_>>();
        same(&gpu, &gpu.sum(dx.span(), dy.span()), &pairs(u64::wrapping_add))?;
        same(&gpu, &gpu.difference(dx.span(), dy.span()), &pairs(u64::wrapping_sub))?;
        same(&gpu, &gpu.scaled(dx.span(), k), &x.iter().map(|x| x.wrapping_mul(k)).collect::<Vec<_>>())?;
        let product = gpu.product_of_sums(k, c, [dx.span(), dy.span()], [dz.span(), dw.span()]);
        same(&gpu, &product, &host::product_of_sums(k, c, [&x, &y], [&z, &w]))?;
        for both in [false, true] {
            changed(&gpu, &edgy(seed, n), |v| gpu.mul_addend(v, [dx.span(), dy.span()], [dz.span(), dw.span()], both), |v| {
                for i in 0..n {
                    let with = w[i].wrapping_add(u64::from(both).wrapping_mul(z[i]));
                    v[i] = v[i].wrapping_add(x[i].wrapping_mul(with)).wrapping_add(y[i].wrapping_mul(z[i]));
                }
            })?;
        }
    }

    #[test]
    fn truncations_equal_the_hosts(n in len(), shift in 1_u32..=62, seed in 0_u64..1 << 32) {
        let Some(gpu) = emulated() else { return Ok(()) };
        let [x, y, z] = [1, 2, 3].map(|i| edgy(seed + i, n));
        let [dx, dy, dz] = [&x, &y, &z].map(|v| gpu.upload(v));
        let (mut mask, mut want) = (gpu.upload(&x), x.clone());
        let top = gpu.trunc_mask(mask.span_mut(), shift);
        same(&gpu, &top, &host::trunc_mask(&mut want, shift))?;
        same(&gpu, &mask, &want)?;
        same(&gpu, &gpu.trunc_wrap(dx.span(), dy.span(), dz.span(), shift), &host::trunc_wrap(&x, &y, &z, shift))?;
        changed(&gpu, &x, |v| gpu.trunc_finish(v, dy.span(), dz.span(), shift), |v| host::trunc_finish(v, &y, &z, shift))?;
        changed(&gpu, &x, |v| gpu.sub_shifted(v, dy.span(), 64 - shift), |v| host::sub_shifted(v, &y, 64 - shift))?;
        changed(&gpu, &x, |v| gpu.shift_right(v, shift), |v| host::shift_right(v, shift))?;
        for flip in [0, u64::MAX] {
            let low: Vec<u64> = x.iter().map(|x| (x ^ flip) & ((1 << shift) - 1)).collect();
            same(&gpu, &gpu.masked_bits(dx.span(), flip, shift), &low)?;
        }
    }

    #[test]
    fn injections_equal_the_hosts(n in len(), k: u64, seed in 0_u64..1 << 32) {
        let Some(gpu) = emulated() else { return Ok(()) };
        let m = words(seed, n.div_ceil(64));
        let [t, own, lb, lblx] = [1, 2, 3, 4].map(|i| edgy(seed + i, n));
        let [dt, down, dlb, dlblx] = [&t, &own, &lb, &lblx].map(|v| gpu.upload(v));
        let dm = gpu.upload(&m);
        same(&gpu, &gpu.bits_to_words(dm.span(), n), &host::bits_to_words(&m, n))?;
        same(&gpu, &gpu.bit_times_sum(dm.span(), dt.span(), down.span()), &host::bit_times_sum(&m, &t, &own))?;
        let [z, t_out] = [5, 6].map(|i| words(seed + i, n));
        let [mut dz, mut dt_out] = [&z, &t_out].map(|v| gpu.upload(v));
        let (mut want_z, mut want_t) = (z, t_out);
        let dealt = [dlb.span(), dlblx.span()];
        gpu.inject_addend(dz.span_mut(), dt_out.span_mut(), dm.span(), [dt.span(), down.span()], dealt);
        host::inject_addend(&mut want_z, &mut want_t, &m, [&t, &own], [&lb, &lblx]);
        gpu.inject_public_addend(dz.span_mut(), dt_out.span_mut(), dm.span(), k, dlb.span());
        host::inject_public_addend(&mut want_z, &mut want_t, &m, k, &lb);
        same(&gpu, &dz, &want_z)?;
        same(&gpu, &dt_out, &want_t)?;
    }

    #[test]
    fn packing_equals_the_hosts(n in len(), bits in 1_u32..=64, seed: u64) {
        let Some(gpu) = emulated() else { return Ok(()) };
        let x = words(seed, n);
        let packed = gpu.pack(gpu.upload(&x).span(), bits);
        let want = host::pack(&x, bits);
        let mut got = vec![0; host::packed_bytes(n, bits)];
        gpu.read(packed.span(), &mut got).unwrap();
        prop_assert_eq!(&got, &want);
        let arrived = gpu.upload_bytes(&want);
        same(&gpu, &gpu.unpack(arrived.span(), n, bits), &host::unpack(&want, n, bits))?;
    }

    #[test]
    fn keystreams_equal_the_hosts(n in len(), key: [u32; 8], nonce: [u32; 3], seed: u64) {
        let Some(gpu) = emulated() else { return Ok(()) };
        let (mut stream, start) = (vec![0; n], words(seed, n));
        reference::keystream(&key, nonce, &mut stream);
        same(&gpu, &gpu.keystream(&key, nonce, n), &stream)?;
        changed(&gpu, &start, |v| gpu.keystream_fill(&key, nonce, v), |v| v.copy_from_slice(&stream))?;
        changed(&gpu, &start, |v| gpu.keystream_add(&key, nonce, v), |v| host::add_assign(v, &stream))?;
        changed(&gpu, &start, |v| gpu.keystream_sub(&key, nonce, v), |v| host::sub_assign(v, &stream))?;
        changed(&gpu, &start, |v| gpu.keystream_xor(&key, nonce, v), |v| host::xor_assign(v, &stream))?;
    }

    #[test]
    fn bit_planes_equal_the_hosts(n in len(), low in 0_usize..64, count in 0_usize..=64, minus: u64, seed: u64) {
        let Some(gpu) = emulated() else { return Ok(()) };
        let (x, count) = (words(seed, n), count.min(64 - low));
        let planes = |x: &[u64]| {
            let mut planes = vec![0; count * n.div_ceil(64)];
            reference::bit_planes(x, low, count, &mut planes);
            planes
        };
        let device = gpu.upload(&x);
        same(&gpu, &gpu.bit_planes(device.span(), low, count), &planes(&x))?;
        let moved: Vec<u64> = x.iter().map(|x| x.wrapping_sub(minus)).collect();
        same(&gpu, &gpu.bit_planes_of_difference(device.span(), minus, low, count), &planes(&moved))?;
    }
}
