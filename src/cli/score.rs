//! `dissent score`: adds log-probabilities and rewards to completions, as JSON Lines.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::Context as _;
use dissent_domain::reward::RewardKind;
use dissent_models::checkpoint::TextTokenizer;
use dissent_models::implicit_reward::{ImplicitReward, PolicyModel};
use dissent_models::runtime::{CancelFlag, OnnxRuntime, SessionOptions};
use dissent_models::scoring::{PolicyScorer, RewardModel, ScoreItem};
use dissent_models::template::PromptTemplate;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::interrupt;
use super::reward_model::{RewardOutputOptions, reward_kind};
use super::runtime_args::RuntimeArgs;
use super::too_long::{TooLong, TooLongRows};
use crate::config::check_reward_template;
use crate::dataset::{PromptField, prompts, with_system};
use crate::experiment::models::{self, Model};
use crate::files;
use crate::jsonl::{FieldError, FieldErrorKind, InputError, JsonLines, JsonLinesWriter};
use crate::memory::{self, Forecast, Longest, StepForecast, steps};
use crate::progress::CountingView;

/// Add log-probabilities and rewards to completions
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Input rows:    {\"prompt_id\", \"prompt\", \"completions\": [{\"text\", \"token_ids\"?, …}], …}
Output lines:  the same, with `logprob` (sum over the completion's tokens, in nats), `logprob_mean`, `tokens` and
               `reward` in each completion. Unknown fields are kept. A prompt is a text or a list of {\"role\", \"content\"}.

Examples:
  dissent score --policy SmolLM2.gguf --input answers.jsonl --output scored.jsonl
  dissent score --reward SmolLM2.gguf --reward-adapter ./dpo --reward-reference SmolLM2.gguf --reward-beta 0.1 \\
      --input answers.jsonl --output scored.jsonl
  dissent score --policy SmolLM2.gguf --reward SmolLM2.gguf --reward-layers 6 --reward-adapter ./proxy-reward \\
      --template 'Question: {prompt}\\n\\nAnswer: {completion}' --input answers.jsonl --output scored.jsonl

The policy reads the tokens of the rendered prompt and of the completion, encoded separately as in generation. If a line has
`token_ids`, they are used unchanged. The reward model reads prompt and completion rendered and encoded as one text.")]
pub(crate) struct ScoreArgs {
    /// Policy, a Hugging Face folder or a GGUF file. Without it no log-probabilities are added.
    #[arg(value_parser = crate::cli::paths::path(), long, value_name = "PATH", required_unless_present = "reward")]
    policy: Option<PathBuf>,
    /// PEFT LoRA folder of the policy.
    #[arg(value_parser = crate::cli::paths::path(), long, value_name = "DIR", requires = "policy")]
    adapter: Option<PathBuf>,
    /// Reward model, a Hugging Face folder or a GGUF file. Without it no rewards are added.
    #[arg(value_parser = crate::cli::paths::path(), long, value_name = "PATH")]
    reward: Option<PathBuf>,
    /// Keep only the first K layers of the reward model.
    #[arg(long, value_name = "K", requires = "reward")]
    reward_layers: Option<u32>,
    /// PEFT LoRA folder of the reward model (SEQ_CLS, with its score head).
    #[arg(value_parser = crate::cli::paths::path(), long, value_name = "DIR", requires = "reward")]
    reward_adapter: Option<PathBuf>,
    /// Meaning of the reward model's score: `reward`, or `cost`, which is negated.
    #[arg(long, default_value = "reward", value_parser = reward_kind)]
    reward_kind: RewardKind,
    #[command(flatten)]
    reward_output: RewardOutputOptions,
    /// Reference policy: makes `reward` the implicit reward of the DPO policy --reward, which is
    /// beta (log π - log π_ref).
    #[arg(value_parser = crate::cli::paths::path(), long, value_name = "PATH", requires = "reward", conflicts_with_all = ["reward_label", "reward_weights"])]
    reward_reference: Option<PathBuf>,
    /// PEFT LoRA folder of the reference policy.
    #[arg(value_parser = crate::cli::paths::path(), long, value_name = "DIR", requires = "reward_reference")]
    reward_reference_adapter: Option<PathBuf>,
    /// Beta of the implicit reward, as in the DPO training.
    #[arg(long, value_name = "BETA", default_value_t = 0.1, requires = "reward_reference")]
    reward_beta: f64,
    /// Template of prompt and completion: `chat`, `raw`, or a text with `{prompt}` and `{completion}`.
    /// `chat@2026-01-31` sets the date that the template sees instead of 2024-07-26.
    #[arg(long, default_value = "chat")]
    template: PromptTemplate,
    /// Template of the reward model [default: --template]
    #[arg(long, value_name = "TEMPLATE")]
    reward_template: Option<PromptTemplate>,
    /// Treatment of rows that are too long for a model's context: `refuse` (before a model runs), `skip`, or
    /// `null` (the values of that model are null in all completions of the row).
    #[arg(long, value_enum, default_value = "refuse", hide_possible_values = true)]
    too_long: TooLong,
    /// Completions: JSON Lines, a JSON array or Parquet; `-` is stdin.
    #[arg(value_parser = crate::cli::paths::path(), long, value_name = "FILE")]
    input: PathBuf,
    /// File for the scored completions; `-` is stdout.
    #[arg(value_parser = crate::cli::paths::path(), long, short, value_name = "FILE")]
    output: PathBuf,
    /// Check the options and the input, print the predicted peak memory as JSON, and run no model.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

#[derive(Deserialize, Serialize)]
struct Line {
    prompt_id: String,
    prompt: PromptField,
    completions: Vec<CompletionLine>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Line {
    /// Puts the field `system` before the prompt.
    ///
    /// # Errors
    /// If it is no text, or another field would change the text of the prompt.
    fn admit(&mut self) -> Result<(), FieldError> {
        match self.rest.shift_remove("system") {
            None | Some(Value::Null) => {}
            Some(Value::String(system)) => {
                self.prompt.0 = with_system(self.prompt.0.clone(), Some(system))?;
            }
            Some(_) => return Err(FieldError::new("system", FieldErrorKind::WrongType, "must be a text")),
        }
        let mut kept = self.rest.iter().filter(|(_, value)| !value.is_null());
        kept.try_for_each(|(field, _)| prompts::check_kept(field))
    }

    fn texts(&self) -> Vec<&str> {
        self.completions.iter().map(|completion| completion.text.as_str()).collect()
    }
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
    files::check_not_input(&args.output, &[&args.input])?;
    let lines = read(&args.input)?;
    if args.dry_run {
        return dry_run(args, &lines);
    }
    let (runtime, options) = models::runtime(&args.runtime.config(), 1)?;
    let mut policy = PolicyFields::open(args, runtime, &options)?;
    let mut reward = RewardFields::open(args, runtime, &options)?;
    let (lines, too_long) = fitting(lines, args.too_long, &policy, &reward)?;
    let cancel = interrupt::cancel_flag()?;
    let mut output = JsonLinesWriter::create(&args.output)?;
    let mut bar = CountingView::new(lines.len() as u64, "prompts");
    for mut line in lines {
        let scored = policy.score(&mut line, &cancel).and_then(|()| reward.score(&mut line, &cancel));
        let scored = scored
            .map_err(interrupt::map_cancelled)
            .with_context(|| format!("prompt {}", line.prompt_id))
            .and_then(|()| Ok(output.write(&line)?));
        if let Err(error) = scored {
            return Err(output.keep_finished(error));
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    output.finish()?;
    too_long.report(args.too_long);
    Ok(())
}

/// Prints the predicted memory of scoring these lines.
fn dry_run(args: &ScoreArgs, lines: &[Line]) -> anyhow::Result<()> {
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

/// Checks the lengths of all lines before a model runs. Returns the lines to write.
fn fitting(
    lines: Vec<Line>,
    treatment: TooLong,
    policy: &PolicyFields<'_>,
    reward: &RewardFields<'_>,
) -> anyhow::Result<(Vec<Line>, TooLongRows)> {
    let (mut kept, mut too_long) = (Vec::with_capacity(lines.len()), TooLongRows::default());
    for line in lines {
        let fits = policy.fits(&line).and_then(|fits| Ok(fits && reward.fits(&line)?));
        let fits = fits.with_context(|| format!("prompt {}", line.prompt_id))?;
        if !fits {
            too_long.add(&line.prompt_id);
        }
        if fits || treatment != TooLong::Skip {
            kept.push(line);
        }
    }
    too_long.check(treatment)?;
    Ok((kept, too_long))
}

/// Reads and checks all lines before a model starts, because a bad last line must not cost an hour.
fn read(path: &std::path::Path) -> Result<Vec<Line>, InputError> {
    let mut lines = JsonLines::<Line>::open(path)?;
    let mut read: Vec<Line> = Vec::new();
    let mut line_of = HashMap::new();
    while let Some(line) = lines.next() {
        let (number, mut line) = line?;
        line.admit().map_err(|error| lines.invalid(number, error))?;
        if line.completions.is_empty() {
            return Err(lines.error(number, "completions", "empty list: give at least one completion"));
        }
        if let Some(first) = line_of.insert(line.prompt_id.clone(), number) {
            let reason = format!(
                "{:?} is already on line {first}: use distinct ids, or put all completions into one line",
                line.prompt_id
            );
            return Err(lines.error(number, "prompt_id", reason));
        }
        read.push(line);
    }
    if read.is_empty() {
        // The likely cause is a failure of the previous command in a pipe.
        return Err(lines.error(1, "prompt_id", "the input has no lines"));
    }
    Ok(read)
}

/// Adds log-probabilities, if there is a policy.
struct PolicyFields<'a>(Option<(PolicyScorer, TextTokenizer, &'a PromptTemplate)>);

impl<'a> PolicyFields<'a> {
    fn open(
        args: &'a ScoreArgs,
        runtime: &'static OnnxRuntime,
        options: &SessionOptions,
    ) -> anyhow::Result<Self> {
        let Some(path) = &args.policy else { return Ok(Self(None)) };
        let model = Model::open_policy(path, None, args.adapter.as_deref())?;
        let scorer = PolicyScorer::open(runtime, &model.checkpoint, model.adapter.as_ref(), options)?;
        Ok(Self(Some((scorer, model.checkpoint.tokenizer, &args.template))))
    }
}

impl PolicyFields<'_> {
    /// Whether the completions fit into the policy's context.
    fn fits(&self, line: &Line) -> anyhow::Result<bool> {
        let Some((scorer, tokenizer, template)) = &self.0 else { return Ok(true) };
        let items = policy_items(line, tokenizer, template)?;
        let fits = items.iter().map(|item| TooLongRows::fits(scorer.check(item)));
        Ok(fits.collect::<Result<Vec<bool>, _>>()?.into_iter().all(|fits| fits))
    }

    fn score(&mut self, line: &mut Line, cancel: &CancelFlag) -> anyhow::Result<()> {
        if !self.fits(line)? {
            insert_nulls(line, &["logprob", "logprob_mean", "tokens"]);
            return Ok(());
        }
        let Some((scorer, tokenizer, template)) = &mut self.0 else { return Ok(()) };
        let items = policy_items(line, tokenizer, template)?;
        let logprobs = scorer.score(&items, cancel, &mut |_| ())?;
        for (completion, logprobs) in line.completions.iter_mut().zip(logprobs) {
            // Starts at 0.0, because the sum of an empty iterator is -0.0.
            let logprob = logprobs.iter().copied().map(f64::from).fold(0.0, |sum, token| sum + token);
            let mean = if logprobs.is_empty() { 0.0 } else { logprob / logprobs.len() as f64 };
            completion.rest.insert("logprob".to_owned(), logprob.into());
            completion.rest.insert("logprob_mean".to_owned(), mean.into());
            completion.rest.insert("tokens".to_owned(), logprobs.len().into());
        }
        Ok(())
    }
}

fn policy_items(
    line: &Line,
    tokenizer: &TextTokenizer,
    template: &PromptTemplate,
) -> anyhow::Result<Vec<ScoreItem>> {
    let prompt_ids = template.encode_dialogue(tokenizer, &line.prompt.0)?;
    let item = |completion: &CompletionLine| {
        let completion_ids = match &completion.token_ids {
            Some(ids) => ids.clone(),
            None => tokenizer.encode(&completion.text, false)?,
        };
        Ok(ScoreItem { prompt_ids: prompt_ids.clone(), completion_ids })
    };
    line.completions.iter().map(item).collect()
}

/// Adds fields without a value to each completion.
fn insert_nulls(line: &mut Line, fields: &[&str]) {
    for completion in &mut line.completions {
        completion.rest.extend(fields.iter().map(|&field| (field.to_owned(), Value::Null)));
    }
}

/// Adds rewards, if there is a reward model.
struct RewardFields<'a>(Option<(Rewards, &'a PromptTemplate, RewardKind)>);

/// The source of rewards.
enum Rewards {
    /// The score of a reward model.
    Model(Box<RewardModel>, Box<TextTokenizer>),
    /// The implicit reward of a policy.
    Implicit(Box<ImplicitReward>),
}

impl<'a> RewardFields<'a> {
    fn open(
        args: &'a ScoreArgs,
        runtime: &'static OnnxRuntime,
        options: &SessionOptions,
    ) -> anyhow::Result<Self> {
        let Some(path) = &args.reward else { return Ok(Self(None)) };
        let template = args.reward_template.as_ref().unwrap_or(&args.template);
        check_reward_template(template)?;
        let model = Model::open(path, args.reward_layers, args.reward_adapter.as_deref())?;
        let rewards = match &args.reward_reference {
            Some(reference) => {
                let reference = Model::open_policy(reference, None, args.reward_reference_adapter.as_deref())
                    .context("failed to open the reference policy")?;
                let [policy, reference] = [&model, &reference].map(|model| PolicyModel {
                    checkpoint: &model.checkpoint,
                    adapter: model.adapter.as_ref(),
                });
                let opened = ImplicitReward::open(runtime, policy, reference, args.reward_beta, options)?;
                Rewards::Implicit(Box::new(opened))
            }
            None => {
                let model = model.choose_output(args.reward_output.output())?;
                let scorer = RewardModel::open(runtime, &model.checkpoint, model.adapter.as_ref(), options)?;
                Rewards::Model(Box::new(scorer), Box::new(model.checkpoint.tokenizer))
            }
        };
        Ok(Self(Some((rewards, template, args.reward_kind))))
    }
}

impl RewardFields<'_> {
    /// Whether the completions fit into the reward model's context.
    fn fits(&self, line: &Line) -> anyhow::Result<bool> {
        let Some((rewards, template, _)) = &self.0 else { return Ok(true) };
        match rewards {
            Rewards::Model(model, tokenizer) => {
                let sequences = reward_sequences(line, tokenizer, template)?;
                let fits = sequences.iter().map(|sequence| TooLongRows::fits(model.check_sequence(sequence)));
                Ok(fits.collect::<Result<Vec<bool>, _>>()?.into_iter().all(|fits| fits))
            }
            Rewards::Implicit(implicit) => {
                Ok(TooLongRows::fits(implicit.check(template, &line.prompt.0, &line.texts()))?)
            }
        }
    }

    fn score(&mut self, line: &mut Line, cancel: &CancelFlag) -> anyhow::Result<()> {
        if !self.fits(line)? {
            insert_nulls(line, &["reward"]);
            return Ok(());
        }
        let Some((rewards, template, kind)) = &mut self.0 else { return Ok(()) };
        let scores = match rewards {
            Rewards::Model(model, tokenizer) => {
                let sequences = reward_sequences(line, tokenizer, template)?;
                let scores = model.score(&sequences, cancel, &mut |_| ())?;
                scores.into_iter().map(f64::from).collect()
            }
            Rewards::Implicit(implicit) => implicit.score(template, &line.prompt.0, &line.texts(), cancel)?,
        };
        for (completion, score) in line.completions.iter_mut().zip(scores) {
            completion.rest.insert("reward".to_owned(), kind.reward(score).into());
        }
        Ok(())
    }
}

fn reward_sequences(
    line: &Line,
    tokenizer: &TextTokenizer,
    template: &PromptTemplate,
) -> anyhow::Result<Vec<Vec<u32>>> {
    let whole = |completion: &CompletionLine| {
        Ok(template.encode_dialogue_with_completion(tokenizer, &line.prompt.0, &completion.text)?)
    };
    line.completions.iter().map(whole).collect()
}
