//! Tests adapters as files, as bytes, and as swappable adapters of one session.

mod support;

use std::fs;
use std::path::Path;

use dissent_domain::generation::SamplingParams;
use dissent_domain::training::LoraSettings;
use dissent_models::InvalidKind;
use dissent_models::adapter::{AdapterTask, Adapters, LoraAdapter, LoraSlots, ValueHead};
use dissent_models::checkpoint::Checkpoint;
use dissent_models::generation::{GenerationJob, Generator, SampledTokens};
use dissent_models::runtime::CancelFlag;
use dissent_models::scoring::{PolicyScorer, RewardModel};
use serde_json::Value;
use support::{adapter, golden, options, runtime, tiny};

const ADAPTERS: [&str; 4] = ["llama-lora", "neox-lora", "llama-reward", "neox-reward"];

/// Returns all parts of an adapter except its fingerprint.
fn numbers(adapter: &LoraAdapter) -> impl PartialEq + std::fmt::Debug {
    let LoraAdapter { r, alpha, scaling, layers, score, task, base_model, fingerprint: _ } = adapter.clone();
    (r, alpha, scaling, layers, score, task, base_model)
}

fn read(dir: &Path) -> [Vec<u8>; 2] {
    ["adapter_config.json", "adapter_model.safetensors"].map(|name| fs::read(dir.join(name)).expect("a file"))
}

#[test]
fn saved_adapters_round_trip() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ADAPTERS {
        let adapter = adapter(name);
        let dir = folder.path().join(name);
        let fingerprint = adapter.save(&dir).expect("saved");
        let opened = LoraAdapter::open(&dir).expect("the adapter opens");
        assert_eq!(numbers(&opened), numbers(&adapter), "{name}");
        assert_eq!(opened.fingerprint, fingerprint, "{name}");
        let files = read(&dir);
        assert_eq!(opened.save(&dir).expect("saved over itself"), fingerprint, "{name}");
        assert_eq!(read(&dir), files, "{name}: the same numbers, other bytes");
        assert_eq!(fs::read_dir(&dir).expect("the folder").count(), 2, "{name}: nothing else is left");
    }
}

#[test]
fn written_configurations_have_the_values_of_peft() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ADAPTERS {
        adapter(name).save(folder.path()).expect("saved");
        let parse = |dir: &Path| -> Value { serde_json::from_slice(&read(dir)[0]).expect("JSON") };
        let (ours, theirs) = (parse(folder.path()), parse(&golden(name)));
        // peft treats lists of names as sets.
        let sorted = |value: &Value| match value.as_array() {
            Some(list) => {
                let mut names: Vec<_> = list.iter().map(Value::to_string).collect();
                names.sort();
                Value::from(names)
            }
            None => value.clone(),
        };
        for (key, value) in ours.as_object().expect("an object") {
            assert_eq!(sorted(value), sorted(&theirs[key]), "{name}: {key}");
        }
        let weights = |dir: &Path| {
            let bytes = read(dir).into_iter().nth(1).expect("the weights");
            let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
            let mut tensors: Vec<_> = tensors
                .iter()
                .map(|(name, view)| (name.to_owned(), view.shape().to_vec(), view.data().to_vec()))
                .collect();
            tensors.sort();
            tensors
        };
        assert_eq!(weights(folder.path()), weights(&golden(name)), "{name}");
    }
}

#[test]
fn an_artifact_has_the_fingerprint_of_the_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ADAPTERS {
        let theirs = LoraAdapter::artifact_of_folder(&golden(name)).expect("an artifact");
        let opened = LoraAdapter::from_artifact(&theirs).expect("an adapter");
        assert_eq!(opened, adapter(name));
        let dir = folder.path().join(name);
        LoraAdapter::save_artifact(&theirs, &dir).expect("saved");
        assert_eq!(read(&dir), read(&golden(name)), "{name}: byte for byte");

        let ours = opened.to_artifact().expect("an artifact");
        let fingerprint = opened.save(&dir).expect("saved");
        let again = LoraAdapter::from_artifact(&ours).expect("an adapter");
        assert_eq!(again.fingerprint, fingerprint, "{name}");
        assert_eq!(again.to_artifact().expect("an artifact"), ours, "{name}");
    }
    let error = LoraAdapter::from_artifact(b"something else").expect_err("no adapter");
    assert_eq!(error.invalid_kind(), Some(InvalidKind::Adapter), "{error}");
    assert!(std::error::Error::source(&error).is_some(), "{error}");
}

#[test]
fn a_built_adapter_has_the_fingerprint_of_its_files() {
    let LoraAdapter { layers, score, .. } = adapter("llama-reward");
    let made = LoraAdapter::new(4, 8.0, layers, score, AdapterTask::SeqCls, Some("base".to_owned()))
        .expect("numbers");
    let folder = tempfile::tempdir().expect("a folder");
    made.save(folder.path()).expect("saved");
    assert_eq!(LoraAdapter::open(folder.path()).expect("opened"), made);
}

