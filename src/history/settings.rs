//! Changes settings of a recorded plan by their configuration keys.

use std::fmt;
use std::str::FromStr;

use dissent_domain::plan::{FeedbackSource, Plan};
use serde_json::Value;

use crate::error::BadInput;
use crate::text::similar;

/// A configuration key with the JSON pointer of its value in a plan.
struct Key {
    name: &'static str,
    pointer: &'static str,
    /// The name of the variant that the value belongs to, if it belongs to one.
    variant: Option<&'static str>,
}

const fn key(name: &'static str, pointer: &'static str) -> Key {
    Key { name, pointer, variant: None }
}

const fn variant(name: &'static str, pointer: &'static str, variant: &'static str) -> Key {
    Key { name, pointer, variant: Some(variant) }
}

impl Key {
    /// Returns the value in a plan; `None` if the plan has no place for it.
    fn value<'a>(&self, plan: &'a Value) -> Option<&'a Value> {
        let value = plan.pointer(self.pointer)?;
        self.variant.map_or(Some(value), |variant| value.get(variant))
    }

    /// The pointer of the object that holds the value, and the value's name in it.
    fn place(&self) -> (&'static str, &'static str) {
        self.pointer.rsplit_once('/').unwrap_or(("", self.pointer))
    }

    /// Whether a plan has the section of the key. A plan without it cannot be changed there.
    fn has_place(&self, plan: &Value) -> bool {
        plan.pointer(self.place().0).is_some_and(Value::is_object)
    }

    /// Sets the value in a plan; `None` unsets it.
    fn set(&self, plan: &mut Value, value: Option<Value>) {
        let (section, name) = self.place();
        let Some(members) = plan.pointer_mut(section).and_then(Value::as_object_mut) else { return };
        match value {
            Some(value) => {
                let value = match self.variant {
                    Some(variant) => Value::Object([(variant.to_owned(), value)].into_iter().collect()),
                    None => value,
                };
                members.insert(name.to_owned(), value);
            }
            // A plan leaves out an empty list and writes other missing values as null.
            None if members.get(name).is_none_or(Value::is_array) => drop(members.shift_remove(name)),
            None => drop(members.insert(name.to_owned(), Value::Null)),
        }
    }
}

/// Declares the keys of a training. The whole `lora` comes last: it is null if all weights are trained.
macro_rules! training_keys {
    ($section:literal) => {
        [
            key(
                concat!($section, ".learning_rate"),
                concat!("/learning/", $section, "/hyperparameters/learning_rate"),
            ),
            key(concat!($section, ".schedule"), concat!("/learning/", $section, "/hyperparameters/schedule")),
            variant(
                concat!($section, ".warmup_steps"),
                concat!("/learning/", $section, "/hyperparameters/warmup"),
                "steps",
            ),
            variant(
                concat!($section, ".warmup_ratio"),
                concat!("/learning/", $section, "/hyperparameters/warmup"),
                "ratio",
            ),
            key(concat!($section, ".epochs"), concat!("/learning/", $section, "/hyperparameters/epochs")),
            key(concat!($section, ".steps"), concat!("/learning/", $section, "/hyperparameters/steps")),
            key(
                concat!($section, ".batch_size"),
                concat!("/learning/", $section, "/hyperparameters/batch_size"),
            ),
            key(
                concat!($section, ".gradient_accumulation"),
                concat!("/learning/", $section, "/hyperparameters/gradient_accumulation"),
            ),
            key(
                concat!($section, ".max_length"),
                concat!("/learning/", $section, "/hyperparameters/max_length"),
            ),
            key(
                concat!($section, ".weight_decay"),
                concat!("/learning/", $section, "/hyperparameters/weight_decay"),
            ),
            key(
                concat!($section, ".max_grad_norm"),
                concat!("/learning/", $section, "/hyperparameters/max_grad_norm"),
            ),
            key(
                concat!($section, ".adam_betas"),
                concat!("/learning/", $section, "/hyperparameters/adam_betas"),
            ),
            key(
                concat!($section, ".adam_epsilon"),
                concat!("/learning/", $section, "/hyperparameters/adam_epsilon"),
            ),
            key(
                concat!($section, ".recompute"),
                concat!("/learning/", $section, "/hyperparameters/recompute"),
            ),
            key(concat!($section, ".seed"), concat!("/learning/", $section, "/hyperparameters/seed")),
            key(concat!($section, ".lora.r"), concat!("/learning/", $section, "/hyperparameters/lora/r")),
            key(
                concat!($section, ".lora.alpha"),
                concat!("/learning/", $section, "/hyperparameters/lora/alpha"),
            ),
            key(
                concat!($section, ".lora.targets"),
                concat!("/learning/", $section, "/hyperparameters/lora/targets"),
            ),
            key(concat!($section, ".lora"), concat!("/learning/", $section, "/hyperparameters/lora")),
        ]
    };
}

