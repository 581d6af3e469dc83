//! The dry run of `dissent score`: the memory of the longest texts, without the models' weights.

use std::collections::BTreeSet;

use dissent_models::memory::Decoding;

use super::{Line, ScoreArgs, policy_items, reward_sequences};
use crate::config::check_reward_template;
use crate::experiment::models::Model;
use crate::memory::{self, Forecast, StepForecast, steps};

/// Prints the predicted memory of scoring these lines.
pub(super) fn run(args: &ScoreArgs, lines: &[Line]) -> anyhow::Result<()> {
    let mut open = Vec::new();
    if let Some(path) = &args.policy {
        open.push(log_probabilities(
            Model::outline_policy(path, None, args.adapter.as_deref())?,
            args,
            lines,
        )?);
    }
    if let Some(path) = &args.reward {
        check_reward_template(args.reward_template.as_ref().unwrap_or(&args.template))?;
        let model = Model::outline(path, args.reward_layers, args.reward_adapter.as_deref())?;
        match &args.reward_reference {
            None => open.push(rewards(model.choose_output(args.reward_output.output())?, args, lines)?),
            Some(reference) => {
                let adapter = args.reward_reference_adapter.as_deref();
                let reference = Model::outline_policy(reference, None, adapter)?;
                for model in [model, reference] {
                    open.push(log_probabilities(model, args, lines)?.named("implicit reward"));
                }
            }
        }
    }
    memory::show(&Forecast::of_process(open, Vec::new()), args.runtime.config().provider, true)
}

fn log_probabilities(model: Model, args: &ScoreArgs, lines: &[Line]) -> anyhow::Result<StepForecast> {
    let mut longest = Longest::default();
    for line in lines {
        for item in policy_items(line, &model.checkpoint.tokenizer, &args.template)? {
            longest.add(&item.prompt_ids, &item.completion_ids);
        }
    }
    Ok(steps::policy_scoring(&model, longest.decoding())?)
}

fn rewards(model: Model, args: &ScoreArgs, lines: &[Line]) -> anyhow::Result<StepForecast> {
    let (mut longest, template) =
        (Longest::default(), args.reward_template.as_ref().unwrap_or(&args.template));
    for line in lines {
        for sequence in reward_sequences(line, &model.checkpoint.tokenizer, template)? {
            longest.add(&sequence, &[]);
        }
    }
    Ok(steps::reward_scoring("reward", &model, longest.decoding())?)
}

/// The longest texts and the different tokens of a file.
#[derive(Default)]
struct Longest {
    prompt: usize,
    completion: usize,
    whole: usize,
    tokens: BTreeSet<u32>,
}

impl Longest {
    fn add(&mut self, prompt: &[u32], completion: &[u32]) {
        self.prompt = self.prompt.max(prompt.len());
        self.completion = self.completion.max(completion.len());
        self.whole = self.whole.max(prompt.len() + completion.len());
        self.tokens.extend(prompt.iter().chain(completion));
    }

    fn decoding(&self) -> Decoding {
        Decoding {
            prompt: self.prompt.max(1),
            completion: self.whole.saturating_sub(self.prompt).max(self.completion.min(self.whole)),
            rows: 1,
            distinct_tokens: self.tokens.len(),
        }
    }
}
