//! Options of the commands that run models.

use std::path::PathBuf;

use dissent_models::runtime::{ComputeType, Provider};
use indicatif::{ProgressBar, ProgressStyle};

use crate::config::{RuntimeConfig, THREADS_MAX};

/// Provider, threads and library of model runs.
#[derive(Debug, clap::Args)]
pub(crate) struct RuntimeArgs {
    /// Execution provider of models: cpu, cuda or auto.
    #[arg(long, default_value = "auto")]
    provider: Provider,
    /// Index of the GPU, from 0, for cuda.
    #[arg(long, value_name = "N", default_value_t = 0)]
    device: u32,
    /// Numbers that models compute with: auto, f32, bf16 or f16. The CPU has f32.
    #[arg(long, default_value = "auto")]
    dtype: ComputeType,
    /// Threads of one model run; 0 is one for each physical core.
    #[arg(long, default_value_t = 0, value_parser = threads)]
    threads: usize,
    /// ONNX Runtime library [default: the installed one]
    #[arg(long, value_name = "FILE")]
    onnxruntime: Option<PathBuf>,
}

impl RuntimeArgs {
    pub(crate) fn config(&self) -> RuntimeConfig {
        RuntimeConfig {
            provider: self.provider,
            device: self.device,
            dtype: self.dtype,
            threads: self.threads,
            onnxruntime: self.onnxruntime.clone(),
        }
    }
}

/// Settings of model runs that override those of a configuration.
#[derive(Debug, clap::Args)]
pub(crate) struct RuntimeOverrides {
    /// Execution provider of models: cpu, cuda or auto. Overrides the configuration.
    #[arg(long)]
    provider: Option<Provider>,
    /// Index of the GPU, from 0, for cuda. Overrides the configuration.
    #[arg(long, value_name = "N")]
    device: Option<u32>,
    /// Numbers that models compute with: auto, f32, bf16 or f16. Overrides the configuration.
    #[arg(long)]
    dtype: Option<ComputeType>,
    /// Threads of one model run; 0 is one for each physical core. Overrides the configuration.
    #[arg(long, value_parser = threads)]
    threads: Option<usize>,
}

impl RuntimeOverrides {
    pub(crate) fn apply(&self, runtime: &mut RuntimeConfig) {
        runtime.provider = self.provider.unwrap_or(runtime.provider);
        runtime.device = self.device.unwrap_or(runtime.device);
        runtime.dtype = self.dtype.unwrap_or(runtime.dtype);
        runtime.threads = self.threads.unwrap_or(runtime.threads);
    }
}

fn threads(text: &str) -> Result<usize, String> {
    let within = text.parse().ok().filter(|threads| *threads <= THREADS_MAX);
    within.ok_or_else(|| format!("use 0 to {THREADS_MAX}"))
}

/// Returns a progress bar on stderr that counts items; hidden if stderr is not a terminal.
pub(crate) fn counting_bar(total: Option<u64>, items: &str) -> ProgressBar {
    let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
    let template = format!("{{bar:32}} {{pos}}/{{len}} {items}, {{per_sec}}, {{eta}} left");
    bar.with_style(ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}
