//! Whether there is memory for another experiment beside those that run.

use std::fs;
use std::time::{Duration, Instant};

/// By then an experiment has its models open, and shows what it takes.
const OPENED: Duration = Duration::from_secs(20);
/// What is left to everything else, as a share of what an experiment takes.
const RESERVE: f64 = 0.25;

/// What the experiments of a study take, as far as it was seen: they differ in what is selected, and in
/// little else.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The most that one of them took, in KiB.
    peak: u64,
    /// What those that run may still come to take, in KiB.
    outstanding: u64,
    /// When the last was started.
    started: Option<Instant>,
    /// One ended: what it takes is known.
    ended: bool,
}

impl Memory {
    /// Looks at the processes that run.
    pub(super) fn watch(&mut self, running: impl Iterator<Item = u32>) {
        let statuses: Vec<String> =
            running.filter_map(|id| fs::read_to_string(format!("/proc/{id}/status")).ok()).collect();
        let peaks = statuses.iter().filter_map(|status| kib(status, "VmHWM:"));
        self.peak = peaks.fold(self.peak, u64::max);
        let resident = statuses.iter().map(|status| kib(status, "VmRSS:").unwrap_or(0));
        self.outstanding = resident.map(|resident| self.peak.saturating_sub(resident)).sum();
    }

    pub(super) fn started(&mut self) {
        self.started = Some(Instant::now());
        // Another may be started before this one is looked at.
        self.outstanding += self.peak;
    }

    pub(super) fn ended(&mut self) {
        self.ended = true;
    }

    /// Whether another fits beside those that run. Where the system does not tell, it does.
    pub(super) fn has_room(&self) -> bool {
        let Some(available) =
            fs::read_to_string("/proc/meminfo").ok().and_then(|text| kib(&text, "MemAvailable:"))
        else {
            return true;
        };
        let is_known = self.ended || self.started.is_none_or(|started| started.elapsed() >= OPENED);
        is_known && fits(available, self.peak, self.outstanding)
    }
}

fn fits(available: u64, peak: u64, outstanding: u64) -> bool {
    available.saturating_sub(outstanding) as f64 >= peak as f64 * (1.0 + RESERVE)
}

/// The number after a name, in KiB.
fn kib(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_fits_where_it_and_those_that_grow_leave_a_reserve() {
        assert!(fits(1000, 800, 0));
        assert!(!fits(999, 800, 0));
        assert!(!fits(1000, 800, 1));
        assert!(!fits(10, 800, 1000));
    }

    #[test]
    fn processes_show_what_they_take() {
        let mut memory = Memory::default();
        memory.watch([std::process::id()].into_iter());
        assert!(memory.peak > 0, "a process has some memory");
        assert!(memory.outstanding < memory.peak);
        let outstanding = memory.outstanding;
        memory.started();
        assert_eq!(memory.outstanding, outstanding + memory.peak, "it may take as much as the others");
        assert!(!memory.has_room(), "the first has only just been started, and may grow");
    }
}
