//! Measures generation with weights of a form: `weights_bench MODEL WEIGHTS [SAMPLES] [NEW_TOKENS]
//! [THREADS]`. Prints one JSON object.
//!
//! One prompt of 43 tokens is sampled after one warm-up run, without stop tokens. `tokens_per_second` counts
//! the whole generation. `decode_tokens_per_second` leaves out the prompt: it takes the time of one new token
//! off and counts the others. `prefill_ms` is the time of a prompt of 256 tokens with one new token.
//! `private_mib` is the memory that is not mapped from files.

#![expect(clippy::print_stdout, reason = "a program")]

use std::path::PathBuf;
use std::time::Instant;

use dissent_domain::generation::SamplingParams;
use dissent_domain::weight_form::WeightForm;
use dissent_models::cache::cache_dir;
use dissent_models::checkpoint::{Checkpoint, OpenOptions, ReadingRules};
use dissent_models::generation::{GenerationJob, Generator};
use dissent_models::runtime::{CancelFlag, OnnxRuntime, Provider, SessionOptions};

const USAGE: &str = "usage: weights_bench MODEL WEIGHTS [SAMPLES] [NEW_TOKENS] [THREADS]";
const PROMPT_TOKENS: u32 = 43;
const PREFILL_TOKENS: u32 = 256;
const PREFILLS: usize = 3;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = PathBuf::from(arguments.next().ok_or(USAGE)?);
    let form: WeightForm = arguments.next().ok_or(USAGE)?.parse()?;
    let mut number = |default: u32| arguments.next().map_or(Ok(default), |text| text.parse());
    let (samples, new_tokens, threads) = (number(8)?, number(64)?, number(0)?);

    let cache_dir = cache_dir().ok_or("no cache folder: set DISSENT_CACHE")?;
    let options = OpenOptions { layers: None, cache_dir, reading: ReadingRules::default() };
    let mut checkpoint = Checkpoint::open_as(&path, &options, form)?;
    checkpoint.config.eos_token_ids.clear();
    let (rows, threads) = (samples as usize, threads as usize);
    let options = SessionOptions { provider: Provider::Cpu, rows, threads, ..SessionOptions::default() };
    let mut generator = Generator::open(OnnxRuntime::load(None)?, &checkpoint, None, &options)?;

    let mut seconds = |prompt_tokens: u32, samples: u32, max_new_tokens: u32| {
        let seeds = (0..samples).map(|sample| [u8::try_from(sample % 256).unwrap_or(0); 32]).collect();
        let job = GenerationJob { prompt_ids: (0..prompt_tokens).map(|i| 1000 + 37 * i).collect(), seeds };
        let params = SamplingParams { samples, max_new_tokens, ..SamplingParams::default() };
        let started = Instant::now();
        generator.generate(&[job], &params, &CancelFlag::new(), &mut |_| {})?;
        Ok::<f64, dissent_models::ModelError>(started.elapsed().as_secs_f64())
    };
    seconds(PROMPT_TOKENS, samples, new_tokens)?;
    let generation = seconds(PROMPT_TOKENS, samples, new_tokens)?;
    let mut fastest = |prompt_tokens: u32, samples: u32| {
        let times =
            (0..PREFILLS).map(|_| seconds(prompt_tokens, samples, 1)).collect::<Result<Vec<_>, _>>()?;
        Ok::<f64, dissent_models::ModelError>(times.into_iter().fold(f64::INFINITY, f64::min))
    };
    let decode = generation - fastest(PROMPT_TOKENS, samples)?;
    let prefill = fastest(PREFILL_TOKENS, 1)?;
    let result = serde_json::json!({
        "weights": form, "samples": samples, "new_tokens": new_tokens, "prompt_tokens": PROMPT_TOKENS,
        "tokens_per_second": f64::from(samples * new_tokens) / generation,
        "decode_tokens_per_second": f64::from(samples * new_tokens.saturating_sub(1)) / decode,
        "prefill_ms": 1e3 * prefill, "private_mib": private_mib(),
    });
    println!("{result}");
    Ok(())
}

/// Resident memory of this process that no file backs, in MiB, where the system reports it.
fn private_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("RssAnon:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
}
