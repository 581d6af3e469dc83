//! The learning part of a plan: data and held-out prompts become artifacts, the gold reward gets a
//! fingerprint.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Context as _;
use dissent_domain::id::PromptId;
use dissent_domain::plan::{
    EvaluationPlan, GoldPlan, LearningPlan, PreferenceSource, RefinementPlan, TuningPlan,
};
use dissent_domain::prompt::Prompt;
use dissent_domain::training::{Hyperparameters, LoraSettings};
use dissent_models::adapter::{LoraAdapter, LoraSlots};
use dissent_storage::ArtifactStore;

use super::models::{Model, Models};
use super::prompt_artifact;
use crate::config::{Config, EvaluationConfig, GoldConfig, LearningConfig, RefinementConfig};
use crate::dataset::Dataset;
use crate::dataset::prompts;
use crate::error::BadInput;
use crate::gold::ReferenceAnswers;

/// The learning part of a plan, with the held-out prompts; none where nothing is learnt.
pub(super) fn plan(
    config: &Config,
    models: &Models,
    prompts: &[Prompt],
    artifacts: &ArtifactStore,
) -> anyhow::Result<Option<(LearningPlan, Vec<Prompt>)>> {
    let Some(learning) = config.learning() else { return Ok(None) };
    let seed = config.experiment.seed;
    let held_out = held_out(learning.evaluation, &config.prompts.path, prompts)?;
    let refined = |adapter: Option<&LoraSettings>| learning.refinement.hyperparameters(seed, adapter);
    let tuned = |adapter: Option<&LoraSettings>| learning.tuning.hyperparameters(seed, adapter);
    let plan = LearningPlan {
        feedback: learning.feedback.plan(),
        refinement: RefinementPlan {
            original: original(learning.refinement, artifacts)?,
            hyperparameters: trained("refinement", "reward", &models.reward, refined)?,
        },
        tuning: TuningPlan {
            objective: learning.tuning.objective(),
            hyperparameters: trained("tuning", "policy", &models.policy, tuned)?,
        },
        evaluation: EvaluationPlan {
            prompts: prompt_artifact::keep(&held_out, artifacts)?,
            samples: learning.evaluation_samples,
            gold: gold(&learning, models, prompts, &held_out)?,
        },
        guards: learning.guards,
    };
    Ok(Some((plan, held_out)))
}

/// A policy that is examined on what it was tuned on shows nothing.
fn held_out(
    evaluation: &EvaluationConfig,
    prompts_path: &Path,
    prompts: &[Prompt],
) -> anyhow::Result<Vec<Prompt>> {
    let held_out = prompts::read(&evaluation.prompts).context("evaluation.prompts")?;
    let known: HashMap<&str, &PromptId> =
        prompts.iter().map(|prompt| (prompt.text.trim(), &prompt.prompt_id)).collect();
    let shared = held_out.iter().find_map(|held| Some((held, *known.get(held.text.trim())?)));
    match shared {
        None => Ok(held_out),
        Some((held, trained_on)) => Err(BadInput(format!(
            "evaluation.prompts: {} of {} is also in {}, as {trained_on}: hold out prompts that no policy is tuned on",
            held.prompt_id,
            evaluation.prompts.display(),
            prompts_path.display(),
        ))
        .into()),
    }
}

/// The original preferences, kept as they are read today: the file may move or change.
fn original(
    refinement: &RefinementConfig,
    artifacts: &ArtifactStore,
) -> anyhow::Result<Option<PreferenceSource>> {
    let Some(path) = &refinement.data else { return Ok(None) };
    let options = refinement.read_options().map_err(BadInput)?;
    let preferences =
        Dataset::read(path, &options).and_then(Dataset::preferences).context("refinement.data")?;
    if preferences.rows.is_empty() {
        return Err(BadInput(format!("refinement.data: there is no preference in {}", path.display())).into());
    }
    let mut lines = Vec::new();
    for row in &preferences.rows {
        serde_json::to_writer(&mut lines, &row.value)?;
        lines.push(b'\n');
    }
    let artifact = artifacts.put_bytes(&lines)?.to_string();
    Ok(Some(PreferenceSource { artifact, count: u32::try_from(preferences.rows.len())? }))
}

