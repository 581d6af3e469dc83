//! Progress of a run: bars on a terminal, or a short line from time to time.

mod counting;
mod pace;

use std::future::Future;
use std::time::{Duration, Instant};

use dissent_actors::TokenMeter;
use dissent_actors::{Phase, Progress};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::watch;

use crate::telemetry::{self, LogFormat};
pub(crate) use counting::CountingView;
use pace::Pace;
pub(crate) use pace::clock;

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
            let mut work = Work::of(&progress.borrow(), &meter);
            let mut last_line = Instant::now();
            let mut ticks = tokio::time::interval(REFRESH);
            loop {
                ticks.tick().await;
                let now = progress.borrow().clone();
                // The end of a phase is worth a line, too.
                let ended = work.next(&now, &meter);
                let due =
                    ended.or_else(|| (last_line.elapsed() >= LINE_INTERVAL).then(|| work.line(&now, &meter)));
                view.show(&now, &work.message(&now, &meter));
                if let Some(line) = due.flatten().filter(|_| !view.is_terminal) {
                    last_line = Instant::now();
                    view.print_line(&line);
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
        let Some((name, done, all, unit)) = learning(progress).filter(|(_, _, all, _)| *all > 0) else {
            return;
        };
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

/// The work of a phase, from its begin in this process.
struct Work {
    round: Option<u32>,
    phase: Phase,
    begun: Instant,
    /// The count and the tokens of this process at the begin.
    done: u64,
    tokens: u64,
    /// The last progress of the phase.
    last: Progress,
}

impl Work {
    fn of(progress: &Progress, meter: &TokenMeter) -> Self {
        let (done, ..) = counts(progress);
        let (round, phase) = (progress.round, progress.phase);
        Self { round, phase, begun: Instant::now(), done, tokens: meter.tokens(), last: progress.clone() }
    }

    /// Takes the next progress. If a phase ended, begins the next one and returns the last line of the old
    /// one.
    fn next(&mut self, progress: &Progress, meter: &TokenMeter) -> Option<Option<String>> {
        if (self.round, self.phase) == (progress.round, progress.phase) {
            self.last = progress.clone();
            return None;
        }
        let mut last = std::mem::take(&mut self.last);
        // The events that end a phase arrive together with its last counts.
        if last.round.is_none() || last.round == progress.round {
            (last.round, last.counts) = (progress.round, progress.counts);
        }
        let line = self.text(&last);
        *self = Self::of(progress, meter);
        Some(line)
    }

    /// Returns the line of the phase; `None` while its total is not known.
    fn line(&self, progress: &Progress, meter: &TokenMeter) -> Option<String> {
        let line = self.text(progress)?;
        if progress.phase != Phase::Sampling {
            return Some(line);
        }
        Some(format!("{line}, {}", self.sampling(progress, meter)))
    }

    /// Returns the text beside the bar of the sampling.
    fn message(&self, progress: &Progress, meter: &TokenMeter) -> String {
        let (done, all, _) = counts(progress);
        let left = Pace::from(self.done).time_left(done, all, self.begun.elapsed());
        let parts =
            [Some(self.sampling(progress, meter)), left.filter(|_| progress.phase == Phase::Sampling)];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    fn text(&self, progress: &Progress) -> Option<String> {
        let (done, all, unit) = counts(progress);
        let name = learning(progress).map_or_else(String::new, |(name, ..)| format!("{name}: "));
        let text = Pace::from(self.done).text(done, all, unit, self.begun.elapsed());
        (all > 0).then(|| format!("{name}{text}{}", round_suffix(progress)))
    }

    /// Returns the completions of the round and the rate of their tokens.
    fn sampling(&self, progress: &Progress, meter: &TokenMeter) -> String {
        let tokens = meter.tokens().saturating_sub(self.tokens);
        let rate = tokens as f64 / self.begun.elapsed().as_secs_f64().max(0.1);
        format!("{} completions, {rate:.0} tokens/s", progress.counts.completions)
    }
}

/// Returns the amount done, the total and the unit of a phase. The total is 0 while it is not known.
fn counts(progress: &Progress) -> (u64, u64, &'static str) {
    let counts = progress.counts;
    match learning(progress) {
        Some((_, done, all, unit)) => (done, all, unit),
        None => {
            (u64::from(counts.measured + counts.set_aside), u64::from(counts.expected), "prompts measured")
        }
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
