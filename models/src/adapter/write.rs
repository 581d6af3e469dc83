//! Writing adapters: as PEFT folders, and as single artifacts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use safetensors::Dtype as StoredDtype;
use safetensors::tensor::TensorView;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::lora::{AdapterTask, LoraAdapter, LoraPair, LoraTarget, ScoreHead};
use super::read::{CONFIG, WEIGHTS, WEIGHTS_BYTES_MAX, WRAPPER, fingerprint};
use crate::checkpoint::files::{CONFIG_BYTES_MAX, as_bytes, read, write_whole};
use crate::checkpoint::layout::SCORE_HEAD;
use crate::error::{InvalidKind, ModelError};

/// The two files of an adapter as one artifact.
#[derive(Serialize, Deserialize)]
struct Artifact<'a> {
    #[serde(serialize_with = "as_bytes")]
    config: &'a [u8],
    #[serde(serialize_with = "as_bytes")]
    weights: &'a [u8],
}

impl LoraAdapter {
    /// Builds an adapter from its weights. `scaling` is alpha / r. `base_model` is written into the
    /// configuration as the name of the base model.
    ///
    /// The fingerprint is the one of the folder that [`LoraAdapter::save`] writes.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if there is no pair, a length does not match its sizes, a number is not
    /// finite, or a module is no known projection. Also if a sequence classifier has no score head.
    pub fn new(
        r: usize,
        alpha: f32,
        layers: BTreeMap<LoraTarget, LoraPair>,
        score: Option<ScoreHead>,
        task: AdapterTask,
        base_model: Option<String>,
    ) -> Result<Self, ModelError> {
        #[expect(clippy::cast_precision_loss, reason = "a rank is at most 65536")]
        let scaling = alpha / r.max(1) as f32;
        let unknown = String::new();
        let mut adapter = Self { r, alpha, scaling, layers, score, task, base_model, fingerprint: unknown };
        let (config, weights) = adapter.files()?;
        adapter.fingerprint = fingerprint(&config, &weights);
        Ok(adapter)
    }

    /// Writes a PEFT folder: `adapter_config.json` and `adapter_model.safetensors`, readable by peft 0.15 and
    /// later. Returns the folder's fingerprint.
    ///
    /// Equal weights give equal bytes. They are written as 32-bit floats in a fixed order, so an adapter
    /// written by PEFT gets another fingerprint. Each file is written under a temporary name, synced and
    /// renamed. The configuration comes last: if it exists, the weights beside it belong to it. Other files
    /// of the folder stay.
    ///
    /// # Errors
    /// As [`LoraAdapter::new`], and [`ModelError::Write`] if a write fails.
    pub fn save(&self, dir: &Path) -> Result<String, ModelError> {
        let (config, weights) = self.files()?;
        write_files(dir, &config, &weights)?;
        Ok(fingerprint(&config, &weights))
    }

    /// Returns the files that [`LoraAdapter::save`] writes, as one artifact (MessagePack).
    ///
    /// # Errors
    /// As [`LoraAdapter::new`].
    pub fn to_artifact(&self) -> Result<Vec<u8>, ModelError> {
        let (config, weights) = self.files()?;
        pack(&config, &weights)
    }

    /// Returns the files of a PEFT folder, unchanged, as one artifact. The artifact has the folder's
    /// fingerprint, also for folders written by other programs.
    ///
    /// # Errors
    /// As [`LoraAdapter::open`].
    pub fn artifact_of_folder(dir: &Path) -> Result<Vec<u8>, ModelError> {
        Self::open(dir)?;
        let config = read(&dir.join(CONFIG), CONFIG_BYTES_MAX)?;
        pack(&config, &read(&dir.join(WEIGHTS), WEIGHTS_BYTES_MAX)?)
    }

    /// Reads an adapter from an artifact of [`LoraAdapter::to_artifact`].
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if the bytes are no adapter, else as [`LoraAdapter::open`].
    pub fn from_artifact(bytes: &[u8]) -> Result<Self, ModelError> {
        let Artifact { config, weights } = unpack(bytes)?;
        Self::parse((Path::new(CONFIG), config), (Path::new(WEIGHTS), weights))
    }

    /// Writes the PEFT folder of an artifact, byte for byte, with the same durability as
    /// [`LoraAdapter::save`].
    ///
    /// # Errors
    /// As [`LoraAdapter::from_artifact`], and [`ModelError::Write`] if a write fails.
    pub fn save_artifact(bytes: &[u8], dir: &Path) -> Result<(), ModelError> {
        Self::from_artifact(bytes)?;
        let Artifact { config, weights } = unpack(bytes)?;
        write_files(dir, config, weights)
    }

