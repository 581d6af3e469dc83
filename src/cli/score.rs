//! `dissent score`: adds log-probabilities and rewards to given completions, as JSON lines.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::Context as _;
use dissent_domain::reward::RewardKind;
use dissent_models::checkpoint::TextTokenizer;
use dissent_models::runtime::{CancelFlag, OnnxRuntime, SessionOptions};
use dissent_models::scoring::{PolicyScorer, RewardModel, ScoreItem};
use dissent_models::template::PromptTemplate;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::interrupt;
use super::runtime_args::{RuntimeArgs, counting_bar};
use crate::config::check_reward_template;
use crate::error::BadInput;
use crate::experiment::models::{self, Model};
use crate::jsonl::{InputError, JsonLines, JsonLinesWriter};

/// Add log-probabilities and rewards to completions
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Input lines:   {\"prompt_id\", \"prompt\", \"completions\": [{\"text\", \"token_ids\"?, …}], …}
Output lines:  the same, with `logprob` (sum over response tokens, nats), `logprob_mean`, `tokens` and `reward`
               in each completion. Fields that are not known are kept.

Examples:
  dissent score --policy SmolLM2.gguf --input answers.jsonl --output scored.jsonl
  dissent score --policy SmolLM2.gguf --reward SmolLM2.gguf --reward-layers 6 --reward-adapter ./proxy-reward \\
      --template 'Question: {prompt}\\n\\nAnswer: {completion}' --input answers.jsonl --output scored.jsonl

The policy sees the token ids of the rendered prompt and of the answer, encoded apart, as generation makes them;
`token_ids` are used as they are. The reward model sees prompt and answer rendered and encoded as one text.")]
pub(crate) struct ScoreArgs {
    /// The policy: a Hugging Face folder or a GGUF file. Left out, no log-probabilities are added.
    #[arg(long, value_name = "PATH", required_unless_present = "reward")]
    policy: Option<PathBuf>,
    /// A PEFT LoRA folder for the policy.
    #[arg(long, value_name = "DIR", requires = "policy")]
    adapter: Option<PathBuf>,
    /// The reward model. Left out, no rewards are added.
    #[arg(long, value_name = "PATH")]
    reward: Option<PathBuf>,
    /// Keep only the first K layers of the reward model.
    #[arg(long, value_name = "K", requires = "reward")]
    reward_layers: Option<u32>,
    /// A PEFT LoRA folder (SEQ_CLS, with its score head) for the reward model.
    #[arg(long, value_name = "DIR", requires = "reward")]
    reward_adapter: Option<PathBuf>,
    /// What the reward model's score means: `reward`, or `cost` to negate it.
    #[arg(long, default_value = "reward", value_parser = reward_kind)]
    reward_kind: RewardKind,
    /// How prompt and completion are put to the models: `chat`, `raw`, or a text naming `{prompt}` and
    /// `{completion}`.
    #[arg(long, default_value = "chat")]
    template: PromptTemplate,
    /// Another template for the reward model.
    #[arg(long, value_name = "TEMPLATE")]
    reward_template: Option<PromptTemplate>,
    /// Completions as JSON lines; `-` is stdin.
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Where the scored completions go; `-` is stdout.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

pub(super) fn reward_kind(text: &str) -> Result<RewardKind, String> {
    match text {
        "reward" => Ok(RewardKind::Reward),
        "cost" => Ok(RewardKind::Cost),
        other => Err(format!("{other:?} is neither reward nor cost")),
    }
}

#[derive(Deserialize, Serialize)]
struct Line {
    prompt_id: String,
    prompt: String,
    completions: Vec<CompletionLine>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Deserialize, Serialize)]
struct CompletionLine {
    text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

pub(crate) fn run(args: &ScoreArgs) -> anyhow::Result<()> {
    let lines = read(&args.input)?;
    let (runtime, options) = models::runtime(&args.runtime.config(), 1)?;
    let mut policy = PolicyPart::open(args, runtime, &options)?;
    let mut reward = RewardPart::open(args, runtime, &options)?;
    let cancel = interrupt::cancel_flag()?;
    let mut output = JsonLinesWriter::create(&args.output)?;
    let bar = counting_bar(Some(lines.len() as u64), "prompts");
    for mut line in lines {
        for part in [&mut policy as &mut dyn Part, &mut reward] {
            part.score(&mut line, &cancel)
                .map_err(interrupt::explain)
                .with_context(|| format!("prompt {}", line.prompt_id))?;
        }
        output.write(&line)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(output.finish()?)
}

/// Reads and checks everything before a model is started: a bad last line should not cost an hour.
fn read(path: &std::path::Path) -> Result<Vec<Line>, InputError> {
    let mut lines = JsonLines::<Line>::open(path)?;
    let mut read: Vec<Line> = Vec::new();
    let mut line_of = HashMap::new();
    while let Some(line) = lines.next() {
        let (number, line) = line?;
        if line.completions.is_empty() {
            return Err(lines.error(number, "completions", "must not be empty"));
        }
        if let Some(first) = line_of.insert(line.prompt_id.clone(), number) {
            let reason = format!("{:?} is already on line {first}", line.prompt_id);
            return Err(lines.error(number, "prompt_id", reason));
        }
        read.push(line);
    }
    if read.is_empty() {
        // Most likely the command before this one in a pipe failed.
        return Err(lines.error(1, "prompt_id", "there is no line in the input"));
    }
    Ok(read)
}

/// One model's share of the fields that are added.
trait Part {
    fn score(&mut self, line: &mut Line, cancel: &CancelFlag) -> anyhow::Result<()>;
}

/// Adds log-probabilities; does nothing without a policy.
struct PolicyPart<'a>(Option<(PolicyScorer, TextTokenizer, &'a PromptTemplate)>);

impl<'a> PolicyPart<'a> {
    fn open(
        args: &'a ScoreArgs,
        runtime: &'static OnnxRuntime,
        options: &SessionOptions,
    ) -> anyhow::Result<Self> {
        let Some(path) = &args.policy else { return Ok(Self(None)) };
        let model = Model::open(path, None, args.adapter.as_deref())?;
        let scorer = PolicyScorer::open(runtime, &model.checkpoint, model.adapter.as_ref(), options)?;
        Ok(Self(Some((scorer, model.checkpoint.tokenizer, &args.template))))
    }
}

impl Part for PolicyPart<'_> {
    fn score(&mut self, line: &mut Line, cancel: &CancelFlag) -> anyhow::Result<()> {
        let Some((scorer, tokenizer, template)) = &mut self.0 else { return Ok(()) };
        let prompt_ids = template.encode_prompt(tokenizer, &line.prompt)?;
        let items = line
            .completions
            .iter()
            .map(|completion| {
                let completion_ids = match &completion.token_ids {
                    Some(ids) => ids.clone(),
                    None => tokenizer.encode(&completion.text, false)?,
                };
                Ok(ScoreItem { prompt_ids: prompt_ids.clone(), completion_ids })
            })
            .collect::<anyhow::Result<Vec<ScoreItem>>>()?;
        let logprobs = scorer.score(&items, cancel, &mut |_| ())?;
        for (completion, logprobs) in line.completions.iter_mut().zip(logprobs) {
            // From 0, because the sum of nothing is otherwise -0.
            let logprob = logprobs.iter().copied().map(f64::from).fold(0.0, |sum, token| sum + token);
            let mean = if logprobs.is_empty() { 0.0 } else { logprob / logprobs.len() as f64 };
            completion.rest.insert("logprob".to_owned(), logprob.into());
            completion.rest.insert("logprob_mean".to_owned(), mean.into());
            completion.rest.insert("tokens".to_owned(), logprobs.len().into());
        }
        Ok(())
    }
}

