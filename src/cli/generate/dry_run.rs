//! The dry run of `dissent generate`: the memory of the longest prompts, without the model's weights.

use std::collections::BTreeSet;

use dissent_domain::prompt::Prompt;
use dissent_models::memory::Decoding;

use super::{GenerateArgs, PROMPTS_AT_ONCE, ROWS};
use crate::error::BadInput;
use crate::experiment::models::Model;
use crate::memory::{self, Forecast, steps};

/// Prints the predicted memory of these prompts.
pub(super) fn run(args: &GenerateArgs, prompts: &[Prompt]) -> anyhow::Result<()> {
    if !args.weights.is_f32() {
        anyhow::bail!(BadInput(format!(
            "--dry-run predicts the memory of weights f32 only, which need more than {}: leave --weights out",
            args.weights
        )));
    }
    let model = Model::outline_policy(&args.policy, None, args.adapter.as_deref())?;
    let config = &model.checkpoint.config;
    let (mut longest, mut tokens) = (1, BTreeSet::new());
    for prompt in prompts {
        let ids = args.template.encode_dialogue(&model.checkpoint.tokenizer, &prompt.dialogue())?;
        // A prompt that fills the context is not run.
        if ids.len() < config.context_length {
            longest = longest.max(ids.len());
            tokens.extend(ids);
        }
    }
    let (samples, completion) = (usize::try_from(args.samples)?, usize::try_from(args.max_new_tokens)?);
    let sampled = prompts.len().saturating_mul(samples).saturating_mul(completion);
    let decoding = Decoding {
        prompt: longest,
        completion,
        rows: ROWS.min(samples.saturating_mul(prompts.len().min(PROMPTS_AT_ONCE))),
        distinct_tokens: tokens.len().saturating_add(sampled).min(config.vocab_size),
    };
    let forecast = Forecast::of_process(vec![steps::generation(&model, decoding)?], Vec::new());
    memory::show(&forecast, args.runtime.config().provider, true)
}
