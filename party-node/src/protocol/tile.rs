//! Tiles: pieces of an operation that run side by side, each with its own helper, and what a program in a tile may do.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};

use shared::ids::PartyId;

use super::prss::Position;
use super::value::{Replicated, ReplicatedView, TileShare, View};
use super::wire::Message;
use super::{Party, ProtocolError, Purpose};
use crate::compute::{Compute, Key, Payload, Slice, SliceMut, Words, elementwise};
use crate::meter::Meter;

/// What a party is in a tile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Sees masks only, receives nothing, deals ahead.
    Helper,
    /// The evaluator before the helper; its dealt halves are streams.
    A,
    /// The evaluator after the helper; its dealt halves are sent.
    B,
}

/// A program's own place: role, channel to the same tile at the peers, stream positions.
pub struct Tile<'p> {
    party: &'p Party,
    role: Role,
    helper: PartyId,
    call: u32,
    channel: u32,
    operations: Cell<u32>,
    forks: Cell<u32>,
    depth: Cell<u32>,
}

/// A program on its way in a tile.
type Task<'p, T> = Pin<Box<dyn Future<Output = Result<T, ProtocolError>> + 'p>>;

impl Party {
    /// Runs one program per tile, side by side: whoever waits for a message lets the others go on, and what all of
    /// them have to send leaves together. `helpers[i]` is the helper of tile `i`; results come in tile order.
    pub fn run<'p, T, F>(
        &'p self,
        helpers: &[PartyId],
        program: impl Fn(Tile<'p>, usize) -> F,
    ) -> Result<Vec<T>, ProtocolError>
    where
        F: Future<Output = Result<T, ProtocolError>> + 'p,
        T: 'p,
    {
        let call = self.calls.get();
        self.calls.set(call.checked_add(1).expect("an epoch has fewer than 2^32 calls"));
        let mut tasks: Vec<(usize, Task<'p, T>)> = helpers
            .iter()
            .enumerate()
            .map(|(i, &helper)| (i, Box::pin(program(self.tile(call, i, helper), i)) as _))
            .collect();
        // Evaluators first: their messages are what the peers wait for.
        tasks.sort_by_key(|(i, _)| (helpers[*i] == self.me, *i));
        let mut results: Vec<Option<T>> = helpers.iter().map(|_| None).collect();
        let mut context = Context::from_waker(Waker::noop());
        loop {
            let mut still = Vec::with_capacity(tasks.len());
            for (i, mut task) in tasks {
                match task.as_mut().poll(&mut context) {
                    Poll::Ready(result) => results[i] = Some(result?),
                    Poll::Pending => still.push((i, task)),
                }
                let eager = self.wire.borrow().is_eager();
                if eager {
                    self.flush(true)?;
                }
            }
            tasks = still;
            if tasks.is_empty() {
                self.flush(true)?;
                break;
            }
            self.flush(false)?;
            self.check_stop()?;
            if self.nudged.take() {
                continue;
            }
            self.wire.borrow_mut().pump(&self.meter)?;
        }
        self.meter.counters().rounds.store(u64::from(self.depth.get()), Relaxed);
        Ok(results.into_iter().map(|result| result.expect("every task has ended")).collect())
    }

    /// Splits `rows` rows of `width` elements into tiles and runs `program` on each: helpers rotate, and large inputs
    /// are cut further so that a tile stays in cache and computing overlaps with sending.
    pub fn run_rows<'p, T, F>(
        &'p self,
        rows: usize,
        width: usize,
        program: impl Fn(Tile<'p>, std::ops::Range<usize>) -> F,
    ) -> Result<Vec<T>, ProtocolError>
    where
        F: Future<Output = Result<T, ProtocolError>> + 'p,
        T: 'p,
    {
        self.run_in(&tile_ranges(rows, width), program)
    }

    /// As [`Party::run_rows`], on ranges of the caller's choice.
    pub fn run_in<'p, T, F>(
        &'p self,
        ranges: &[std::ops::Range<usize>],
        program: impl Fn(Tile<'p>, std::ops::Range<usize>) -> F,
    ) -> Result<Vec<T>, ProtocolError>
    where
        F: Future<Output = Result<T, ProtocolError>> + 'p,
        T: 'p,
    {
        let helpers: Vec<_> = (0..ranges.len()).map(|i| PartyId::ALL[i % 3]).collect();
        self.run(&helpers, |tile, i| program(tile, ranges[i].clone()))
    }

    fn tile(&self, call: u32, index: usize, helper: PartyId) -> Tile<'_> {
        let index = u32::try_from(index).expect("a call has fewer than 2^16 tiles");
        assert!(index < 1 << 16, "a call has fewer than 2^16 tiles");
        let role = if self.me == helper {
            Role::Helper
        } else if self.me == helper.prev() {
            Role::A
        } else {
            Role::B
        };
        // The channel has room for 8 bits of the call's number, so channels come again every 256 calls. A message
        // still reaches the call that it is for: messages of one sender on one channel stay in order, and a call ends
        // only when each of its programs has taken every message sent to it. Streams never repeat: their positions
        // hold the whole number.
        Tile {
            party: self,
            role,
            helper,
            call,
            channel: call << 24 | index << 8,
            operations: Cell::new(0),
            forks: Cell::new(0),
            depth: Cell::new(self.depth.get()),
        }
    }
}

