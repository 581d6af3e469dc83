//! Checks the available memory before another experiment of a study starts.

use std::fs;
use std::time::{Duration, Instant};

/// Time after which an experiment has opened its models and uses its typical memory.
const OPENED: Duration = Duration::from_secs(20);
/// Memory left to other processes, as a share of the peak of an experiment.
const RESERVE: f64 = 0.25;

/// The observed memory of the experiments of a study. The experiments differ in the selection only, so their
/// peaks are similar.
#[derive(Debug, Default)]
pub(super) struct MemoryBudget {
    /// The largest peak of one experiment, in KiB.
    peak: u64,
    /// Memory that the running experiments may still allocate, in KiB.
    outstanding: u64,
    /// The time of the last start.
    started: Option<Instant>,
    /// Whether an experiment has ended, so that the peak is reliable.
    ended: bool,
}

impl MemoryBudget {
    /// Measures the running processes.
    pub(super) fn measure(&mut self, running: impl Iterator<Item = u32>) {
        let statuses: Vec<String> =
            running.filter_map(|id| fs::read_to_string(format!("/proc/{id}/status")).ok()).collect();
        let peaks = statuses.iter().filter_map(|status| kib(status, "VmHWM:"));
        self.peak = peaks.fold(self.peak, u64::max);
        let resident = statuses.iter().map(|status| kib(status, "VmRSS:").unwrap_or(0));
        self.outstanding = resident.map(|resident| self.peak.saturating_sub(resident)).sum();
    }

    /// Records the start of an experiment.
    pub(super) fn on_start(&mut self) {
        self.started = Some(Instant::now());
        // Another experiment may start before this one is measured.
        self.outstanding += self.peak;
    }

    /// Records the end of an experiment.
    pub(super) fn on_end(&mut self) {
        self.ended = true;
    }

    /// Whether another experiment fits. Always true on systems without `/proc/meminfo`.
    pub(super) fn has_room(&self) -> bool {
        let Some(available) =
            fs::read_to_string("/proc/meminfo").ok().and_then(|text| kib(&text, "MemAvailable:"))
        else {
            return true;
        };
        let is_reliable = self.ended || self.started.is_none_or(|started| started.elapsed() >= OPENED);
        is_reliable && fits(available, self.peak, self.outstanding)
    }
}

fn fits(available: u64, peak: u64, outstanding: u64) -> bool {
    available.saturating_sub(outstanding) as f64 >= peak as f64 * (1.0 + RESERVE)
}

/// Parses the number after a name, in KiB.
fn kib(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_experiment_fits_if_a_reserve_remains_after_all_have_grown() {
        assert!(fits(1000, 800, 0));
        assert!(!fits(999, 800, 0));
        assert!(!fits(1000, 800, 1));
        assert!(!fits(10, 800, 1000));
    }

    #[test]
    fn a_started_experiment_counts_with_the_peak_of_the_others() {
        let mut memory = MemoryBudget::default();
        memory.measure([std::process::id()].into_iter());
        assert!(memory.peak > 0, "this process uses memory");
        assert!(memory.outstanding < memory.peak);
        let outstanding = memory.outstanding;
        memory.on_start();
        assert_eq!(memory.outstanding, outstanding + memory.peak, "another peak is outstanding");
        assert!(!memory.has_room(), "the peak of a young process is not reliable");
    }
}
