//! Three parties in one process over the in-memory transport: for tests and examples.
//!
//! A world shares inputs, runs the same program at all parties, joins the results, and knows what they cost and sent.

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use shared::ids::PartyId;
use shared::job::ProtocolSpec;
use shared::share::{Share, join};

use crate::compute::{Compute, ConvShape, CpuDevice, Key, Operand, Slice, SliceMut, Sum, Words, elementwise};
#[cfg(feature = "cuda")]
use crate::compute::{GpuDevice, cuda::Gpu};
use crate::meter::{LaneCounters, Meter};
use crate::protocol::{
    FRAME_HEADER_BYTES, MESSAGE_HEADER_BYTES, PairKeys, Party, ProtocolError, Recorder, Tile, TileShare,
};
use crate::transport::{MemoryTransport, Transport, TransportError, memory_triangle};

/// Three parties that are about to run something.
pub struct World {
    seed: u64,
    keys: u32,
    spec: ProtocolSpec,
    timeout: Duration,
    wrap: Arc<dyn Fn(MemoryTransport) -> Box<dyn Transport> + Send + Sync>,
    device: Arc<dyn Fn(PartyId) -> Arc<dyn Compute> + Send + Sync>,
    recorder: Option<Arc<Recorder>>,
}

/// What a run cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cost {
    /// Longest chain of dependent receives.
    pub rounds: u32,
    /// Payload bytes that the three parties sent together, without message headers.
    pub sent_bytes: usize,
}

/// Results of a run.
pub struct Run<T> {
    /// What the program returned, by party.
    pub outputs: [T; 3],
    /// Rounds and bytes.
    pub cost: Cost,
    /// Every message payload that each party sent, in order, with its receiver.
    pub sent: [Vec<Addressed>; 3],
    /// Stream positions used.
    pub recorder: Arc<Recorder>,
}