/// Elements that a tile of an element-wise operation holds at most: a quarter of a megabyte per component.
const TILE_ELEMENTS_MAX: usize = 1 << 15;

/// Rows `0..rows` in near-equal ranges: a multiple of three of them, none larger than a tile may be; fewer if there
/// are fewer rows than that.
pub fn tile_ranges(rows: usize, width: usize) -> Vec<std::ops::Range<usize>> {
    let tiles = 3 * (rows * width).div_ceil(3 * TILE_ELEMENTS_MAX).max(1);
    cut(rows, tiles)
}

/// Rows `0..rows` in three near-equal ranges, or fewer if there are fewer rows: a batch for a network.
pub fn split_in_three(rows: usize) -> Vec<std::ops::Range<usize>> {
    cut(rows, 3)
}

fn cut(rows: usize, tiles: usize) -> Vec<std::ops::Range<usize>> {
    let tiles = tiles.min(rows);
    (0..tiles).map(|i| rows * i / tiles..rows * (i + 1) / tiles).collect()
}

impl<'p> Tile<'p> {
    /// What this party is here.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether this party sees masks only.
    pub fn is_helper(&self) -> bool {
        self.role == Role::Helper
    }

    /// The lane behind the tile.
    pub fn party(&self) -> &'p Party {
        self.party
    }

    /// Where the arithmetic runs.
    pub fn device(&self) -> &'p dyn Compute {
        self.party.device()
    }

    /// The lane's stop-watch.
    pub fn meter(&self) -> &'p Meter {
        self.party.meter()
    }

    /// A second program of this tile, to run beside the first one under [`join`].
    pub fn fork(&self) -> Tile<'p> {
        let fork = self.forks.get() + 1;
        assert!(fork < 1 << 8, "a tile forks fewer than 256 times");
        self.forks.set(fork);
        Tile {
            party: self.party,
            role: self.role,
            helper: self.helper,
            call: self.call,
            channel: self.channel + fork,
            operations: Cell::new(0),
            forks: Cell::new(255),
            depth: Cell::new(self.depth.get()),
        }
    }

    /// Takes note that what follows depends on a fork's messages too.
    pub fn rejoin(&self, fork: &Tile<'p>) {
        self.deepen(fork.depth.get());
    }

    /// Starts an operation: a new position for its streams.
    pub fn op(&self) -> Op<'_, 'p> {
        let operation = self.operations.get();
        self.operations.set(operation + 1);
        Op { tile: self, operation }
    }

    /// A share seen from this party's role.
    pub fn view<'a>(&self, share: impl Into<ReplicatedView<'a>>) -> View<'a> {
        share.into().seen_as(self.role)
    }

    /// Some elements of a share on this tile's device, seen from this party's role.
    pub fn enter<'a>(&self, share: impl Into<ReplicatedView<'a>>, range: std::ops::Range<usize>) -> TileShare {
        let View { u, v } = self.view(share.into().at(range));
        TileShare { u: self.held(u), v: self.held(v) }
    }

    /// A copy on this tile's device.
    fn held(&self, words: Slice<'_>) -> Words {
        match words {
            Slice::Host(words) => self.device().hold(words.to_vec()),
            #[cfg(feature = "cuda")]
            held @ Slice::Gpu(..) => held.to_words(),
        }
    }

    /// Back to the role-free form.
    pub fn leave(&self, value: TileShare) -> Replicated {
        let TileShare { u, v } = value;
        if self.role == Role::B { Replicated { first: v, second: u } } else { Replicated { first: u, second: v } }
    }

    fn other_evaluator(&self) -> PartyId {
        match self.role {
            Role::A => self.helper.next(),
            Role::B => self.helper.prev(),
            Role::Helper => unreachable!("the helper exchanges with nobody"),
        }
    }

    pub(super) fn helper(&self) -> PartyId {
        self.helper
    }

    /// Whether this is the tile that does what is done once per call.
    pub fn is_first(&self) -> bool {
        self.index() == 0
    }

    /// Which tile of its call this is.
    pub(super) fn index(&self) -> u32 {
        self.channel >> 8 & 0xffff
    }

    /// Longest chain of receives behind what this tile knows.
    pub(super) fn depth(&self) -> u32 {
        self.depth.get()
    }

    /// Another tile may go on without a message.
    pub(super) fn nudge(&self) {
        self.party.nudged.set(true);
    }

    pub(super) fn deepen(&self, depth: u32) {
        let depth = self.depth.get().max(depth);
        self.depth.set(depth);
        self.party.depth.set(self.party.depth.get().max(depth));
    }
}

