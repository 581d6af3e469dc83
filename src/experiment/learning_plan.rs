//! The learning part of a plan. Data and held-out prompts become artifacts, and the gold reward a
//! fingerprint.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::Context as _;
use dissent_domain::id::PromptId;
use dissent_domain::plan::{
    EvaluationPlan, FeedbackPlan, GoldPlan, LearningPlan, PreferenceSource, RefinementPlan, TuningPlan,
};
use dissent_domain::prompt::Prompt;
use dissent_domain::training::{Hyperparameters, LoraSettings};
use dissent_models::adapter::{LoraAdapter, LoraSlots};
use dissent_storage::ArtifactStore;

use super::kept_settings::KeptSettings;
use super::models::{Model, Models};
use super::prompt_artifact;
use crate::config::{Config, EvaluationConfig, GoldConfig, LearningConfig, PromptsConfig, RefinementConfig};
use crate::dataset::Dataset;
use crate::dataset::prompts;
use crate::gold::{ReferenceAnswers, UnsuitableAnswers};

/// Data or models that do not suit the learning sections of a configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LearningPlanError {
    /// A held-out prompt is one of the prompts that the policy is tuned on.
    #[error(
        "evaluation.prompts: {held_out} of {} is also in {}, as {prompt}: remove it from one of the files",
        held_out_file.display(), file.display()
    )]
    HeldOutPrompt { held_out: PromptId, held_out_file: PathBuf, prompt: PromptId, file: PathBuf },
    /// The original data of the reward model have no preferences.
    #[error("refinement.data: {} has no preferences", file.display())]
    NoPreferences { file: PathBuf },
    /// A training cannot continue from the adapter of its model.
    #[error(
        "{section}: {reason}: merge the adapter with `dissent model merge`, and set {model}.path to the result"
    )]
    Adapter {
        /// The section of the training.
        section: &'static str,
        /// The section of the model.
        model: &'static str,
        /// The setting that differs from the adapter.
        reason: String,
    },
    /// The reference answers do not cover the prompts.
    #[error("gold.path")]
    ReferenceAnswers(#[from] UnsuitableAnswers),
}

/// Derives the learning part of a plan, with the held-out prompts; `None` without learning.
pub(super) fn plan(
    config: &Config,
    models: &Models,
    prompts: &[Prompt],
    artifacts: &ArtifactStore,
    kept: &KeptSettings,
) -> anyhow::Result<Option<(LearningPlan, Vec<Prompt>)>> {
    let Some(learning) = config.learning() else { return Ok(None) };
    let seed = config.experiment.seed;
    let held_out = held_out(learning.evaluation, &config.prompts, prompts)?;
    let refined = |adapter: Option<&LoraSettings>| learning.refinement.hyperparameters(seed, adapter);
    let tuned = |adapter: Option<&LoraSettings>| learning.tuning.hyperparameters(seed, adapter);
    let plan = LearningPlan {
        feedback: FeedbackPlan {
            focus: kept.focus.clone(),
            ..learning.feedback.plan(kept.opponent, kept.audit, kept.degenerate)
        },
        refinement: RefinementPlan {
            original: original(learning.refinement, artifacts)?,
            hyperparameters: training_settings("refinement", "reward", &models.reward, refined)?,
        },
        tuning: TuningPlan {
            objective: learning.tuning.objective(),
            hyperparameters: training_settings("tuning", "policy", &models.policy, tuned)?,
        },
        evaluation: EvaluationPlan {
            prompts: prompt_artifact::store(&held_out, artifacts)?,
            samples: learning.evaluation_samples,
            gold: gold(&learning, models, prompts, &held_out)?,
        },
        guards: learning.guards,
    };
    Ok(Some((plan, held_out)))
}

/// Reads the held-out prompts, and rejects those that the policy is tuned on.
fn held_out(
    evaluation: &EvaluationConfig,
    tuned: &PromptsConfig,
    prompts: &[Prompt],
) -> anyhow::Result<Vec<Prompt>> {
    let held_out = prompts::read(&evaluation.prompts, &tuned.ignore).context("evaluation.prompts")?;
    let tuned_on: HashMap<&str, &PromptId> =
        prompts.iter().map(|prompt| (prompt.text.trim(), &prompt.prompt_id)).collect();
    let shared = held_out.iter().find_map(|held| Some((held, *tuned_on.get(held.text.trim())?)));
    match shared {
        None => Ok(held_out),
        Some((held, duplicate)) => Err(LearningPlanError::HeldOutPrompt {
            held_out: held.prompt_id.clone(),
            held_out_file: evaluation.prompts.clone(),
            prompt: duplicate.clone(),
            file: tuned.path.clone(),
        }
        .into()),
    }
}

