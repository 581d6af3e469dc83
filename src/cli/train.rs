//! `dissent train`: fine-tunes policies, reward models and cost models.

mod examples;
mod folder;
mod metrics_log;
mod offline;
mod options;
mod policy;
mod view;

use dissent_domain::training::{DpoLoss, PolicyMethod};
use dissent_models::template::LearntTurns;
use dissent_models::training::Objective;

use crate::config::{MissingCompletion, check_reward_template};
use crate::dataset::{Margins, Preferred};
use crate::error::BadInput;
use examples::RowKind;
use offline::OfflineTraining;
use options::{DataOptions, Defaults, LengthOptions, ModelOptions, OptimiserOptions, PairOptions};
use policy::PolicyArgs;

/// Fine-tune a policy, a reward model or a cost model
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent train sft    --base SmolLM2.gguf --data answers.jsonl --output ./policy
  dissent train reward --base SmolLM2.gguf --layers 6 --data hh-rlhf.jsonl.gz --eval-split 0.1 --output ./reward
  dissent train dpo    --base SmolLM2.gguf --data preferences.jsonl --output ./policy --beta 0.1 --learning-rate 5e-6
  dissent train ppo    --base SmolLM2.gguf --reward SmolLM2.gguf --reward-layers 6 --reward-adapter ./reward \\
      --prompts prompts.jsonl --output ./policy