/// The keys of the selection. `selection.*` is an alias of `conflict.*`.
const SELECTION: &[Key] = &[
    key("conflict.rule", "/conflict/selection/rule"),
    key("conflict.delta", "/conflict/selection/delta"),
    key("conflict.tau", "/conflict/selection/tau"),
    key("conflict.budget", "/conflict/selection/budget"),
    key("conflict.quantile", "/conflict/selection/quantile"),
    key("conflict.logprob", "/conflict/logprob"),
    key("feedback.opponent", "/learning/feedback/opponent"),
    key("feedback.overlap", "/learning/feedback/overlap"),
    key("feedback.budget", "/learning/feedback/budget"),
    key("feedback.audit", "/learning/feedback/audit"),
    key("feedback.degenerate", "/learning/feedback/degenerate"),
];

/// The other keys that a fork may change.
const OTHERS: &[Key] = &[
    key("experiment.rounds", "/rounds"),
    key("feedback.source", "/learning/feedback/source"),
    key("experiment.seed", "/seed"),
    key("generation.samples", "/sampling/samples"),
    key("generation.temperature", "/sampling/temperature"),
    key("generation.top_p", "/sampling/top_p"),
    key("generation.top_k", "/sampling/top_k"),
    key("generation.max_new_tokens", "/sampling/max_new_tokens"),
    key("generation.stop", "/sampling/stop"),
    key("tuning.method", "/learning/tuning/objective/method"),
    key("tuning.beta", "/learning/tuning/objective/beta"),
    key("tuning.loss", "/learning/tuning/objective/loss"),
    key("tuning.ppo.prompts", "/learning/tuning/objective/ppo/prompts"),
    key("tuning.ppo.samples", "/learning/tuning/objective/ppo/samples"),
    key("tuning.ppo.iterations", "/learning/tuning/objective/ppo/iterations"),
    key("tuning.ppo.epochs", "/learning/tuning/objective/ppo/epochs"),
    key("tuning.ppo.max_new_tokens", "/learning/tuning/objective/ppo/max_new_tokens"),
    key("tuning.ppo.temperature", "/learning/tuning/objective/ppo/temperature"),
    key("tuning.ppo.clip", "/learning/tuning/objective/ppo/clip"),
    key("tuning.ppo.value_clip", "/learning/tuning/objective/ppo/value_clip"),
    key("tuning.ppo.value_coefficient", "/learning/tuning/objective/ppo/value_coefficient"),
    key("tuning.ppo.kl_coefficient", "/learning/tuning/objective/ppo/kl_coefficient"),
    key("tuning.ppo.kl_estimator", "/learning/tuning/objective/ppo/kl_estimator"),
    key("tuning.ppo.kl_target", "/learning/tuning/objective/ppo/kl_target"),
    key("tuning.ppo.kl_horizon", "/learning/tuning/objective/ppo/kl_horizon"),
    key("tuning.ppo.gamma", "/learning/tuning/objective/ppo/gamma"),
    key("tuning.ppo.lambda", "/learning/tuning/objective/ppo/lambda"),
    key("tuning.ppo.missing_eos_penalty", "/learning/tuning/objective/ppo/missing_eos_penalty"),
    key("tuning.ppo.whiten_advantages", "/learning/tuning/objective/ppo/whiten_advantages"),
    key("tuning.ppo.stop", "/learning/tuning/objective/ppo/stop"),
    key("evaluation.samples", "/learning/evaluation/samples"),
    key("guards.kl_max", "/learning/guards/kl_max"),
    key("guards.gold_patience", "/learning/guards/gold_patience"),
    key("guards.stop_on_reward_hacking", "/learning/guards/stop_on_reward_hacking"),
    key("guards.agreement_drop", "/learning/guards/agreement_drop"),
];

const REFINEMENT: [Key; 19] = training_keys!("refinement");
const TUNING: [Key; 19] = training_keys!("tuning");

/// `key=value`, as on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    key: String,
    value: String,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or_else(|| {
            format!(
                "setting `{text}` lacks `=`: write KEY=VALUE, such as conflict.delta=1.5, or KEY= to unset it"
            )
        })?;
        Ok(Self { key: key.trim().to_owned(), value: value.trim().to_owned() })
    }
}

/// The keys that may be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The keys of the selection and of the requested feedback.
    Selection,
    /// The keys of the selection, and the others that a fork may change.
    Fork,
}

impl Scope {
    fn keys(self) -> impl Iterator<Item = &'static Key> {
        let others: [&[Key]; 3] = match self {
            Self::Fork => [OTHERS, &REFINEMENT, &TUNING],
            Self::Selection => [&[]; 3],
        };
        SELECTION.iter().chain(others.into_iter().flatten())
    }

    fn find(self, name: &str) -> Result<&'static Key, BadInput> {
        let resolved = name.strip_prefix("selection.").map(|rest| format!("conflict.{rest}"));
        let canonical = resolved.as_deref().unwrap_or(name);
        self.keys().find(|key| key.name == canonical).ok_or_else(|| {
            let allowed: Vec<&str> = self.keys().map(|key| key.name).collect();
            let way_out = match similar(canonical, allowed.iter().copied()).as_slice() {
                [] => allowed.join(", "),
                found => found.join(" or "),
            };
            BadInput(format!("setting `{name}` cannot be changed here: use {way_out}"))
        })
    }
}

