//! Progress of a training: a bar on a terminal, or a line from time to time.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value};

/// Time between two lines without a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(15);

/// Shows the progress of a training.
pub(super) struct TrainingView {
    bar: ProgressBar,
    is_terminal: bool,
    begun: Instant,
    last_line: Option<Instant>,
    /// Steps done by earlier processes, which do not count for the speed.
    done_before: u64,
    steps: u64,
    unit: &'static str,
    /// The metrics to show, each with its label.
    shown: &'static [(&'static str, &'static str)],
}

impl TrainingView {
    pub(super) fn new(
        unit: &'static str,
        steps: u64,
        done: u64,
        shown: &'static [(&'static str, &'static str)],
    ) -> Self {
        let bar = ProgressBar::new(steps).with_position(done);
        let template = format!("{{bar:32}} {{pos}}/{{len}} {unit}  {{msg}}");
        bar.set_style(
            ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        let is_terminal = std::io::stderr().is_terminal();
        let begun = Instant::now();
        Self { bar, is_terminal, begun, last_line: None, done_before: done, steps, unit, shown }
    }

    /// Shows the metrics of the last step.
    pub(super) fn show(&mut self, step: u64, metrics: &Map<String, Value>) {
        let line = self.line(step, metrics);
        self.bar.set_position(step);
        self.bar.set_message(line.clone());
        let is_due = self.last_line.is_none_or(|last| last.elapsed() >= LINE_INTERVAL) || step == self.steps;
        if !self.is_terminal && is_due {
            self.last_line = Some(Instant::now());
            print_status(&format!("{step} of {} {}, {line}", self.steps, self.unit));
        }
    }

    fn line(&self, step: u64, metrics: &Map<String, Value>) -> String {
        let number = |name: &str| metrics.get(name).and_then(Value::as_f64);
        let mut parts: Vec<String> = self
            .shown
            .iter()
            .filter_map(|(name, label)| Some(format!("{label} {:.4}", number(name)?)))
            .collect();
        parts.extend(number("tokens_per_second").map(|rate| format!("{rate:.0} tokens/s")));
        let done = step.saturating_sub(self.done_before);
        if done > 0 && step < self.steps {
            let left = self.begun.elapsed().as_secs_f64() / done as f64 * (self.steps - step) as f64;
            let minutes = (left / 60.0).floor();
            parts.push(format!("{minutes:.0}:{:02.0} left", (left - minutes * 60.0).floor()));
        }
        parts.join(", ")
    }
}

impl Drop for TrainingView {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Prints a line on stderr. A closed stderr does not stop a training.
pub(super) fn print_status(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