Data formats, detected by the fields of the first line. A field is a text or a list of {\"role\", \"content\"}:
  preference           prompt, chosen, rejected, margin?
  implicit-preference  chosen, rejected, with the prompt as their common start; margin?
  hh-rlhf              chosen, rejected: \"\\n\\nHuman: …\\n\\nAssistant: …\"
  safe-rlhf            prompt, response_0, response_1, better_response_id, safer_response_id, is_response_0_safe, …
  unpaired             prompt, completion, label
  prompt-completion    prompt, completion;  messages: messages, tools?, chat_template_kwargs?;  text: text;  prompt-only: prompt
  sharegpt             conversations: [{\"from\", \"value\"}];  alpaca: instruction, input?, output
Files are JSON Lines, a JSON array, CSV, TSV or Parquet, also compressed with gzip or Zstandard.

The result is a PEFT folder (a Hugging Face folder with --full) with training.json and metrics.jsonl. Press Ctrl-C to
stop: a checkpoint is kept, and the same command resumes, also after a crash. The result is the same as without the stop.")]
pub(crate) struct TrainArgs {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, clap::Subcommand)]
enum Task {
    /// Fine-tune a model on completions or conversations (supervised; see --loss-on)
    Sft(SftArgs),
    /// Train a reward model on preferences (Bradley-Terry)
    Reward(RewardArgs),
    /// Train a cost model on preferences and safety labels (Safe-RLHF)
    Cost(CostArgs),
    /// Tune a policy on preferences directly (DPO, IPO, hinge)
    Dpo(DpoArgs),
    /// Tune a policy against a reward model by proximal policy optimisation
    Ppo(PolicyArgs),
    /// Tune a policy against a reward model by group-relative policy optimisation
    Grpo(PolicyArgs),
    /// Tune a policy against a reward model by REINFORCE with a leave-one-out baseline
    Rloo(PolicyArgs),
}

#[derive(Debug, clap::Args)]
struct SftArgs {
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    data: DataOptions,
    #[command(flatten)]
    length: LengthOptions,
    #[command(flatten)]
    optimiser: OptimiserOptions,
    /// Tokens to learn: `all`, `assistant` (every turn of the assistant) or `last` (the last answer)
    /// [default: as TRL, all of messages and texts, the completion of other rows]
    #[arg(long, value_name = "TOKENS")]
    loss_on: Option<LearntTurns>,
}

#[derive(Debug, clap::Args)]
struct RewardArgs {
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    data: DataOptions,
    #[command(flatten)]
    pairs: PairOptions,
    #[command(flatten)]
    length: LengthOptions,
    #[command(flatten)]
    optimiser: OptimiserOptions,
    /// Weight of the loss term that draws the rewards of a pair to a sum of 0 (TRL's
    /// center_rewards_coefficient).
    #[arg(long, value_name = "COEFFICIENT", default_value_t = 0.0, value_parser = not_negative)]
    center: f32,
    /// End plain texts with the end-of-sequence token, as TRL does. Use the model with the template in
    /// training.json.
    #[arg(long)]
    append_eos: bool,
}

#[derive(Debug, clap::Args)]
struct CostArgs {
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    data: DataOptions,
    #[command(flatten)]
    pairs: PairOptions,
    #[command(flatten)]
    length: LengthOptions,
    #[command(flatten)]
    optimiser: OptimiserOptions,
    /// End plain texts with the end-of-sequence token, as TRL does. Use the model with the template in
    /// training.json.
    #[arg(long)]
    append_eos: bool,
}

#[derive(Debug, clap::Args)]
struct DpoArgs {
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    data: DataOptions,
    #[command(flatten)]
    pairs: PairOptions,
    #[command(flatten)]
    length: LengthOptions,
    #[command(flatten)]
    optimiser: OptimiserOptions,
    /// Strength of the penalty on the distance to the reference policy, which is the initial model.
    #[arg(long, default_value_t = 0.1, value_parser = positive)]
    beta: f32,
    /// Loss: sigmoid (DPO), robust, ipo or hinge.
    #[arg(long, default_value = "sigmoid", value_parser = dpo_loss)]
    loss: DpoVariant,
    /// Share of the preferences that are assumed to be wrong, 0 to below 0.5: smoothed labels with sigmoid
    /// (cDPO), unbiased with robust.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = below_half)]
    label_smoothing: f32,
}

/// A loss of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DpoVariant {
    Plain(DpoLoss),
    /// Robust DPO, a sigmoid loss.
    Robust,
}

impl DpoArgs {
    /// Returns the objective.
    ///
    /// # Errors
    /// If the loss has no form for wrong labels.
    fn objective(&self) -> Result<Objective, BadInput> {
        let (beta, wrong) = (self.beta, self.label_smoothing);
        let (loss, linear) = match self.loss {
            DpoVariant::Plain(DpoLoss::Sigmoid) => (DpoLoss::Sigmoid, wrong),
            DpoVariant::Robust => (DpoLoss::Sigmoid, -wrong / (1.0 - 2.0 * wrong)),
            DpoVariant::Plain(loss) if wrong > 0.0 => {
                let reason =
                    format!("--label-smoothing has no meaning for {loss:?}: use --loss sigmoid or robust");
                return Err(BadInput(reason));
            }
            DpoVariant::Plain(loss) => (loss, 0.0),
        };
        // A zero has no sign in the settings of a training.
        Ok(Objective::Dpo { loss, beta, linear: linear + 0.0 })
    }
}

fn dpo_loss(text: &str) -> Result<DpoVariant, String> {
    match text {
        "sigmoid" => Ok(DpoVariant::Plain(DpoLoss::Sigmoid)),
        "robust" => Ok(DpoVariant::Robust),
        "ipo" => Ok(DpoVariant::Plain(DpoLoss::Ipo)),
        "hinge" => Ok(DpoVariant::Plain(DpoLoss::Hinge)),
        other => Err(format!("unknown loss {other:?}: use sigmoid, robust, ipo or hinge")),
    }
}

fn below_half(text: &str) -> Result<f32, String> {
    let number = text.parse().ok().filter(|number: &f32| (0.0..0.5).contains(number));
    number.ok_or_else(|| "use a number of at least 0 and below 0.5".to_owned())
}

fn positive(text: &str) -> Result<f32, String> {
    let number = text.parse().ok().filter(|number: &f32| *number > 0.0 && number.is_finite());
    number.ok_or_else(|| "use a number above 0".to_owned())
}

fn not_negative(text: &str) -> Result<f32, String> {
    let number = text.parse().ok().filter(|number: &f32| *number >= 0.0 && number.is_finite());
    number.ok_or_else(|| "use a number of at least 0".to_owned())
}

const REWARD: Defaults = Defaults { learning_rate: 1e-4, lora_r: 8 };

pub(crate) fn run(args: &TrainArgs) -> anyhow::Result<()> {
    match &args.task {
        Task::Sft(args) => sft(args),
        Task::Reward(args) => reward(args),
        Task::Cost(args) => cost(args),
        Task::Dpo(args) => dpo(args),
        Task::Ppo(args) => policy::run(args, PolicyMethod::Ppo),
        Task::Grpo(args) => policy::run(args, PolicyMethod::Grpo),
        Task::Rloo(args) => policy::run(args, PolicyMethod::Rloo),
    }
}

fn sft(args: &SftArgs) -> anyhow::Result<()> {
    let SftArgs { model, data, length, optimiser, loss_on } = args;
    let defaults = Defaults { learning_rate: 2e-4, lora_r: 16 };
    OfflineTraining {
        task: "sft",
        model,
        data,
        reading: data.reading(Preferred::Better, Margins::Zero),
        row_kind: RowKind::Imitation,
        objective: Objective::Sft,
        settings: optimiser.settings(defaults, length.epochs, length.steps)?,
        append_eos: false,
        learnt: *loss_on,
    }
    .run()
}

fn reward(args: &RewardArgs) -> anyhow::Result<()> {
    let RewardArgs { model, data, pairs, length, optimiser, center, append_eos } = args;
    check_scored_template(model)?;
    OfflineTraining {
        task: "reward",
        model,
        data,
        reading: data.reading(pairs.preferred(Preferred::Better), pairs.margins),
        row_kind: RowKind::Scores,
        objective: Objective::Reward { center: *center },
        settings: optimiser.settings(REWARD, length.epochs, length.steps)?,
        append_eos: *append_eos,
        learnt: None,
    }
    .run()
}

fn cost(args: &CostArgs) -> anyhow::Result<()> {
    let CostArgs { model, data, pairs, length, optimiser, append_eos } = args;
    check_scored_template(model)?;
    OfflineTraining {
        task: "cost",
        model,
        data,
        reading: data.reading(pairs.preferred(Preferred::Safer), Margins::Zero),
        row_kind: RowKind::Costs,
        objective: Objective::Cost,
        settings: optimiser.settings(REWARD, length.epochs, length.steps)?,
        append_eos: *append_eos,
        learnt: None,
    }
    .run()
}

fn dpo(args: &DpoArgs) -> anyhow::Result<()> {
    let DpoArgs { model, data, pairs, length, optimiser, .. } = args;
    let defaults = Defaults { learning_rate: 1e-5, lora_r: 16 };
    OfflineTraining {
        task: "dpo",
        model,
        data,
        reading: data.reading(pairs.preferred(Preferred::Better), Margins::Zero),
        row_kind: RowKind::Preferences,
        objective: args.objective()?,
        settings: optimiser.settings(defaults, length.epochs, length.steps)?,
        append_eos: false,
        learnt: None,
    }
    .run()
}

/// Refuses a template that does not place the completion, and so is most likely a policy's.
fn check_scored_template(model: &ModelOptions) -> Result<(), MissingCompletion> {
    check_reward_template(&model.template)
}
