//! Measures training steps: `train_step_bench MODEL [SEQUENCES] [TOKENS] [REPEATS] [THREADS] [RECOMPUTE]`.
//! Prints one JSON object.
//!
//! A low-rank change (r 8, α 32, query and value projections) is trained on preferences between sequences of
//! one length, after one warm-up step. `milliseconds` holds the time of each step. `loss` holds the loss of
//! each step, to compare with the reference.

#![expect(clippy::print_stdout, reason = "a program")]

use std::path::PathBuf;
use std::time::Instant;

use dissent_domain::training::{Hyperparameters, LoraSettings};
use dissent_models::cache::cache_dir;
use dissent_models::checkpoint::{Checkpoint, OpenOptions, ReadingRules};
use dissent_models::runtime::{CancelFlag, OnnxRuntime, Provider, SessionOptions};
use dissent_models::training::{
    AdamWStep, LoraPlan, Loss, LossInputs, PackedBatch, ParameterLayout, StepSession, StepSpec, Trainable,
    TrainingSequence, TrainingState,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: train_step_bench MODEL [SEQUENCES] [TOKENS] [REPEATS] [THREADS] [RECOMPUTE]";
    let path = PathBuf::from(arguments.next().ok_or(usage)?);
    let mut number = |default: u32| arguments.next().map_or(Ok(default), |text| text.parse());
    let (sequences, tokens, repeats) = (number(8)?, number(128)?, number(5)?);
    let (threads, recompute) = (number(0)?, number(0)? != 0);

    let started = Instant::now();
    let cache_dir = cache_dir().ok_or("no cache folder: set DISSENT_CACHE")?;
    let checkpoint =
        Checkpoint::open(&path, &OpenOptions { layers: None, cache_dir, reading: ReadingRules::default() })?;
    let settings = LoraSettings { r: 8, alpha: 32.0, targets: Vec::new() };
    let spec = StepSpec {
        trainable: Trainable::Lora(LoraPlan::new(&checkpoint.config, &settings)?),
        loss: Loss::BradleyTerry,
        recompute,
    };
    let head = spec.loss.head();
    let layout = ParameterLayout::new(&checkpoint.config, &checkpoint.weights, &spec.trainable, head)?;
    let state = TrainingState::new(layout.initial(&checkpoint, None, None, 0)?);
    let options = SessionOptions {
        provider: Provider::Cpu,
        threads: usize::try_from(threads)?,
        ..SessionOptions::default()
    };
    let mut session = StepSession::open(OnnxRuntime::load(None)?, &checkpoint, &spec, state, &options)?;
    let open_seconds = started.elapsed().as_secs_f64();

    // The same ids as in bench/train_reference.py.
    let ids = |sequence: u32| (0..tokens).map(move |token| (7 + 7919 * sequence + 104_729 * token) % 49_152);
    let batch: Vec<TrainingSequence> = (0..sequences)
        .map(|sequence| TrainingSequence {
            ids: ids(sequence).collect(),
            completion_start: 1,
            skipped: Vec::new(),
        })
        .collect();
    let batch = PackedBatch::new(&batch, head)?;
    let pairs = batch.sequences() / 2;
    let weights = vec![1.0 / pairs as f32; pairs];
    let inputs = LossInputs::BradleyTerry { margins: vec![0.0; pairs], weights, center: 0.0 };
    let (mut milliseconds, mut losses) = (Vec::new(), Vec::new());
    for step in 0..=u64::from(repeats) {
        let started = Instant::now();
        let adam = AdamWStep::new(&Hyperparameters::default(), 1e-4, step + 1);
        let output = session.step(&batch, &inputs, &adam, &CancelFlag::new())?;
        losses.push(output.loss);
        if step > 0 {
            milliseconds.push(started.elapsed().as_secs_f64() * 1e3);
        }
    }
    let mut ordered = milliseconds.clone();
    ordered.sort_by(f64::total_cmp);
    let result = serde_json::json!({
        "sequences": sequences, "tokens": tokens, "recompute": recompute, "threads": threads,
        "milliseconds": milliseconds, "milliseconds_median": ordered.get(ordered.len() / 2),
        "losses": losses, "open_seconds": open_seconds, "rss_peak_mib": rss_peak_mib(),
    });
    println!("{result}");
    Ok(())
}

/// Peak resident memory of this process, in MiB, where the system reports it.
fn rss_peak_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
}
