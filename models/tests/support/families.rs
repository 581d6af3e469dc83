//! The tiny models of `golden/families`, one per family: the files that transformers would have written, and
//! its figures.
//!
//! Weights are a formula, of which `golden/families/weights.py` is the other half. A test writes them into a
//! folder of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use half::bf16;
use safetensors::tensor::{Dtype, TensorView};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::golden;

/// A tensor by the formula: its name, its shape, and the mean and spread of its elements.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Tensor(pub String, pub Vec<usize>, pub f64, pub f64);

impl Tensor {
    /// Returns the elements, row-major: `mean + spread * c`, with `c` in [-1, 1) from `SplitMix64` whose
    /// state begins as the FNV-1a hash of the name.
    pub(crate) fn values(&self) -> Vec<f32> {
        let Self(name, shape, mean, spread) = self;
        let hash = name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
        });
        let element = |index: u64| {
            let state = hash.wrapping_add((index + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            let centred = ((state ^ (state >> 31)) >> 40) as f64 / f64::from(1 << 23) - 1.0;
            #[expect(clippy::cast_possible_truncation, reason = "the formula rounds to 32 bits")]
            let number = (mean + spread * centred) as f32;
            number
        };
        (0..shape.iter().product::<usize>() as u64).map(element).collect()
    }
}

/// A change of config.json: JSON pointers to set, and to remove.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Edit {
    pub set: BTreeMap<String, Value>,
    pub remove: Vec<String>,
}

impl Edit {
    fn apply(&self, config: &mut Value) {
        for pointer in &self.remove {
            let (object, key) = place(config, pointer);
            assert!(object.remove(key).is_some(), "{pointer} is there");
        }
        for (pointer, value) in &self.set {
            let (object, key) = place(config, pointer);
            object.insert(key.to_owned(), value.clone());
        }
    }
}

/// Returns the object that holds a pointer's value, and the key there.
fn place<'a, 'p>(config: &'a mut Value, pointer: &'p str) -> (&'a mut Map<String, Value>, &'p str) {
    let (parent, key) = pointer.rsplit_once('/').expect("a JSON pointer");
    let object = config.pointer_mut(parent).and_then(Value::as_object_mut);
    (object.ok_or(pointer).expect("an object holds it"), key)
}

/// A named change of the configuration, and how far it moves the chosen logits.
#[derive(Debug, Deserialize)]
pub(crate) struct Change {
    pub name: String,
    pub edit: Edit,
    /// The largest difference of a chosen logit. 0 for another spelling of the same configuration.
    #[serde(default)]
    pub moves_by: f32,
}

/// Token ids, and the logits after some of them.
#[derive(Debug, Deserialize)]
pub(crate) struct Row {
    pub ids: Vec<u32>,
    pub positions: Vec<usize>,
    /// One list of the vocabulary's length for each of `positions`.
    pub logits: Vec<Vec<f32>>,
}

/// The classifier with one label on the same body.
#[derive(Debug, Deserialize)]
pub(crate) struct Classifier {
    pub class: String,
    /// False where transformers has no such class, and its general one was applied to the family.
    pub in_transformers: bool,
    pub edit: Edit,
    pub score: Tensor,
    /// Tensors that a classifier's checkpoint lacks.
    pub without: Vec<String>,
    /// One for each row.
    pub rewards: Vec<f32>,
}

/// A `LoRA` adapter and the gradients of a loss: the mean negative log-likelihood of the completions' tokens.
#[derive(Debug, Deserialize)]
pub(crate) struct Lora {
    pub r: u32,
    pub alpha: f64,
    pub targets: Vec<String>,
    /// As PEFT was told: `targets`, or a regular expression.
    pub target_modules: Value,
    /// Where each row's completion begins.
    pub completion_starts: Vec<usize>,
    pub tensors: Vec<Tensor>,
    pub loss: f64,
    /// After row 0, with the adapter.
    pub logits: Vec<f32>,
    /// Row-major, by the tensor's name.
    pub gradients: BTreeMap<String, Vec<f32>>,
}