    /// Returns the bytes of the configuration and of the weights.
    fn files(&self) -> Result<(Vec<u8>, Vec<u8>), ModelError> {
        self.check_numbers().map_err(|reason| {
            ModelError::invalid(InvalidKind::Adapter, format!("invalid LoRA adapter: {reason}"))
        })?;
        let mut config = serde_json::to_vec_pretty(&self.settings()).map_err(unwritable)?;
        config.push(b'\n');
        Ok((config, self.weights()?))
    }

    /// Checks the weights: the lengths match the sizes, all numbers are finite, and the task's score head is
    /// present.
    ///
    /// # Errors
    /// The problem, as text for a person.
    pub fn check_numbers(&self) -> Result<(), String> {
        if self.layers.is_empty() {
            return Err("the adapter has no LoRA pair".to_owned());
        }
        if self.task == AdapterTask::SeqCls && self.score.is_none() {
            return Err("the sequence classifier has no score head".to_owned());
        }
        let check = |name: &str, values: &[f32], sizes: [usize; 2]| {
            if sizes.contains(&0) || sizes[0].checked_mul(sizes[1]) != Some(values.len()) {
                return Err(format!("{name} has {} values, not {} × {}", values.len(), sizes[0], sizes[1]));
            }
            match values.iter().all(|value| value.is_finite()) {
                true => Ok(()),
                false => Err(format!("{name} holds a value that is not finite")),
            }
        };
        for (target, pair) in &self.layers {
            let LoraTarget { layer, module } = target;
            if prefix(module).is_none() {
                return Err(format!("{module} is not a projection of a known architecture"));
            }
            check(&format!("A of layers.{layer}.{module}"), &pair.a, [pair.rank, pair.inputs])?;
            check(&format!("B of layers.{layer}.{module}"), &pair.b, [pair.outputs, pair.rank])?;
        }
        match &self.score {
            Some(score) => check("the score head", &score.weight, [score.labels, score.hidden]),
            None => Ok(()),
        }
    }

    /// Returns `adapter_config.json` with the settings of peft 0.15. Settings beyond plain LoRA have their
    /// default value.
    fn settings(&self) -> Value {
        let stabilised = !self.is_scaled_by(false) && self.is_scaled_by(true);
        let (rank_pattern, alpha_pattern) = self.patterns(stabilised);
        let score: &[&str] = &["classifier", "score"];
        let modules_to_save = self.score.is_some().then_some(score);
        let task_type = match self.task {
            AdapterTask::CausalLm => "CAUSAL_LM",
            AdapterTask::SeqCls => "SEQ_CLS",
        };
        // Sorted by name, as peft writes them.
        json!({
            "alpha_pattern": alpha_pattern,
            "auto_mapping": null,
            "base_model_name_or_path": self.base_model,
            "bias": "none",
            "corda_config": null,
            "eva_config": null,
            "exclude_modules": null,
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "layer_replication": null,
            "layers_pattern": null,
            "layers_to_transform": null,
            "loftq_config": {},
            "lora_alpha": plain_number(self.alpha),
            "lora_bias": false,
            "lora_dropout": 0.0,
            "megatron_config": null,
            "megatron_core": "megatron.core",
            "modules_to_save": modules_to_save,
            "peft_type": "LORA",
            "r": self.r,
            "rank_pattern": rank_pattern,
            "revision": null,
            "target_modules": self.target_modules(),
            "task_type": task_type,
            "trainable_token_indices": null,
            "use_dora": false,
            "use_rslora": stabilised,
        })
    }

    /// Returns whether the scaling of every pair follows from the adapter's alpha: alpha / rank, or with
    /// `root` alpha / √rank.
    fn is_scaled_by(&self, root: bool) -> bool {
        self.layers
            .values()
            .all(|pair| pair.scaling.to_bits() == scaling(self.alpha, pair.rank, root).to_bits())
    }

    /// Returns the ranks and alphas of single modules that differ from the adapter's.
    fn patterns(&self, stabilised: bool) -> (Map<String, Value>, Map<String, Value>) {
        let (mut ranks, mut alphas) = (Map::new(), Map::new());
        for (LoraTarget { layer, module }, pair) in &self.layers {
            let name = format!("layers.{layer}.{module}");
            if pair.rank != self.r {
                ranks.insert(name.clone(), pair.rank.into());
            }
            if pair.scaling.to_bits() != scaling(self.alpha, pair.rank, stabilised).to_bits() {
                alphas.insert(name, (f64::from(pair.scaling) * pair.rank as f64).into());
            }
        }
        (ranks, alphas)
    }

