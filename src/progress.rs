//! Progress of a run: bars on a terminal, or a short line from time to time.

use std::future::Future;
use std::time::{Duration, Instant};

use dissent_actors::TokenMeter;
use dissent_actors::{Phase, Progress};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::watch;

use crate::telemetry::{self, LogFormat};

const REFRESH: Duration = Duration::from_millis(250);
/// Time between two lines without a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(15);

/// Shows a bar for each slow step, with the current rate.
#[derive(Clone)]
pub(crate) struct ProgressView {
    bars: MultiProgress,
    generation: ProgressBar,
    reward: ProgressBar,
    conflict: ProgressBar,
    /// The bar of the phases after the measurement, hidden until they begin.
    learning: ProgressBar,
    is_terminal: bool,
    format: LogFormat,
}

impl ProgressView {
    /// Creates a view with bars if stderr is a terminal and the log format is text. Otherwise the view prints
    /// lines in the log's format.
    pub(crate) fn new(format: LogFormat) -> Self {
        let is_terminal = console_is_terminal() && format == LogFormat::Text;
        let bars = MultiProgress::new();
        if !is_terminal {
            bars.set_draw_target(ProgressDrawTarget::hidden());
        }
        let bar = |name: &str| {
            let bar = bars.add(ProgressBar::no_length());
            bar.set_style(style());
            bar.set_prefix(name.to_owned());
            bar
        };
        Self {
            generation: bar("generation"),
            reward: bar("reward"),
            conflict: bar("conflict"),
            learning: ProgressBar::hidden(),
            is_terminal,
            format,
            bars,
        }
    }

    /// Prints a line above the bars.
    pub(crate) fn print_line(&self, text: &str) {
        if self.is_terminal {
            // A closed stderr does not stop a run.
            let _ = self.bars.println(text);
        } else {
            telemetry::print_line(self.format, "INFO", text);
        }
    }

    /// Shows the progress of a run until the returned future is dropped.
    pub(crate) fn follow(
        &self,
        progress: watch::Receiver<Progress>,
        meter: TokenMeter,
    ) -> impl Future<Output = ()> + 'static {
        let view = self.clone();
        async move {
            let begun = Begun { at: Instant::now(), sampled: progress.borrow().counts.sampled };
            let mut last_line = Instant::now();
            let mut ticks = tokio::time::interval(REFRESH);
            loop {
                ticks.tick().await;
                let now = progress.borrow().clone();
                let line = begun.line(&now, meter.tokens());
                view.show(&now, &line);
                if !view.is_terminal && last_line.elapsed() >= LINE_INTERVAL {
                    last_line = Instant::now();
                    view.print_line(&status_line(&now, &line));
                }
            }
        }
    }

    fn show(&self, progress: &Progress, line: &str) {
        let counts = progress.counts;
        for (bar, done) in [
            (&self.generation, counts.sampled),
            (&self.reward, counts.scored),
            (&self.conflict, counts.measured),
        ] {
            bar.set_length(u64::from(counts.expected));
            bar.set_position(u64::from(done));
        }
        self.generation.set_message(line.to_owned());
        self.show_learning(progress);
    }

    fn show_learning(&self, progress: &Progress) {
        let Some((name, done, all, unit)) = learning(progress) else { return };
        if self.learning.is_hidden() && self.is_terminal {
            self.bars.add(self.learning.clone());
            self.learning.set_style(learning_style());
        }
        self.learning.set_prefix(name);
        self.learning.set_length(all);
        self.learning.set_position(done);
        self.learning.set_message(format!("{unit}{}", round_suffix(progress)));
    }
}

impl Drop for ProgressView {
    fn drop(&mut self) {
        for bar in [&self.generation, &self.reward, &self.conflict, &self.learning] {
            bar.abandon();
        }
    }
}

/// The progress at the start of this process, which its speed does not include.
struct Begun {
    at: Instant,
    sampled: u32,
}

impl Begun {
    fn line(&self, progress: &Progress, tokens: u64) -> String {
        let seconds = self.at.elapsed().as_secs_f64().max(0.1);
        let counts = progress.counts;
        let done = counts.sampled.saturating_sub(self.sampled);
        let left = f64::from(counts.expected.saturating_sub(counts.sampled + counts.set_aside));
        let time_left = if done == 0 {
            String::new()
        } else {
            format!(", {} left", minutes(left * seconds / f64::from(done)))
        };
        let rate = tokens as f64 / seconds;
        format!("{} completions, {rate:.0} tokens/s{time_left}", counts.completions)
    }
}

/// Returns the phase of a round after the measurement: name, amount done, total and unit.
fn learning(progress: &Progress) -> Option<(&'static str, u64, u64, &'static str)> {
    let (done, all) = progress.training.unwrap_or_default();
    match progress.phase {
        Phase::Sampling => None,
        Phase::Feedback => Some(("feedback", progress.judgements, progress.judgements_wanted, "judgements")),
        Phase::Refining => Some(("refinement", done, all, "steps")),
        Phase::Tuning => Some(("tuning", done, all, "steps")),
        Phase::Evaluating => Some((
            "evaluation",
            u64::from(progress.evaluations),
            u64::from(progress.rounds) + 1,
            "evaluations",
        )),
    }
}

fn round_suffix(progress: &Progress) -> String {
    match progress.round {
        Some(round) if progress.rounds > 1 => format!(", round {} of {}", round + 1, progress.rounds),
        _ => String::new(),
    }
}

/// Returns a line of progress for stderr without a terminal.
fn status_line(progress: &Progress, line: &str) -> String {
    let rounds = round_suffix(progress);
    match learning(progress) {
        None => {
            let counts = progress.counts;
            format!("{} of {} prompts measured, {line}{rounds}", counts.measured, counts.expected)
        }
        Some((name, done, all, unit)) => format!("{name}: {done} of {all} {unit}{rounds}"),
    }
}

fn minutes(seconds: f64) -> String {
    let minutes = (seconds / 60.0).floor();
    format!("{minutes:.0}:{:02.0}", (seconds - minutes * 60.0).floor())
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix:>11} {bar:32} {pos:>5}/{len} prompts  {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn learning_style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix:>11} {bar:32} {pos:>5}/{len} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn console_is_terminal() -> bool {
    use std::io::IsTerminal as _;
    std::io::stderr().is_terminal()
}