/// What transformers computes for a family.
#[derive(Debug, Deserialize)]
pub(crate) struct Figures {
    /// How many tokens of row 0 a test of single steps reads at once.
    pub prefill: usize,
    pub rows: Vec<Row>,
    /// Of longrope: row 1 with the long factors, as a session with a longer limit computes it.
    pub long: Option<Vec<Vec<f32>>>,
    /// The chosen logits of each row by `model.gguf`, where its format cannot say the whole configuration.
    pub gguf: Option<Vec<Vec<Vec<f32>>>>,
    pub classifier: Option<Classifier>,
    pub lora: Lora,
    /// Each leaves out one feature.
    pub features: Vec<Change>,
    /// Each spells the same configuration in another way.
    pub same: Vec<Change>,
    dtype: Stored,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum Stored {
    F32,
    BF16,
}

/// A tiny model.
pub(crate) struct Family {
    folder: PathBuf,
    pub figures: Figures,
    config: Value,
    tensors: Vec<Tensor>,
}

impl Family {
    pub(crate) fn named(name: &str) -> Self {
        let folder = golden("families").join(name);
        Self {
            figures: read(&folder.join("expected.json")),
            config: read(&folder.join("config.json")),
            tensors: read(&folder.join("tensors.json")),
            folder,
        }
    }

    /// Returns the names of all families, in alphabetical order.
    pub(crate) fn names() -> Vec<String> {
        let entries = fs::read_dir(golden("families")).expect("the families");
        let folders = entries.map(|entry| entry.expect("an entry").path());
        let families = folders.filter(|folder| folder.join("expected.json").is_file());
        let name = |folder: PathBuf| folder.file_name().expect("a name").to_string_lossy().into_owned();
        let mut names: Vec<String> = families.map(name).collect();
        names.sort();
        names
    }

    /// Returns the file that llama.cpp's converter made of the policy.
    pub(crate) fn gguf(&self) -> Option<PathBuf> {
        let path = self.folder.join("model.gguf");
        path.is_file().then_some(path)
    }

    /// Writes the checkpoint of the policy.
    pub(crate) fn policy(&self) -> TempDir {
        self.edited(&Edit::default())
    }

    /// Writes the checkpoint of the policy with a changed configuration.
    pub(crate) fn edited(&self, edit: &Edit) -> TempDir {
        self.write(edit, &self.tensors)
    }

    /// Writes the checkpoint of the classifier.
    pub(crate) fn classifier(&self) -> TempDir {
        let classifier = self.figures.classifier.as_ref().expect("the family has a classifier");
        let kept = self.tensors.iter().filter(|tensor| !classifier.without.contains(&tensor.0));
        let tensors: Vec<Tensor> = kept.chain([&classifier.score]).cloned().collect();
        self.write(&classifier.edit, &tensors)
    }

    /// Writes the `LoRA` adapter.
    pub(crate) fn adapter(&self) -> TempDir {
        let folder = TempDir::new().expect("a folder");
        let Lora { r, alpha, target_modules, tensors, .. } = &self.figures.lora;
        let config = json!({
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": r, "lora_alpha": alpha, "target_modules": target_modules,
            "fan_in_fan_out": self.config["model_type"] == "gpt2", "base_model_name_or_path": "base",
        });
        write_json(&folder.path().join("adapter_config.json"), &config);
        write_tensors(&folder.path().join("adapter_model.safetensors"), Stored::F32, tensors);
        folder
    }

    fn write(&self, edit: &Edit, tensors: &[Tensor]) -> TempDir {
        let folder = TempDir::new().expect("a folder");
        let mut config = self.config.clone();
        edit.apply(&mut config);
        write_json(&folder.path().join("config.json"), &config);
        write_tensors(&folder.path().join("model.safetensors"), self.figures.dtype, tensors);
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            let shared = self.folder.with_file_name(name);
            fs::copy(shared, folder.path().join(name)).expect("the shared tokenizer");
        }
        folder
    }
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> T {
    let text = fs::read_to_string(path).expect("a file of the family");
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display())).expect("JSON")
}

fn write_json(path: &Path, value: &Value) {
    fs::write(path, value.to_string()).expect("a written file");
}

fn write_tensors(path: &Path, stored: Stored, tensors: &[Tensor]) {
    let bytes = |tensor: &Tensor| -> Vec<u8> {
        let values = tensor.values().into_iter();
        match stored {
            Stored::F32 => values.flat_map(f32::to_le_bytes).collect(),
            Stored::BF16 => values.flat_map(|value| bf16::from_f32(value).to_le_bytes()).collect(),
        }
    };
    let data: Vec<Vec<u8>> = tensors.iter().map(bytes).collect();
    let dtype = match stored {
        Stored::F32 => Dtype::F32,
        Stored::BF16 => Dtype::BF16,
    };
    let views = tensors.iter().zip(&data).map(|(Tensor(name, shape, ..), data)| {
        (name, TensorView::new(dtype, shape.clone(), data).expect("a tensor"))
    });
    safetensors::serialize_to_file(views, None, path).expect("a written file");
}
