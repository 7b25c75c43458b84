//! Pinned memory between the host and a device: a ring for what goes there, two buffers for what comes back.
#![allow(unsafe_code, reason = "pinned memory and copies of the CUDA driver")]

use std::collections::VecDeque;
use std::ffi::c_void;
use std::sync::{Arc, Mutex};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

/// Bytes on their way to the device at most; whoever sends more waits for the first of them.
const RING_BYTES: usize = 32 << 20;
/// The largest piece that is sent at a time.
const PIECE_BYTES: usize = 4 << 20;
/// Pieces begin at multiples of this.
const ALIGNMENT: usize = 256;

/// Copies in order with everything else on the stream. The device's context must be current in all calls.
pub(super) struct Staging {
    stream: sys::CUstream,
    ring: *mut c_void,
    back: *mut c_void,
    /// Where the next piece goes.
    head: usize,
    /// Pieces under way, oldest first: where each begins, and what says that it has arrived.
    under_way: VecDeque<(usize, sys::CUevent)>,
    spare: Vec<sys::CUevent>,
    arrivals: [sys::CUevent; 2],
}

// SAFETY: handles and pinned memory may be used from any thread, by one at a time; `&mut self` sees to that.
unsafe impl Send for Staging {}

impl Staging {
    pub(super) fn new(stream: sys::CUstream) -> Result<Self, DriverError> {
        // SAFETY: plain allocations, given back in `drop`.
        let (ring, back) = unsafe { (result::malloc_host(RING_BYTES, 0)?, result::malloc_host(2 * PIECE_BYTES, 0)?) };
        let arrivals = [event()?, event()?];
        Ok(Self { stream, ring, back, head: 0, under_way: VecDeque::new(), spare: vec![], arrivals })
    }

    /// Copies to the device; `bytes` are free as soon as this returns.
    pub(super) fn send(&mut self, address: u64, bytes: &[u8]) -> Result<(), DriverError> {
        for (i, piece) in bytes.chunks(PIECE_BYTES).enumerate() {
            let start = self.room(piece.len())?;
            let event = match self.spare.pop() {
                Some(event) => event,
                None => event()?,
            };
            // SAFETY: nobody reads this part of the ring any more, as `room` has made sure; the device's memory is the
            // caller's, and the copy is before all that comes later on the stream.
            unsafe {
                let place = self.ring.cast::<u8>().add(start);
                std::ptr::copy_nonoverlapping(piece.as_ptr(), place, piece.len());
                let place = std::slice::from_raw_parts(place, piece.len());
                result::memcpy_htod_async(address + (i * PIECE_BYTES) as u64, place, self.stream)?;
                result::event::record(event, self.stream)?;
            }
            self.under_way.push_back((start, event));
            self.head = (start + piece.len()).next_multiple_of(ALIGNMENT);
        }
        Ok(())
    }

    /// Where a piece may go: behind the last one, or at the beginning again. Waits for those that are in its way.
    fn room(&mut self, len: usize) -> Result<usize, DriverError> {
        let mut start = self.head;
        if start + len > RING_BYTES {
            // Those behind the head are older than all at the beginning.
            while self.under_way.front().is_some_and(|(first, _)| *first >= self.head) {
                self.wait_for_oldest()?;
            }
            start = 0;
        }
        while self.under_way.front().is_some_and(|(first, _)| (start..start + len).contains(first)) {
            self.wait_for_oldest()?;
        }
        Ok(start)
    }

    fn wait_for_oldest(&mut self) -> Result<(), DriverError> {
        if let Some((_, event)) = self.under_way.pop_front() {
            self.spare.push(event);
            // SAFETY: the event was made by `event` and recorded.
            unsafe { result::event::synchronize(event)? };
        }
        Ok(())
    }

    /// Copies from the device and waits: a piece is taken out of one buffer while the next one comes into the other.
    pub(super) fn fetch(&mut self, bytes: &mut [u8], address: u64) -> Result<(), DriverError> {
        let pieces = bytes.len().div_ceil(PIECE_BYTES);
        for i in 0..=pieces {
            if i < pieces {
                let len = PIECE_BYTES.min(bytes.len() - i * PIECE_BYTES);
                // SAFETY: the buffer has been read out two pieces ago; the device's memory is the caller's.
                unsafe {
                    let place = std::slice::from_raw_parts_mut(self.buffer(i), len);
                    result::memcpy_dtoh_async(place, address + (i * PIECE_BYTES) as u64, self.stream)?;
                    result::event::record(self.arrivals[i % 2], self.stream)?;
                }
            }
            if i > 0 {
                let piece = bytes.chunks_mut(PIECE_BYTES).nth(i - 1).expect("counted above");
                // SAFETY: the event says that the buffer is full; no copy goes there before the next round.
                unsafe {
                    result::event::synchronize(self.arrivals[(i - 1) % 2])?;
                    std::ptr::copy_nonoverlapping(self.buffer(i - 1), piece.as_mut_ptr(), piece.len());
                }
            }
        }
        Ok(())
    }

