//! Compares the next-token distributions of weights of a form with those of f32: `weights_kl MODEL WEIGHTS
//! TEXTS`, with a file of texts separated by empty lines. Prints one JSON object.
//!
//! `kl` is the mean of KL(f32 ‖ form) in nats over all tokens; `logprob_moved` the mean |Δ log p| of the
//! texts' own tokens.

#![expect(clippy::print_stdout, reason = "a program")]

use std::path::PathBuf;

use dissent_domain::weight_form::WeightForm;
use dissent_models::cache::cache_dir;
use dissent_models::checkpoint::{Checkpoint, OpenOptions, ReadingRules};
use dissent_models::generation::Generator;
use dissent_models::runtime::{CancelFlag, OnnxRuntime, Provider, SessionOptions};

const USAGE: &str = "usage: weights_kl MODEL WEIGHTS TEXTS";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = PathBuf::from(arguments.next().ok_or(USAGE)?);
    let form: WeightForm = arguments.next().ok_or(USAGE)?.parse()?;
    let texts = std::fs::read_to_string(arguments.next().ok_or(USAGE)?)?;

    let cache_dir = cache_dir().ok_or("no cache folder: set DISSENT_CACHE")?;
    let options = OpenOptions { layers: None, cache_dir, reading: ReadingRules::default() };
    let (mut kl, mut moved, mut greatest, mut tokens) = (0.0, 0.0, 0.0_f64, 0_u32);
    let floats = Checkpoint::open(&path, &options)?;
    let other = Checkpoint::open_as(&path, &options, form)?;
    let runtime = OnnxRuntime::load(None)?;
    let session = SessionOptions { provider: Provider::Cpu, rows: 2, ..SessionOptions::default() };
    let [mut reference, mut seen] = [
        Generator::open(runtime, &floats, None, &session)?,
        Generator::open(runtime, &other, None, &session)?,
    ];
    for text in texts.split("\n\n").filter(|text| !text.trim().is_empty()) {
        let ids = floats.tokenizer.encode(text, true)?;
        let (expected, found) =
            (reference.logits(&ids, &CancelFlag::new())?, seen.logits(&ids, &CancelFlag::new())?);
        let width = floats.config.vocab_size;
        let rows = expected.chunks_exact(width).zip(found.chunks_exact(width));
        for ((expected, found), next) in rows.zip(ids.iter().skip(1)) {
            let (p, q) = (logprobs(expected), logprobs(found));
            kl += p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
            let change = (p[*next as usize] - q[*next as usize]).abs();
            moved += change;
            greatest = greatest.max(change);
            tokens += 1;
        }
    }
    let mean = |sum: f64| sum / f64::from(tokens);
    let result = serde_json::json!({
        "weights": form, "tokens": tokens, "kl": mean(kl), "logprob_moved": mean(moved),
        "logprob_moved_most": greatest,
    });
    println!("{result}");
    Ok(())
}

/// Returns the log-probabilities of logits, in nats.
fn logprobs(logits: &[f32]) -> Vec<f64> {
    let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shifted = logits.iter().map(|&logit| f64::from(logit) - f64::from(greatest));
    let normaliser = shifted.clone().map(f64::exp).sum::<f64>().ln();
    shifted.map(|logit| logit - normaliser).collect()
}