/// One operation of a tile: streams, messages, and the four moves that every protocol is made of.
pub struct Op<'t, 'p> {
    tile: &'t Tile<'p>,
    operation: u32,
}

impl Op<'_, '_> {
    /// The next `len` words that this party and `peer` alone can derive.
    pub(super) fn stream(&self, peer: PartyId, purpose: Purpose, len: usize) -> Words {
        let (key, nonce) = self.position(peer, purpose, len);
        self.tile.device().keystream(key, nonce, len)
    }

    /// Adds the next words that this party and `peer` alone can derive.
    fn add_stream(&self, peer: PartyId, purpose: Purpose, words: SliceMut<'_>) {
        let (key, nonce) = self.position(peer, purpose, words.len());
        self.tile.device().keystream_add(key, nonce, words);
    }

    /// As [`Op::add_stream`], for bits.
    fn xor_stream(&self, peer: PartyId, purpose: Purpose, words: SliceMut<'_>) {
        let (key, nonce) = self.position(peer, purpose, words.len());
        self.tile.device().keystream_xor(key, nonce, words);
    }

    fn position(&self, peer: PartyId, purpose: Purpose, len: usize) -> (&Key, [u32; 3]) {
        let Tile { party, call, channel, .. } = *self.tile;
        let position = Position { call, channel: channel & 0x00ff_ffff, operation: self.operation, purpose };
        let key = party.keys.with(party.me, peer);
        #[cfg(any(test, feature = "test-world"))]
        if let Some(recorder) = &party.recorder {
            // Each stream has two ends; every end keeps its own record.
            let mut end = *key;
            end[7] ^= 1 + u32::from(u8::from(party.me));
            recorder.note(&end, position.nonce());
        }
        party.meter.counters().prg_bytes.fetch_add(8 * len as u64, Relaxed);
        (key, position.nonce())
    }

    fn send_payload(&self, to: PartyId, payload: Payload<'_>) {
        let tile = self.tile;
        // Depths come from peers too: a wrong one may spoil the count of rounds, but not stop the lane.
        tile.party.wire.borrow_mut().queue(to, tile.channel, tile.depth.get().saturating_add(1), payload);
    }

    async fn recv_message(&self, from: PartyId, expected: usize) -> Result<Message, ProtocolError> {
        let tile = self.tile;
        let message = poll_fn(|_| match tile.party.wire.borrow_mut().take(from, tile.channel) {
            Some(message) => Poll::Ready(message),
            None => Poll::Pending,
        })
        .await;
        tile.deepen(message.depth);
        let got = message.payload().len();
        if got == expected { Ok(message) } else { Err(ProtocolError::Length { peer: from, expected, got }) }
    }

