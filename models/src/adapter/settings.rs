//! The settings of `adapter_config.json`: each is known to be harmless, honoured, or refused by name.

use serde_json::{Map, Value};

/// Settings that never change what a saved adapter does: they concern its training,
/// its origin, its memory, or methods that another setting turns on.
const HARMLESS: [&str; 20] = [
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "inference_mode",
    "loftq_config",
    "lora_dropout",
    "lora_dtype",
    "lora_ga_config",
    "lorap_emb_lr",
    "lorap_lr_ratio",
    "megatron_config",
    "megatron_core",
    "merge_weights",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    // PEFT applies an adapter to `Linear` and to `Conv1D` alike, and corrects this setting to the layer's.
    "fan_in_fan_out",
];

/// Settings that are read.
const HONOURED: [&str; 11] = [
    "alpha_pattern",
    "exclude_modules",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "task_type",
    "use_rslora",
];

/// Initialisations that leave the base model as it is.
const INITIALISATIONS: [&str; 4] = ["eva", "gaussian", "mica", "orthogonal"];

/// The way out of a setting that plain LoRA lacks.
const MERGE_WITH_PEFT: &str = "merge the adapter into its base with PEFT (merge_and_unload, save_pretrained) and use the result as a model";

/// Checks every setting.
///
/// # Errors
/// The name of the first setting that changes what the adapter does, and is not supported.
pub(super) fn check(settings: &Map<String, Value>) -> Result<(), String> {
    check_kind(settings.get("peft_type"))?;
    for (key, value) in settings {
        match key.as_str() {
            "init_lora_weights" => check_initialisation(value)?,
            "modules_to_save" => check_whole_modules(value)?,
            "bias" => check_bias(value)?,
            key if HARMLESS.contains(&key) || HONOURED.contains(&key) || is_off(value) => {}
            key => return Err(format!("{key} is not supported: {MERGE_WITH_PEFT}")),
        }
    }
    Ok(())
}

/// Checks `peft_type`, before any setting that other kinds of adapters lack.
fn check_kind(kind: Option<&Value>) -> Result<(), String> {
    match kind.and_then(Value::as_str) {
        Some("LORA") => Ok(()),
        Some(kind @ ("PROMPT_TUNING" | "MULTITASK_PROMPT_TUNING" | "P_TUNING" | "PREFIX_TUNING" | "CPT")) => {
            Err(format!("adapter type {kind} is not supported: use LORA"))
        }
        Some(kind) => Err(format!("adapter type {kind} is not supported: use LORA, or {MERGE_WITH_PEFT}")),
        None => Err("peft_type is missing: use a LoRA adapter in PEFT's format".to_owned()),
    }
}

/// Checks `init_lora_weights`. Some initialisations take their own product off the base model's weights.
fn check_initialisation(value: &Value) -> Result<(), String> {
    match value {
        Value::Null | Value::Bool(_) => Ok(()),
        Value::String(kind) if INITIALISATIONS.contains(&kind.to_ascii_lowercase().as_str()) => Ok(()),
        Value::String(kind) => Err(format!(
            "init_lora_weights {kind:?} is not supported, because it changes the base model: save the adapter again with \
             PEFT's save_pretrained and path_initial_model_for_weight_conversion, which makes it plain LoRA"
        )),
        other @ (Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            Err(format!("init_lora_weights {other} is neither true or false nor a name"))
        }
    }
}

/// Checks that `modules_to_save` names the score head only. (PEFT lists both names for every sequence
/// classifier.)
fn check_whole_modules(value: &Value) -> Result<(), String> {
    let modules = match value {
        Value::Null => return Ok(()),
        Value::Array(modules) => modules.as_slice(),
        module @ (Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => {
            std::slice::from_ref(module)
        }
    };
    match modules.iter().find(|module| !matches!(module.as_str(), Some("score" | "classifier"))) {
        Some(module) => {
            Err(format!("modules_to_save names {module}: use the score head only, or {MERGE_WITH_PEFT}"))
        }
        None => Ok(()),
    }
}

fn check_bias(value: &Value) -> Result<(), String> {
    match value.as_str() {
        None if value.is_null() => Ok(()),
        Some("none") => Ok(()),
        _ => Err(format!("bias {value} is not supported: use \"none\", or {MERGE_WITH_PEFT}")),
    }
}

/// Whether a setting has the value that turns a method of PEFT off.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(values) => values.is_empty(),
        Value::Number(_) => false,
    }
}
