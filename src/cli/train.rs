//! `dissent train`: fine-tunes policies, reward models and cost models.

mod examples;
mod folder;
mod metrics_log;
mod offline;
mod options;
mod policy;
mod view;

use dissent_domain::training::{DpoLoss, PolicyMethod};
use dissent_models::training::Objective;

use crate::config::{MissingCompletion, check_reward_template};
use crate::dataset::{Margins, Preferred};
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
  dissent train dpo    --base SmolLM2.gguf --data preferences.jsonl --output ./policy --beta 0.1 --lr 5e-6
  dissent train ppo    --base SmolLM2.gguf --reward SmolLM2.gguf --reward-layers 6 --reward-adapter ./reward \\
      --prompts prompts.jsonl --output ./policy

Data formats, detected by the fields of the first line. A field is a text or a list of {\"role\", \"content\"}:
  preference           prompt, chosen, rejected, margin?
  implicit-preference  chosen, rejected, with the prompt as their common start; margin?
  hh-rlhf              chosen, rejected: \"\\n\\nHuman: …\\n\\nAssistant: …\"
  safe-rlhf            prompt, response_0, response_1, better_response_id, safer_response_id, is_response_0_safe, …
  unpaired             prompt, completion, label
  prompt-completion    prompt, completion;  messages: messages;  text: text;  prompt-only: prompt

The result is a PEFT folder (a Hugging Face folder with --full) with training.json and metrics.jsonl. Press Ctrl-C to
stop: a checkpoint is kept, and the same command resumes, also after a crash. The result is the same as without the stop.")]
pub(crate) struct TrainArgs {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, clap::Subcommand)]
enum Task {
    /// Fine-tune a model on completions (supervised; the loss covers the tokens of completions only)
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
    /// Loss: sigmoid (DPO), ipo or hinge.
    #[arg(long, default_value = "sigmoid", value_parser = dpo_loss)]
    loss: DpoLoss,
}

fn dpo_loss(text: &str) -> Result<DpoLoss, String> {
    match text {
        "sigmoid" => Ok(DpoLoss::Sigmoid),
        "ipo" => Ok(DpoLoss::Ipo),
        "hinge" => Ok(DpoLoss::Hinge),
        other => Err(format!("unknown loss {other:?}: use sigmoid, ipo or hinge")),
    }
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
    let SftArgs { model, data, length, optimiser } = args;
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
    }
    .run()
}

fn dpo(args: &DpoArgs) -> anyhow::Result<()> {
    let DpoArgs { model, data, pairs, length, optimiser, beta, loss } = args;
    let defaults = Defaults { learning_rate: 1e-5, lora_r: 16 };
    OfflineTraining {
        task: "dpo",
        model,
        data,
        reading: data.reading(pairs.preferred(Preferred::Better), Margins::Zero),
        row_kind: RowKind::Preferences,
        objective: Objective::Dpo { loss: *loss, beta: *beta },
        settings: optimiser.settings(defaults, length.epochs, length.steps)?,
        append_eos: false,
    }
    .run()
}

/// Refuses a template that does not place the completion, and so is most likely a policy's.
fn check_scored_template(model: &ModelOptions) -> Result<(), MissingCompletion> {
    check_reward_template(&model.template)
}