/// Stores the original preferences as an artifact, because the file may move or change.
fn original(
    refinement: &RefinementConfig,
    artifacts: &ArtifactStore,
) -> anyhow::Result<Option<PreferenceSource>> {
    let Some(path) = &refinement.data else { return Ok(None) };
    let options = refinement.read_options()?;
    let preferences =
        Dataset::read(path, &options).and_then(Dataset::preferences).context("refinement.data")?;
    if preferences.rows.is_empty() {
        return Err(LearningPlanError::NoPreferences { file: path.clone() }.into());
    }
    let mut lines = Vec::new();
    for row in &preferences.rows {
        serde_json::to_writer(&mut lines, &row.value)?;
        lines.push(b'\n');
    }
    let artifact = artifacts.put_bytes(&lines)?.to_string();
    Ok(Some(PreferenceSource { artifact, count: u32::try_from(preferences.rows.len())? }))
}

/// Returns the settings of a training, which continues from the model's adapter if one exists.
fn training_settings(
    section: &'static str,
    of: &'static str,
    model: &Model,
    settings: impl Fn(Option<&LoraSettings>) -> Hyperparameters,
) -> anyhow::Result<Hyperparameters> {
    let adapter = model.adapter.as_ref();
    let own = adapter.map(lora_settings);
    let hyperparameters = settings(own.as_ref());
    let rejected = |reason: String| Err(LearningPlanError::Adapter { section, model: of, reason }.into());
    match (&hyperparameters.lora, adapter) {
        (Some(lora), Some(adapter)) if !can_continue(model, adapter, lora)? => rejected(format!(
            "{of}.adapter has r = {}, alpha = {}, targets = {:?}, but the lora settings are r = {}, alpha = {}, \
             targets = {:?}",
            adapter.r,
            adapter.alpha,
            lora_settings(adapter).targets,
            lora.r,
            lora.alpha,
            lora.targets
        )),
        (None, Some(_)) => rejected(format!("full = true does not train {of}.adapter")),
        (Some(lora), None) => {
            LoraSlots::of_settings(&model.checkpoint.config, lora)
                .with_context(|| format!("{section}.lora"))?;
            Ok(hyperparameters)
        }
        (Some(_), Some(_)) | (None, None) => Ok(hyperparameters),
    }
}

/// Returns whether a training with these settings can continue from the adapter: shape and scaling are equal.
fn can_continue(model: &Model, adapter: &LoraAdapter, lora: &LoraSettings) -> anyhow::Result<bool> {
    let same_shape =
        LoraSlots::of_settings(&model.checkpoint.config, lora)? == LoraSlots::of_adapter(adapter);
    let scaling = lora.alpha / f64::from(lora.r);
    let same_scaling = |pair_scaling: f32| (f64::from(pair_scaling) - scaling).abs() <= 1e-6 * scaling.abs();
    Ok(same_shape && adapter.layers.values().all(|pair| same_scaling(pair.scaling)))
}

/// Returns the settings that the adapter was trained with.
fn lora_settings(adapter: &LoraAdapter) -> LoraSettings {
    let name = |module: &str| module.rsplit('.').next().unwrap_or(module).to_owned();
    let mut targets: Vec<String> = adapter.layers.keys().map(|target| name(&target.module)).collect();
    targets.sort_unstable();
    targets.dedup();
    LoraSettings { r: u32::try_from(adapter.r).unwrap_or(u32::MAX), alpha: f64::from(adapter.alpha), targets }
}

