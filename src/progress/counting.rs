//! Progress of a command that counts items: a bar on a terminal, or a line from time to time.

use std::io::Write as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::LINE_INTERVAL;
use super::pace::Pace;

/// Shortest work whose end is worth a line without a terminal.
const SHORT: Duration = Duration::from_secs(1);

/// Counts items on stderr.
pub(crate) struct CountingView {
    bar: ProgressBar,
    items: &'static str,
    begun: Instant,
    /// The time of the last line without a terminal.
    line: Instant,
}

impl CountingView {
    /// Creates a view of `total` items, named in the plural.
    pub(crate) fn new(total: u64, items: &'static str) -> Self {
        let template = format!("{{bar:32}} {{pos}}/{{len}} {items}, {{per_sec}}, {{eta}} left");
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let begun = Instant::now();
        Self { bar: ProgressBar::new(total).with_style(style), items, begun, line: begun }
    }

    /// Adds finished items.
    pub(crate) fn inc(&mut self, items: u64) {
        self.set(self.bar.position() + items);
    }

    /// Sets the number of finished items.
    pub(crate) fn set(&mut self, done: u64) {
        self.bar.set_position(done);
        let is_last = Some(self.bar.position()) == self.bar.length() && self.begun.elapsed() >= SHORT;
        if self.bar.is_hidden() && (is_last || self.line.elapsed() >= LINE_INTERVAL) {
            self.line = Instant::now();
            let all = self.bar.length().unwrap_or_default();
            let text = Pace::from(0).text(self.bar.position(), all, self.items, self.begun.elapsed());
            // A closed stderr does not stop the command.
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// Removes the bar.
    pub(crate) fn finish_and_clear(&self) {
        self.bar.finish_and_clear();
    }
}
