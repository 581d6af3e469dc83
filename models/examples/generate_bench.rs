//! Measures generation: `generate_bench MODEL [SAMPLES] [NEW_TOKENS] [REPEATS] [THREADS]`. Prints one JSON
//! object.
//!
//! One prompt of 43 tokens is sampled after one warm-up run. Stop tokens are ignored, so every sample has its
//! full length. `seconds` holds the time of each repeat; `tokens_per_second` is computed from the median.

#![expect(clippy::print_stdout, reason = "a program")]

use std::path::PathBuf;
use std::time::Instant;

use dissent_domain::generation::SamplingParams;
use dissent_models::cache::cache_dir;
use dissent_models::checkpoint::{Checkpoint, OpenOptions, ReadingRules};
use dissent_models::generation::{GenerationJob, Generator};
use dissent_models::runtime::{CancelFlag, OnnxRuntime, SessionOptions};

const PROMPT_TOKENS: u32 = 43;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = PathBuf::from(
        arguments.next().ok_or("usage: generate_bench MODEL [SAMPLES] [NEW_TOKENS] [REPEATS] [THREADS]")?,
    );
    let mut number = |default: u32| arguments.next().map_or(Ok(default), |text| text.parse());
    let (samples, new_tokens, repeats, threads) = (number(8)?, number(64)?, number(5)?, number(0)?);

    let started = Instant::now();
    let cache_dir = cache_dir().ok_or("no cache folder: set DISSENT_CACHE")?;
    let mut checkpoint =
        Checkpoint::open(&path, &OpenOptions { layers: None, cache_dir, reading: ReadingRules::default() })?;
    checkpoint.config.eos_token_ids.clear();
    let options =
        SessionOptions { rows: samples as usize, threads: threads as usize, ..SessionOptions::default() };
    let mut generator = Generator::open(OnnxRuntime::load(None)?, &checkpoint, None, &options)?;
    let open_seconds = started.elapsed().as_secs_f64();

    let seeds = (0..samples).map(|sample| [u8::try_from(sample % 256).unwrap_or(0); 32]).collect();
    let job = GenerationJob { prompt_ids: (0..PROMPT_TOKENS).map(|i| 1000 + 37 * i).collect(), seeds };
    let params = SamplingParams { samples, max_new_tokens: new_tokens, ..SamplingParams::default() };
    let mut seconds = Vec::new();
    for repeat in 0..=repeats {
        let started = Instant::now();
        generator.generate(std::slice::from_ref(&job), &params, &CancelFlag::new(), &mut |_| {})?;
        if repeat > 0 {
            seconds.push(started.elapsed().as_secs_f64());
        }
    }
    let mut ordered = seconds.clone();
    ordered.sort_by(f64::total_cmp);
    let median = ordered.get(ordered.len() / 2).copied().unwrap_or(f64::NAN);
    let result = serde_json::json!({
        "samples": samples, "new_tokens": new_tokens, "prompt_tokens": PROMPT_TOKENS, "seconds": seconds,
        "tokens_per_second": f64::from(samples * new_tokens) / median,
        "open_seconds": open_seconds, "rss_peak_mib": rss_peak_mib(),
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
