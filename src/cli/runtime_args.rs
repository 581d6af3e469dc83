//! Options that commands with models share.

use std::path::PathBuf;

use dissent_models::runtime::Provider;
use indicatif::{ProgressBar, ProgressStyle};

use crate::config::{RuntimeConfig, THREADS_MAX};

/// On what models run.
#[derive(Debug, clap::Args)]
pub(crate) struct RuntimeArgs {
    /// Where models run: cpu, cuda or auto.
    #[arg(long, default_value = "auto")]
    provider: Provider,
    /// Threads of one model run; 0: one for each physical core.
    #[arg(long, default_value_t = 0, value_parser = threads)]
    threads: usize,
    /// The ONNX Runtime library; found by itself where it is installed.
    #[arg(long, value_name = "FILE")]
    onnxruntime: Option<PathBuf>,
}

impl RuntimeArgs {
    pub(crate) fn config(&self) -> RuntimeConfig {
        RuntimeConfig {
            provider: self.provider,
            threads: self.threads,
            onnxruntime: self.onnxruntime.clone(),
        }
    }
}

fn threads(text: &str) -> Result<usize, String> {
    let within = text.parse().ok().filter(|threads| *threads <= THREADS_MAX);
    within.ok_or_else(|| format!("must be 0 to {THREADS_MAX}"))
}

/// A bar that counts items on stderr; hidden where that is no terminal.
pub(crate) fn counting_bar(total: Option<u64>, items: &str) -> ProgressBar {
    let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
    let template = format!("{{bar:32}} {{pos}}/{{len}} {items}, {{per_sec}}, {{eta}} left");
    bar.with_style(ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}