    pub(super) fn send<'a>(&self, to: PartyId, words: impl Into<Slice<'a>>) {
        self.send_payload(to, words.into().leaving());
    }

    pub(super) async fn recv(&self, from: PartyId, len: usize) -> Result<Words, ProtocolError> {
        let message = self.recv_message(from, 8 * len).await?;
        let words = message.payload().as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
        Ok(self.tile.device().hold(words.collect()))
    }

    /// Helper: shares values that it knows. A's half is a stream, B's is sent. Returns both.
    pub fn deal(&self, purpose: Purpose, mut values: Words) -> (Words, Words) {
        let half = self.stream(self.tile.helper.prev(), purpose, values.len());
        elementwise::sub_assign(&mut values, &half);
        self.send(self.tile.helper.next(), &values);
        (half, values)
    }

    /// Helper: XOR-shares bits that it knows.
    pub(super) fn deal_bits(&self, purpose: Purpose, mut bits: Words) {
        self.xor_stream(self.tile.helper.prev(), purpose, bits.all_mut());
        self.send(self.tile.helper.next(), &bits);
    }

    /// Evaluator: its own half of what the helper deals.
    pub async fn dealt(&self, purpose: Purpose, len: usize) -> Result<Words, ProtocolError> {
        match self.tile.role {
            Role::A => Ok(self.stream(self.tile.helper, purpose, len)),
            _ => self.recv(self.tile.helper, len).await,
        }
    }

    /// Evaluator: the mask of what it sends to the other evaluator.
    pub(super) fn own_mask(&self, purpose: Purpose, len: usize) -> Words {
        self.stream(self.tile.helper, purpose, len)
    }

    /// Evaluator: masks what it sends to the other evaluator.
    pub(super) fn add_own_mask(&self, purpose: Purpose, words: &mut Words) {
        self.add_stream(self.tile.helper, purpose, words.all_mut());
    }

    /// Helper: adds the masks of A and of B.
    pub(super) fn add_masks(&self, purpose: Purpose, words: &mut Words) {
        self.add_stream(self.tile.helper.prev(), purpose, words.all_mut());
        self.add_stream(self.tile.helper.next(), purpose, words.all_mut());
    }

    /// Helper: the masks of A and of B.
    pub(super) fn masks(&self, purpose: Purpose, len: usize) -> (Words, Words) {
        let helper = self.tile.helper;
        (self.stream(helper.prev(), purpose, len), self.stream(helper.next(), purpose, len))
    }

    /// Helper: the masks of A and of B together, for bits.
    pub(super) fn masks_of_bits(&self, purpose: Purpose, len: usize) -> Words {
        let mut masks = self.stream(self.tile.helper.prev(), purpose, len);
        self.xor_stream(self.tile.helper.next(), purpose, masks.all_mut());
        masks
    }

    /// Evaluator: sends masked words to the other one and adds the other's, and a constant. One round.
    pub(super) async fn open_sum(&self, masked: &mut Words, constant: u64) -> Result<(), ProtocolError> {
        let message = self.exchange(masked).await?;
        elementwise::add_bytes(masked, message.payload(), constant);
        Ok(())
    }

    /// As [`Op::open_sum`], for bits.
    pub(super) async fn open_xor(&self, masked: &mut Words) -> Result<(), ProtocolError> {
        let message = self.exchange(masked).await?;
        elementwise::xor_bytes(masked, message.payload());
        Ok(())
    }

    async fn exchange(&self, masked: &Words) -> Result<Message, ProtocolError> {
        let other = self.tile.other_evaluator();
        self.send(other, masked);
        self.recv_message(other, 8 * masked.len()).await
    }

    /// Evaluator: sends masked values below `2^bits` to the other one, packed, and returns the other's. One round.
    pub(super) async fn exchange_packed(&self, masked: &Words, bits: u32) -> Result<Words, ProtocolError> {
        let other = self.tile.other_evaluator();
        self.send_packed(other, masked, bits);
        self.recv_packed(other, masked.len(), bits).await
    }

    pub(super) fn send_packed(&self, to: PartyId, words: &Words, bits: u32) {
        self.send_payload(to, elementwise::pack(words, bits));
    }

    pub(super) async fn recv_packed(&self, from: PartyId, len: usize, bits: u32) -> Result<Words, ProtocolError> {
        let message = self.recv_message(from, elementwise::packed_bytes(len, bits)).await?;
        Ok(self.tile.device().unpack(message.payload(), len, bits))
    }
}

/// Runs two programs side by side. The second must use a [`Tile::fork`] of the first one's tile. The first error ends
/// both: the other program may be waiting for a message that will never come.
pub async fn join<A, B>(
    a: impl Future<Output = Result<A, ProtocolError>>,
    b: impl Future<Output = Result<B, ProtocolError>>,
) -> Result<(A, B), ProtocolError> {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (mut from_a, mut from_b) = (None, None);
    poll_fn(move |context| {
        if from_a.is_none()
            && let Poll::Ready(result) = a.as_mut().poll(context)
        {
            from_a = Some(result);
        }
        if from_b.is_none()
            && let Poll::Ready(result) = b.as_mut().poll(context)
        {
            from_b = Some(result);
        }
        match (from_a.take(), from_b.take()) {
            (Some(Err(error)), _) | (_, Some(Err(error))) => Poll::Ready(Err(error)),
            (Some(Ok(x)), Some(Ok(y))) => Poll::Ready(Ok((x, y))),
            (x, y) => {
                (from_a, from_b) = (x, y);
                Poll::Pending
            }
        }
    })
    .await
}
