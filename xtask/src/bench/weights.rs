//! Measurements of packed weights: generation, memory and next-token distributions beside 32-bit floats.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::figure::{Figure, Target, median};
use super::measurements::{alternate, example, json_of, number};
use crate::cache::workspace_dir;

const NEW_TOKENS: u32 = 64;

/// A form of weights with its targets.
struct Form {
    name: &'static str,
    /// The ratio of tokens per second to f32, by the number of samples.
    speed: [(u32, f64); 2],
    /// The ratio of private memory to f32.
    memory: f64,
    /// The mean divergence from f32, in nats.
    kl: f64,
}

const FORMS: [Form; 2] = [
    Form { name: "as-stored", speed: [(1, 2.2), (8, 1.3)], memory: 0.42, kl: 5e-3 },
    Form { name: "int8", speed: [(1, 2.2), (8, 1.4)], memory: 0.46, kl: 6.5e-3 },
];

/// Measures each form in runs that alternate with those of f32.
pub(super) fn weights(pairs: u32) -> Result<Vec<Figure>> {
    crate::fetch::fetch_all()?;
    let model = crate::fetch::smollm2_path()?;
    let (bench, kl) = (example("dissent-models", "weights_bench")?, example("dissent-models", "weights_kl")?);
    let mut figures = Vec::new();
    for form in FORMS {
        for (samples, target) in form.speed {
            figures.extend(beside_floats(&bench, &model, &form, samples, target, pairs)?);
        }
        let texts = workspace_dir().join("bench/weights_texts.txt");
        let report = json_of(Command::new(&kl).arg(&model).arg(form.name).arg(texts))?;
        let name = format!("{}: KL of next-token distributions from f32, × 1000", form.name);
        let divergence = 1e3 * number(&report, "kl")?;
        figures.push(Figure::plain(name, divergence, "nats").with_target(Target::AtMost(1e3 * form.kl)));
    }
    Ok(figures)
}

/// Measures generation with a form, beside f32; with one sample, also the memory and the prefill.
fn beside_floats(
    bench: &Path,
    model: &Path,
    form: &Form,
    samples: u32,
    target: f64,
    pairs: u32,
) -> Result<Vec<Figure>> {
    let sizes = [samples, NEW_TOKENS].map(|size| size.to_string());
    let run = |weights: &str, reports: &mut Vec<Value>| -> Result<f64> {
        let report = json_of(Command::new(bench).arg(model).arg(weights).args(&sizes))?;
        let rate = number(&report, "decode_tokens_per_second")?;
        reports.push(report);
        Ok(rate)
    };
    let (mut ours, mut floats) = (Vec::new(), Vec::new());
    let speed = alternate(pairs, &mut || run(form.name, &mut ours), &mut || run("f32", &mut floats))?;
    let name = form.name;
    let mut figures = vec![
        Figure::plain(format!("{name}: decoding, {samples} × {NEW_TOKENS} tokens"), speed.ours, "tokens/s")
            .beside("f32", speed.reference, speed.ratio)
            .with_target(Target::RatioAtLeast(target)),
    ];
    let middle = |reports: &[Value], key: &str| -> Result<f64> {
        let values = reports.iter().map(|report| number(report, key)).collect::<Result<Vec<f64>>>()?;
        median(&values).context("no run was measured")
    };
    let compared = |what: &str, unit: &'static str, key: &str| -> Result<Figure> {
        let (ours, floats) = (middle(&ours, key)?, middle(&floats, key)?);
        Ok(Figure::plain(format!("{name}: {what}"), ours, unit).beside("f32", floats, ours / floats))
    };
    figures.push(compared(
        &format!("prompt and decoding, {samples} samples"),
        "tokens/s",
        "tokens_per_second",
    )?);
    if samples == 1 {
        let memory = compared("private memory", "MiB", "private_mib")?;
        figures.push(memory.with_target(Target::RatioAtMost(form.memory)));
        figures.push(compared("prefill of 256 tokens", "ms", "prefill_ms")?);
    }
    Ok(figures)
}