impl World {
    /// A world whose sharings and masks derive from `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            keys: 1,
            spec: ProtocolSpec::default(),
            timeout: Duration::from_secs(20),
            wrap: Arc::new(|transport| Box::new(transport)),
            device: Arc::new(|_| test_device()),
            recorder: None,
        }
    }

    /// Other mask keys, same sharings.
    #[must_use]
    pub fn with_keys(self, keys: u32) -> Self {
        Self { keys, ..self }
    }

    /// Other number formats or variants.
    #[must_use]
    pub fn with_spec(self, spec: ProtocolSpec) -> Self {
        Self { spec, ..self }
    }

    /// Another transport on top of memory, and how long a party waits.
    #[must_use]
    pub fn with_transport(
        self,
        timeout: Duration,
        wrap: impl Fn(MemoryTransport) -> Box<dyn Transport> + Send + Sync + 'static,
    ) -> Self {
        Self { timeout, wrap: Arc::new(wrap), ..self }
    }

    /// Another device for each party.
    #[must_use]
    pub fn with_device(self, device: impl Fn(PartyId) -> Arc<dyn Compute> + Send + Sync + 'static) -> Self {
        Self { device: Arc::new(device), ..self }
    }

    /// Runs are recorded together: a stream position that comes twice in any of them panics.
    #[must_use]
    pub fn with_recorder(self, recorder: Arc<Recorder>) -> Self {
        Self { recorder: Some(recorder), ..self }
    }

    /// Shares a vector of ring elements; the same seed and call order give the same sharing.
    pub fn share(&self, stream: u64, secret: &[u64]) -> [Share; 3] {
        let mut rng = ChaCha12Rng::seed_from_u64(self.seed.wrapping_mul(1_000_003).wrapping_add(stream));
        let mut random = || -> Vec<u64> { secret.iter().map(|_| rng.next_u64()).collect() };
        let (x0, x1) = (random(), random());
        let x2: Vec<u64> =
            secret.iter().zip(&x0).zip(&x1).map(|((x, a), b)| x.wrapping_sub(*a).wrapping_sub(*b)).collect();
        let component = [x0, x1, x2];
        PartyId::ALL.map(|p| Share { first: component[p.index()].clone(), second: component[p.next().index()].clone() })
    }

    /// Runs `program` at all three parties, each on its own thread.
    pub fn run<T: Send>(
        &self,
        program: impl Fn(&Party) -> Result<T, ProtocolError> + Sync,
    ) -> [(Result<T, ProtocolError>, Trace); 3] {
        let mut ends: VecDeque<_> = memory_triangle().into();
        let mut keys: VecDeque<_> = PairKeys::for_test(self.keys).into();
        let recorder = self.recorder.clone().unwrap_or_default();
        std::thread::scope(|scope| {
            PartyId::ALL
                .map(|_| {
                    let (end, keys) = (ends.pop_front().expect("three ends"), keys.pop_front().expect("three keys"));
                    let (program, recorder) = (&program, recorder.clone());
                    scope.spawn(move || self.run_party(end, keys, recorder, program))
                })
                .map(|thread| thread.join().expect("no party panics"))
        })
    }

    fn run_party<T>(
        &self,
        end: MemoryTransport,
        keys: PairKeys,
        recorder: Arc<Recorder>,
        program: impl Fn(&Party) -> Result<T, ProtocolError>,
    ) -> (Result<T, ProtocolError>, Trace) {
        let (party, sent) = (end.me(), Arc::new(Mutex::new(Vec::new())));
        let transport = Box::new(Tap { inner: (self.wrap)(end), sent: sent.clone() });
        let meter = Meter::new(Arc::new(LaneCounters::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let device = (self.device)(party);
        let mut party = Party::new(transport, keys, device, meter, self.spec, self.timeout, stop);
        party.record(recorder.clone());
        let result = program(&party).and_then(|output| party.close().map(|()| output));
        let rounds = party.rounds();
        drop(party);
        let frames = std::mem::take(&mut *sent.lock().expect("no holder panics"));
        (result, Trace { rounds, frames, recorder })
    }

    /// Runs a tile program on shared vectors, with the helper that `helper` names, and joins its result.
    ///
    /// # Panics
    /// If a party fails or the replicated copies differ.
    pub fn tile<const N: usize>(
        &self,
        helper: usize,
        secrets: [&[u64]; N],
        program: impl AsyncFn(&Tile<'_>, [TileShare; N]) -> Result<TileShare, ProtocolError> + Sync,
    ) -> (Vec<u64>, Run<Share>) {
        let shares: Vec<[Share; 3]> =
            secrets.iter().zip(0..).map(|(secret, stream)| self.share(stream, secret)).collect();
        let helper = PartyId::new(helper).expect("0, 1 or 2");
        let (program, shares) = (&program, &shares);
        let runs = self.run(|party| {
            let mut outputs = party.run(&[helper], |tile, _| async move {
                let inputs = std::array::from_fn(|i| {
                    let share = &shares[i][party.me().index()];
                    tile.enter(share, 0..share.len())
                });
                let output = program(&tile, inputs).await?;
                Ok(tile.leave(output).into_share())
            })?;
            Ok(outputs.pop().expect("one tile"))
        });
        let run = Run::collect(runs.map(|(result, trace)| (result.expect("no party fails"), trace)));
        (join(&run.outputs).expect("the replicated copies agree"), run)
    }
}

impl<T> Run<T> {
    /// Collects what three parties returned and sent.
    pub fn collect(runs: [(T, Trace); 3]) -> Self {
        let rounds = runs.iter().map(|(_, trace)| trace.rounds).max().unwrap_or(0);
        let recorder = runs[0].1.recorder.clone();
        let mut sent = [const { Vec::new() }; 3];
        let mut all = sent.iter_mut();
        let outputs = runs.map(|(output, trace)| {
            *all.next().expect("three parties") = trace.messages();
            output
        });
        let sent_bytes = sent.iter().flatten().map(|(_, payload)| payload.len()).sum();
        Self { outputs, cost: Cost { rounds, sent_bytes }, sent, recorder }
    }
}

/// What worlds compute with: the processor, or a GPU or its stand-in where the environment asks for it, so that every test
/// of a protocol is one of the GPU's kernels, too.
fn test_device() -> Arc<dyn Compute> {
    match std::env::var("MPC_TEST_DEVICE").as_deref() {
        Err(_) | Ok("cpu") => Arc::new(CpuDevice::new(1)),
        #[cfg(feature = "cuda")]
        Ok("emulated") => Arc::new(GpuDevice::new(emulated_gpu().expect("a C++ compiler for the emulated GPU"))),
        #[cfg(feature = "cuda")]
        Ok("cuda") => Arc::new(GpuDevice::new(Gpu::open(0).expect("a GPU that can be used"))),
        Ok(other) => panic!("MPC_TEST_DEVICE={other}: cpu, emulated or cuda"),
    }
}

/// A stand-in for a GPU that plays its kernels on the processor; none without a C++ compiler.
#[cfg(feature = "cuda")]
pub fn emulated_gpu() -> Option<Gpu> {
    Gpu::emulated(1 << 30)
}

/// What one party did.
pub struct Trace {
    rounds: u32,
    frames: Vec<Addressed>,
    recorder: Arc<Recorder>,
}

impl Trace {
    /// Longest chain of dependent receives.
    pub fn rounds(&self) -> u32 {
        self.rounds
    }

    /// The payloads of all messages sent, channel by channel: programs that run side by side send in any order.
    pub fn messages(&self) -> Vec<Addressed> {
        let mut messages = Vec::new();
        for (to, frame) in &self.frames {
            let mut rest = &frame[FRAME_HEADER_BYTES..];
            while rest.len() >= MESSAGE_HEADER_BYTES {
                let len = u32::from_le_bytes(rest[8..12].try_into().expect("four bytes")) as usize;
                let channel = u32::from_le_bytes(rest[..4].try_into().expect("four bytes"));
                messages.push((channel, (*to, rest[MESSAGE_HEADER_BYTES..MESSAGE_HEADER_BYTES + len].to_vec())));
                rest = &rest[MESSAGE_HEADER_BYTES + len..];
            }
        }
        messages.sort_by_key(|(channel, _)| *channel);
        messages.into_iter().map(|(_, message)| message).collect()
    }
}

/// Asserts that two runs on the same shares under different keys sent nothing alike: every word was masked.
///
/// # Panics
/// If some eight bytes at the same place of the same message are equal.
pub fn assert_masked<T>(one: &Run<T>, two: &Run<T>) {
    for (one, two) in one.sent.iter().flatten().zip(two.sent.iter().flatten()) {
        assert_eq!((one.0, one.1.len()), (two.0, two.1.len()), "both runs send messages of the same shape");
        for (at, (x, y)) in one.1.chunks_exact(8).zip(two.1.chunks_exact(8)).enumerate() {
            assert_ne!(x, y, "word {at} of a message to {} did not change with the masks", one.0);
        }
    }
}

/// A CPU device whose keystream a test replaces or watches: `touch` gets key, nonce and the words that ChaCha12 gave.
pub struct TouchedStreams<F> {
    cpu: CpuDevice,
    touch: F,
    chacha: bool,
}

impl<F: Fn(&Key, [u32; 3], &mut [u64])> TouchedStreams<F> {
    /// Hands the keystream to `touch`, which may change it.
    pub fn new(touch: F) -> Self {
        Self { cpu: CpuDevice::new(1), touch, chacha: true }
    }

    /// Hands zeros to `touch`, which makes up the whole stream.
    pub fn instead(touch: F) -> Self {
        Self { chacha: false, ..Self::new(touch) }
    }
}

impl<F: Fn(&Key, [u32; 3], &mut [u64]) + Send + Sync> Compute for TouchedStreams<F> {
    fn name(&self) -> String {
        self.cpu.name()
    }

    fn hold(&self, words: Vec<u64>) -> Words {
        self.cpu.hold(words)
    }

    fn unpack(&self, packed: &[u8], len: usize, bits: u32) -> Words {
        self.cpu.unpack(packed, len, bits)
    }

    fn gemm(&self, a: Operand<'_>, b: Operand<'_>, out: SliceMut<'_>) {
        self.cpu.gemm(a, b, out);
    }

    fn conv(&self, shape: &ConvShape, images: Sum<'_>, weights: Sum<'_>, out: SliceMut<'_>) {
        self.cpu.conv(shape, images, weights, out);
    }

    fn conv_weights(&self, shape: &ConvShape, images: Sum<'_>, gradient: Sum<'_>, out: SliceMut<'_>) {
        self.cpu.conv_weights(shape, images, gradient, out);
    }

    fn conv_images(&self, shape: &ConvShape, gradient: Sum<'_>, weights: Sum<'_>, out: SliceMut<'_>) {
        self.cpu.conv_images(shape, gradient, weights, out);
    }

    fn keystream(&self, key: &Key, nonce: [u32; 3], len: usize) -> Words {
        let mut words = if self.chacha { self.cpu.keystream(key, nonce, len) } else { self.cpu.zeros(len) };
        words.all_mut().change(|words| (self.touch)(key, nonce, words));
        words
    }

    fn keystream_add(&self, key: &Key, nonce: [u32; 3], out: SliceMut<'_>) {
        let stream = self.keystream(key, nonce, out.len());
        elementwise::add_assign(out, &stream);
    }

    fn keystream_xor(&self, key: &Key, nonce: [u32; 3], out: SliceMut<'_>) {
        let stream = self.keystream(key, nonce, out.len());
        elementwise::xor_assign(out, &stream);
    }

    fn bit_planes(&self, words: Slice<'_>, low: usize, count: usize) -> Words {
        self.cpu.bit_planes(words, low, count)
    }
}

/// A frame or message and its receiver.
pub type Addressed = (PartyId, Vec<u8>);

/// A transport that keeps a copy of every frame sent.
struct Tap {
    inner: Box<dyn Transport>,
    sent: Arc<Mutex<Vec<Addressed>>>,
}

impl Transport for Tap {
    fn me(&self) -> PartyId {
        self.inner.me()
    }

    fn send(&mut self, to: PartyId, frame: Vec<u8>) -> Result<(), TransportError> {
        self.sent.lock().expect("no holder panics").push((to, frame.clone()));
        self.inner.send(to, frame)
    }

    fn flush(&mut self) -> Result<(), TransportError> {
        self.inner.flush()
    }

    fn recv(&mut self, timeout: Duration) -> Result<(PartyId, Vec<u8>), TransportError> {
        self.inner.recv(timeout)
    }

    fn try_recv(&mut self) -> Result<Option<(PartyId, Vec<u8>)>, TransportError> {
        self.inner.try_recv()
    }

    fn close(&mut self) -> Result<(), TransportError> {
        self.inner.close()
    }
}
