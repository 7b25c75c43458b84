//! Three networks, each with one link, and nothing else in them. They have no names: the kernel removes them when this
//! program ends, however it ends.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, bail};

use crate::profile::Shape;
use crate::system;

/// Name of the link in each network.
const LINK: &str = "party";
/// Largest packet of a link.
const MTU: &str = "1500";
/// Packets that the kernel keeps for the relay when it is not fast enough.
const LINK_QUEUE: &str = "4000";

/// A network of its own for each party.
pub(crate) struct Namespaces {
    namespaces: Vec<File>,
    links: Vec<File>,
}

/// Address of a party, counted from 0.
pub(crate) fn address(party: usize) -> Ipv4Addr {
    let last = u8::try_from(party + 1).unwrap_or(u8::MAX);
    Ipv4Addr::new(10, 77, 0, last)
}

impl Namespaces {
    /// Builds the networks.
    pub(crate) fn build() -> anyhow::Result<Self> {
        let (mut namespaces, mut links) = (Vec::new(), Vec::new());
        for party in 0..3 {
            // In a thread of its own, since this program stays in the network that it was started in.
            let built = thread::spawn(move || {
                let namespace = system::enter_new_namespace()?;
                let link = system::create_link(LINK)?;
                command("ip", &["link", "set", "lo", "up"])?;
                command("ip", &["address", "add", &format!("{}/24", address(party)), "dev", LINK])?;
                command("ip", &["link", "set", LINK, "mtu", MTU, "txqueuelen", LINK_QUEUE, "up"])?;
                anyhow::Ok((namespace, link))
            });
            let (namespace, link) = joined(built).with_context(|| format!("network of P{party}"))?;
            namespaces.push(namespace);
            links.push(link);
        }
        Ok(Self { namespaces, links })
    }

    /// Runs `work` in the network of a party.
    pub(crate) fn within<T: Send + 'static>(
        &self,
        party: usize,
        work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<thread::JoinHandle<anyhow::Result<T>>> {
        let namespace = self.namespaces[party].try_clone()?;
        Ok(thread::spawn(move || {
            system::enter(&namespace).with_context(|| format!("network of P{party}"))?;
            work()
        }))
    }

    /// The links, for a relay; batches of packets stay whole where the shape allows it.
    pub(crate) fn links(&self, shape: &Shape) -> anyhow::Result<Vec<File>> {
        let whole = !shape.is_per_packet();
        // A kernel that does not know batches (before 6.2) passes single packets, which only costs speed.
        let _ = self.links.iter().try_for_each(|link| system::set_batches(link, whole));
        Ok(self.links.iter().map(File::try_clone).collect::<Result<_, _>>()?)
    }

    /// Lets `tc netem` do what `shape` says; `false` where this kernel has no netem.
    pub(crate) fn shape_by_netem(&self, shape: Shape) -> anyhow::Result<bool> {
        let shape_one = move || Ok(command("tc", &shape.netem(LINK)).is_ok());
        let mut all = true;
        for party in 0..3 {
            all &= joined(self.within(party, shape_one)?)?;
        }
        Ok(all)
    }

    /// Takes off what [`Namespaces::shape_by_netem`] put on.
    pub(crate) fn unshape(&self) -> anyhow::Result<()> {
        let unshape_one = || Ok(command("tc", &["qdisc", "delete", "dev", LINK, "root"]).is_ok());
        (0..3).try_for_each(|party| joined(self.within(party, unshape_one)?).map(|_| ()))
    }

    /// Where a program that this one starts finds the networks, in party order.
    pub(crate) fn paths(&self) -> String {
        let path = |namespace: &File| format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
        self.namespaces.iter().map(path).collect::<Vec<_>>().join(",")
    }
}

/// What a thread brought; a panic in it is a defect of ours and goes on here.
pub(crate) fn joined<T>(thread: thread::JoinHandle<anyhow::Result<T>>) -> anyhow::Result<T> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn command(program: &str, arguments: &[impl AsRef<std::ffi::OsStr>]) -> anyhow::Result<()> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("{program}: package iproute2 is needed"))?;
    if !output.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
