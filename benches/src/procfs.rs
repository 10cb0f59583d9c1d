//! CPU time and memory of a process, as Linux counts them.
//!
//! `/proc/<pid>/stat` gives user and system time of all threads of a process,
//! ended ones included, in ticks of 10 ms, and its resident pages. Over a cell
//! of some seconds a tick is noise below one percent. The first line of
//! `/proc/stat` gives the same for the whole machine: what neither servers nor
//! generator used was used by somebody else, and spoils the measurement.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};

/// What the operating system charged to one process, or to several together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// User and system time since it began.
    pub(crate) cpu: Duration,
    /// Resident memory now.
    pub(crate) rss_bytes: u64,
}

/// The usage of a process.
///
/// # Errors
/// There is no such process (any more), or the file is not as Linux writes it.
pub(crate) fn usage(pid: u32) -> Result<Usage> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let stat = Stat::parse(&text).with_context(|| format!("{path} is not understood: {text:?}"))?;
    Ok(stat.usage(rustix::param::clock_ticks_per_second(), rustix::param::page_size() as u64))
}

/// Bytes that a process has caused to be sent to the storage layer: what it made dirty in the page
/// cache, less what it truncated before it was written.
///
/// # Errors
/// There is no such process (any more), or the file is not as Linux writes it.
pub(crate) fn written_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/io");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    parse_written(&text).with_context(|| format!("{path} is not understood: {text:?}"))
}

fn parse_written(text: &str) -> Option<u64> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.strip_prefix(':')?.trim().parse::<u64>().ok()
    };
    Some(field("write_bytes")?.saturating_sub(field("cancelled_write_bytes")?))
}

/// Bytes written to the block devices of this machine since it was started, partitions and
/// stacked devices not counted twice.
///
/// # Errors
/// The file is not as Linux writes it.
pub(crate) fn device_written_bytes() -> Result<u64> {
    let mut sectors = 0;
    for device in fs::read_dir("/sys/block").context("read /sys/block")? {
        let device = device?.path();
        let virtual_device = device.canonicalize()?.starts_with("/sys/devices/virtual");
        let text = fs::read_to_string(device.join("stat")).unwrap_or_default();
        let written = text.split_ascii_whitespace().nth(6).and_then(|field| field.parse().ok());
        sectors += written.filter(|_| !virtual_device).unwrap_or(0u64);
    }
    Ok(sectors * 512)
}

/// The CPU time of this process, all threads.
pub(crate) fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0));
    seconds + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// The CPU time of everything on this machine since it was started, all cores together.
///
/// # Errors
/// The file is not as Linux writes it.
pub(crate) fn machine_cpu() -> Result<Duration> {
    let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    let ticks = parse_busy_ticks(&text).context("/proc/stat is not understood")?;
    Ok(ticks_to_time(ticks, rustix::param::clock_ticks_per_second()))
}

/// Of `cpu user nice system idle iowait irq softirq steal guest guest_nice`, all but idle and
/// iowait; guests are in user and nice already.
fn parse_busy_ticks(text: &str) -> Option<u64> {
    let fields = text.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace();
    let ticks: Vec<u64> = fields.map(str::parse).collect::<Result<_, _>>().ok()?;
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = ticks[..] else {
        return None;
    };
    Some(user + nice + system + irq + softirq + steal)
}

fn ticks_to_time(ticks: u64, ticks_per_second: u64) -> Duration {
    Duration::from_secs_f64(ticks as f64 / ticks_per_second as f64)
}

/// The fields of a stat line that are used, in the kernel's units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    user_ticks: u64,
    system_ticks: u64,
    rss_pages: u64,
}

impl Stat {
    /// Field 2 is the program's name in parentheses and may itself hold blanks and
    /// parentheses, so fields are counted from the last closing one, behind which field 3 begins.
    fn parse(line: &str) -> Option<Self> {
        let (_, rest) = line.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse().ok();
        Some(Stat { user_ticks: number(14)?, system_ticks: number(15)?, rss_pages: number(24)? })
    }

    fn usage(self, ticks_per_second: u64, page_bytes: u64) -> Usage {
        Usage {
            cpu: ticks_to_time(self.user_ticks + self.system_ticks, ticks_per_second),
            rss_bytes: self.rss_pages * page_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAIL: &str = "S 1 77 77 0 -1 4194304 5000 0 3 0 250 125 0 0 20 0 9 0 8000 \
                        1300000000 2048 18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0";

    #[test]
    fn ticks_and_pages_become_seconds_and_bytes() {
        let stat = Stat::parse(&format!("77 (etcd) {TAIL}")).unwrap();
        assert_eq!(stat, Stat { user_ticks: 250, system_ticks: 125, rss_pages: 2048 });
        let usage = stat.usage(100, 4096);
        assert_eq!(usage, Usage { cpu: Duration::from_millis(3750), rss_bytes: 8 << 20 });
    }

    #[test]
    fn a_name_with_blanks_and_parentheses_shifts_no_field() {
        let plain = Stat::parse(&format!("77 (etcd) {TAIL}"));
        assert_eq!(Stat::parse(&format!("77 (a) S 9 (b) c) {TAIL}")), plain);
    }

    #[test]
    fn a_line_that_is_not_one_gives_nothing() {
        for line in
            ["", "77", "77 (etcd", "77 (etcd) S 1 77", "77 (etcd) S x x x x x x x x x x x x x"]
        {
            assert_eq!(Stat::parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn the_machine_is_busy_with_all_but_idling_and_waiting() {
        let text = "cpu  100 20 3 9000 800 4 50 6 7 7\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(parse_busy_ticks(text), Some(183));
        for text in ["", "cpu  1 2 3", "cpu  1 2 3 4 5 6 7 x", "cpu0 1 2 3 4 5 6 7 8"] {
            assert_eq!(parse_busy_ticks(text), None, "{text:?}");
        }
        assert!(machine_cpu().unwrap() >= own_cpu());
    }

    #[test]
    fn what_was_written_is_what_was_not_cancelled() {
        let text = "rchar: 5\nwchar: 9000\nwrite_bytes: 8192\ncancelled_write_bytes: 4096\n";
        assert_eq!(parse_written(text), Some(4096));
        for text in ["", "write_bytes: 1", "write_bytes: x\ncancelled_write_bytes: 0"] {
            assert_eq!(parse_written(text), None, "{text:?}");
        }
        assert!(written_bytes(std::process::id()).is_ok() && device_written_bytes().is_ok());
    }

    #[test]
    fn this_process_has_used_memory() {
        let usage = usage(std::process::id()).unwrap();
        assert!(usage.rss_bytes > 0, "{usage:?}");
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        assert!(usage(u32::MAX).is_err());
    }
}