/// The settings of a training, which goes on from the model's adapter where it has one.
fn trained(
    section: &str,
    of: &str,
    model: &Model,
    settings: impl Fn(Option<&LoraSettings>) -> Hyperparameters,
) -> anyhow::Result<Hyperparameters> {
    let adapter = model.adapter.as_ref();
    let own = adapter.map(lora_settings);
    let hyperparameters = settings(own.as_ref());
    let merge = format!("merge it first with `dissent model merge`, and name the result as {of}.path");
    let refused = |reason: String| Err(BadInput(format!("{section}: {reason}: {merge}")).into());
    match (&hyperparameters.lora, adapter) {
        (Some(lora), Some(adapter)) if !goes_on(model, adapter, lora)? => refused(format!(
            "{of}.adapter cannot be trained further with lora r = {}, alpha = {}, targets = {:?}: it has r = {}, \
             alpha = {}",
            lora.r, lora.alpha, lora.targets, adapter.r, adapter.alpha
        )),
        (None, Some(_)) => refused(format!("full trains all weights, and {of}.adapter is beside them")),
        (Some(lora), None) => {
            LoraSlots::of_settings(&model.checkpoint.config, lora)
                .with_context(|| format!("{section}.lora"))?;
            Ok(hyperparameters)
        }
        (Some(_), Some(_)) | (None, None) => Ok(hyperparameters),
    }
}

/// Whether an adapter has just the shape and the scaling that a training with these settings has.
fn goes_on(model: &Model, adapter: &LoraAdapter, lora: &LoraSettings) -> anyhow::Result<bool> {
    let same_shape =
        LoraSlots::of_settings(&model.checkpoint.config, lora)? == LoraSlots::of_adapter(adapter);
    let scaling = lora.alpha / f64::from(lora.r);
    let same_scaling = |of_pair: f32| (f64::from(of_pair) - scaling).abs() <= 1e-6 * scaling.abs();
    Ok(same_shape && adapter.layers.values().all(|pair| same_scaling(pair.scaling)))
}

/// The settings that an adapter says it was trained with.
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
            answers.check(prompts, held_out).map_err(|reason| BadInput(format!("gold.path: {reason}")))?;
            Some(GoldPlan { name: answers.name().to_owned(), fingerprint: answers.fingerprint().to_owned() })
        }
        Some(GoldConfig::Model(gold)) => {
            let model = models.gold.as_ref().context("the gold reward model is not open")?;
            // What is put to the model, and how its score is read, are part of what it says.
            let kind = match gold.score {
                dissent_domain::reward::RewardKind::Reward => "reward",
                dissent_domain::reward::RewardKind::Cost => "cost",
            };
            let whole = format!("{}\n{kind}\n{}", model.fingerprint, gold.template);
            Some(GoldPlan {
                name: model.name.clone(),
                fingerprint: blake3::hash(whole.as_bytes()).to_hex().to_string(),
            })
        }
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

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
            super::super::plan::plan(&config, &Models::open(&config)?, &artifacts)
        }

        fn refused(&self, refinement: &str, gold: &str) -> String {
            let error = self.planned(refinement, gold).err().unwrap();
            format!("{error:#}")
        }
    }

    const SENTIMENT: &str = "kind = \"sentiment\"";

    #[test]
    fn a_plan_names_its_data_by_content_and_goes_on_from_the_adapter_that_there_is() {
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
    fn an_adapter_of_another_shape_has_to_be_merged_first() {
        let bench = Bench::new();
        for settings in ["lora.r = 3", "lora.alpha = 7", "full = true"] {
            let message = bench.refused(settings, SENTIMENT);
            assert!(message.starts_with("refinement: "), "{settings}: {message}");
            assert!(message.contains("merge it first with `dissent model merge`"), "{settings}: {message}");
        }
    }

    #[test]
    fn held_out_prompts_that_are_trained_on_are_named() {
        let bench = Bench::new();
        bench.write("held-out.jsonl", "{\"prompt\": \"when?\"}\n{\"prompt\": \" why? \"}\n");
        let message = bench.refused("", SENTIMENT);
        assert!(message.contains("evaluation.prompts: p2 of ") && message.contains("as p1"), "{message}");
    }

    #[test]
    fn reference_answers_must_be_there_and_clear() {
        let bench = Bench::new();
        bench.write("answers.jsonl", "{\"prompt_id\": \"p1\", \"answer\": \"x\"}\n");
        let gold = "kind = \"answers\"\npath = \"answers.jsonl\"";
        assert!(bench.refused("", gold).contains("gold.path: answers.jsonl has no answer for the prompt p2"));
        bench.write(
            "answers.jsonl",
            "{\"prompt_id\": \"p1\", \"answer\": \"x\"}\n{\"prompt_id\": \"p2\", \"answer\": \"y\"}\n",
        );
        assert!(bench.refused("", gold).contains("p1 is the prompt_id of two prompts"));
        bench.write("held-out.jsonl", "{\"prompt_id\": \"p2\", \"prompt\": \"how? \"}\n");
        bench.write("pairs.jsonl", "{\"prompt\": \"a\"}\n");
        let message = bench.refused("data = \"pairs.jsonl\"", SENTIMENT);
        assert!(message.contains("evaluation.prompts"), "{message}");
        bench.write("held-out.jsonl", "{\"prompt\": \"when?\"}\n");
        assert!(bench.refused("data = \"pairs.jsonl\"", SENTIMENT).contains("refinement.data"));
    }

    #[test]
    fn what_a_gold_model_is_asked_is_part_of_what_it_is() {
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
