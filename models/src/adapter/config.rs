//! `adapter_config.json`: the supported settings, the refused settings, and the scaling that follows from
//! them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::lora::{AdapterTask, LoraPair, LoraTarget};

/// The highest rank that is accepted.
const RANK_MAX: usize = 1 << 16;

/// The settings that are read. Unknown settings are ignored, because every version of PEFT adds some.
#[derive(Debug, Deserialize)]
pub(super) struct AdapterConfig {
    peft_type: String,
    task_type: Option<String>,
    pub r: usize,
    pub lora_alpha: f32,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    rank_pattern: Option<Map<String, Value>>,
    #[serde(default)]
    alpha_pattern: Option<Map<String, Value>>,
    #[serde(default)]
    bias: Option<String>,
    /// All other settings: some of them change the model in ways that plain LoRA does not.
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// One half of a pair as read from the file, `[rows, columns]`.
pub(super) struct Matrix {
    pub(super) values: Vec<f32>,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// Settings that must be off: each changes what an adapter does to the model.
const MUST_BE_OFF: [&str; 11] = [
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "velora_config",
];

impl AdapterConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.peft_type != "LORA" {
            return Err(format!("adapter type {} is not supported: use LORA", self.peft_type));
        }
        if let Some(task) = self.task_type.as_deref().filter(|task| !matches!(*task, "CAUSAL_LM" | "SEQ_CLS"))
        {
            return Err(format!("task_type {task} is not supported: use CAUSAL_LM or SEQ_CLS"));
        }
        if let Some(bias) = self.bias.as_deref().filter(|bias| *bias != "none") {
            return Err(format!("bias {bias:?} is not supported: use \"none\""));
        }
        for key in MUST_BE_OFF {
            if self.others.get(key).is_some_and(is_on) {
                return Err(format!("{key} is not supported"));
            }
        }
        self.check_whole_modules()?;
        if !(1..=RANK_MAX).contains(&self.r) {
            return Err(format!("r {} is out of range: use 1 to {RANK_MAX}", self.r));
        }
        if !self.lora_alpha.is_finite() {
            return Err("lora_alpha is not finite: use a number".to_owned());
        }
        Ok(())
    }

    /// Checks that `modules_to_save` names the score head only. (PEFT lists both names for every sequence
    /// classifier.)
    fn check_whole_modules(&self) -> Result<(), String> {
        let Some(modules) = self.others.get("modules_to_save").and_then(Value::as_array) else {
            return Ok(());
        };
        match modules.iter().find(|module| !matches!(module.as_str(), Some("score" | "classifier"))) {
            Some(module) => Err(format!("modules_to_save names {module}: use the score head only")),
            None => Ok(()),
        }
    }

    pub(super) fn task(&self, has_score: bool) -> AdapterTask {
        match self.task_type.as_deref() {
            Some("SEQ_CLS") => AdapterTask::SeqCls,
            None if has_score => AdapterTask::SeqCls,
            _ => AdapterTask::CausalLm,
        }
    }

    pub(super) fn base_model(&self) -> Option<String> {
        self.others.get("base_model_name_or_path").and_then(Value::as_str).map(str::to_owned)
    }

    /// alpha / rank, or alpha / √rank for rank-stabilised LoRA (arXiv 2312.03732).
    pub(super) fn scaling(&self, alpha: f32, rank: usize) -> f32 {
        #[expect(clippy::cast_precision_loss, reason = "a rank is at most 65536")]
        let rank = rank as f32;
        if self.use_rslora { alpha / rank.sqrt() } else { alpha / rank }
    }

    /// Joins the halves of a pair. The patterns of the configuration may override its rank and alpha.
    pub(super) fn pair(&self, target: &LoraTarget, a: Matrix, b: Matrix) -> Result<LoraPair, String> {
        let rank = a.rows;
        if b.columns != rank {
            return Err(format!("has an A of rank {rank} and a B of rank {}", b.columns));
        }
        let expected = match matching("rank_pattern", self.rank_pattern.as_ref(), target)? {
            Some(value) => value.as_u64().and_then(|rank| usize::try_from(rank).ok()),
            None => Some(self.r),
        };
        if expected != Some(rank) {
            return Err(format!("has rank {rank}, which differs from the configuration"));
        }
        let alpha = match matching("alpha_pattern", self.alpha_pattern.as_ref(), target)? {
            Some(value) => value.as_f64().map(narrow).filter(|alpha| alpha.is_finite()),
            None => Some(self.lora_alpha),
        };
        let alpha = alpha.ok_or("has an alpha that is not a number")?;
        let (inputs, outputs) = (a.columns, b.rows);
        Ok(LoraPair { a: a.values, b: b.values, rank, inputs, outputs, scaling: self.scaling(alpha, rank) })
    }
}

/// Whether a setting has a value other than "off".
fn is_on(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(on) => *on,
        Value::Array(values) => !values.is_empty(),
        Value::Object(values) => !values.is_empty(),
        Value::Number(_) | Value::String(_) => true,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "scalings are used in 32 bits")]
fn narrow(alpha: f64) -> f32 {
    alpha as f32
}

/// Returns the value of the first pattern that matches the end of a target's full name.
///
/// PEFT treats patterns as regular expressions that must match the end of the name, from a dot on. Plain
/// names mean the same here; other patterns are refused.
fn matching<'a>(
    setting: &str,
    patterns: Option<&'a Map<String, Value>>,
    target: &LoraTarget,
) -> Result<Option<&'a Value>, String> {
    let name = format!("model.layers.{}.{}", target.layer, target.module);
    let mut found = None;
    for (pattern, value) in patterns.into_iter().flatten() {
        let plain =
            pattern.chars().all(|character| character.is_ascii_alphanumeric() || "._".contains(character));
        if !plain {
            return Err(format!("may match the pattern {pattern:?} of {setting}: use plain module names"));
        }
        let ends =
            name.strip_suffix(pattern.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        if ends && found.is_none() {
            found = Some(value);
        }
    }
    Ok(found)
}
