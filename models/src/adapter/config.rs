//! `adapter_config.json`: the settings that are read, and the scaling that follows from them.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::lora::{AdapterTask, LoraPair, LoraTarget};
use super::patterns::{Patterns, Targets};
use super::settings;

/// The highest rank that is accepted.
const RANK_MAX: usize = 1 << 16;

/// The settings that are read. All others are known not to change the adapter.
#[derive(Debug)]
pub(super) struct AdapterConfig {
    task_type: Option<String>,
    pub(super) r: usize,
    pub(super) lora_alpha: f32,
    use_rslora: bool,
    rank_pattern: Patterns,
    alpha_pattern: Patterns,
    targets: Targets,
    base_model: Option<String>,
}

/// One half of a pair as read from the file, `[rows, columns]`.
pub(super) struct Matrix {
    pub(super) values: Vec<f32>,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// The halves of a pair, with the name that the base model's module has in PEFT.
#[derive(Default)]
pub(super) struct Halves {
    pub(super) name: String,
    pub(super) a: Option<Matrix>,
    pub(super) b: Option<Matrix>,
}

impl AdapterConfig {
    /// Reads and checks the settings.
    ///
    /// # Errors
    /// The problem of the first setting that is out of range or not supported, by its name.
    pub(super) fn read(settings: &Map<String, Value>) -> Result<Self, String> {
        settings::check(settings)?;
        let text = |key: &str| settings.get(key).and_then(Value::as_str).map(str::to_owned);
        let task_type = text("task_type");
        if let Some(task) = task_type.as_deref().filter(|task| !matches!(*task, "CAUSAL_LM" | "SEQ_CLS")) {
            return Err(format!("task_type {task} is not supported: use CAUSAL_LM or SEQ_CLS"));
        }
        let r = settings.get("r").ok_or("r is missing")?;
        let rank = r.as_u64().and_then(|rank| usize::try_from(rank).ok());
        let alpha = settings.get("lora_alpha").ok_or("lora_alpha is missing")?;
        Ok(Self {
            task_type,
            r: rank
                .filter(|rank| (1..=RANK_MAX).contains(rank))
                .ok_or_else(|| format!("r {r} is out of range: use 1 to {RANK_MAX}"))?,
            lora_alpha: number(alpha).ok_or_else(|| format!("lora_alpha {alpha} is not a finite number"))?,
            use_rslora: flag(settings, "use_rslora")?,
            rank_pattern: Patterns::read(settings, "rank_pattern")?,
            alpha_pattern: Patterns::read(settings, "alpha_pattern")?,
            targets: Targets::read(settings)?,
            base_model: text("base_model_name_or_path"),
        })
    }

    pub(super) fn task(&self, has_score: bool) -> AdapterTask {
        match self.task_type.as_deref() {
            Some("SEQ_CLS") => AdapterTask::SeqCls,
            None if has_score => AdapterTask::SeqCls,
            _ => AdapterTask::CausalLm,
        }
    }

    pub(super) fn base_model(&self) -> Option<String> {
        self.base_model.clone()
    }

    /// alpha / rank, or alpha / √rank for rank-stabilised LoRA (arXiv 2312.03732).
    pub(super) fn scaling(&self, alpha: f32, rank: usize) -> f32 {
        #[expect(clippy::cast_precision_loss, reason = "a rank is at most 65536")]
        let rank = rank as f32;
        if self.use_rslora { alpha / rank.sqrt() } else { alpha / rank }
    }

    /// Joins the halves of all pairs. The patterns of the configuration may override ranks and alphas.
    pub(super) fn pairs(
        &self,
        halves: BTreeMap<LoraTarget, Halves>,
    ) -> Result<BTreeMap<LoraTarget, LoraPair>, String> {
        let names: Vec<&str> = halves.values().map(|halves| halves.name.as_str()).collect();
        let ranks = self.rank_pattern.of_modules(&names)?;
        let alphas = self.alpha_pattern.of_modules(&names)?;
        let overrides: Vec<_> = ranks.into_iter().zip(alphas).collect();
        for name in names {
            if !self.targets.include(name)? {
                return Err(format!(
                    "{name} is not a target of the adapter (target_modules, exclude_modules, layers_to_transform), so PEFT \
                     ignores its tensors: save the adapter with PEFT again, or correct the setting"
                ));
            }
        }
        let pair = |((target, halves), (rank, alpha)): ((LoraTarget, Halves), _)| {
            let Halves { name, a, b } = halves;
            let (Some(a), Some(b)) = (a, b) else {
                return Err(format!("{name} has only one half of its LoRA pair"));
            };
            let pair = self.pair(a, b, rank, alpha).map_err(|reason| format!("{name} {reason}"))?;
            Ok((target, pair))
        };
        halves.into_iter().zip(overrides).map(pair).collect()
    }

    /// Joins the halves of a pair, with the rank and the alpha that the patterns give it.
    fn pair(
        &self,
        a: Matrix,
        b: Matrix,
        rank_override: Option<&Value>,
        alpha_override: Option<&Value>,
    ) -> Result<LoraPair, String> {
        let rank = a.rows;
        if b.columns != rank {
            return Err(format!("has an A of rank {rank} and a B of rank {}", b.columns));
        }
        let expected = match rank_override {
            Some(value) => value.as_u64().and_then(|rank| usize::try_from(rank).ok()),
            None => Some(self.r),
        };
        if expected != Some(rank) {
            return Err(format!("has rank {rank}, which differs from the configuration"));
        }
        let alpha = match alpha_override {
            Some(value) => number(value).ok_or("has an alpha that is not a number")?,
            None => self.lora_alpha,
        };
        let (inputs, outputs) = (a.columns, b.rows);
        Ok(LoraPair { a: a.values, b: b.values, rank, inputs, outputs, scaling: self.scaling(alpha, rank) })
    }
}

fn flag(settings: &Map<String, Value>, key: &str) -> Result<bool, String> {
    match settings.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(value) => value.as_bool().ok_or_else(|| format!("{key} {value} is neither true nor false")),
    }
}

/// Returns a finite number in 32 bits.
#[expect(clippy::cast_possible_truncation, reason = "scalings are used in 32 bits")]
fn number(value: &Value) -> Option<f32> {
    value.as_f64().map(|number| number as f32).filter(|number| number.is_finite())
}
