//! Counts, rate and time left, as text.

use std::time::Duration;

/// The pace of work in this process. Work of earlier processes does not count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// The count when this process began.
    begun_at: u64,
}

impl Pace {
    pub(crate) fn from(begun_at: u64) -> Self {
        Self { begun_at }
    }

    /// Returns `DONE of ALL UNIT, RATE, TIME left`, without the parts that are not known yet.
    pub(crate) fn text(self, done: u64, all: u64, unit: &str, elapsed: Duration) -> String {
        let counts = if all == 0 { format!("{done} {unit}") } else { format!("{done} of {all} {unit}") };
        let parts = [Some(counts), self.rate(done, elapsed), self.time_left(done, all, elapsed)];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    fn per_second(self, done: u64, elapsed: Duration) -> Option<f64> {
        let done = done.saturating_sub(self.begun_at);
        (done > 0 && !elapsed.is_zero()).then(|| done as f64 / elapsed.as_secs_f64())
    }

    fn rate(self, done: u64, elapsed: Duration) -> Option<String> {
        let per_second = self.per_second(done, elapsed)?;
        Some(match per_second {
            fast if fast >= 10.0 => format!("{fast:.0}/s"),
            steady if steady >= 1.0 => format!("{steady:.1}/s"),
            slow => format!("{:.1}/min", slow * 60.0),
        })
    }

    pub(crate) fn time_left(self, done: u64, all: u64, elapsed: Duration) -> Option<String> {
        let left = all.checked_sub(done).filter(|left| *left > 0)?;
        Some(format!("{} left", clock(left as f64 / self.per_second(done, elapsed)?)))
    }
}

/// Formats seconds as `M:SS`, or as hours and minutes.
pub(crate) fn clock(seconds: f64) -> String {
    let minutes = (seconds / 60.0).floor();
    if minutes < 60.0 {
        return format!("{minutes:.0}:{:02.0}", (seconds - minutes * 60.0).floor());
    }
    let hours = (minutes / 60.0).floor();
    format!("{hours:.0} h {:02.0} min", minutes - hours * 60.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_counts_rate_and_time_left_as_soon_as_they_are_known() {
        let after = Duration::from_secs;
        let pace = Pace::from(0);
        assert_eq!(pace.text(0, 24, "prompts", after(3)), "0 of 24 prompts");
        assert_eq!(pace.text(6, 24, "prompts", after(30)), "6 of 24 prompts, 12.0/min, 1:30 left");
        assert_eq!(pace.text(24, 24, "prompts", after(2)), "24 of 24 prompts, 12/s");
        assert_eq!(pace.text(3, 0, "prompts", after(1)), "3 prompts, 3.0/s", "never an unknown total");
        assert_eq!(Pace::from(10).text(12, 20, "steps", after(4)), "12 of 20 steps, 30.0/min, 0:16 left");
        assert_eq!(clock(3.0 * 3600.0 + 300.0), "3 h 05 min");
    }
}
