//! Options of the commands that run models.

use std::path::PathBuf;

use dissent_models::runtime::{ComputeType, Provider};

use crate::config::overrides::Override;
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
    #[arg(value_parser = crate::cli::paths::path(), long, value_name = "FILE")]
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

/// Values that replace those of a configuration.
#[derive(Debug, clap::Args)]
pub(crate) struct OverrideArgs {
    /// Value of a key of the configuration, as TOML, such as conflict.budget=40; `KEY=` leaves KEY out. May
    /// be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<Override>,
    /// Seed of every random choice, as --set experiment.seed=N.
    #[arg(long, value_name = "N", allow_negative_numbers = true,
        value_parser = clap::value_parser!(i64).range(0..))]
    seed: Option<i64>,
}

impl OverrideArgs {
    /// Returns the values, of which a later one counts.
    pub(crate) fn all(&self) -> Vec<Override> {
        self.set.iter().cloned().chain(self.seed.map(Override::of_seed)).collect()
    }

    /// Returns the values as options of a suggested command.
    pub(crate) fn words(&self) -> Vec<String> {
        self.all().iter().flat_map(|replaced| ["--set".to_owned(), replaced.to_string()]).collect()
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
    /// ONNX Runtime library. Overrides the configuration.
    #[arg(long, value_name = "FILE", value_parser = crate::cli::paths::path())]
    onnxruntime: Option<PathBuf>,
}

impl RuntimeOverrides {
    pub(crate) fn apply(&self, runtime: &mut RuntimeConfig) {
        runtime.provider = self.provider.unwrap_or(runtime.provider);
        runtime.device = self.device.unwrap_or(runtime.device);
        runtime.dtype = self.dtype.unwrap_or(runtime.dtype);
        runtime.threads = self.threads.unwrap_or(runtime.threads);
        if let Some(library) = &self.onnxruntime {
            runtime.onnxruntime = Some(library.clone());
        }
    }
}

fn threads(text: &str) -> Result<usize, String> {
    let within = text.parse().ok().filter(|threads| *threads <= THREADS_MAX);
    within.ok_or_else(|| format!("use 0 to {THREADS_MAX}"))
}
