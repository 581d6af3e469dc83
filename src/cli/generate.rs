//! `dissent generate`: reads prompts and writes sampled completions, as JSON Lines.

use std::path::PathBuf;

use anyhow::Context as _;
use dissent_domain::generation::{Completion, FinishReason, SamplingParamError, SamplingParams, sample_seed};
use dissent_domain::id::ExperimentId;
use dissent_domain::prompt::Prompt;
use dissent_models::checkpoint::TextTokenizer;
use dissent_models::generation::{GenerationJob, Generator};
use dissent_models::runtime::CancelFlag;
use dissent_models::template::PromptTemplate;
use serde::Serialize;

use super::interrupt;
use super::runtime_args::{RuntimeArgs, counting_bar};
use crate::dataset::prompts;

use crate::experiment::models::{self, Model};
use crate::jsonl::JsonLinesWriter;

/// Prompts sampled together. Their completions share each pass over the weights.
const PROMPTS_AT_ONCE: usize = 8;
/// Completions decoded together.
const ROWS: usize = 16;

/// Sample completions from a policy
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Input lines:   {\"prompt_id\"?, \"prompt\", \"category\"?}
Output lines:  {\"prompt_id\", \"prompt\", \"completions\": [{\"text\", \"token_ids\", \"logprob\", \"logprob_mean\",
               \"tokens\", \"finish_reason\"}]}
Log-probabilities are in nats, of the untempered model.

Examples:
  dissent generate --policy SmolLM2.gguf --input prompts.jsonl --output completions.jsonl
  dissent generate --policy ./pythia-70m --template 'Question: {prompt}\\n\\nAnswer: ' -n 4 \\
      --input prompts.jsonl --output - | dissent score --reward ./reward-model --input - --output scored.jsonl

A completion depends only on the seed, its prompt and its number, not on the other prompts of the input.")]
pub(crate) struct GenerateArgs {
    /// Policy: a Hugging Face folder or a GGUF file.
    #[arg(long, value_name = "PATH")]
    policy: PathBuf,
    /// PEFT LoRA folder of the policy.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Template of the prompt: `chat` (the policy's own), `raw`, or a text with `{prompt}`.
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
    /// Seed from which the seed of each completion is derived.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Prompts as JSON Lines; `-` is stdin.
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// File for the completions; `-` is stdout.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

#[derive(Serialize)]
struct Line<'a> {
    prompt_id: &'a str,
    prompt: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    category: Option<&'a str>,
    completions: Vec<CompletionLine>,
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
    let sampling = args.sampling()?;
    let prompts = prompts::read(&args.input)?;
    let model = Model::open_policy(&args.policy, None, args.adapter.as_deref())?;
    let (runtime, options) = models::runtime(&args.runtime.config(), ROWS)?;
    let generator = Generator::open(runtime, &model.checkpoint, model.adapter.as_ref(), &options)?;
    let mut sampler = Sampler { args, sampling, tokenizer: &model.checkpoint.tokenizer, generator };
    let cancel = interrupt::cancel_flag()?;
    let mut output = JsonLinesWriter::create(&args.output)?;
    let bar = counting_bar(Some(prompts.len() as u64), "prompts");
    for batch in prompts.chunks(PROMPTS_AT_ONCE) {
        let completions = sampler.sample(batch, &cancel).map_err(interrupt::map_cancelled)?;
        for (prompt, completions) in batch.iter().zip(completions) {
            output.write(&Line {
                prompt_id: prompt.prompt_id.as_str(),
                prompt: &prompt.text,
                category: prompt.category.as_deref(),
                completions: completions.into_iter().map(CompletionLine::from).collect(),
            })?;
        }
        bar.inc(batch.len() as u64);
    }
    bar.finish_and_clear();
    Ok(output.finish()?)
}

impl GenerateArgs {
    fn sampling(&self) -> Result<SamplingParams, SamplingParamError> {
        let sampling = SamplingParams {
            samples: self.samples,
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            max_new_tokens: self.max_new_tokens,
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

impl Sampler<'_> {
    fn sample(&mut self, prompts: &[Prompt], cancel: &CancelFlag) -> anyhow::Result<Vec<Vec<Completion>>> {
        let jobs = prompts.iter().map(|prompt| self.job(prompt)).collect::<anyhow::Result<Vec<_>>>()?;
        let sampled = self.generator.generate(&jobs, &self.sampling, cancel, &mut |_| ())?;
        let completion = |tokens: dissent_models::generation::SampledTokens| {
            Ok(Completion {
                text: self.tokenizer.decode(&tokens.token_ids, true)?,
                token_ids: tokens.token_ids,
                logprob: tokens.logprob,
                finish_reason: tokens.finish_reason,
            })
        };
        sampled.into_iter().map(|samples| samples.into_iter().map(completion).collect()).collect()
    }

    fn job(&self, prompt: &Prompt) -> anyhow::Result<GenerationJob> {
        let prompt_ids = self.args.template.encode_prompt(self.tokenizer, &prompt.text)?;
        self.generator.check_prompt(&prompt_ids).with_context(|| format!("prompt {}", prompt.prompt_id))?;
        // Seeds derive from the name of an experiment. This command has none and uses a fixed name.
        let experiment = ExperimentId::new("generate")?;
        let seed = |sample| sample_seed(&experiment, self.args.seed, 0, &prompt.prompt_id, sample);
        Ok(GenerationJob { prompt_ids, seeds: (0..self.sampling.samples).map(seed).collect() })
    }
}
