//! Tests packed weights: 8-bit integers of any family, adapters on top, and generation from them.

mod support;

use std::path::Path;

use dissent_domain::weight_form::WeightForm;
use dissent_models::adapter::LoraAdapter;
use dissent_models::checkpoint::{Checkpoint, OpenOptions, ReadingRules};
use dissent_models::generation::Generator;
use dissent_models::runtime::{CancelFlag, OnnxRuntime};
use dissent_models::scoring::PolicyScorer;
use dissent_models::{InvalidKind, ModelError};
use support::families::Family;
use support::{golden, open, options, runtime};
use tempfile::TempDir;

/// The most that 8-bit integers may move a logit of a tiny model, relative to the greatest.
const ROUNDING: f32 = 0.03;

fn open_as(path: &Path, cache: &Path, form: WeightForm) -> Result<Checkpoint, ModelError> {
    let options = OpenOptions { layers: None, cache_dir: cache.to_owned(), reading: ReadingRules::default() };
    Checkpoint::open_as(path, &options, form)
}

fn int8(path: &Path) -> Checkpoint {
    support::open_as(path, None, WeightForm::Int8)
}

fn scored(
    runtime: &'static OnnxRuntime,
    checkpoint: &Checkpoint,
    adapter: Option<&LoraAdapter>,
    ids: &[u32],
) -> Vec<f32> {
    let mut scorer = PolicyScorer::open(runtime, checkpoint, adapter, &options(1)).expect("a session");
    scorer.logits(ids, &CancelFlag::new()).expect("logits")
}

/// The largest difference, relative to the greatest number of `expected`.
fn difference(seen: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(seen.len(), expected.len());
    let greatest = expected.iter().fold(0.0_f32, |greatest, number| greatest.max(number.abs()));
    let differences = seen.iter().zip(expected).map(|(seen, expected)| (seen - expected).abs());
    differences.fold(0.0, f32::max) / greatest
}

/// GPT-2 stores its projections as `[inputs, outputs]`, Gemma ties its head, Phi-3 joins projections.
const FAMILIES: [&str; 5] = ["llama", "gpt2", "gemma", "phi3", "gpt_neox"];

#[test]
fn int8_weights_of_a_family_are_near_its_weights() {
    let Some(runtime) = runtime() else { return };
    for name in FAMILIES {
        let family = Family::named(name);
        let (folder, ids) = (family.policy(), &family.figures.rows[0].ids);
        let expected = scored(runtime, &open(folder.path(), None), None, ids);
        let checkpoint = int8(folder.path());
        assert!(checkpoint.weights.packed_count() > 0, "{name}");
        let found = difference(&scored(runtime, &checkpoint, None, ids), &expected);
        assert!(found > 0.0 && found < ROUNDING, "{name}: {found}");
    }
}

#[test]
fn a_policy_of_packed_weights_rounds_its_inputs_to_8_bits() {
    let Some(runtime) = runtime() else { return };
    for name in FAMILIES {
        let family = Family::named(name);
        let (checkpoint, ids) = (int8(family.policy().path()), &family.figures.rows[0].ids);
        let expected = scored(runtime, &checkpoint, None, ids);
        let mut generator = Generator::open(runtime, &checkpoint, None, &options(2)).expect("a session");
        let found = difference(&generator.logits(ids, &CancelFlag::new()).expect("logits"), &expected);
        assert!(found > 0.0 && found < 2.0 * ROUNDING, "{name}: {found}");
    }
}

#[test]
fn an_adapter_changes_packed_weights_as_it_changes_floats() {
    let Some(runtime) = runtime() else { return };
    let family = Family::named("llama");
    let (folder, adapter_folder) = (family.policy(), family.adapter());
    let (floats, packed) = (open(folder.path(), None), int8(folder.path()));
    let adapter = LoraAdapter::open(adapter_folder.path()).expect("the adapter");
    let ids = &family.figures.rows[0].ids;
    let expected = scored(runtime, &floats, Some(&adapter), ids);
    let effect = difference(&scored(runtime, &floats, None, ids), &expected);
    let found = difference(&scored(runtime, &packed, Some(&adapter), ids), &expected);
    assert!(found < ROUNDING && found < effect / 4.0, "{found} of {effect}");
}

#[test]
fn int8_weights_are_made_once_and_again_after_damage() {
    let cache = TempDir::new().expect("a folder");
    let path = golden("llama");
    let checkpoint = open_as(&path, cache.path(), WeightForm::Int8).expect("int8 weights");
    let (_, norm) = checkpoint.weights.iter().next().expect("a tensor of floats");
    let file = norm.file.clone();
    let (whole, made) = (std::fs::read(&file).expect("bytes"), modified(&file));
    open_as(&path, cache.path(), WeightForm::Int8).expect("int8 weights");
    assert_eq!(modified(&file), made);
    std::fs::write(&file, &whole[..whole.len() / 2]).expect("damage");
    open_as(&path, cache.path(), WeightForm::Int8).expect("int8 weights");
    assert_eq!(std::fs::read(&file).expect("bytes"), whole);
}

fn modified(file: &Path) -> std::time::SystemTime {
    std::fs::metadata(file).expect("the file").modified().expect("a time")
}

#[test]
fn a_folder_has_no_weights_as_stored() {
    let cache = TempDir::new().expect("a folder");
    let error = open_as(&golden("llama"), cache.path(), WeightForm::AsStored).expect_err("a folder");
    assert_eq!(error.invalid_kind(), Some(InvalidKind::Setting), "{error}");
    assert!(error.to_string().contains("int8"), "{error}");
}
