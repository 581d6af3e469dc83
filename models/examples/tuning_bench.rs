//! Measures iterations of PPO: `tuning_bench MODEL [PROMPTS] [NEW_TOKENS] [ITERATIONS] [THREADS]`. Prints one
//! JSON object.
//!
//! A low-rank change (r 16, α 32, query and value projections) and a value head are trained against a rule.
//! The rule costs no time, so scoring hides nothing. `seconds` holds the phases of each iteration; `overhead`
//! is the share of its time outside the models.

#![expect(clippy::print_stdout, reason = "a program")]

use std::path::PathBuf;

use dissent_domain::training::{
    Dialogue, Hyperparameters, LoraSettings, PolicyMethod, PolicyObjective, PpoSettings,
};
use dissent_models::ModelError;
use dissent_models::cache::cache_dir;
use dissent_models::checkpoint::{Checkpoint, OpenOptions, ReadingRules};
use dissent_models::runtime::{CancelFlag, OnnxRuntime, Provider, SessionOptions};
use dissent_models::tuning::{
    IterationReport, LoraPolicy, PolicyStart, PolicyTuner, SampledCompletion, Scorer, TuningPrompt,
    TuningSettings,
};

/// Rewards short completions.
struct Brevity;

impl Scorer for Brevity {
    fn score(
        &mut self,
        completions: &[SampledCompletion<'_>],
        _: &CancelFlag,
    ) -> Result<Vec<f64>, ModelError> {
        Ok(completions.iter().map(|completion| -(completion.text.len() as f64) / 100.0).collect())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: tuning_bench MODEL [PROMPTS] [NEW_TOKENS] [ITERATIONS] [THREADS]";
    let path = PathBuf::from(arguments.next().ok_or(usage)?);
    let mut number = |default: u32| arguments.next().map_or(Ok(default), |text| text.parse());
    let (prompts, new_tokens, iterations, threads) = (number(8)?, number(64)?, number(3)?, number(0)?);

    let cache_dir = cache_dir().ok_or("no cache folder: set DISSENT_CACHE")?;
    let checkpoint =
        Checkpoint::open(&path, &OpenOptions { layers: None, cache_dir, reading: ReadingRules::default() })?;
    let ppo = PpoSettings { prompts, iterations, max_new_tokens: new_tokens, ..PpoSettings::default() };
    let training = Hyperparameters {
        learning_rate: 1.41e-5,
        batch_size: 8,
        lora: Some(LoraSettings { r: 16, ..LoraSettings::default() }),
        ..Hyperparameters::default()
    };
    let objective = PolicyObjective { method: PolicyMethod::Ppo, ppo, ..PolicyObjective::default() };
    let settings = TuningSettings { objective, training };
    let options = SessionOptions {
        provider: Provider::Cpu,
        threads: usize::try_from(threads)?,
        ..SessionOptions::default()
    };
    let runtime = OnnxRuntime::load(None)?;
    let policy = LoraPolicy::open(runtime, &checkpoint, &settings, PolicyStart::default(), &options)?;
    let prompt = |prompt: u32| TuningPrompt {
        dialogue: Dialogue::Text(String::new()),
        ids: (0..32).map(|token| (7 + 7919 * prompt + 104_729 * token) % 49_152).collect(),
    };
    let mut tuner = PolicyTuner::new(policy, (0..prompts).map(prompt).collect(), settings)?;
    let mut reports = Vec::new();
    while !tuner.is_done() {
        reports.push(tuner.iterate(&mut Brevity, &CancelFlag::new())?);
    }
    let seconds = |report: &IterationReport| {
        let times = report.phases;
        serde_json::json!({
            "sampling": times.sampling.as_secs_f64(), "scoring": times.scoring.as_secs_f64(),
            "forward": times.forward.as_secs_f64(), "training": times.training.as_secs_f64(),
            "other": times.other.as_secs_f64(), "total": times.total().as_secs_f64(),
        })
    };
    let result = serde_json::json!({
        "prompts": prompts, "new_tokens": new_tokens, "threads": threads,
        "seconds": reports.iter().map(seconds).collect::<Vec<_>>(),
        "overhead": reports.iter().map(|report| report.phases.overhead()).collect::<Vec<_>>(),
    });
    println!("{result}");
    Ok(())
}
