//! What processes use.

use std::fs;

/// Processor time and memory.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// User and system, of all of them.
    pub(crate) cpu_seconds: f64,
    /// The resident set of the largest.
    pub(crate) max_rss_bytes: u64,
    /// And of all.
    pub(crate) rss_bytes: u64,
}

impl Usage {
    pub(crate) fn of(pids: &[u32]) -> Usage {
        let mut usage = Usage::default();
        for pid in pids {
            usage.cpu_seconds += cpu_seconds(*pid).unwrap_or(0.0);
            let rss = rss_bytes(*pid).unwrap_or(0);
            usage.rss_bytes += rss;
            usage.max_rss_bytes = usage.max_rss_bytes.max(rss);
        }
        usage
    }

    /// MiB of the resident set of the largest.
    pub(crate) fn max_mib(&self) -> f64 {
        mib(self.max_rss_bytes)
    }

    /// The time used since then, and the memory now.
    pub(crate) fn since(&self, before: &Usage) -> Usage {
        Usage {
            cpu_seconds: self.cpu_seconds - before.cpu_seconds,
            ..*self
        }
    }
}

pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// proc(5): fields 14 and 15 of `stat`, in ticks.
fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may have spaces, and ends with the last parenthesis.
    let fields = stat.rsplit_once(") ")?.1;
    let mut times = fields.split(' ').skip(11).take(2);
    let mut ticks = || times.next()?.parse::<u64>().ok();
    let ticks = ticks()? + ticks()?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

pub(crate) fn rss_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1024)
}