/// Returns the settings that turn the recorded plan into the wanted one. `None` if no settings of a fork do.
///
/// # Errors
/// If a plan cannot be written as JSON.
pub(crate) fn differences(recorded: &Plan, wanted: &Plan) -> Result<Option<Vec<Setting>>, serde_json::Error> {
    let (mut plan, goal) = (serde_json::to_value(recorded)?, serde_json::to_value(wanted)?);
    let mut settings = Vec::new();
    for key in Scope::Fork.keys() {
        let value = key.value(&goal).cloned();
        // A list that is empty is left out.
        if value == key.value(&plan).cloned() || !key.has_place(&plan) || !key.has_place(&goal) {
            continue;
        }
        let setting = match (&value, key.variant) {
            // The other variant is set instead.
            (None, Some(_)) => continue,
            (value, _) => {
                Setting { key: key.name.to_owned(), value: value.as_ref().map_or_else(String::new, text_of) }
            }
        };
        key.set(&mut plan, value);
        settings.push(setting);
    }
    Ok((plan == goal).then_some(settings))
}

/// Returns a value as [`parsed`] reads it.
fn text_of(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) if !text.is_empty() && parsed(text) == *value => text.clone(),
        Value::String(_) | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            toml::Value::try_from(value).map_or_else(|_| value.to_string(), |value| value.to_string())
        }
    }
}

/// Returns the plan with these settings changed. Checks every value against its range.
///
/// # Errors
/// If a key is unknown, the plan lacks the key's section, or a value is invalid.
pub(crate) fn changed(plan: &Plan, settings: &[Setting], scope: Scope) -> anyhow::Result<Plan> {
    let mut changed = plan.clone();
    for Setting { key: name, value } in settings {
        let key = scope.find(name)?;
        let mut json = serde_json::to_value(&changed)?;
        if !key.has_place(&json) {
            let reason = format!(
                "setting {name} does not apply: experiment {} has no section [{}]",
                plan.experiment,
                section(key.name)
            );
            return Err(BadInput(reason).into());
        }
        key.set(&mut json, (!value.is_empty()).then(|| parsed(value)));
        changed =
            serde_json::from_value(json).map_err(|error| BadInput(format!("{name} = {value}: {error}")))?;
    }
    validate(&changed).map_err(BadInput)?;
    Ok(changed)
}

fn section(key: &str) -> &str {
    key.rsplit_once('.').map_or(key, |(section, _)| section)
}

/// Parses a value as TOML. A bare word is a string.
fn parsed(text: &str) -> Value {
    let table: Result<toml::Table, _> = toml::from_str(&format!("value = {text}"));
    let value =
        table.ok().filter(|table| table.len() == 1).and_then(|table| serde_json::to_value(table).ok());
    value.and_then(|mut value| value.get_mut("value").map(Value::take)).unwrap_or_else(|| text.into())
}

fn validate(plan: &Plan) -> Result<(), String> {
    if plan.rounds == 0 || plan.rounds > crate::config::ROUNDS_MAX {
        return Err(format!(
            "experiment.rounds = {} is out of range: use 1 to {}",
            plan.rounds,
            crate::config::ROUNDS_MAX
        ));
    }
    plan.sampling.validate().map_err(|error| format!("generation.{error}"))?;
    plan.conflict.selection.validate().map_err(|error| format!("conflict: {error}"))?;
    let Some(learning) = &plan.learning else {
        if plan.rounds > 1 {
            let rounds = plan.rounds;
            return Err(format!(
                "experiment.rounds = {rounds}: without [feedback] a further round would repeat the first; use 1"
            ));
        }
        return Ok(());
    };
    if learning.feedback.source == FeedbackSource::Oracle && learning.feedback.overlap > 1 {
        return Err(format!(
            "feedback.overlap = {}: the oracle judges a comparison once; use 1",
            learning.feedback.overlap
        ));
    }
    if learning.feedback.source == FeedbackSource::Oracle && learning.evaluation.gold.is_none() {
        return Err(
            "feedback.source = oracle needs [gold], which the experiment lacks: use people".to_owned()
        );
    }
    if learning.feedback.overlap == 0 {
        return Err("feedback.overlap = 0 is out of range: use at least 1".to_owned());
    }
    if learning.feedback.budget == Some(0) {
        return Err("feedback.budget = 0 is out of range: use at least 1".to_owned());
    }
    if !(0.0..1.0).contains(&learning.feedback.audit) {
        let audit = learning.feedback.audit;
        return Err(format!("feedback.audit = {audit} is out of range: use a share from 0 to less than 1"));
    }
    if !(1..=1024).contains(&learning.evaluation.samples) {
        return Err(format!(
            "evaluation.samples = {} is out of range: use 1 to 1024",
            learning.evaluation.samples
        ));
    }
    learning.refinement.hyperparameters.validate().map_err(|error| format!("refinement.{error}"))?;
    learning.tuning.hyperparameters.validate().map_err(|error| format!("tuning.{error}"))?;
    learning.tuning.objective.validate().map_err(|error| format!("tuning.{error}"))
}
