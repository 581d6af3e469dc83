//! `dissent generate`: reads prompts and writes sampled completions, as JSON Lines.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::Context as _;
use dissent_domain::generation::{Completion, FinishReason, SamplingParamError, SamplingParams, sample_seed};
use dissent_domain::prompt::Prompt;
use dissent_domain::training::Message;
use dissent_domain::weight_form::WeightForm;
use dissent_models::checkpoint::TextTokenizer;
use dissent_models::generation::{GenerationJob, Generator, SampledTokens};
use dissent_models::memory::Decoding;
use dissent_models::runtime::CancelFlag;
use dissent_models::template::PromptTemplate;
use serde::Serialize;
use serde_json::Value;

use super::interrupt;
use super::runtime_args::RuntimeArgs;
use super::too_long::{TooLong, TooLongRows};
use crate::dataset::prompts::{self, PromptRow};
use crate::error::BadInput;
use crate::experiment::models::{self, Model};
use crate::files;
use crate::jsonl::JsonLinesWriter;
use crate::memory::{self, Forecast, steps};
use crate::progress::CountingView;

/// Prompts sampled together. Their completions share each pass over the weights.
const PROMPTS_AT_ONCE: usize = 8;
/// Completions decoded together.
const ROWS: usize = 16;

/// Sample completions from a policy
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Input rows:    {\"prompt_id\"?, \"prompt\", \"system\"?, \"category\"?, …}; a prompt is a text or a list of {\"role\", \"content\"}
Output lines:  {\"prompt_id\", \"prompt\", \"completions\": [{\"text\", \"token_ids\", \"logprob\", \"logprob_mean\",
               \"tokens\", \"finish_reason\"}], …}; other fields are kept, and `system` becomes a turn of the prompt
Log-probabilities are in nats, of the untempered model with the weights that sample.

Examples:
  dissent generate --policy SmolLM2.gguf --input prompts.jsonl --output completions.jsonl
  dissent generate --policy SmolLM2.gguf --weights as-stored --input prompts.jsonl --output completions.jsonl
  dissent generate --policy ./pythia-70m --template 'Question: {prompt}\\n\\nAnswer: ' -n 4 \\
      --input prompts.jsonl --output - | dissent score --reward ./reward-model --input - --output scored.jsonl

A completion depends only on the seed, its prompt and its number, not on the other prompts of the input.")]
pub(crate) struct GenerateArgs {
    /// Policy: a Hugging Face folder or a GGUF file.
    #[arg(value_parser = crate::cli::paths::path(), long, value_name = "PATH")]
    policy: PathBuf,
    /// PEFT LoRA folder of the policy.
    #[arg(value_parser = crate::cli::paths::path(), long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Weights that sample: `f32`, `as-stored` (the numbers of a quantised GGUF file, without dequantising
    /// them) or `int8` (8-bit integers, from any model). The latter two run on the CPU only.
    #[arg(long, value_name = "FORM", default_value_t = WeightForm::F32)]
    weights: WeightForm,
    /// Template of the prompt: `chat` (the policy's own), `raw`, or a text with `{prompt}`.
    /// `chat@2026-01-31` sets the date that the template sees instead of 2024-07-26.
    #[arg(long, default_value = "chat")]
    template: PromptTemplate,
    /// Completions of each prompt.
    #[arg(short = 'n', long, default_value_t = 8, value_name = "N")]
    samples: u32,
    /// Sampling temperature, which divides the logits; 0 is greedy.
    #[arg(long, default_value_t = 0.7, allow_negative_numbers = true)]
    temperature: f64,
    /// Keep the most likely tokens whose probabilities add up to this; 1 keeps all.
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    top_p: f64,
    /// Keep the k most likely tokens; 0 keeps all.
    #[arg(long, default_value_t = 0)]
    top_k: u32,
    /// Maximum number of new tokens in a completion.
    #[arg(long, default_value_t = 128)]
    max_new_tokens: u32,
    /// Text that ends a completion, beside the model's stop tokens; may be repeated. The completion's text
    /// ends before it, its tokens include it.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Treatment of prompts that leave no room for a completion: `refuse` (before a model runs), `skip`, or
    /// `null` (`completions` is null).
    #[arg(long, value_enum, default_value = "refuse", hide_possible_values = true)]
    too_long: TooLong,
    /// Seed from which the seed of each completion is derived.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Prompts: JSON Lines, a JSON array, CSV or Parquet; `-` is stdin.
    #[arg(value_parser = crate::cli::paths::path(), long, value_name = "FILE")]
    input: PathBuf,
    /// File for the completions; `-` is stdout.
    #[arg(value_parser = crate::cli::paths::path(), long, short, value_name = "FILE")]
    output: PathBuf,
    /// Check the options and the input, print the predicted peak memory as JSON, and run no model.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

#[derive(Serialize)]
struct Line<'a> {
    prompt_id: &'a str,
    prompt: PromptValue<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    category: Option<&'a str>,
    /// `None` if the prompt is too long.
    completions: Option<Vec<CompletionLine>>,
    /// The other fields of the prompt's row.
    #[serde(flatten)]
    rest: BTreeMap<&'a str, &'a Value>,
}

/// A prompt as it was given.
#[derive(Serialize)]
#[serde(untagged)]
enum PromptValue<'a> {
    Text(&'a str),
    Messages(&'a [Message]),
}

#[derive(Serialize)]
struct CompletionLine {
    text: String,
    token_ids: Vec<u32>,
    logprob: f64,
    logprob_mean: f64,
    tokens: usize,
    finish_reason: FinishReason,
}

impl From<Completion> for CompletionLine {
    fn from(completion: Completion) -> Self {
        Self {
            logprob: completion.logprob,
            logprob_mean: completion.logprob_mean(),
            tokens: completion.token_ids.len(),
            text: completion.text,
            token_ids: completion.token_ids,
            finish_reason: completion.finish_reason,
        }
    }
}

pub(crate) fn run(args: &GenerateArgs) -> anyhow::Result<()> {
    files::check_not_input(&args.output, &[&args.input])?;
    let sampling = args.sampling()?;
    let rows = prompts::read_rows(&args.input)?;
    let prompts: Vec<Prompt> = rows.iter().map(|row| row.prompt.clone()).collect();
    if args.dry_run {
        return args.dry_run(&prompts);
    }
    let model = Model::open_sampler(&args.policy, args.adapter.as_deref(), args.weights)?;
    let (runtime, options) = models::runtime(&args.runtime.config(), ROWS)?;
    let generator = Generator::open(runtime, &model.checkpoint, model.adapter.as_ref(), &options)?;
    let mut sampler = Sampler { args, sampling, tokenizer: &model.checkpoint.tokenizer, generator };
    let (planned, too_long) = sampler.plan(&rows)?;
    let cancel = interrupt::cancel_flag()?;
    let mut output = JsonLinesWriter::create(&args.output)?;
    let mut bar = CountingView::new(prompts.len() as u64, "prompts");
    for batch in planned.chunks(PROMPTS_AT_ONCE) {
        let written = sampler.sample(batch, &cancel).and_then(|completions| {
            for (planned, completions) in batch.iter().zip(completions) {
                output.write(&line(planned.row, completions))?;
            }
            Ok(())
        });
        if let Err(error) = written {
            return Err(output.keep_finished(interrupt::map_cancelled(error)));
        }
        bar.inc(batch.len() as u64);
    }
    bar.finish_and_clear();
    output.finish()?;
    too_long.report(args.too_long);
    Ok(())
}

fn line(PromptRow { prompt, rest }: &PromptRow, completions: Option<Vec<Completion>>) -> Line<'_> {
    let rest = rest.iter().filter(|(field, _)| *field != "completions");
    Line {
        prompt_id: prompt.prompt_id.as_str(),
        prompt: if prompt.messages.is_empty() {
            PromptValue::Text(&prompt.text)
        } else {
            PromptValue::Messages(&prompt.messages)
        },
        category: prompt.category.as_deref(),
        completions: completions
            .map(|completions| completions.into_iter().map(CompletionLine::from).collect()),
        rest: rest.map(|(field, value)| (field.as_str(), value)).collect(),
    }
}

impl GenerateArgs {
    /// Prints the predicted memory of these prompts, without the model's weights.
    fn dry_run(&self, prompts: &[Prompt]) -> anyhow::Result<()> {
        if !self.weights.is_f32() {
            anyhow::bail!(BadInput(format!(
                "--dry-run predicts the memory of weights f32 only, which need more than {}: leave --weights out",
                self.weights
            )));
        }
        let model = Model::outline_policy(&self.policy, None, self.adapter.as_deref())?;
        let config = &model.checkpoint.config;
        let (mut longest, mut tokens) = (1, BTreeSet::new());
        for prompt in prompts {
            let ids = self.template.encode_dialogue(&model.checkpoint.tokenizer, &prompt.dialogue())?;
            // A prompt that fills the context is not run.
            if ids.len() < config.context_length {
                longest = longest.max(ids.len());
                tokens.extend(ids);
            }
        }
        let (samples, completion) = (usize::try_from(self.samples)?, usize::try_from(self.max_new_tokens)?);
        let sampled = prompts.len().saturating_mul(samples).saturating_mul(completion);
        let decoding = Decoding {
            prompt: longest,
            completion,
            rows: ROWS.min(samples.saturating_mul(prompts.len().min(PROMPTS_AT_ONCE))),
            distinct_tokens: tokens.len().saturating_add(sampled).min(config.vocab_size),
        };
        let forecast = Forecast::of_process(vec![steps::generation(&model, decoding)?], Vec::new());
        memory::show(&forecast, self.runtime.config().provider, true)
    }

    fn sampling(&self) -> Result<SamplingParams, SamplingParamError> {
        let sampling = SamplingParams {
            samples: self.samples,
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            max_new_tokens: self.max_new_tokens,
            stop: self.stop.clone(),
        };
        sampling.validate()?;
        Ok(sampling)
    }
}

struct Sampler<'a> {
    args: &'a GenerateArgs,
    sampling: SamplingParams,
    tokenizer: &'a TextTokenizer,
    generator: Generator,
}

/// A prompt with its work; none if it is too long.
struct PlannedPrompt<'a> {
    row: &'a PromptRow,
    job: Option<GenerationJob>,
}

