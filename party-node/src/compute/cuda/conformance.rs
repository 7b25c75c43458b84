//! Every operation of a device against the host's, bit for bit.

use std::sync::OnceLock;

use proptest::prelude::*;

use super::{CudaError, Gpu};
use crate::compute::conformance::words;
use crate::compute::cpu::elementwise as host;
use crate::compute::elementwise::{bit, packed_bytes};
use crate::compute::{Words, circuit, curves, reference};

/// The device of a test: an emulated one, or the first GPU where `MPC_TEST_DEVICE` says `cuda`. `None`, with a line that
/// says so, where there is no C++ compiler; on the machines that judge a change there must be one.
pub(super) fn device() -> Option<Gpu> {
    static GPU: OnceLock<Option<Gpu>> = OnceLock::new();
    let gpu = GPU.get_or_init(|| {
        let on_gpu = std::env::var("MPC_TEST_DEVICE").is_ok_and(|device| device == "cuda");
        on_gpu.then(|| Gpu::open(0).unwrap_or_else(|error| panic!("{error}")))
    });
    gpu.clone().or_else(emulated)
}

fn emulated() -> Option<Gpu> {
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
        let Some(gpu) = device() else { return Ok(()) };
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
        prop_assert_eq!(&back, &bytes);
        // A copy under way holds what was there when it was started.
        let mut changing = gpu.upload(&x);
        let reading = gpu.start_read(changing.span(), bytes.len());
        gpu.scale(changing.span_mut(), 0);
        back.fill(0);
        reading.finish(&mut back).unwrap();
        prop_assert_eq!(back, bytes);
        drop(gpu.start_read(changing.span(), 8 * n));
    }

    #[test]
    fn sums_and_products_equal_the_hosts(n in len(), k: u64, c: u64, seed in 0_u64..1 << 32) {
        let Some(gpu) = device() else { return Ok(()) };
        let [x, y, z, w] = [1, 2, 3, 4].map(|i| edgy(seed + i, n));
        let [dx, dy, dz, dw] = [&x, &y, &z, &w].map(|v| gpu.upload(v));
        changed(&gpu, &x, |v| gpu.add_assign(v, dy.span()), |v| host::add_assign(v, &y))?;
        changed(&gpu, &x, |v| gpu.sub_assign(v, dy.span()), |v| host::sub_assign(v, &y))?;
        changed(&gpu, &x, |v| gpu.scale(v, k), |v| host::scale(v, k))?;
        changed(&gpu, &x, |v| gpu.scale_each(v, dy.span()), |v| host::scale_each(v, &y))?;
        changed(&gpu, &x, |v| gpu.xor_assign(v, dy.span()), |v| host::xor_assign(v, &y))?;
        changed(&gpu, &x, |v| gpu.xor_and_assign(v, dy.span(), dz.span()), |v| host::xor_and_assign(v, &y, &z))?;
        changed(&gpu, &x, |v| gpu.and_assign(v, dy.span()), |v| host::and_assign(v, &y))?;
        changed(&gpu, &x, |v| gpu.negate(v), host::negate)?;
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
        let Some(gpu) = device() else { return Ok(()) };
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

        let (mut opened, mut own) = (gpu.upload(&x), gpu.upload(&z));
        let wrap = gpu.trunc_open(opened.span_mut(), dy.span(), 1 << 62, dz.span(), dx.span(), shift);
        let (mut want, mut want_own) = (x.clone(), z.clone());
        host::add_bytes(&mut want, bytemuck::cast_slice(&y), 1 << 62);
        let want_wrap = host::trunc_wrap(&want, &z, &x, shift);
        same(&gpu, &opened, &want)?;
        same(&gpu, &wrap, &want_wrap)?;
        gpu.trunc_close(opened.span_mut(), own.span_mut(), [wrap.span(), dy.span()], dx.span(), shift);
        host::trunc_finish(&mut want, &want_wrap, &y, shift);
        host::sub_shifted(&mut want_own, &x, 64 - shift);
        same(&gpu, &opened, &want)?;
        same(&gpu, &own, &want_own)?;
        gpu.exchange_close(opened.span_mut(), own.span_mut(), [dx.span(), dy.span()]);
        host::add_assign(&mut want, &x);
        host::add_assign(&mut want, &y);
        host::negate(&mut want_own);
        same(&gpu, &opened, &want)?;
        same(&gpu, &own, &want_own)?;
        for flip in [0, u64::MAX] {
            let low: Vec<u64> = x.iter().map(|x| (x ^ flip) & ((1 << shift) - 1)).collect();
            same(&gpu, &gpu.masked_bits(dx.span(), flip, shift), &low)?;
        }
    }

    #[test]
    fn injections_equal_the_hosts(n in len(), k: u64, seed in 0_u64..1 << 32) {
        let Some(gpu) = device() else { return Ok(()) };
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
        let Some(gpu) = device() else { return Ok(()) };
        let x = words(seed, n);
        let packed = gpu.pack(gpu.upload(&x).span(), bits);
        let want = host::pack(&x, bits);
        let mut got = vec![0; packed_bytes(n, bits)];
        gpu.read(packed.span(), &mut got).unwrap();
        prop_assert_eq!(&got, &want);
        let arrived = gpu.upload_bytes(&want);
        same(&gpu, &gpu.unpack(arrived.span(), n, bits), &host::unpack(&want, n, bits))?;
    }

    #[test]
    fn keystreams_equal_the_hosts(n in len(), key: [u32; 8], nonce: [u32; 3], seed: u64) {
        let Some(gpu) = device() else { return Ok(()) };
        let (mut stream, start) = (vec![0; n], words(seed, n));
        reference::keystream(&key, nonce, &mut stream);
        same(&gpu, &gpu.keystream(&key, nonce, n), &stream)?;
        changed(&gpu, &start, |v| gpu.keystream_fill(&key, nonce, v), |v| v.copy_from_slice(&stream))?;
        changed(&gpu, &start, |v| gpu.keystream_add(&key, nonce, v), |v| host::add_assign(v, &stream))?;
        changed(&gpu, &start, |v| gpu.keystream_sub(&key, nonce, v), |v| host::sub_assign(v, &stream))?;
        changed(&gpu, &start, |v| gpu.keystream_xor(&key, nonce, v), |v| host::xor_assign(v, &stream))?;
        let mut negated = stream.clone();
        host::negate(&mut negated);
        same(&gpu, &gpu.keystream_negated(&key, nonce, n), &negated)?;
        changed(
            &gpu,
            &start,
            |v| same(&gpu, &gpu.keystream_deal(&key, nonce, v), &stream).unwrap(),
            |v| host::sub_assign(v, &stream),
        )?;
        let (other_key, other_nonce, mut other) = (key.map(|word| !word), [nonce[2], 1, 2], vec![0; n]);
        reference::keystream(&other_key, other_nonce, &mut other);
        let both = [(&key, nonce), (&other_key, other_nonce)];
        same(&gpu, &gpu.keystreams_of_bits(both, n), &xor(&stream, &other))?;
        changed(&gpu, &start, |v| gpu.keystreams_add(both, v), |v| {
            host::add_assign(v, &stream);
            host::add_assign(v, &other);
        })?;
    }

    #[test]
    fn bit_planes_equal_the_hosts(n in len(), low in 0_usize..64, count in 0_usize..=64, minus: u64, seed: u64) {
        let Some(gpu) = device() else { return Ok(()) };
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

#[test]
fn a_device_conforms() {
    if let Some(gpu) = device() {
        crate::compute::conformance::conforms(&crate::compute::GpuDevice::new(gpu));
    }
}

#[test]
fn a_gpu_has_its_name() {
    let Some(gpu) = device() else { return };
    let (free, total) = gpu.memory_info().unwrap();
    assert!(gpu.name().contains("GPU") && 0 < free && free <= total, "{}: {free} of {total}", gpu.name());
}

/// More than what may be on its way to the device at a time, and then more of it.
#[test]
fn large_vectors_pass_in_pieces() {
    let Some(gpu) = device() else { return };
    let x = words(1, 5_000_001);
    let pieces: Vec<_> = x.chunks(700_000).map(|piece| gpu.upload(piece)).collect();
    let (first, second) = (gpu.upload(&x), gpu.upload(&x[1..]));
    let reading = gpu.start_read(second.span(), 8 * second.len());
    assert!(gpu.download(first.span()).unwrap() == x);
    let mut back = vec![0; x.len() - 1];
    reading.finish(bytemuck::cast_slice_mut(&mut back)).unwrap();
    assert!(back == x[1..]);
    let spans: Vec<_> = pieces.iter().map(super::Memory::span).collect();
    assert!(gpu.download(gpu.concat(&spans).span()).unwrap() == x);
}

#[test]
fn a_full_device_fails_once_and_for_all() {
    let Some(gpu) = Gpu::emulated(1 << 20) else { return };
    let small = gpu.upload(&[1, 2, 3]);
    let mut large = gpu.zeros(1 << 18);
    let error = gpu.check().unwrap_err();
    assert!(matches!(&error, CudaError::OutOfMemory { wanted_mib: 2, total_mib: 1, .. }), "{error}");
    assert!(error.to_string().contains("smaller batch"), "{error}");
    // Nothing happens any more, least of all to memory that is not there.
    gpu.add_assign(large.span_mut(), small.span());
    assert_eq!(gpu.download(small.span()), Err(error.clone()));
    assert_eq!(gpu.synchronise(), Err(error));
}

#[test]
fn a_machine_without_a_gpu_says_so() {
    // Wherever this runs: no panic, and a number of devices or an error with a remedy.
    match Gpu::count() {
        Ok(count) => {
            let error = Gpu::open(count).expect_err("one more than there are");
            assert_eq!(error, CudaError::NoDevice { ordinal: count, count });
        }
        Err(error) => {
            assert!(matches!(error, CudaError::Library { library: "libcuda.so.1", .. } | CudaError::Failed { .. }));
            assert_eq!(Gpu::open(0).err(), Some(error));
        }
    }
}

/// Places of so many elements, some of them more than once.
fn places(seed: u64, len: usize, below: usize) -> Vec<u64> {
    words(seed, len).into_iter().map(|word| word % below.max(1) as u64).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn rows_and_columns_are_what_they_are(rows in 0_usize..600, columns in 1_usize..70, times in 0_usize..4, seed: u64) {
        let Some(gpu) = device() else { return Ok(()) };
        let (x, row) = (words(seed, rows * columns), words(seed ^ 1, columns));
        let [dx, drow] = [&x, &row].map(|v| gpu.upload(v));
        changed(&gpu, &x, |v| gpu.add_row(v, drow.span()), |v| {
            v.chunks_mut(columns).for_each(|chunk| host::add_assign(chunk, &row));
        })?;
        same(&gpu, &gpu.repeat(drow.span(), times), &row.repeat(times))?;
        let each: Vec<u64> = row.iter().flat_map(|x| std::iter::repeat_n(*x, times)).collect();
        same(&gpu, &gpu.repeat_each(drow.span(), times), &each)?;
        let mut sums = row.clone();
        x.chunks(columns).for_each(|chunk| host::add_assign(&mut sums, chunk));
        changed(&gpu, &row, |v| gpu.add_sums_by_channel(v, dx.span()), |v| v.copy_from_slice(&sums))?;
        host::sub_assign(&mut sums, &row);
        same(&gpu, &gpu.sums_by_channel(dx.span(), columns), &sums)?;
        let by_row: Vec<u64> = x.chunks(columns).map(|row| row.iter().copied().fold(0, u64::wrapping_add)).collect();
        same(&gpu, &gpu.row_sums(dx.span(), columns), &by_row)?;
        let total = x.iter().copied().fold(0, u64::wrapping_add);
        same(&gpu, &gpu.total(dx.span()), &[total])?;
        let range = columns / 3..columns - columns / 4;
        let some: Vec<u64> = x.chunks(columns).flat_map(|row| row[range.clone()].to_vec()).collect();
        let device = gpu.columns(dx.span(), columns, range.clone());
        same(&gpu, &device, &some)?;
        let mut wider = gpu.zeros(rows * (range.len() + 3));
        gpu.copy_columns(wider.span_mut(), range.len() + 3, 2, device.span(), range.len(), 0..range.len());
        let want: Vec<u64> = some.chunks(range.len()).flat_map(|row| [&[0, 0], row, &[0]].concat()).collect();
        same(&gpu, &wider, &want)?;
        let pairs: Vec<[u64; 2]> = places(seed, 6, columns).chunks(2).map(|pair| [pair[0], pair[1]]).collect();
        let at = |row: &[u64], column: u64| row[usize::try_from(column).unwrap()];
        let differences: Vec<u64> = pairs
            .iter()
            .flat_map(|[i, j]| x.chunks(columns).map(|row| at(row, *i).wrapping_sub(at(row, *j))))
            .collect();
        same(&gpu, &gpu.pair_differences(dx.span(), columns, &pairs), &differences)?;
    }

    #[test]
    fn middles_are_summed_and_repeated(
        outer in 0_usize..40, middle in prop_oneof![1_usize..70, Just(40_000)], inner in 1_usize..40, seed: u64,
    ) {
        let Some(gpu) = device() else { return Ok(()) };
        let (outer, inner) = if middle > 70 { (outer % 3, inner % 3 + 1) } else { (outer, inner) };
        let (x, small) = (words(seed, outer * middle * inner), words(seed ^ 1, outer * inner));
        let mut sums = vec![0_u64; outer * inner];
        for (at, word) in x.iter().enumerate() {
            let sum = &mut sums[at / inner / middle * inner + at % inner];
            *sum = sum.wrapping_add(*word);
        }
        same(&gpu, &gpu.sum_middle(gpu.upload(&x).span(), middle, inner), &sums)?;
        let repeated: Vec<u64> = small.chunks(inner).flat_map(|piece| piece.repeat(middle)).collect();
        same(&gpu, &gpu.repeat_middle(gpu.upload(&small).span(), middle, inner), &repeated)?;
    }

    #[test]
    fn places_are_found(n in 1_usize..3000, picked in 0_usize..3000, width in 1_usize..9, seed: u64) {
        let Some(gpu) = device() else { return Ok(()) };
        let (x, list) = (words(seed, n * width), places(seed ^ 1, picked, n));
        let index = |place: &u64| usize::try_from(*place).unwrap();
        let dx = gpu.upload(&x);
        let want: Vec<u64> = list.iter().map(|place| x[index(place)]).collect();
        same(&gpu, &gpu.gather(dx.span(), &list), &want)?;
        let rows: Vec<u64> = list.iter().flat_map(|row| x[index(row) * width..][..width].to_vec()).collect();
        same(&gpu, &gpu.gather_rows(dx.span(), &list, width), &rows)?;
        let within = places(seed ^ 2, width + 2, n);
        let lines: Vec<u64> = x.chunks(n).flat_map(|line| within.iter().map(|at| line[index(at)])).collect();
        same(&gpu, &gpu.gather_lines(dx.span(), n, &within), &lines)?;
        let from = words(seed ^ 3, picked);
        changed(&gpu, &x, |v| gpu.scatter_add(v, gpu.upload(&from).span(), &list), |v| {
            list.iter().zip(&from).for_each(|(at, from)| v[index(at)] = v[index(at)].wrapping_add(*from));
        })?;
        let plane = words(seed ^ 4, n.div_ceil(64));
        let dplane = gpu.upload(&plane);
        let mut bits = vec![0; picked.div_ceil(64)];
        list.iter().enumerate().for_each(|(i, at)| bits[i / 64] |= bit(&plane, index(at)) << (i % 64));
        same(&gpu, &gpu.gather_bits(dplane.span(), &list), &bits)?;
        let (first, last) = (index(&places(seed ^ 5, 1, n)[0]), n);
        let mut range = vec![0; (last - first).div_ceil(64)];
        (first..last).for_each(|at| range[(at - first) / 64] |= bit(&plane, at) << ((at - first) % 64));
        same(&gpu, &gpu.bit_range(dplane.span(), first..last), &range)?;
    }

    #[test]
    fn pieces_go_where_they_belong(
        lines in 0_usize..20, into_count in 1_usize..20, from_count in 1_usize..20, inner in 1_usize..20, seed: u64,
    ) {
        let Some(gpu) = device() else { return Ok(()) };
        let (into, from) = (words(seed, lines * into_count * inner), words(seed ^ 1, lines * from_count * inner));
        let dfrom = gpu.upload(&from);
        let list = |count: usize, once: bool| -> Vec<[u64; 2]> {
            let from = places(seed ^ 2, count, from_count);
            let to = if once { (0..count as u64).rev().collect() } else { places(seed ^ 3, count, into_count) };
            to.into_iter().zip(from).map(|(to, from)| [to, from]).collect()
        };
        let put = |v: &mut [u64], list: &[[u64; 2]], put: fn(&mut u64, u64)| {
            for line in 0..lines {
                for [to, at] in list.iter().map(|pair| pair.map(|at| usize::try_from(at).unwrap())) {
                    for i in 0..inner {
                        put(&mut v[(line * into_count + to) * inner + i], from[(line * from_count + at) * inner + i]);
                    }
                }
            }
        };
        let once = list(into_count / 2, true);
        changed(
            &gpu,
            &into,
            |v| gpu.copy_places(v, into_count, dfrom.span(), from_count, inner, &once),
            |v| put(v, &once, |to, from| *to = from),
        )?;
        let often = list(3 * into_count, false);
        changed(
            &gpu,
            &into,
            |v| gpu.add_places(v, into_count, dfrom.span(), from_count, inner, &often),
            |v| put(v, &often, |to, from| *to = to.wrapping_add(from)),
        )?;
    }

    #[test]
    fn a_slot_of_all_pairs_names_each_columns_opponent(rows in 1_usize..40, columns in 2_usize..12, seed: u64) {
        let Some(gpu) = device() else { return Ok(()) };
        let pairs: Vec<(usize, usize)> = (0..columns).flat_map(|i| (i + 1..columns).map(move |j| (i, j))).collect();
        let wins = words(seed, (pairs.len() * rows).div_ceil(64));
        let device = gpu.upload(&wins);
        for slot in 0..columns - 1 {
            for turns in [false, true] {
                let mut want = vec![0; (rows * columns).div_ceil(64)];
                for (i, row) in (0..columns).flat_map(|i| (0..rows).map(move |row| (i, row))) {
                    let j = (0..columns).filter(|&j| j != i).nth(slot).unwrap();
                    let pair = pairs.iter().position(|pair| *pair == (i.min(j), i.max(j))).unwrap();
                    let bit = bit(&wins, pair * rows + row) ^ u64::from(turns && j < i);
                    want[(i * rows + row) / 64] |= bit << ((i * rows + row) % 64);
                }
                same(&gpu, &gpu.argmax_slot(device.span(), rows, columns, slot, turns), &want)?;
            }
        }
    }
}

/// The same words on the host and on the device.
fn both(gpu: &Gpu, words: &[u64]) -> [Words; 2] {
    [Words::from(words.to_vec()), gpu.upload(words).into()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn leaves_equal_the_hosts(
        sizes in prop::collection::vec(1_usize..=4, 1..12), width in 1_usize..70, helped: bool, seed: u64,
    ) {
        let Some(gpu) = device() else { return Ok(()) };
        let bits: usize = sizes.iter().sum();
        let [host, device] = both(&gpu, &words(seed, bits * width))
            .map(|planes| circuit::monomials(planes.all(), &sizes, width).into_host());
        prop_assert_eq!(&host, &device);
        // Two thresholds whose planes begin at different bits; the lowest leaf has no propagate bit.
        let (mut first, mut monomials, mut wires, mut leaves) = (0, 0, 0, Vec::new());
        for (i, &size) in sizes.iter().enumerate() {
            for source in 0..2 {
                let propagate = (i > 0).then_some(wires + 1);
                leaves.push(circuit::Leaf { source, first: first + source, size, monomials, generate: wires, propagate });
                wires += 1 + usize::from(i > 0);
            }
            first += size;
            monomials += (1 << size) - 1;
        }
        let sources = [1, 2].map(|i| both(&gpu, &words(seed ^ i, (bits + usize::from(i == 2)) * width)));
        let (dealt, start) = (both(&gpu, &words(seed ^ 3, monomials * width)), both(&gpu, &words(seed ^ 4, wires * width)));
        let [host, device] = [0, 1].map(|place| {
            let planes = sources.each_ref().map(|source| source[place].clone());
            let mut wires = start[place].clone();
            circuit::add_leaves(wires.all_mut(), &leaves, &planes, dealt[place].all(), width, helped);
            wires.into_host()
        });
        prop_assert_eq!(host, device);
    }

    #[test]
    fn gates_equal_the_hosts(
        shape in prop::collection::vec(prop::collection::vec(2_usize..=4, 1..4), 1..8),
        wires in 4_usize..12, width in 1_usize..70, helped: bool, seed: u64,
    ) {
        let Some(gpu) = device() else { return Ok(()) };
        let pick = |i: usize, count: usize| (0..count).map(|j| (i * 5 + j) % wires).collect::<Vec<_>>();
        let mut sets = Vec::new();
        let mut product = |factors: Vec<usize>| {
            let half = |set: usize| {
                let some: Vec<_> = (0..factors.len()).filter(|i| set >> i & 1 == 1).map(|i| factors[i]).collect();
                if let [single] = some[..] {
                    return circuit::Half::Own(single);
                }
                sets.push(some);
                circuit::Half::Dealt(sets.len() - 1)
            };
            let masks = (1..1 << factors.len()).map(half).collect();
            circuit::Product { factors, masks }
        };
        let sums: Vec<Vec<_>> = shape.iter().enumerate()
            .map(|(i, sum)| sum.iter().enumerate().map(|(j, count)| product(pick(i + 3 * j, *count))).collect())
            .collect();
        let masks = both(&gpu, &words(seed, wires * width));
        let [host, device] = masks.each_ref().map(|masks| circuit::products(masks.all(), &sets, width).into_host());
        prop_assert_eq!(&host, &device);
        let (known, dealt) = (both(&gpu, &words(seed ^ 1, wires * width)), both(&gpu, &host));
        let start = both(&gpu, &words(seed ^ 2, sums.len() * width));
        let [host, device] = [0, 1].map(|at| {
            let mut gates = start[at].clone();
            let (m, own, dealt) = (known[at].all(), masks[at].all(), dealt[at].all());
            circuit::add_sums(gates.all_mut(), &sums, m, own, dealt, width, helped);
            gates.into_host()
        });
        prop_assert_eq!(host, device);
    }

    #[test]
    fn exponentials_equal_the_hosts(n in len(), low_bits in 0_u32..8, high_bits in 0_u32..8, seed: u64) {
        let Some(gpu) = device() else { return Ok(()) };
        let table = |step: f64, bits: u32| (0..1 << bits).map(|i| (step * f64::from(i)).exp()).collect::<Vec<_>>();
        let powers = curves::Powers { low: table(1e-4, low_bits), high: table(1e-2, high_bits) };
        let [known, bits, dealt] =
            [(0, n), (1, n.div_ceil(64)), (2, 2 * n)].map(|(i, len)| both(&gpu, &words(seed ^ i, len)));
        let [host, device] = [0, 1].map(|at| {
            let (known, bits, dealt) = (known[at].all(), bits[at].all(), dealt[at].all());
            let tabulated = powers.tabulate(known, bits, [3.1e9, 1.7e8]).into_host();
            (tabulated, powers.times_chosen(known, bits, dealt, 3.1e9).into_host())
        });
        prop_assert_eq!(host, device);
    }

    #[test]
    fn series_equal_the_hosts(n in len(), harmonics in 1_usize..9, period_bits in 8_u32..30, turns in 0_u64..4, seed: u64) {
        let Some(gpu) = device() else { return Ok(()) };
        let circle = curves::Circle { turns: 2 * turns + 1, period_bits };
        let coefficients: Vec<f64> =
            (1..=harmonics).map(|k| 1e6 / k as f64 * if k % 2 == 0 { -1.1 } else { 0.7 }).collect();
        let series = [false, true].map(|of_sines| curves::Series { of_sines, coefficients: coefficients.clone() });
        let [known, dealt, start] =
            [(0, n), (1, 2 * harmonics * n), (2, 2 * n)].map(|(i, len)| both(&gpu, &words(seed ^ i, len)));
        let [host, device] = [0, 1].map(|at| {
            let mut sums = start[at].clone();
            circle.add_series(sums.all_mut(), known[at].all(), dealt[at].all(), &series);
            (circle.tabulate(known[at].all(), harmonics, 1_048_576.0).into_host(), sums.into_host())
        });
        prop_assert_eq!(host, device);
    }
}

/// A product by int8 matrices against one in 128-bit integers, cut down to 64.
fn check_split(gpu: &Gpu, [rows, depth, columns]: [usize; 3], a: &[u64], b: &[u64], what: &str) {
    use super::{Operand, Splitting};
    let (da, db) = (gpu.upload(a), gpu.upload(b));
    let plain = |x, rows, cols| Operand { x, y: None, kx: 1, ky: 0, rows, cols, transposed: false };
    let start = words(9, rows * columns);
    let want: Vec<u64> = (0..rows * columns)
        .map(|i| {
            let sum = (0..depth).fold(u128::from(start[i]), |sum, k| {
                let product = u128::from(a[i / columns * depth + k]) * u128::from(b[k * columns + i % columns]);
                sum.wrapping_add(product)
            });
            #[allow(clippy::cast_possible_truncation, reason = "the ring is what is left")]
            let word = sum as u64;
            word
        })
        .collect();
    for splitting in [Splitting::Digits, Splitting::Residues] {
        let mut out = gpu.upload(&start);
        let left = gpu.split_left(plain(da.span(), rows, depth), splitting);
        let right = gpu.split_right(plain(db.span(), depth, columns), splitting);
        gpu.gemm_split(&left, &right, out.span_mut());
        let got = gpu.download(out.span()).unwrap();
        assert!(got == want, "{splitting:?}: {rows} x {depth} x {columns}, {what}");
    }
}

/// Words whose products, digits or residues are as large as they can be, or alternate between extremes.
const PATTERNS: [[u64; 2]; 8] = [
    [u64::MAX; 2],
    [0; 2],
    [1 << 63; 2],
    [(1 << 63) - 1; 2],
    [(1 << 63) - 1, 1 << 63],
    // All digits -128; all digits 127.
    [0x7f7f_7f7f_7f7f_7f80; 2],
    [0x7f7f_7f7f_7f7f_7f7f; 2],
    [0xaaaa_aaaa_aaaa_aaaa, 0x5555_5555_5555_5555],
];

#[test]
fn split_products_are_exact_at_every_depth() {
    let Some(gpu) = device() else { return };
    // Around the paddings, and around the depths where a modulus or a piece is added: 30, 5600, 16368.
    for depth in [0, 1, 15, 16, 17, 30, 31, 32, 33, 1000, 5600, 5601, 16368, 16369, 32_737] {
        let (rows, columns) = if depth > 2000 { (2, 2) } else { (5, 19) };
        check_split(&gpu, [rows, depth, columns], &words(1, rows * depth), &words(2, depth * columns), "random");
        for (i, left) in PATTERNS.iter().enumerate() {
            for right in PATTERNS.iter().skip(i).step_by(if depth > 2000 { 4 } else { 1 }) {
                let fill =
                    |pattern: &[u64; 2], len: usize| pattern.iter().copied().cycle().take(len).collect::<Vec<_>>();
                let (a, b) = (fill(left, rows * depth), fill(right, depth * columns));
                check_split(&gpu, [rows, depth, columns], &a, &b, &format!("{left:x?} and {right:x?}"));
            }
        }
    }
}

/// The depth at which products of residues are cut in two: sums up to the last bit of 32, on every modulus.
#[test]
fn residues_are_exact_at_the_deepest_piece() {
    let Some(gpu) = device() else { return };
    for depth in [131_056, 131_057] {
        check_split(&gpu, [1, depth, 1], &words(1, depth), &words(2, depth), "random");
        // -128 modulo 256 and 2^63 in size.
        check_split(&gpu, [1, depth, 1], &vec![(1 << 63) + 128; depth], &vec![(1 << 63) + 128; depth], "extreme");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn split_products_of_any_form_equal_the_reference(
        [rows, depth, columns] in [0_usize..40, 0_usize..70, 0_usize..40],
        forms in prop::array::uniform2((any::<u64>(), prop::option::of(any::<u64>()), any::<bool>())),
        by_residues: bool, seed: u64,
    ) {
        use crate::compute;
        let Some(gpu) = device() else { return Ok(()) };
        let [ax, ay] = [1, 2].map(|i| edgy(seed ^ i, rows * depth));
        let [bx, by] = [3, 4].map(|i| edgy(seed ^ i, depth * columns));
        let [dax, day, dbx, dby] = [&ax, &ay, &bx, &by].map(|v| gpu.upload(v));
        let operand = |(kx, ky, transposed): (u64, Option<u64>, bool), x, y, [rows, cols]: [usize; 2]| {
            super::Operand { x, y: ky.map(|_| y), kx, ky: ky.unwrap_or(0), rows, cols, transposed }
        };
        let on_host = |o: super::Operand<'_>, x: &[u64], y: &[u64], out: &mut dyn FnMut(compute::HostOperand<'_>)| {
            let super::Operand { kx, ky, rows, cols, transposed, .. } = o;
            out(compute::HostOperand { x, y: o.y.map(|_| y), kx, ky, rows, cols, transposed });
        };
        let a = operand(forms[0], dax.span(), day.span(), [rows, depth]);
        let b = operand(forms[1], dbx.span(), dby.span(), [depth, columns]);
        let start = words(seed ^ 5, rows * columns);
        let splitting = if by_residues { super::Splitting::Residues } else { super::Splitting::Digits };
        let (left, right) = (gpu.split_left(a, splitting), gpu.split_right(b, splitting));
        let mut want = start.clone();
        on_host(a, &ax, &ay, &mut |a| on_host(b, &bx, &by, &mut |b| reference::gemm(a, b, &mut want)));
        // Twice: what is split once may be used again.
        let again = {
            let mut again = want.clone();
            on_host(a, &ax, &ay, &mut |a| on_host(b, &bx, &by, &mut |b| reference::gemm(a, b, &mut again)));
            again
        };
        let mut out = gpu.upload(&start);
        gpu.gemm_split(&left, &right, out.span_mut());
        same(&gpu, &out, &want)?;
        gpu.gemm_split(&left, &right, out.span_mut());
        same(&gpu, &out, &again)?;
    }
}
