//! Measurements of training: a step beside PyTorch and PEFT, and the parts of a PPO iteration.

use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::figure::{Figure, Target, median};
use super::measurements::{alternate, example, json_of, number};
use super::reference_python;
use crate::cache::workspace_dir;

const SEQUENCES: u32 = 8;
const TOKENS: u32 = 128;
/// Steps of one run, after one warm-up step.
const STEPS: u32 = 5;

/// Measures milliseconds and peak memory of a training step, in alternating runs of ours and PyTorch.
pub(super) fn step(pairs: u32) -> Result<Vec<Figure>> {
    crate::fetch::fetch_all()?;
    let model = crate::fetch::smollm2_path()?;
    let ours = example("dissent-models", "train_step_bench")?;
    let python = reference_python()?;
    let sizes = [SEQUENCES, TOKENS, STEPS].map(|size| size.to_string());
    let product = || json_of(Command::new(&ours).arg(&model).args(&sizes));
    let reference = |attention: &str| {
        let mut command = Command::new(&python);
        command.arg(workspace_dir().join("bench/train_reference.py")).arg(&model);
        let [sequences, tokens, steps] = &sizes;
        command.args(["--sequences", sequences, "--tokens", tokens, "--repeats", steps]);
        json_of(command.args(["--attention", attention]))
    };
    let steps_per_second =
        |report: &Value| Ok::<f64, anyhow::Error>(1e3 / number(report, "milliseconds_median")?);
    let sdpa_is_faster = steps_per_second(&reference("sdpa")?)? >= steps_per_second(&reference("eager")?)?;
    let attention = if sdpa_is_faster { "sdpa" } else { "eager" };
    let (mut memory, mut reference_memory) = (Vec::new(), Vec::new());
    let mut our_rate = || {
        let report = product()?;
        memory.push(number(&report, "rss_peak_mib")?);
        steps_per_second(&report)
    };
    let mut their_rate = || {
        let report = reference(attention)?;
        reference_memory.push(number(&report, "rss_peak_mib")?);
        steps_per_second(&report)
    };
    let speed = alternate(pairs, &mut our_rate, &mut their_rate)?;
    let middle = |values: &[f64]| median(values).context("no run was measured");
    let (memory, reference_memory) = (middle(&memory)?, middle(&reference_memory)?);
    let name = format!("LoRA step, {SEQUENCES} × {TOKENS} tokens, SmolLM2-135M f32");
    let beside = format!("torch + peft ({attention})");
    Ok(vec![
        Figure::plain(name, speed.ours, "steps/s")
            .beside(&beside, speed.reference, speed.ratio)
            .with_target(Target::RatioAtLeast(1.1)),
        Figure::plain("peak memory of the LoRA step", memory, "MiB")
            .beside(&beside, reference_memory, memory / reference_memory)
            .with_target(Target::RatioAtMost(0.8)),
    ])
}

/// Returns the share of a PPO iteration in which no model runs.
pub(super) fn ppo() -> Result<Vec<Figure>> {
    crate::fetch::fetch_all()?;
    let model = crate::fetch::smollm2_path()?;
    let report = json_of(Command::new(example("dissent-models", "tuning_bench")?).arg(model))?;
    let shares = report.get("overhead").and_then(Value::as_array).context("no shares were measured")?;
    let shares: Vec<f64> = shares.iter().filter_map(Value::as_f64).collect();
    let share = 100.0 * median(&shares).context("no iteration was measured")?;
    Ok(vec![
        Figure::plain("PPO iteration, time outside of models", share, "%").with_target(Target::AtMost(10.0)),
    ])
}