    fn buffer(&self, i: usize) -> *mut u8 {
        // SAFETY: there are two buffers, one behind the other.
        unsafe { self.back.cast::<u8>().add(i % 2 * PIECE_BYTES) }
    }
}

/// Pinned buffers for copies to the host that are waited for later. They serve again and again: pinning is slow.
#[derive(Default)]
pub(super) struct Buffers(Mutex<Vec<Buffer>>);

/// A pinned buffer, and what says that it is full.
struct Buffer {
    start: *mut c_void,
    bytes: usize,
    arrived: sys::CUevent,
}

// SAFETY: pinned memory and events may be used from any thread; a buffer has one owner at a time.
unsafe impl Send for Buffer {}

impl Buffers {
    /// Starts a copy. The device's context must be current.
    pub(super) fn start(
        buffers: &Arc<Self>,
        address: u64,
        bytes: usize,
        stream: sys::CUstream,
    ) -> Result<Arriving, DriverError> {
        let buffer = buffers.take(bytes)?;
        let arriving = Arriving { buffers: buffers.clone(), buffer: Some(buffer), bytes };
        let buffer = arriving.buffer.as_ref().expect("just put there");
        // SAFETY: nobody else has the buffer, which is large enough; the device's memory is the caller's.
        unsafe {
            let place = std::slice::from_raw_parts_mut(buffer.start.cast::<u8>(), bytes);
            result::memcpy_dtoh_async(place, address, stream)?;
            result::event::record(buffer.arrived, stream)?;
        }
        Ok(arriving)
    }

    /// The smallest buffer that is large enough, or a new one.
    fn take(&self, bytes: usize) -> Result<Buffer, DriverError> {
        let mut all = self.0.lock().expect("no holder panics");
        let fitting = (0..all.len()).filter(|&i| all[i].bytes >= bytes).min_by_key(|&i| all[i].bytes);
        if let Some(i) = fitting {
            return Ok(all.swap_remove(i));
        }
        let bytes = bytes.next_power_of_two().max(SMALLEST_BUFFER);
        // SAFETY: a plain allocation, given back in `release`.
        let start = unsafe { result::malloc_host(bytes, 0)? };
        Ok(Buffer { start, bytes, arrived: event()? })
    }

    /// Gives all buffers back that are not in use. The device's context must be current.
    pub(super) fn release(&self) {
        let Ok(mut all) = self.0.lock() else { return };
        for buffer in all.drain(..) {
            // SAFETY: made by `take`, in use by nobody.
            unsafe {
                let _ = result::event::destroy(buffer.arrived);
                let _ = result::free_host(buffer.start);
            }
        }
    }
}

/// The smallest buffer that is pinned.
const SMALLEST_BUFFER: usize = 64 << 10;

/// A copy to the host under way.
pub(super) struct Arriving {
    buffers: Arc<Buffers>,
    buffer: Option<Buffer>,
    bytes: usize,
}

impl Arriving {
    /// Waits, and copies out. The device's context must be current.
    pub(super) fn copy_out(&self, into: &mut [u8]) -> Result<(), DriverError> {
        let buffer = self.buffer.as_ref().expect("it leaves in `drop`");
        // SAFETY: the event was recorded behind the copy, which filled the first `bytes` bytes.
        unsafe {
            result::event::synchronize(buffer.arrived)?;
            into.copy_from_slice(std::slice::from_raw_parts(buffer.start.cast::<u8>(), self.bytes));
        }
        Ok(())
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let Some(buffer) = self.buffer.take() else { return };
        // SAFETY: the event is the buffer's own. A device that has failed copies nothing any more.
        let _ = unsafe { result::event::synchronize(buffer.arrived) };
        if let Ok(mut all) = self.buffers.0.lock() {
            all.push(buffer);
        }
    }
}

fn event() -> Result<sys::CUevent, DriverError> {
    result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
}

impl Drop for Staging {
    fn drop(&mut self) {
        let under_way = self.under_way.drain(..).map(|(_, event)| event);
        let events: Vec<_> = under_way.chain(self.spare.drain(..)).chain(self.arrivals).collect();
        // SAFETY: all were made by this; nothing is under way any more once the stream has been waited for. Errors are of no
        // use to anybody now.
        unsafe {
            let _ = result::stream::synchronize(self.stream);
            for event in events {
                let _ = result::event::destroy(event);
            }
            let _ = result::free_host(self.ring);
            let _ = result::free_host(self.back);
        }
    }
}