fn gold(
    learning: &LearningConfig<'_>,
    models: &Models,
    prompts: &[Prompt],
    held_out: &[Prompt],
) -> anyhow::Result<Option<GoldPlan>> {
    Ok(match learning.gold {
        None => None,
        Some(GoldConfig::Sentiment(_)) => Some(GoldPlan {
            name: "sentiment (VADER)".to_owned(),
            fingerprint: crate::gold::SENTIMENT_FINGERPRINT.to_owned(),
        }),
        Some(GoldConfig::Answers(gold)) => {
            let answers = ReferenceAnswers::open(&gold.path).context("gold.path")?;
            answers.check(prompts, held_out).map_err(LearningPlanError::from)?;
            Some(GoldPlan { name: answers.name().to_owned(), fingerprint: answers.fingerprint().to_owned() })
        }
        Some(GoldConfig::Model(gold)) => {
            let model = models.gold.as_ref().context("the gold reward model was not opened")?;
            // The template and the kind of score change the gold reward.
            let kind = match gold.score {
                dissent_domain::reward::RewardKind::Reward => "reward",
                dissent_domain::reward::RewardKind::Cost => "cost",
            };
            let mut identity = format!("{}\n{kind}\n{}", model.fingerprint, gold.template);
            if let Some(output) = gold.output() {
                identity.push('\n');
                identity.push_str(&serde_json::to_string(&output)?);
            }
            Some(GoldPlan {
                name: model.name.clone(),
                fingerprint: blake3::hash(identity.as_bytes()).to_hex().to_string(),
            })
        }
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::error::FailureKind;
    use crate::jsonl::InputError;

    /// A folder with a configuration of the tiny models, prompts, held-out prompts and preferences.
    struct Bench {
        folder: tempfile::TempDir,
    }

    fn golden(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tests/golden").join(name)
    }

    impl Bench {
        fn new() -> Self {
            let bench = Self { folder: tempfile::tempdir().unwrap() };
            bench.write("prompts.jsonl", "{\"prompt\": \"why?\"}\n{\"prompt\": \"how?\"}\n");
            bench.write("held-out.jsonl", "{\"prompt\": \"when?\"}\n");
            bench.write("pairs.jsonl", "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}\n");
            bench
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.folder.path().join(name), text).unwrap();
        }

        fn planned(
            &self,
            refinement: &str,
            gold: &str,
        ) -> anyhow::Result<super::super::plan::PlannedExperiment> {
            let text = format!(
                "[experiment]\nname = \"e\"\nseed = 5\n[prompts]\npath = \"prompts.jsonl\"\n[policy]\npath = {policy:?}\n\
                 template = \"raw\"\n[reward]\npath = {policy:?}\nadapter = {adapter:?}\ntemplate = \"{{prompt}} {{completion}}\"\n\
                 [feedback]\nsource = \"oracle\"\n[gold]\n{gold}\n[refinement]\n{refinement}\n[tuning]\n\
                 [evaluation]\nprompts = \"held-out.jsonl\"\n",
                policy = golden("llama"),
                adapter = golden("llama-reward"),
            );
            self.write("e.toml", &text);
            let config = Config::load(&self.folder.path().join("e.toml"))?;
            let artifacts = ArtifactStore::open(self.folder.path().join("artifacts"))?;
            let kept = KeptSettings::default();
            super::super::plan::plan(&config, &Models::open(&config, kept.reading)?, &artifacts, &kept)
        }

        fn rejected(&self, refinement: &str, gold: &str) -> anyhow::Error {
            let error = self.planned(refinement, gold).err().unwrap();
            assert_eq!(FailureKind::of(&error), FailureKind::BadInput, "{error:#}");
            error
        }

        fn rejected_data(&self, refinement: &str, gold: &str) -> LearningPlanError {
            self.rejected(refinement, gold).downcast().unwrap()
        }
    }

    const SENTIMENT: &str = "kind = \"sentiment\"";

    #[test]
    fn a_plan_has_hashes_of_its_data_and_the_settings_of_the_adapter() {
        let bench = Bench::new();
        let planned = bench.planned("data = \"pairs.jsonl\"", SENTIMENT).unwrap();
        let learning = planned.plan.learning.unwrap();
        let original = learning.refinement.original.unwrap();
        let line = "{\"prompt\":{\"text\":\"a\"},\"chosen\":\"b\",\"rejected\":\"c\",\"margin\":0.0,\"is_unsafe\":null}\n";
        assert_eq!(
            (original.count, original.artifact),
            (1, blake3::hash(line.as_bytes()).to_hex().to_string())
        );
        let adapter = LoraAdapter::open(&golden("llama-reward")).unwrap();
        assert_eq!(learning.refinement.hyperparameters.lora, Some(lora_settings(&adapter)));
        assert_eq!((learning.refinement.hyperparameters.seed, planned.held_out.len()), (5, 1));
        assert_eq!(learning.tuning.hyperparameters.lora.map(|lora| lora.r), Some(16));
        assert_eq!(learning.evaluation.gold.unwrap().fingerprint, "sentiment/1");
        assert_eq!(learning.evaluation.prompts.count, 1);
    }

    #[test]
    fn an_adapter_of_another_shape_must_be_merged() {
        let bench = Bench::new();
        for settings in ["lora.r = 3", "lora.alpha = 7", "full = true"] {
            let error = bench.rejected_data(settings, SENTIMENT);
            let LearningPlanError::Adapter { section: "refinement", model: "reward", .. } = &error else {
                panic!("{settings}: {error}")
            };
            assert!(
                error.to_string().contains("merge the adapter with `dissent model merge`"),
                "{settings}: {error}"
            );
        }
    }

    #[test]
    fn held_out_prompts_that_are_tuned_on_are_named() {
        let bench = Bench::new();
        bench.write("held-out.jsonl", "{\"prompt\": \"when?\"}\n{\"prompt\": \" why? \"}\n");
        let error = bench.rejected_data("", SENTIMENT);
        let LearningPlanError::HeldOutPrompt { held_out, prompt, .. } = &error else { panic!("{error}") };
        assert_eq!((held_out.as_str(), prompt.as_str()), ("p2", "p1"));
        bench.write("held-out.jsonl", "{\"prompt_id\": \"h\", \"prompt\": \"how? \"}\n");
        let error = bench.rejected_data("", SENTIMENT);
        let LearningPlanError::HeldOutPrompt { held_out, prompt, .. } = &error else { panic!("{error}") };
        assert_eq!((held_out.as_str(), prompt.as_str()), ("h", "p2"));
    }

    #[test]
    fn missing_and_ambiguous_reference_answers_are_rejected() {
        let bench = Bench::new();
        bench.write("answers.jsonl", "{\"prompt_id\": \"p1\", \"answer\": \"x\"}\n");
        let gold = "kind = \"answers\"\npath = \"answers.jsonl\"";
        let unsuitable = || {
            let error = bench.rejected_data("", gold);
            let LearningPlanError::ReferenceAnswers(cause) = error else { panic!("{error}") };
            cause
        };
        let p2 = PromptId::new("p2").unwrap();
        let missing = UnsuitableAnswers::Missing { file: "answers.jsonl".to_owned(), prompt: p2 };
        assert_eq!(unsuitable(), missing);
        bench.write(
            "answers.jsonl",
            "{\"prompt_id\": \"p1\", \"answer\": \"x\"}\n{\"prompt_id\": \"p2\", \"answer\": \"y\"}\n",
        );
        assert_eq!(unsuitable(), UnsuitableAnswers::AmbiguousId(PromptId::new("p1").unwrap()));
    }

    #[test]
    fn unusable_data_of_the_refinement_is_named_by_its_key() {
        let bench = Bench::new();
        bench.write("pairs.jsonl", "{\"prompt\": \"a\"}\n");
        let error = bench.rejected("data = \"pairs.jsonl\"", SENTIMENT);
        assert!(error.downcast_ref::<InputError>().is_some(), "{error:#}");
        assert!(error.to_string().contains("refinement.data"), "{error:#}");
    }

    #[test]
    fn the_fingerprint_of_a_gold_model_includes_template_and_kind_of_score() {
        let bench = Bench::new();
        let fingerprint = |rest: &str| {
            let model = format!(
                "kind = \"model\"\npath = {:?}\nadapter = {:?}\n{rest}",
                golden("llama"),
                golden("llama-reward")
            );
            let learning = bench.planned("", &model).unwrap().plan.learning.unwrap();
            learning.evaluation.gold.unwrap().fingerprint
        };
        let one = fingerprint("template = \"{prompt} {completion}\"");
        assert_ne!(one, fingerprint("template = \"{prompt}: {completion}\""));
        assert_ne!(one, fingerprint("template = \"{prompt} {completion}\"\nscore = \"cost\""));
    }
}