    /// Returns the changed modules: short names such as `q_proj` if the first layers all change the same
    /// modules, else full names.
    fn target_modules(&self) -> BTreeSet<String> {
        let mut by_layer: BTreeMap<usize, BTreeSet<&str>> = BTreeMap::new();
        for LoraTarget { layer, module } in self.layers.keys() {
            by_layer.entry(*layer).or_default().insert(module);
        }
        let first = by_layer.values().next().cloned().unwrap_or_default();
        let regular =
            by_layer.iter().enumerate().all(|(index, (layer, modules))| index == *layer && *modules == first);
        if regular {
            return first
                .iter()
                .map(|module| module.rsplit('.').next().unwrap_or(module).to_owned())
                .collect();
        }
        self.layers.keys().map(|LoraTarget { layer, module }| format!("layers.{layer}.{module}")).collect()
    }

    /// Returns `adapter_model.safetensors`.
    fn weights(&self) -> Result<Vec<u8>, ModelError> {
        let mut tensors: Vec<(String, [usize; 2], &[f32])> = Vec::new();
        for (LoraTarget { layer, module }, pair) in &self.layers {
            let name = |half| {
                let prefix = prefix(module).unwrap_or_default();
                format!("{WRAPPER}{prefix}layers.{layer}.{module}.lora_{half}.weight")
            };
            tensors.push((name("A"), [pair.rank, pair.inputs], &pair.a));
            tensors.push((name("B"), [pair.outputs, pair.rank], &pair.b));
        }
        if let Some(score) = &self.score {
            tensors.push((format!("{WRAPPER}{SCORE_HEAD}"), [score.labels, score.hidden], &score.weight));
        }
        serialise(&tensors)
    }
}

/// Returns a safetensors file of 32-bit floats, with the metadata that PyTorch's libraries write.
pub(super) fn serialise(tensors: &[(String, [usize; 2], &[f32])]) -> Result<Vec<u8>, ModelError> {
    let data: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(.., values)| values.iter().flat_map(|value| value.to_le_bytes()).collect())
        .collect();
    let mut views = Vec::with_capacity(tensors.len());
    for ((name, shape, _), data) in tensors.iter().zip(&data) {
        views.push((name, TensorView::new(StoredDtype::F32, shape.to_vec(), data).map_err(unwritable)?));
    }
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    safetensors::serialize(views, metadata).map_err(unwritable)
}

fn write_files(dir: &Path, config: &[u8], weights: &[u8]) -> Result<(), ModelError> {
    fs::create_dir_all(dir).map_err(|error| ModelError::write(dir, error))?;
    let config_path = dir.join(CONFIG);
    // An old configuration must never exist beside new weights, unless both configurations are equal.
    match fs::read(&config_path) {
        Ok(there) if there == config => {}
        Ok(_) => fs::remove_file(&config_path).map_err(|error| ModelError::write(&config_path, error))?,
        Err(_) => {}
    }
    write_whole(&dir.join(WEIGHTS), weights)?;
    write_whole(&config_path, config)
}

fn pack(config: &[u8], weights: &[u8]) -> Result<Vec<u8>, ModelError> {
    let mut bytes = Vec::with_capacity(config.len() + weights.len() + 64);
    let mut serialiser = rmp_serde::Serializer::new(&mut bytes).with_struct_map();
    Artifact { config, weights }.serialize(&mut serialiser).map_err(unwritable)?;
    Ok(bytes)
}

fn unpack(bytes: &[u8]) -> Result<Artifact<'_>, ModelError> {
    rmp_serde::from_slice(bytes).map_err(|error| {
        ModelError::invalid_because(InvalidKind::Adapter, "these bytes are not an adapter", error)
    })
}

fn unwritable(error: impl std::error::Error + Send + Sync + 'static) -> ModelError {
    ModelError::invalid_because(InvalidKind::Serialisation, "the adapter cannot be written", error)
}

/// Returns the prefix of `layers.` in the names of the architecture that has this projection.
fn prefix(module: &str) -> Option<&'static str> {
    match module {
        "self_attn.q_proj" | "self_attn.k_proj" | "self_attn.v_proj" | "self_attn.o_proj"
        | "mlp.gate_proj" | "mlp.up_proj" | "mlp.down_proj" => Some("model."),
        "attention.query_key_value" | "attention.dense" | "mlp.dense_h_to_4h" | "mlp.dense_4h_to_h" => {
            Some("gpt_neox.")
        }
        _ => None,
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rank is at most 65536")]
fn scaling(alpha: f32, rank: usize, root: bool) -> f32 {
    if root { alpha / (rank as f32).sqrt() } else { alpha / rank as f32 }
}

/// Returns a number in its shortest form: 8 instead of 8.0, and 0.1 instead of 0.10000000149011612.
fn plain_number(number: f32) -> Value {
    let text = number.to_string();
    text.parse::<i64>()
        .map(Value::from)
        .or_else(|_| text.parse::<f64>().map(Value::from))
        .unwrap_or(Value::Null)
}