impl Sampler<'_> {
    /// Prepares all prompts, before the model runs for the first one.
    fn plan<'p>(&self, rows: &'p [PromptRow]) -> anyhow::Result<(Vec<PlannedPrompt<'p>>, TooLongRows)> {
        let (mut planned, mut too_long) = (Vec::with_capacity(rows.len()), TooLongRows::default());
        for row in rows {
            let prompt = &row.prompt;
            let job = self.job(prompt).with_context(|| format!("prompt {}", prompt.prompt_id))?;
            if job.is_none() {
                too_long.add(prompt.prompt_id.as_str());
            }
            if job.is_some() || self.args.too_long != TooLong::Skip {
                planned.push(PlannedPrompt { row, job });
            }
        }
        too_long.check(self.args.too_long)?;
        Ok((planned, too_long))
    }

    fn job(&self, prompt: &Prompt) -> anyhow::Result<Option<GenerationJob>> {
        let prompt_ids = self.args.template.encode_dialogue(self.tokenizer, &prompt.dialogue())?;
        if !TooLongRows::fits(self.generator.check_prompt(&prompt_ids))? {
            return Ok(None);
        }
        // Seeds have the name of an experiment or a sampling key. This command has its own.
        let seed = |sample| sample_seed("generate", self.args.seed, 0, &prompt.prompt_id, sample);
        Ok(Some(GenerationJob { prompt_ids, seeds: (0..self.sampling.samples).map(seed).collect() }))
    }

    fn sample(
        &mut self,
        planned: &[PlannedPrompt<'_>],
        cancel: &CancelFlag,
    ) -> anyhow::Result<Vec<Option<Vec<Completion>>>> {
        let jobs: Vec<GenerationJob> = planned.iter().filter_map(|planned| planned.job.clone()).collect();
        let sampled = self.generator.generate(&jobs, &self.sampling, cancel, &mut |_| ())?;
        let completion = |tokens: SampledTokens| {
            Ok(Completion {
                text: tokens.text(self.tokenizer)?,
                token_ids: tokens.token_ids,
                logprob: tokens.logprob,
                finish_reason: tokens.finish_reason,
            })
        };
        let mut sampled = sampled
            .into_iter()
            .map(|samples| samples.into_iter().map(completion).collect::<anyhow::Result<Vec<Completion>>>());
        let of_prompt =
            |planned: &PlannedPrompt<'_>| planned.job.as_ref().and_then(|_| sampled.next()).transpose();
        planned.iter().map(of_prompt).collect()
    }
}
