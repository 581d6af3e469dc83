//! Changes settings of a recorded plan by their configuration keys.

use std::fmt;
use std::str::FromStr;

use dissent_domain::plan::Plan;
use serde_json::Value;

use crate::error::BadInput;

/// A configuration key with the JSON pointer of its value in a plan.
struct Key {
    name: &'static str,
    pointer: &'static str,
}

const fn key(name: &'static str, pointer: &'static str) -> Key {
    Key { name, pointer }
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
    key("experiment.seed", "/seed"),
    key("generation.samples", "/sampling/samples"),
    key("generation.temperature", "/sampling/temperature"),
    key("generation.top_p", "/sampling/top_p"),
    key("generation.top_k", "/sampling/top_k"),
    key("generation.max_new_tokens", "/sampling/max_new_tokens"),
    key("generation.stop", "/sampling/stop"),
    key("refinement.learning_rate", "/learning/refinement/hyperparameters/learning_rate"),
    key("refinement.epochs", "/learning/refinement/hyperparameters/epochs"),
    key("refinement.steps", "/learning/refinement/hyperparameters/steps"),
    key("refinement.batch_size", "/learning/refinement/hyperparameters/batch_size"),
    key("refinement.lora.r", "/learning/refinement/hyperparameters/lora/r"),
    key("refinement.lora.alpha", "/learning/refinement/hyperparameters/lora/alpha"),
    key("refinement.seed", "/learning/refinement/hyperparameters/seed"),
    key("tuning.method", "/learning/tuning/objective/method"),
    key("tuning.beta", "/learning/tuning/objective/beta"),
    key("tuning.loss", "/learning/tuning/objective/loss"),
    key("tuning.learning_rate", "/learning/tuning/hyperparameters/learning_rate"),
    key("tuning.epochs", "/learning/tuning/hyperparameters/epochs"),
    key("tuning.steps", "/learning/tuning/hyperparameters/steps"),
    key("tuning.batch_size", "/learning/tuning/hyperparameters/batch_size"),
    key("tuning.lora.r", "/learning/tuning/hyperparameters/lora/r"),
    key("tuning.lora.alpha", "/learning/tuning/hyperparameters/lora/alpha"),
    key("tuning.seed", "/learning/tuning/hyperparameters/seed"),
    key("evaluation.samples", "/learning/evaluation/samples"),
    key("guards.kl_max", "/learning/guards/kl_max"),
    key("guards.gold_patience", "/learning/guards/gold_patience"),
    key("guards.stop_on_reward_hacking", "/learning/guards/stop_on_reward_hacking"),
    key("guards.agreement_drop", "/learning/guards/agreement_drop"),
];

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
        let others = if self == Self::Fork { OTHERS } else { &[] };
        SELECTION.iter().chain(others)
    }

    fn find(self, name: &str) -> Result<&'static Key, BadInput> {
        let resolved = name.strip_prefix("selection.").map(|rest| format!("conflict.{rest}"));
        let canonical = resolved.as_deref().unwrap_or(name);
        self.keys().find(|key| key.name == canonical).ok_or_else(|| {
            let allowed: Vec<&str> = self.keys().map(|key| key.name).collect();
            BadInput(format!("setting `{name}` cannot be changed here: use {}", allowed.join(", ")))
        })
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
        let target = value_of(&mut json, key.pointer).ok_or_else(|| {
            BadInput(format!(
                "setting {name} does not apply: experiment {} has no section [{}]",
                plan.experiment,
                section(key.name)
            ))
        })?;
        *target = parsed(value);
        changed =
            serde_json::from_value(json).map_err(|error| BadInput(format!("{name} = {value}: {error}")))?;
    }
    validate(&changed).map_err(BadInput)?;
    Ok(changed)
}

/// Returns the value of a plan to change. A plan leaves out values at their default, but not their section.
fn value_of<'a>(plan: &'a mut Value, pointer: &str) -> Option<&'a mut Value> {
    let (section, name) = pointer.rsplit_once('/')?;
    let section = plan.pointer_mut(section)?.as_object_mut()?;
    Some(section.entry(name).or_insert(Value::Null))
}

fn section(key: &str) -> &str {
    key.split_once('.').map_or(key, |(section, _)| section)
}

/// Parses a value as TOML. A bare word is a string; an empty text unsets the value.
fn parsed(text: &str) -> Value {
    if text.is_empty() {
        return Value::Null;
    }
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
    let Some(learning) = &plan.learning else { return Ok(()) };
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
