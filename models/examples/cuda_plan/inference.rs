//! The graphs of inference: generation, log-probabilities and rewards in 16 bits.

use dissent_domain::generation::SamplingParams;
use dissent_models::checkpoint::Checkpoint;
use dissent_models::generation::{GenerationJob, GenerationProgress, Generator};
use dissent_models::runtime::{CancelFlag, ComputeType, OnnxRuntime, SessionOptions};
use dissent_models::scoring::{PolicyScorer, RewardModel, ScoreItem};

use crate::Failure;
use crate::counters::Counts;
use crate::report::Decoding;
use crate::session_options;

/// The types in which a GPU computes inference.
pub(crate) const DTYPES: [ComputeType; 2] = [ComputeType::Bf16, ComputeType::F16];

/// A part of the error of a family whose numbers f16 does not hold.
pub(crate) const EXCEEDS_F16: &str = "exceed the range of f16";

/// The rows of decode steps that are measured.
const ROWS: [u32; 2] = [1, 32];

const PROMPT_IDS: [u32; 3] = [3, 4, 5];
const NEW_TOKENS: u32 = 12;

/// Bytes of one logit, which is of 32 bits with every type.
const LOGIT_BYTES: u64 = 4;

/// Samples completions with each number of rows, and returns the cost of a decode step.
pub(crate) fn generation(
    runtime: &'static OnnxRuntime,
    checkpoint: &Checkpoint,
    dtype: ComputeType,
) -> Result<Vec<Decoding>, Failure> {
    ROWS.into_iter().map(|rows| decode(runtime, checkpoint, dtype, rows)).collect()
}

fn decode(
    runtime: &'static OnnxRuntime,
    checkpoint: &Checkpoint,
    dtype: ComputeType,
    rows: u32,
) -> Result<Decoding, Failure> {
    let options = SessionOptions { dtype, rows: usize::try_from(rows)?, ..session_options() };
    let mut generator = Generator::open(runtime, checkpoint, None, &options)?;
    let seeds = (0..rows).map(|row| [u8::try_from(row).unwrap_or(u8::MAX); 32]).collect();
    let job = GenerationJob { prompt_ids: PROMPT_IDS.into(), seeds };
    // All logits are zero, so each choice is token 0, which ends no completion. Rows stay as they are, and
    // the interval between two reports is one decode step.
    let params = SamplingParams { temperature: 0.0, max_new_tokens: NEW_TOKENS, ..SamplingParams::default() };
    let mut reports: Vec<Result<(u64, Counts), Failure>> = Vec::new();
    let mut report = |progress: GenerationProgress| {
        reports.push(Counts::now().map(|counts| (progress.tokens, counts)));
    };
    generator.generate(&[job], &params, &CancelFlag::new(), &mut report)?;
    let reports: Vec<(u64, Counts)> = reports.into_iter().collect::<Result<_, _>>()?;
    let pairs = reports.iter().zip(reports.iter().skip(1));
    let steps = pairs.filter(|((before, _), (after, _))| before < after).map(|((_, a), (_, b))| *b - *a);
    let most = steps.max_by_key(|counts| counts.bytes_to_device + counts.bytes_to_host);
    let counts = most.ok_or("no decode step was measured")?;
    let vocabulary = u64::try_from(checkpoint.config.vocab_size)?;
    check_bytes(counts, u64::from(rows), vocabulary)
}

/// Checks that a decode step copies ids and lengths to the device, and logits back.
fn check_bytes(counts: Counts, rows: u64, vocabulary: u64) -> Result<Decoding, Failure> {
    let Counts { bytes_to_device, bytes_to_host, .. } = counts;
    let (limit, logits) = (64 + 24 * rows, LOGIT_BYTES * rows * vocabulary);
    if bytes_to_host != logits {
        let reason = format!("copies {bytes_to_host} bytes back, not the {logits} bytes of logits");
        return Err(format!("a decode step of {rows} rows {reason}").into());
    }
    if bytes_to_device > limit {
        let reason = format!("copies {bytes_to_device} bytes to the GPU, more than {limit}");
        return Err(format!("a decode step of {rows} rows {reason}").into());
    }
    Ok(Decoding { rows, counts })
}

/// Computes log-probabilities of two completions.
pub(crate) fn log_probabilities(
    runtime: &'static OnnxRuntime,
    checkpoint: &Checkpoint,
    dtype: ComputeType,
) -> Result<Vec<Decoding>, Failure> {
    let options = SessionOptions { dtype, ..session_options() };
    let mut scorer = PolicyScorer::open(runtime, checkpoint, None, &options)?;
    let item = |completion_ids: &[u32]| ScoreItem {
        prompt_ids: PROMPT_IDS.into(),
        completion_ids: completion_ids.into(),
    };
    scorer.score(&[item(&[6, 7]), item(&[8])], &CancelFlag::new(), &mut |_| {})?;
    Ok(Vec::new())
}

/// Computes the rewards of two sequences.
pub(crate) fn rewards(
    runtime: &'static OnnxRuntime,
    classifier: &Checkpoint,
    dtype: ComputeType,
) -> Result<Vec<Decoding>, Failure> {
    let options = SessionOptions { dtype, ..session_options() };
    let mut model = RewardModel::open(runtime, classifier, None, &options)?;
    model.score(&[vec![3, 4, 5, 6], vec![7, 8]], &CancelFlag::new(), &mut |_| {})?;
    Ok(Vec::new())
}
