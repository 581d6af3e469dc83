//! Predictions of memory: what the steps of a command or an experiment take, and what the machine has.

pub(crate) mod experiment;
mod longest;
mod machine;
pub(crate) mod steps;

use std::fmt::Write as _;
use std::io::Write as _;

use dissent_models::memory::{MemoryPart, StepMemory};
use dissent_models::runtime::Provider;
use serde::Serialize;

pub(crate) use longest::Longest;
pub(crate) use machine::MachineMemory;

/// The predicted memory of one step.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct StepForecast {
    /// The name of the step.
    pub(crate) step: String,
    /// The peak, in bytes.
    pub(crate) peak_bytes: u64,
    /// The part of the peak that only this process has.
    pub(crate) private_bytes: u64,
    /// The peak, part by part.
    pub(crate) parts: StepMemory,
    /// The settings that lower the peak most.
    #[serde(skip)]
    pub(crate) way_out: &'static str,
}

/// The predicted memory of a command or an experiment.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Forecast {
    /// The steps.
    pub(crate) steps: Vec<StepForecast>,
    /// The peak of the whole process.
    pub(crate) process: StepForecast,
    /// The memory that the process may use.
    pub(crate) machine: MachineMemory,
    /// Whether the private part of the peak fits.
    pub(crate) fits: bool,
}

impl StepForecast {
    pub(crate) fn new(step: impl Into<String>, parts: StepMemory, way_out: &'static str) -> Self {
        let (peak_bytes, private_bytes) = (parts.total(), parts.private());
        Self { step: step.into(), peak_bytes, private_bytes, parts, way_out }
    }

    /// Returns the prediction under another name.
    pub(crate) fn named(self, step: &str) -> Self {
        Self { step: step.to_owned(), ..self }
    }
}

impl Forecast {
    /// Returns the prediction for a process that keeps the first steps open, and runs one of the others at a
    /// time.
    pub(crate) fn of_process(open: Vec<StepForecast>, transient: Vec<StepForecast>) -> Self {
        let largest = transient.iter().max_by_key(|step| step.peak_bytes);
        let all = open.iter().chain(largest);
        let parts = all.clone().fold(StepMemory::default(), |all, step| all.and(&step.parts));
        let way_out = all.max_by_key(|step| step.private_bytes).map_or("", |step| step.way_out);
        let process = StepForecast::new("whole process", parts, way_out);
        let machine = MachineMemory::read();
        let fits = process.private_bytes <= machine.usable_bytes();
        Self { steps: open.into_iter().chain(transient).collect(), process, machine, fits }
    }

    /// Returns the prediction as text: a line for each step, the largest one part by part, the machine, and a
    /// warning if the process does not fit.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for step in self.steps.iter().chain([&self.process]) {
            let (peak, private) = (gib(step.peak_bytes), gib(step.private_bytes));
            let _ = writeln!(text, "memory  {:<16} {peak} at most, {private} of it private", step.step);
        }
        if let Some(largest) = self.largest() {
            // Parts below a hundredth of the peak are not worth a word.
            let parts =
                largest.parts.parts().filter(|&(_, bytes)| bytes.saturating_mul(100) >= largest.peak_bytes);
            let mut parts: Vec<(MemoryPart, u64)> = parts.collect();
            parts.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
            let parts = parts.iter().map(|(part, bytes)| format!("{part} {}", gib(*bytes)));
            let parts = parts.collect::<Vec<_>>().join(", ");
            let _ = writeln!(text, "memory  largest step     {}: {parts}", largest.step);
        }
        let limit = self
            .machine
            .limit_bytes
            .map_or_else(String::new, |limit| format!(", of which the control group allows {}", gib(limit)));
        let _ = writeln!(text, "memory  machine          {}{limit}", gib(self.machine.total_bytes));
        if let Some(warning) = self.warning() {
            let _ = writeln!(text, "WARNING {warning}");
        }
        text
    }

    /// Returns the sentence that says what does not fit, and the way out.
    pub(crate) fn warning(&self) -> Option<String> {
        let largest = self.largest().filter(|_| !self.fits)?;
        Some(format!(
            "the process needs {} of private memory, and {} can be used: {}",
            gib(self.process.private_bytes),
            gib(self.machine.usable_bytes()),
            largest.way_out
        ))
    }

    fn largest(&self) -> Option<&StepForecast> {
        self.steps.iter().max_by_key(|step| step.private_bytes)
    }
}

/// Says that memory is predicted for the CPU only, if the steps run on a GPU.
pub(crate) fn note_on_provider(provider: Provider) -> Option<&'static str> {
    match provider {
        Provider::Cpu => None,
        Provider::Cuda => Some("the prediction is for the CPU, but the configuration asks for CUDA"),
        Provider::Auto => {
            Some("the prediction is for the CPU; with provider \"auto\" a GPU is used if there is one")
        }
    }
}

/// Prints a prediction, as the result of a dry run.
///
/// # Errors
/// If the output cannot be written, or the process does not fit into memory.
pub(crate) fn show(forecast: &Forecast, provider: Provider, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, forecast)?;
        writeln!(out)?;
    } else {
        write!(out, "{}", forecast.text())?;
        if let Some(note) = note_on_provider(provider) {
            writeln!(out, "note    {note}")?;
        }
    }
    Ok(())
}

fn gib(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forecast(private_bytes: u64, machine: MachineMemory) -> Forecast {
        let step = StepForecast {
            private_bytes,
            ..StepForecast::new("training", StepMemory::default(), "use --recompute")
        };
        let fits = private_bytes <= machine.usable_bytes();
        Forecast { steps: vec![step.clone()], process: step, machine, fits }
    }

    #[test]
    fn a_process_keeps_open_steps_and_one_transient_step() {
        let step = |name: &str, bytes: u64| {
            let parts: StepMemory = [(MemoryPart::Cache, bytes)].into_iter().collect();
            StepForecast::new(name, parts, "")
        };
        let forecast =
            Forecast::of_process(vec![step("a", 10), step("b", 5)], vec![step("c", 2), step("d", 7)]);
        assert_eq!((forecast.process.peak_bytes, forecast.steps.len()), (22, 4));
    }

    #[test]
    fn a_process_that_does_not_fit_is_told_with_the_way_out() {
        let machine = MachineMemory { total_bytes: 8 << 30, limit_bytes: Some(2 << 30) };
        let warning = forecast(3 << 30, machine).text();
        assert!(warning.contains("WARNING the process needs 3.00 GiB of private memory, and 2.00 GiB can be used: use --recompute"), "{warning}");
        assert!(!forecast(1 << 30, machine).text().contains("WARNING"));
    }
}
