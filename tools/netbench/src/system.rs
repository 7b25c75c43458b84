//! What only the operating system can do: namespaces, virtual links, priorities, batches.
#![allow(unsafe_code, reason = "the calls below have no safe form in the standard library")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use anyhow::Context;

/// Tells the kernel to pass batches of UDP packets whole (`TUN_F_CSUM`, `TUN_F_USO4`, `TUN_F_USO6`).
const OFFLOAD_BATCHES: libc::c_ulong = 0x01 | 0x20 | 0x40;
/// Tells the kernel to pass single packets with complete checksums.
const OFFLOAD_NONE: libc::c_ulong = 0;
/// Received bytes that a socket keeps for a measurement.
const RECEIVE_BUFFER_BYTES: libc::c_int = 8 << 20;

/// Whether this process may make networks.
pub(crate) fn is_root() -> bool {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Moves the calling thread, and what it starts, into a new network of its own; the network goes away with the last
/// user of the file.
pub(crate) fn enter_new_namespace() -> anyhow::Result<File> {
    // SAFETY: changes the calling thread's namespace only.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) }).context("a new network namespace")?;
    File::open("/proc/thread-self/ns/net").context("the new network namespace")
}

/// Moves the calling thread, and what it starts, into the network behind `namespace`.
pub(crate) fn enter(namespace: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open for the time of the call, which changes the calling thread's namespace only.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) })
}

/// A new virtual link in the calling thread's network: what the network sends over it can be read from the file.
pub(crate) fn create_link(name: &str) -> anyhow::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC);
    let file = options.open("/dev/net/tun").context("/dev/net/tun")?;
    // SAFETY: all zeros are a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *place = byte.cast_signed();
    }
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags.try_into().context("flags of a link")?;
    // SAFETY: the kernel reads and writes one `ifreq`, which outlives the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) }).context("a virtual link")?;
    Ok(file)
}

/// Chooses between whole batches and single packets on a link.
pub(crate) fn set_batches(link: &File, whole: bool) -> io::Result<()> {
    let offload = if whole { OFFLOAD_BATCHES } else { OFFLOAD_NONE };
    // SAFETY: the request takes a number.
    check(unsafe { libc::ioctl(link.as_raw_fd(), libc::TUNSETOFFLOAD, offload) })
}

/// Lets the calling thread run as soon as it has something to do, and wakes it in time.
pub(crate) fn prefer_this_thread() -> io::Result<()> {
    // SAFETY: plain numbers for the calling thread; the structure outlives the call.
    unsafe {
        check(libc::prctl(libc::PR_SET_TIMERSLACK, 1))?;
        let priority = libc::sched_param { sched_priority: 1 };
        check(libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority))
    }
}

/// Waits until one of the files can be read, at most so long; which ones can.
pub(crate) fn wait_readable<'a>(
    files: impl Iterator<Item = BorrowedFd<'a>>,
    within: Duration,
) -> io::Result<Vec<bool>> {
    let mut polled: Vec<libc::pollfd> =
        files.map(|file| libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 }).collect();
    let within = libc::timespec {
        tv_sec: within.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: within.subsec_nanos().into(),
    };
    let count = polled.len() as libc::nfds_t;
    // SAFETY: `polled` holds `count` entries; it and the time outlive the call; no signal mask.
    let result = unsafe { libc::ppoll(polled.as_mut_ptr(), count, &raw const within, std::ptr::null()) };
    match check(result) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(vec![false; polled.len()]),
        Err(error) => Err(error),
        Ok(()) => Ok(polled.iter().map(|file| file.revents & libc::POLLIN != 0).collect()),
    }
}

/// Lets a socket send one buffer as a batch of packets of `segment` bytes.
pub(crate) fn send_in_batches(socket: &impl AsFd, segment: u16) -> io::Result<()> {
    set_option(socket, (libc::SOL_UDP, libc::UDP_SEGMENT), segment.into())
}

/// Lets a socket receive packets of one sender as a batch, and keep many until they are read.
pub(crate) fn receive_in_batches(socket: &impl AsFd) -> io::Result<()> {
    set_option(socket, (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE), RECEIVE_BUFFER_BYTES)?;
    set_option(socket, (libc::SOL_UDP, libc::UDP_GRO), 1)
}

fn set_option(socket: &impl AsFd, (level, option): (libc::c_int, libc::c_int), value: libc::c_int) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(4);
    // SAFETY: the kernel reads `size` bytes of `value`, which outlives the call.
    check(unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, (&raw const value).cast(), size) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
