//! Adapters as PEFT has them on disk, and as one piece of bytes.

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
use crate::error::ModelError;

/// The two files of an adapter in one piece.
#[derive(Serialize, Deserialize)]
struct Artifact<'a> {
    #[serde(serialize_with = "as_bytes")]
    config: &'a [u8],
    #[serde(serialize_with = "as_bytes")]
    weights: &'a [u8],
}

impl LoraAdapter {
    /// An adapter from its numbers. `scaling` is alpha / r; `base_model` is what its configuration will call the model that it
    /// belongs to.
    ///
    /// The fingerprint is that of the folder that [`LoraAdapter::save`] writes.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when there is no pair, a length does not fit its sizes, a number is not finite, a module is not a
    /// known projection, or a sequence classifier has no score head.
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

    /// Writes a PEFT folder: `adapter_config.json` and `adapter_model.safetensors`, as peft 0.15 and later load them. Gives the
    /// folder's fingerprint.
    ///
    /// The same numbers give the same bytes. They are written as 32-bit floats in an order of our own, so that an adapter that
    /// PEFT wrote gets another fingerprint. Each file is written aside, synced and renamed, the configuration last: a folder that
    /// has one has the weights that belong to it. Other files of the folder stay.
    ///
    /// # Errors
    /// As [`LoraAdapter::new`], and [`ModelError::Write`] when the disk refuses.
    pub fn save(&self, dir: &Path) -> Result<String, ModelError> {
        let (config, weights) = self.files()?;
        write_files(dir, &config, &weights)?;
        Ok(fingerprint(&config, &weights))
    }

    /// The files that [`LoraAdapter::save`] would write, in one piece of bytes (MessagePack).
    ///
    /// # Errors
    /// As [`LoraAdapter::new`].
    pub fn to_artifact(&self) -> Result<Vec<u8>, ModelError> {
        let (config, weights) = self.files()?;
        pack(&config, &weights)
    }

    /// The files of a PEFT folder as they are, in one piece: its fingerprint is the folder's, whoever wrote it.
    ///
    /// # Errors
    /// As [`LoraAdapter::open`].
    pub fn artifact_of_folder(dir: &Path) -> Result<Vec<u8>, ModelError> {
        Self::open(dir)?;
        let config = read(&dir.join(CONFIG), CONFIG_BYTES_MAX)?;
        pack(&config, &read(&dir.join(WEIGHTS), WEIGHTS_BYTES_MAX)?)
    }

    /// An adapter from what [`LoraAdapter::to_artifact`] gave.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] for bytes that are no adapter, else as [`LoraAdapter::open`].
    pub fn from_artifact(bytes: &[u8]) -> Result<Self, ModelError> {
        let Artifact { config, weights } = unpack(bytes)?;
        Self::parse((Path::new(CONFIG), config), (Path::new(WEIGHTS), weights))
    }

    /// Writes the PEFT folder that an artifact holds, byte for byte; as safe as [`LoraAdapter::save`].
    ///
    /// # Errors
    /// As [`LoraAdapter::from_artifact`], and [`ModelError::Write`] when the disk refuses.
    pub fn save_artifact(bytes: &[u8], dir: &Path) -> Result<(), ModelError> {
        Self::from_artifact(bytes)?;
        let Artifact { config, weights } = unpack(bytes)?;
        write_files(dir, config, weights)
    }

    /// The bytes of the configuration and of the weights.
    fn files(&self) -> Result<(Vec<u8>, Vec<u8>), ModelError> {
        self.check_numbers()
            .map_err(|reason| ModelError::Invalid(format!("not a LoRA adapter: {reason}")))?;
        let mut config = serde_json::to_vec_pretty(&self.settings()).map_err(unwritable)?;
        config.push(b'\n');
        Ok((config, self.weights()?))
    }

    /// Whether its numbers can be those of an adapter: as many as its sizes say, all finite, with the score head that its task needs.
    ///
    /// # Errors
    /// What is wrong with them, for a person to read.
    pub fn check_numbers(&self) -> Result<(), String> {
        if self.layers.is_empty() {
            return Err("it has no LoRA pair".to_owned());
        }
        if self.task == AdapterTask::SeqCls && self.score.is_none() {
            return Err("a sequence classifier without its score head".to_owned());
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

    /// `adapter_config.json`: the settings that peft 0.15 has, those of a plain LoRA at their defaults.
    fn settings(&self) -> Value {
        let stabilised = !self.is_scaled_by(false) && self.is_scaled_by(true);
        let (rank_pattern, alpha_pattern) = self.patterns(stabilised);
        let score: &[&str] = &["classifier", "score"];
        let modules_to_save = self.score.is_some().then_some(score);
        let task_type = match self.task {
            AdapterTask::CausalLm => "CAUSAL_LM",
            AdapterTask::SeqCls => "SEQ_CLS",
        };
        // In the order of names, as peft writes them.
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

    /// Whether every pair's scaling follows from the adapter's alpha, by its rank or by the root of its rank.
    fn is_scaled_by(&self, root: bool) -> bool {
        self.layers
            .values()
            .all(|pair| pair.scaling.to_bits() == scaling(self.alpha, pair.rank, root).to_bits())
    }

    /// What single modules have in place of the adapter's rank and alpha.
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

    /// Short names, such as `q_proj`, where each of the first layers changes the same modules; full ones elsewhere.
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

    /// `adapter_model.safetensors`.
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

/// A safetensors file of 32-bit floats, as PyTorch's libraries mark it.
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
    // The old configuration must never stand beside the new weights, unless it is the same.
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
    rmp_serde::from_slice(bytes)
        .map_err(|error| ModelError::Invalid(format!("these bytes are not an adapter: {error}")))
}

fn unwritable(error: impl std::fmt::Display) -> ModelError {
    ModelError::Invalid(format!("the adapter cannot be written: {error}"))
}

/// What stands before `layers.` in the names of the architecture that has such a projection.
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

/// A number as a person would write it: 8, not 8.0, and 0.1, not 0.10000000149011612.
fn plain_number(number: f32) -> Value {
    let text = number.to_string();
    text.parse::<i64>()
        .map(Value::from)
        .or_else(|_| text.parse::<f64>().map(Value::from))
        .unwrap_or(Value::Null)
}
