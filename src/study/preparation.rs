//! Prepares data with a known rule, a policy and a proxy before the experiments of a study.
//!
//! Each seed has its own preparation, so data and models of two seeds are independent.

mod categories;
mod config;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use dissent_domain::training::{Demonstration, Hyperparameters, Preference};
use dissent_models::checkpoint::write::{FreshModel, initialise};
use dissent_models::template::PromptTemplate;
use serde::Deserialize;

use super::step_cache::StepCache;
use super::training::{ModelRuntime, StudyTraining, TrainingExamples};
use crate::error::BadInput;
use crate::experiment::models::Model;
use crate::jsonl::JsonLines;
use categories::{BEGIN, END, TopicRules};
pub use config::{CategoriesConfig, ModelSizes};

/// The prefix of paths to prepared folders: `prepared:policy` is the policy's folder.
pub const PREPARED: &str = "prepared:";

/// The template of prompt and completion in the generated data.
const TEMPLATE: &str = "{prompt} {completion}";

impl CategoriesConfig {
    /// Checks every value against its range.
    ///
    /// # Errors
    /// If a value is out of range; the message names the key and the range.
    pub fn validate(&self) -> Result<(), BadInput> {
        for (key, count) in [
            ("prompts", self.prompts),
            ("held_out", self.held_out),
            ("texts", self.texts),
            ("demonstrations", self.demonstrations),
            ("preferences", self.preferences),
        ] {
            if count == 0 {
                return Err(BadInput(format!("categories.{key} = 0 is out of range: use at least 1")));
            }
        }
        let questions = self.prompts + self.held_out;
        if questions > TopicRules::QUESTIONS {
            return Err(BadInput(format!(
                "categories.prompts + held_out = {questions} is out of range: use at most {}, the questions of a topic",
                TopicRules::QUESTIONS
            )));
        }
        for (key, share, most) in [
            ("demonstration_accuracy", self.demonstration_accuracy, 1.0),
            ("preference_noise", self.preference_noise, 0.5),
        ] {
            if !(0.0..=most).contains(&share) {
                return Err(BadInput(format!("categories.{key} = {share} is out of range: use 0 to {most}")));
            }
        }
        for (key, settings) in
            [("pretraining", &self.pretraining), ("imitation", &self.imitation), ("proxy", &self.proxy)]
        {
            settings.validate().map_err(|error| BadInput(format!("categories.{key}.{error}")))?;
        }
        Ok(())
    }
}

/// The folders of a preparation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    data: PathBuf,
    base: PathBuf,
    policy: PathBuf,
    proxy: PathBuf,
}

impl Prepared {
    /// Returns the path behind `prepared:…`.
    ///
    /// # Errors
    /// If the name is unknown.
    pub fn resolve(&self, path: &str) -> anyhow::Result<PathBuf> {
        let (name, rest) = path.split_once('/').unwrap_or((path, ""));
        let folder = match name {
            "data" => &self.data,
            "base" => &self.base,
            "policy" => &self.policy,
            "proxy" => &self.proxy,
            _ => {
                let reason =
                    format!("unknown path {PREPARED}{path}: use {PREPARED}data, base, policy or proxy");
                return Err(BadInput(reason).into());
            }
        };
        let folder = std::path::absolute(folder)?;
        Ok(if rest.is_empty() { folder } else { folder.join(rest) })
    }
}

/// Generates the data and trains the models of a seed. Finished steps of an earlier run are not repeated.
///
/// # Errors
/// If a model cannot be trained, or a folder cannot be written.
pub fn prepare(
    config: &CategoriesConfig,
    seed: u64,
    steps: &StepCache,
    models: &ModelRuntime,
    progress: &dyn Fn(&str),
) -> anyhow::Result<Prepared> {
    let topics = TopicRules::new(seed);
    let counts = (
        (config.prompts, config.held_out, config.texts),
        (config.demonstrations, config.demonstration_accuracy),
        (config.preferences, config.preference_noise),
    );
    let data = steps.folder("data", &(seed, counts), |folder| topics.write(config, folder))?;
    let seeded = |settings: &Hyperparameters| Hyperparameters { seed, lora: None, ..settings.clone() };
    let fresh = steps.folder("fresh", &(seed, &config.model, counts), |folder| {
        initialise_model(config, seed, &data, folder)
    })?;
    let template: PromptTemplate = TEMPLATE.parse()?;
    let train = |name: &str, from: &Path, rows: &str, settings: &Hyperparameters| {
        let settings = seeded(settings);
        let model = Model::open(from, None, None)?;
        let inputs = (&model.fingerprint, rows, seed, counts, &settings);
        steps.folder(name, &inputs, |folder| {
            progress(&format!("seed {seed}: training the {name}"));
            let rows = data.join(rows);
            let preferences: Vec<Preference>;
            let demonstrations: Vec<Demonstration>;
            let examples = if name == "proxy" {
                preferences = read(&rows)?;
                TrainingExamples::Preferences(&preferences)
            } else {
                demonstrations = read(&rows)?;
                TrainingExamples::Demonstrations(&demonstrations)
            };
            models.train(
                &StudyTraining {
                    name,
                    checkpoint: &model.checkpoint,
                    template: &template,
                    examples,
                    settings: &settings,
                },
                folder,
            )
        })
    };
    let base = train("base", &fresh, "texts.jsonl", &config.pretraining)?;
    let policy = train("policy", &base, "demonstrations.jsonl", &config.imitation)?;
    let proxy = train("proxy", &base, "lessons.jsonl", &config.proxy)?;
    Ok(Prepared { data, base, policy, proxy })
}

fn initialise_model(config: &CategoriesConfig, seed: u64, data: &Path, folder: &Path) -> anyhow::Result<()> {
    let tokenizer_json = std::fs::read(data.join("tokenizer.json"))?;
    let model = FreshModel {
        hidden_size: config.model.hidden_size,
        intermediate_size: config.model.intermediate_size,
        layers: config.model.layers,
        heads: config.model.heads,
        kv_heads: config.model.heads,
        vocab_size: TopicRules::vocabulary().len(),
        context_length: 64,
        rope_theta: 10_000.0,
        tied_embeddings: true,
        tokenizer_json: &tokenizer_json,
        bos_token: Some(BEGIN),
        eos_token: END,
        chat_template: None,
        seed,
    };
    Ok(initialise(&model, folder)?)
}

/// Reads the rows of a generated file.
fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> anyhow::Result<Vec<T>> {
    let rows: Result<Vec<T>, _> =
        JsonLines::<T>::open(path)?.map(|row| row.map(|(_, value)| value)).collect();
    rows.with_context(|| format!("failed to read {}", path.display()))
}
