//! Reading PEFT folders.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::SafeTensors;

use super::config::{AdapterConfig, Halves, Matrix};
use super::lora::{AdapterTask, LoraAdapter, LoraPair, LoraTarget, ScoreHead};
use crate::checkpoint::files::{CONFIG_BYTES_MAX, parse_json, read, read_optional};
use crate::checkpoint::fingerprint::Fingerprint;
use crate::checkpoint::layout::SCORE_HEAD;
use crate::checkpoint::weights::decode_f32;
use crate::checkpoint::{Dtype, family, missing};
use crate::error::ModelError;

pub(super) const CONFIG: &str = "adapter_config.json";
pub(super) const WEIGHTS: &str = "adapter_model.safetensors";
/// The largest weight file that is read, in bytes. It is held in memory.
pub(super) const WEIGHTS_BYTES_MAX: u64 = 4 << 30;
/// The prefix that PEFT adds to the names of the wrapped model.
pub(super) const WRAPPER: &str = "base_model.model.";

impl LoraAdapter {
    /// Opens a PEFT folder: `adapter_config.json` and `adapter_model.safetensors`.
    ///
    /// # Errors
    /// [`ModelError::File`] if a file is missing or malformed, or if the adapter is not plain LoRA (`DoRA`,
    /// trained biases, …). The error names the setting.
    pub fn open(dir: &Path) -> Result<Self, ModelError> {
        if !dir.exists() {
            return Err(missing(dir));
        }
        if !dir.is_dir() {
            return Err(ModelError::file(dir, "a file, not an adapter: use a folder in PEFT's format"));
        }
        let config_path = dir.join(CONFIG);
        let config = read(&config_path, CONFIG_BYTES_MAX)?;
        let path = dir.join(WEIGHTS);
        let Some(weights) = read_optional(&path, WEIGHTS_BYTES_MAX)? else {
            let hint = if dir.join("adapter_model.bin").exists() {
                "; adapter_model.bin is not read: load the adapter with peft and save_pretrained to convert it"
            } else {
                ""
            };
            return Err(ModelError::file(&path, format!("no such file{hint}")));
        };
        Self::parse((&config_path, &config), (&path, &weights))
    }

    /// Parses the two files of an adapter. The paths are used in errors only.
    pub(super) fn parse(
        (config_path, config_bytes): (&Path, &[u8]),
        (path, bytes): (&Path, &[u8]),
    ) -> Result<Self, ModelError> {
        let settings = parse_json(config_path, config_bytes)?;
        let config =
            AdapterConfig::read(&settings).map_err(|reason| ModelError::file(config_path, reason))?;
        let (layers, score) =
            read_tensors(bytes, &config).map_err(|reason| ModelError::file(path, reason))?;
        let task = config.task(score.is_some());
        if task == AdapterTask::SeqCls && score.is_none() {
            return Err(ModelError::file(path, "the sequence classifier has no score head"));
        }
        Ok(Self {
            r: config.r,
            alpha: config.lora_alpha,
            scaling: config.scaling(config.lora_alpha, config.r),
            layers,
            score,
            task,
            base_model: config.base_model(),
            fingerprint: fingerprint(config_bytes, bytes),
        })
    }
}

/// Returns the fingerprint of an adapter that consists of these files.
pub(super) fn fingerprint(config: &[u8], weights: &[u8]) -> String {
    let mut fingerprint = Fingerprint::new();
    fingerprint.add_bytes(CONFIG, config);
    fingerprint.add_bytes(WEIGHTS, weights);
    fingerprint.finish()
}

type Tensors = (BTreeMap<LoraTarget, LoraPair>, Option<ScoreHead>);

pub(super) fn read_tensors(bytes: &[u8], config: &AdapterConfig) -> Result<Tensors, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| format!("not a safetensors file: {error}"))?;
    let mut halves: BTreeMap<LoraTarget, Halves> = BTreeMap::new();
    let mut score = None;
    for (name, view) in file.iter() {
        let matrix = || matrix(&view).map_err(|reason| format!("tensor {name} {reason}"));
        match place(name) {
            Some(Place::Half { target, module, half }) => {
                let halves = halves.entry(target).or_default();
                module.clone_into(&mut halves.name);
                if half(halves).replace(matrix()?).is_some() {
                    return Err(format!("tensor {name} is there twice, under different prefixes"));
                }
            }
            Some(Place::Score) => {
                let Matrix { values, rows, columns } = matrix()?;
                score = Some(ScoreHead { weight: values, labels: rows, hidden: columns });
            }
            None => {
                return Err(format!(
                    "tensor {name} is not supported: only LoRA pairs of a layer's projections and a score head are"
                ));
            }
        }
    }
    if halves.is_empty() {
        return Err("the file has no LoRA pair".to_owned());
    }
    Ok((config.pairs(halves)?, score))
}

pub(super) fn matrix(view: &safetensors::tensor::TensorView<'_>) -> Result<Matrix, String> {
    let dtype = Dtype::of_stored(view.dtype()).ok_or_else(|| {
        format!("has elements of type {:?}: only F32, F16 and BF16 can be used", view.dtype())
    })?;
    let &[rows, columns] = view.shape() else {
        return Err(format!("has shape {:?}, not two dimensions", view.shape()));
    };
    if rows == 0 || columns == 0 {
        return Err("is empty".to_owned());
    }
    let values = decode_f32(dtype, view.data());
    if values.iter().any(|value| !value.is_finite()) {
        return Err("holds a value that is not finite".to_owned());
    }
    Ok(Matrix { values, rows, columns })
}

/// The place of a tensor of the file.
enum Place<'a> {
    /// Half of a pair.
    Half {
        target: LoraTarget,
        /// The module's full name, as PEFT matches it.
        module: &'a str,
        half: fn(&mut Halves) -> &mut Option<Matrix>,
    },
    Score,
}

/// Returns the place of a tensor of the file, by its name.
fn place(name: &str) -> Option<Place<'_>> {
    let name = name.strip_prefix(WRAPPER)?;
    // Older versions of PEFT include the wrapper's name in the name of a head that is saved whole.
    if name == SCORE_HEAD || name == "score.modules_to_save.weight" {
        return Some(Place::Score);
    }
    let (module, half): (_, fn(&mut Halves) -> &mut Option<Matrix>) =
        match name.strip_suffix(".lora_A.weight") {
            Some(module) => (module, |halves| &mut halves.a),
            None => (name.strip_suffix(".lora_B.weight")?, |halves| &mut halves.b),
        };
    let (layer, short) = family::layer_of(module)?;
    let target = LoraTarget { layer, module: short.to_owned() };
    Some(Place::Half { target, module, half })
}
