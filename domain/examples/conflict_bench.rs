//! Measures the time of the conflict measurement on one core and prints JSON: `cargo run --release -p
//! dissent-domain --example conflict_bench [prompts] [completions]`.

use std::hint::black_box;
use std::io::Write;
use std::time::Instant;

use dissent_domain::conflict::{Measurer, null_band};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

const RUNS: usize = 15;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let prompts: usize = args.next().map_or(Ok(100_000), |arg| arg.parse())?;
    let completions: usize = args.next().map_or(Ok(8), |arg| arg.parse())?;

    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut scores = || -> Vec<f64> {
        (0..prompts * completions).map(|_| f64::from(rng.next_u32()) / f64::from(u32::MAX) * -60.0).collect()
    };
    let (rewards, logprobs) = (scores(), scores());

    let measure = median_seconds(|| {
        let mut measurer = Measurer::default();
        let pairs = rewards.chunks(completions).zip(logprobs.chunks(completions));
        pairs
            .filter_map(|(rewards, logprobs)| measurer.measure(rewards, logprobs).ok())
            .map(black_box)
            .count()
    });
    let band = median_seconds(|| null_band(completions, 0).map_or(0, |band| band.completions));
    let report = serde_json::json!({
        "prompts": prompts,
        "completions": completions,
        "runs": RUNS,
        "seconds_median": measure,
        "prompts_per_second": prompts as f64 / measure,
        "null_band_seconds_median": band,
    });
    writeln!(std::io::stdout().lock(), "{report}")?;
    Ok(())
}

fn median_seconds(mut work: impl FnMut() -> usize) -> f64 {
    let mut seconds: Vec<f64> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            black_box(work());
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[RUNS / 2]
}
