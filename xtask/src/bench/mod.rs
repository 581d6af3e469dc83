//! `cargo xtask bench`: measures the speed, compares it with a reference and with a target.
//!
//! Machines differ and other load disturbs, so a comparison alternates the runs of both sides and reports the
//! median of their ratios. A figure that misses its target is marked; only a failed measurement is an error.

mod carrying;
mod figure;
mod measurements;
mod python;
mod training;
mod weights;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

pub(crate) use self::figure::Figure;
pub(crate) use self::python::reference_python;
use crate::cache::target_dir;

#[derive(Args)]
pub(crate) struct BenchOptions {
    /// Run one benchmark only
    #[arg(long, value_name = "NAME")]
    only: Option<Benchmark>,
    /// File for the figures [default: target/bench/figures.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Alternating runs for a comparison
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pairs: u32,
}

#[derive(Clone, Copy, ValueEnum)]
enum Benchmark {
    /// Sampling 8 × 64 tokens, against transformers' `generate` on the same weights
    Generation,
    /// Sampling with packed weights (as-stored, int8), against 32-bit floats
    Weights,
    /// Training steps of 8 × 128 tokens, against PyTorch and PEFT on the same weights
    Training,
    /// Parts of the time of a PPO iteration
    Ppo,
    /// Durable appends, against a raw file with one fdatasync per group
    Log,
    /// Rebuilding an experiment's state from its events
    Replay,
    /// PACS and Kendall's tau of 100 000 prompts × 8
    Conflict,
    /// Peak memory of the demo's run
    Memory,
    /// The demo's run, against its model runs alone
    Overhead,
    /// Events through RabbitMQ end to end, against the same client's bare rate
    Rabbitmq,
    /// Memory over twenty minutes at full rate; runs only if named
    Soak,
}

impl Benchmark {
    fn measure(self, options: &BenchOptions) -> Result<Vec<Figure>> {
        match self {
            Self::Generation => measurements::generation(options.pairs),
            Self::Weights => weights::weights(options.pairs),
            Self::Training => training::step(options.pairs),
            Self::Ppo => training::ppo(),
            Self::Log => measurements::log(),
            Self::Replay => measurements::replay(),
            Self::Conflict => measurements::conflict(),
            Self::Memory => measurements::memory(),
            Self::Overhead => carrying::overhead(options.pairs),
            Self::Rabbitmq => carrying::rabbitmq(),
            Self::Soak => carrying::soak(),
        }
    }
}

/// Runs the benchmarks, prints the table, and writes the figures as JSON.
pub(crate) fn run(options: &BenchOptions) -> Result<()> {
    let all = Benchmark::value_variants().iter().copied().filter(|it| !matches!(it, Benchmark::Soak));
    let chosen: Vec<Benchmark> = options.only.map_or_else(|| all.collect(), |only| vec![only]);
    let mut figures = Vec::new();
    let mut failures = Vec::new();
    for benchmark in chosen {
        let name =
            benchmark.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        println!("measuring {name}");
        match benchmark.measure(options) {
            Ok(measured) => figures.extend(measured),
            Err(error) => failures.push(format!("{name}: {error:#}")),
        }
    }
    print!("{}", figure::table(&figures));
    let path = options.json.clone().unwrap_or_else(|| target_dir().join("bench/figures.json"));
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("failed to create {}", folder.display()))?;
    }
    std::fs::write(&path, serde_json::to_vec_pretty(&figures)?)
        .with_context(|| format!("failed to write {}", path.display()))?;
    println!("figures: {}", path.display());
    if !failures.is_empty() {
        bail!("failed to measure {}", failures.join("; "));
    }
    Ok(())
}