/// Adds rewards; does nothing without a reward model.
struct RewardPart<'a>(Option<(RewardModel, TextTokenizer, &'a PromptTemplate, RewardKind)>);

impl<'a> RewardPart<'a> {
    fn open(
        args: &'a ScoreArgs,
        runtime: &'static OnnxRuntime,
        options: &SessionOptions,
    ) -> anyhow::Result<Self> {
        let Some(path) = &args.reward else { return Ok(Self(None)) };
        let template = args.reward_template.as_ref().unwrap_or(&args.template);
        check_reward_template(template).map_err(BadInput)?;
        let model = Model::open(path, args.reward_layers, args.reward_adapter.as_deref())?;
        let scorer = RewardModel::open(runtime, &model.checkpoint, model.adapter.as_ref(), options)?;
        Ok(Self(Some((scorer, model.checkpoint.tokenizer, template, args.reward_kind))))
    }
}

impl Part for RewardPart<'_> {
    fn score(&mut self, line: &mut Line, cancel: &CancelFlag) -> anyhow::Result<()> {
        let Some((model, tokenizer, template, kind)) = &mut self.0 else { return Ok(()) };
        let sequences = line
            .completions
            .iter()
            .map(|completion| {
                Ok(template.encode_with_completion(tokenizer, &line.prompt, &completion.text)?)
            })
            .collect::<anyhow::Result<Vec<Vec<u32>>>>()?;
        let scores = model.score(&sequences, cancel, &mut |_| ())?;
        for (completion, score) in line.completions.iter_mut().zip(scores) {
            completion.rest.insert("reward".to_owned(), kind.reward(f64::from(score)).into());
        }
        Ok(())
    }
}