#[test]
fn single_modules_keep_their_ranks_alphas_and_layers() {
    let mut other = adapter("llama-lora");
    let (_, pair) = other.layers.iter_mut().next().expect("a pair");
    pair.a.truncate(2 * pair.inputs);
    pair.b.truncate(pair.outputs * 2);
    (pair.rank, pair.scaling) = (2, 7.5);
    let last = other.layers.keys().next_back().cloned().expect("a pair");
    other.layers.remove(&last);
    let folder = tempfile::tempdir().expect("a folder");
    other.save(folder.path()).expect("saved");
    let opened = LoraAdapter::open(folder.path()).expect("opened");
    assert_eq!(numbers(&opened), numbers(&other));
    let config: Value = serde_json::from_slice(&read(folder.path())[0]).expect("JSON");
    let targets = config["target_modules"].as_array().expect("a list");
    assert_eq!(targets.len(), other.layers.len());
    assert!(targets.contains(&"layers.0.self_attn.q_proj".into()), "{targets:?}");
}

#[test]
fn invalid_adapter_numbers_are_refused() {
    let whole = adapter("llama-reward");
    let new = |change: &dyn Fn(&mut LoraAdapter)| {
        let mut adapter = whole.clone();
        change(&mut adapter);
        let LoraAdapter { layers, score, .. } = adapter;
        LoraAdapter::new(4, 8.0, layers, score, AdapterTask::SeqCls, None).expect_err("refused").to_string()
    };
    assert!(new(&|adapter| adapter.score = None).contains("score head"));
    assert!(new(&|adapter| adapter.layers.clear()).contains("no LoRA pair"));
    let first = |adapter: &mut LoraAdapter, value: f32| {
        adapter.layers.values_mut().next().expect("a pair").a[3] = value;
    };
    assert!(new(&|adapter| first(adapter, f32::NAN)).contains("not finite"));
    assert!(
        new(&|adapter| {
            adapter.layers.values_mut().next().expect("a pair").b.pop();
        })
        .contains("values, not")
    );
}

#[test]
fn a_value_head_is_stored_beside_the_files_of_peft() {
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(ValueHead::open(folder.path()).expect("none"), None);
    let head = ValueHead { weight: vec![0.5, -1.25, 3.0] };
    head.save(folder.path()).expect("saved");
    assert_eq!(ValueHead::open(folder.path()).expect("opened"), Some(head));
    fs::write(folder.path().join("value_head.safetensors"), "nothing").expect("written");
    let error = ValueHead::open(folder.path()).expect_err("damaged").to_string();
    assert!(error.contains("value_head.safetensors"), "{error}");
}

const SEQUENCE: [u32; 12] = [1, 5, 77, 12, 130, 9, 9, 40, 3, 88, 21, 60];

