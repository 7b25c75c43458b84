//! What this process asks of the operating system: no dumps of memory that holds shares, and its own peak size.

use std::fs;

/// Keeps shares and keys out of core dumps and away from debuggers of the same user.
#[allow(unsafe_code, reason = "the standard library has no call for resource limits and dumps")]
pub(super) fn harden() {
    let no_core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: setrlimit reads one valid struct that outlives the call; prctl(PR_SET_DUMPABLE) takes plain integers.
    let refused = unsafe {
        // Both: a core pattern that pipes to a program is free to ignore the limit.
        libc::setrlimit(libc::RLIMIT_CORE, &no_core) != 0
            || libc::prctl(libc::PR_SET_DUMPABLE, 0 as libc::c_ulong, 0, 0, 0) != 0
    };
    if refused {
        tracing::warn!("core dumps could not be turned off: a crash may write shares to disk");
    }
}

/// Keeps freed memory in the process: tensors of the same sizes come and go every step, and fetching their pages from
/// the system anew each time costs more than some of the arithmetic.
#[allow(unsafe_code, reason = "the standard library has no call for the allocator's limits")]
pub(super) fn keep_memory() {
    #[cfg(target_env = "gnu")]
    {
        /// The most that glibc accepts.
        const MMAP_BYTES_MAX: libc::c_int = 32 << 20;
        // SAFETY: mallopt takes plain integers and is called before any lane starts.
        let kept = unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_BYTES_MAX) == 1
                && libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX) == 1
        };
        if !kept {
            tracing::info!("the allocator returns freed memory to the system: steps may take longer");
        }
    }
}

/// Peak resident memory of this process in bytes; 0 where the system does not say.
pub(super) fn peak_rss_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    peak_in(&status).unwrap_or(0)
}

fn peak_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hardened_process_dumps_nothing_and_still_knows_its_size() {
        harden();
        let limits = fs::read_to_string("/proc/self/limits").unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
        assert!(peak_rss_bytes() > 1 << 20);
    }

    #[test]
    fn the_peak_is_read_from_the_status() {
        assert_eq!(peak_in("Name:\tx\nVmPeak:\t 9 kB\nVmHWM:\t   123 kB\n"), Some(123 * 1024));
        assert_eq!(peak_in("VmHWM: many"), None);
    }
}