fn distance(seen: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(seen.len(), expected.len());
    seen.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Compares the adapter, its half, and the model without one, in a session with more capacity than needed.
fn check_turns(base: &str, name: &str, score: fn(&Checkpoint, Session<'_>) -> Option<Vec<Vec<f32>>>) {
    let (checkpoint, whole) = (tiny(base), adapter(name));
    let mut half = whole.clone();
    for pair in half.layers.values_mut() {
        pair.b.iter_mut().for_each(|number| *number *= 0.5);
    }
    let fewer = LoraAdapter {
        layers: whole.layers.iter().take(1).map(|(t, p)| (t.clone(), p.clone())).collect(),
        ..whole.clone()
    };
    let settings = LoraSettings {
        r: u32::try_from(whole.r).expect("a rank") + 3,
        targets: if base == "llama" {
            ["q_proj", "k_proj", "v_proj", "gate_proj", "down_proj"].map(str::to_owned).to_vec()
        } else {
            ["query_key_value", "dense", "dense_4h_to_h"].map(str::to_owned).to_vec()
        },
        ..LoraSettings::default()
    };
    let roomy = LoraSlots::of_settings(&checkpoint.config, &settings).expect("the projections are there");
    let is_reward = whole.score.is_some();
    let turns: Vec<Option<&LoraAdapter>> = [Some(&whole), Some(&half), None, Some(&fewer), Some(&whole)]
        .into_iter()
        .filter(|turn| !is_reward || turn.is_some())
        .collect();
    for slots in [LoraSlots::of_adapter(&whole), roomy] {
        let Some(seen) = score(&checkpoint, Session::Swapped(&slots, &turns)) else { return };
        for (index, (seen, turn)) in seen.iter().zip(&turns).enumerate() {
            let alone = score(&checkpoint, Session::Alone(*turn)).expect("a runtime").remove(0);
            let distance = distance(seen, &alone);
            assert!(distance <= 1e-5, "{name}, turn {index}: {distance}");
        }
    }
}

enum Session<'a> {
    Alone(Option<&'a LoraAdapter>),
    Swapped(&'a LoraSlots, &'a [Option<&'a LoraAdapter>]),
}

fn logits(checkpoint: &Checkpoint, session: Session<'_>) -> Option<Vec<Vec<f32>>> {
    let runtime = runtime()?;
    let run = |scorer: &mut PolicyScorer| scorer.logits(&SEQUENCE, &CancelFlag::new()).expect("logits");
    Some(match session {
        Session::Alone(adapter) => {
            vec![run(
                &mut PolicyScorer::open(runtime, checkpoint, adapter, &options(1)).expect("the model opens")
            )]
        }
        Session::Swapped(slots, turns) => {
            let mut scorer =
                PolicyScorer::open(runtime, checkpoint, Adapters::Swappable(slots, None), &options(1))
                    .expect("the model opens");
            turns
                .iter()
                .map(|turn| {
                    scorer.set_adapter(*turn).expect("the adapter fits");
                    run(&mut scorer)
                })
                .collect()
        }
    })
}

#[test]
fn policies_are_swapped_in_one_session() {
    check_turns("llama", "llama-lora", logits);
    check_turns("neox-parallel", "neox-lora", logits);
}

fn rewards(checkpoint: &Checkpoint, session: Session<'_>) -> Option<Vec<Vec<f32>>> {
    let runtime = runtime()?;
    let sequences = [SEQUENCE.to_vec(), vec![150], vec![4, 90]];
    let run =
        |model: &mut RewardModel| model.score(&sequences, &CancelFlag::new(), &mut |_| {}).expect("rewards");
    Some(match session {
        Session::Alone(adapter) => {
            vec![run(
                &mut RewardModel::open(runtime, checkpoint, adapter, &options(1)).expect("the model opens")
            )]
        }
        Session::Swapped(slots, turns) => {
            let mut model =
                RewardModel::open(runtime, checkpoint, Adapters::Swappable(slots, turns[0]), &options(1))
                    .expect("the model opens");
            turns
                .iter()
                .map(|turn| {
                    model.set_adapter(*turn).expect("the adapter fits");
                    run(&mut model)
                })
                .collect()
        }
    })
}

#[test]
fn reward_models_are_swapped_in_one_session() {
    check_turns("llama", "llama-reward", rewards);
    check_turns("neox-sequential", "neox-reward", rewards);
}

fn sample(generator: &mut Generator) -> Vec<SampledTokens> {
    let params = SamplingParams { temperature: 0.7, max_new_tokens: 12, ..SamplingParams::default() };
    let job = GenerationJob { prompt_ids: SEQUENCE.to_vec(), seeds: vec![[1; 32], [2; 32], [3; 32]] };
    generator.generate(&[job], &params, &CancelFlag::new(), &mut |_| {}).expect("completions").remove(0)
}

#[test]
fn a_generator_samples_from_the_current_adapter() {
    let (Some(runtime), checkpoint, adapter) = (runtime(), tiny("llama"), adapter("llama-lora")) else {
        return;
    };
    let slots = LoraSlots::of_adapter(&adapter);
    let mut swapped =
        Generator::open(runtime, &checkpoint, Adapters::Swappable(&slots, Some(&adapter)), &options(4))
            .expect("the model opens");
    let mut seen = vec![sample(&mut swapped)];
    for turn in [None, Some(&adapter)] {
        swapped.set_adapter(turn).expect("the adapter fits");
        seen.push(sample(&mut swapped));
    }
    for (seen, turn) in seen.iter().zip([Some(&adapter), None, Some(&adapter)]) {
        let mut alone = Generator::open(runtime, &checkpoint, turn, &options(4)).expect("the model opens");
        for (seen, expected) in seen.iter().zip(sample(&mut alone)) {
            assert_eq!(seen.token_ids, expected.token_ids);
            assert!((seen.logprob - expected.logprob).abs() <= 1e-4, "{} {}", seen.logprob, expected.logprob);
        }
    }
    assert_ne!(seen[0], seen[1], "the adapter changes nothing: the test shows nothing");
}

#[test]
fn an_adapter_that_does_not_fit_the_session_is_refused_by_name() {
    let (Some(runtime), checkpoint) = (runtime(), tiny("llama")) else { return };
    let narrow = LoraSettings { r: 1, targets: vec!["q_proj".to_owned()], ..LoraSettings::default() };
    let slots = LoraSlots::of_settings(&checkpoint.config, &narrow).expect("the projection is there");
    let mut scorer = PolicyScorer::open(runtime, &checkpoint, Adapters::Swappable(&slots, None), &options(1))
        .expect("opens");
    let error = scorer.set_adapter(Some(&adapter("llama-lora"))).expect_err("too much");
    assert_eq!(error.invalid_kind(), Some(InvalidKind::ShapeMismatch), "{error}");
    assert!(error.to_string().contains("layers.0."), "{error}");
    let error = RewardModel::open(runtime, &checkpoint, Adapters::Swappable(&slots, None), &options(1))
        .err()
        .expect("no head");
    assert_eq!(error.invalid_kind(), Some(InvalidKind::MissingTensor), "{error}");
    let mut fixed = PolicyScorer::open(runtime, &checkpoint, None, &options(1)).expect("opens");
    assert!(fixed.set_adapter(None).is_err());
    let unknown = LoraSettings { targets: vec!["w_q".to_owned()], ..narrow };
    let error = LoraSlots::of_settings(&checkpoint.config, &unknown).expect_err("unknown");
    assert_eq!(error.invalid_kind(), Some(InvalidKind::Setting), "{error}");
}
