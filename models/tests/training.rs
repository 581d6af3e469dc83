//! Tests parity of training steps with PyTorch: losses, gradients, and parameters after three steps of
//! `AdamW`, for each architecture and loss.
//!
//! The reference values in `golden/training/` come from `golden/make_training_golden.py`, which computes in
//! 64 bits.

mod support;

use std::collections::BTreeMap;

use dissent_domain::training::{DpoLoss, LoraSettings};
use dissent_models::checkpoint::Checkpoint;
use dissent_models::runtime::{CancelFlag, OnnxRuntime};
use dissent_models::training::parameters::Parameter;
use dissent_models::training::{
    AdamWStep, BatchOutput, EvalSession, LoraPlan, Loss, LossInputs, ModelOutputs, PackedBatch,
    ParameterLayout, StepSession, StepSpec, Trainable, TrainingSequence, TrainingState,
};
use dissent_models::{InvalidKind, ModelError};
use safetensors::SafeTensors;
use serde::Deserialize;
use support::{golden, open, options, runtime};

/// Relative to the reference in 64 bits, in the L2 norm.
const GRADIENT_TOLERANCE: f64 = 1e-5;
/// For the change of parameters over three steps. `AdamW` divides by the size of each element's gradient, so
/// small gradients count as much as large ones, with their larger relative errors.
const CHANGE_TOLERANCE: f64 = 1e-4;

#[derive(Deserialize)]
struct Document {
    sequences: Vec<Sequence>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Sequence {
    ids: Vec<u32>,
    completion_start: usize,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    base: String,
    loss: String,
    lora: Option<Lora>,
    layers: u32,
    rates: Vec<f64>,
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
    max_grad_norm: f64,
    losses: Vec<f64>,
    norms: Vec<f64>,
}

#[derive(Deserialize)]
struct Lora {
    r: u32,
    alpha: f64,
    targets: Vec<String>,
}

fn document() -> Document {
    let text = std::fs::read_to_string(golden("training/cases.json")).expect("the reference figures");
    serde_json::from_str(&text).expect("JSON")
}

fn sequences(document: &Document) -> Vec<TrainingSequence> {
    let sequence = |sequence: &Sequence| TrainingSequence {
        ids: sequence.ids.clone(),
        completion_start: sequence.completion_start,
        skipped: Vec::new(),
    };
    document.sequences.iter().map(sequence).collect()
}

/// The tensors of a case, by name.
struct Figures(BTreeMap<String, Vec<f32>>);

impl Figures {
    fn of(case: &Case) -> Self {
        let bytes = std::fs::read(golden(&format!("training/{}.safetensors", case.name))).expect("a case");
        let tensors = SafeTensors::deserialize(&bytes).expect("a safetensors file");
        let numbers = |data: &[u8]| data.as_chunks::<4>().0.iter().map(|&n| f32::from_le_bytes(n)).collect();
        Self(tensors.iter().map(|(name, view)| (name.to_owned(), numbers(view.data()))).collect())
    }

    fn get(&self, name: &str) -> &[f32] {
        self.0.get(name).ok_or(name).expect("it is among the reference figures")
    }

    fn input(&self, name: &str) -> Vec<f32> {
        self.get(&format!("inputs.{name}")).to_vec()
    }

    fn number(&self, name: &str) -> f32 {
        self.input(name)[0]
    }

    /// Returns a vector in the order of the layout.
    fn vector(&self, kind: &str, layout: &ParameterLayout) -> Vec<f32> {
        let of = |parameter: &Parameter| self.get(&format!("{kind}.{}", parameter.name)).to_vec();
        layout.parameters().iter().flat_map(of).collect()
    }
}

fn loss_named(name: &str) -> Loss {
    match name {
        "sft" => Loss::Sft,
        "bradley_terry" => Loss::BradleyTerry,
        "cost" => Loss::Cost,
        "dpo_sigmoid" => Loss::Dpo(DpoLoss::Sigmoid),
        "dpo_ipo" => Loss::Dpo(DpoLoss::Ipo),
        "dpo_hinge" => Loss::Dpo(DpoLoss::Hinge),
        "ppo" => Loss::Ppo,
        "grpo" => Loss::Grpo,
        "rloo" => Loss::Rloo,
        other => unreachable!("no loss is called {other}"),
    }
}

fn inputs(loss: Loss, figures: &Figures) -> LossInputs {
    let weights = figures.input("weights");
    match loss {
        Loss::Sft => LossInputs::Sft { weights },
        Loss::BradleyTerry => LossInputs::BradleyTerry {
            margins: figures.input("margins"),
            weights,
            center: figures.number("center"),
        },
        Loss::Cost => LossInputs::Cost { signs: figures.input("signs"), weights },
        Loss::Dpo(_) => LossInputs::Dpo {
            reference: figures.input("reference"),
            weights,
            beta: figures.number("beta"),
            linear: 0.0,
        },
        Loss::Ppo => LossInputs::Ppo {
            old_logprobs: figures.input("old_logprobs"),
            old_values: figures.input("old_values"),
            advantages: figures.input("advantages"),
            returns: figures.input("returns"),
            weights,
            clip: figures.number("clip"),
            value_clip: figures.number("value_clip"),
            value_coefficient: figures.number("value_coefficient"),
        },
        Loss::Grpo => LossInputs::Grpo {
            old_logprobs: figures.input("old_logprobs"),
            reference_logprobs: figures.input("reference_logprobs"),
            advantages: figures.input("advantages"),
            weights,
            clip: figures.number("clip"),
            kl_coefficient: figures.number("kl_coefficient"),
        },
        Loss::Rloo => LossInputs::Rloo {
            old_logprobs: figures.input("old_logprobs"),
            advantages: figures.input("advantages"),
            weights,
            clip: figures.number("clip"),
        },
    }
}

fn distance(seen: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(seen.len(), expected.len());
    let norm =
        |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|number| number * number).sum::<f64>().sqrt();
    let difference = norm(&mut seen.iter().zip(expected).map(|(&a, &b)| f64::from(a) - f64::from(b)));
    difference / norm(&mut expected.iter().map(|&number| f64::from(number))).max(f64::MIN_POSITIVE)
}

fn near(what: &str, seen: f32, expected: f64, tolerance: f64) {
    let error = (f64::from(seen) - expected).abs() / expected.abs().max(1.0);
    assert!(error <= tolerance, "{what}: {seen} against {expected}");
}

/// A case with everything needed to run it.
struct Bench {
    case: Case,
    figures: Figures,
    checkpoint: Checkpoint,
    spec: StepSpec,
    layout: ParameterLayout,
    initial: Vec<f32>,
    batch: PackedBatch,
    inputs: LossInputs,
}

impl Bench {
    fn new(name: &str, recompute: bool) -> Self {
        let document = document();
        let sequences = sequences(&document);
        let case = document.cases.into_iter().find(|case| case.name == name).expect("a case of that name");
        let figures = Figures::of(&case);
        let checkpoint = open(&golden(&case.base), Some(case.layers));
        let loss = loss_named(&case.loss);
        let trainable = match &case.lora {
            None => Trainable::Full,
            Some(Lora { r, alpha, targets }) => {
                let settings = LoraSettings { r: *r, alpha: *alpha, targets: targets.clone() };
                Trainable::Lora(LoraPlan::new(&checkpoint.config, &settings).expect("a plan"))
            }
        };
        let layout = ParameterLayout::new(&checkpoint.config, &checkpoint.weights, &trainable, loss.head())
            .expect("a layout");
        let mut initial = layout.initial(&checkpoint, None, None, 0).expect("initial numbers");
        for parameter in layout.parameters() {
            if let Some(numbers) = figures.0.get(&format!("initial.{}", parameter.name)) {
                initial[parameter.range()].copy_from_slice(numbers);
            }
        }
        let batch = PackedBatch::new(&sequences, loss.head()).expect("a batch");
        let inputs = inputs(loss, &figures);
        let spec = StepSpec { trainable, loss, recompute };
        Self { case, figures, checkpoint, spec, layout, initial, batch, inputs }
    }

    fn session(&self, runtime: &'static OnnxRuntime) -> StepSession {
        let state = TrainingState::new(self.initial.clone());
        StepSession::open(runtime, &self.checkpoint, &self.spec, state, &options(1)).expect("a session")
    }

    fn adam(&self, step: usize) -> AdamWStep {
        AdamWStep {
            learning_rate: self.case.rates[step],
            step: step as u64 + 1,
            betas: self.case.betas,
            epsilon: self.case.eps,
            weight_decay: self.case.weight_decay,
            max_grad_norm: self.case.max_grad_norm,
        }
    }

    fn accumulate(&self, session: &mut StepSession) -> BatchOutput {
        session.accumulate(&self.batch, &self.inputs, &CancelFlag::new()).expect("a gradient")
    }

    fn check_outputs(&self, output: &BatchOutput) {
        let ModelOutputs { scores, logprobs, values, entropy, hits } = &output.model;
        for (name, seen) in [
            ("scores", scores),
            ("logprobs", logprobs),
            ("values", values),
            ("entropy", entropy),
            ("sequence_logprobs", &output.sequence_logprobs),
        ] {
            match self.figures.0.get(&format!("outputs.{name}")) {
                Some(expected) => {
                    let distance = distance(seen, expected);
                    assert!(distance <= 1e-5, "{name} of {}: {distance}", self.case.name);
                }
                // The same nodes as in GRPO, for which PyTorch's values exist.
                None if name == "entropy" && self.spec.loss == Loss::Sft => {
                    assert_eq!(seen.len(), logprobs.len(), "{}", self.case.name);
                }
                None => assert!(seen.is_empty(), "{name} of {}", self.case.name),
            }
        }
        let counted = if self.spec.loss == Loss::Sft { logprobs.len() } else { 0 };
        assert_eq!(hits.len(), counted, "{}", self.case.name);
        // A token with more than half of the probability is the most likely; one with less than 1/vocabulary
        // is not.
        let vocabulary = self.checkpoint.config.vocab_size as f32;
        for (hit, logprob) in hits.iter().zip(logprobs) {
            assert!((*hit > 0.5 || *logprob <= 0.5_f32.ln()) && (*hit < 0.5 || *logprob >= -vocabulary.ln()));
        }
    }
}

fn check(name: &str) {
    check_with(name, false);
}

fn check_with(name: &str, recompute: bool) {
    let Some(runtime) = runtime() else { return };
    let bench = Bench::new(name, recompute);
    let mut session = bench.session(runtime);
    let output = bench.accumulate(&mut session);
    near("loss", output.loss, bench.case.losses[0], 1e-5);
    near("norm", output.gradient_norm, bench.case.norms[0], 2e-5);
    bench.check_outputs(&output);
    let expected = bench.figures.vector("gradient", &bench.layout);
    let error = distance(session.gradient(), &expected);
    assert!(error <= GRADIENT_TOLERANCE, "the gradient of {name} is off by {error}");
    session.restore(TrainingState::new(bench.initial.clone())).expect("the beginning");
    for step in 0..bench.case.rates.len() {
        let output =
            session.step(&bench.batch, &bench.inputs, &bench.adam(step), &CancelFlag::new()).expect("a step");
        near("loss", output.loss, bench.case.losses[step], 1e-4);
        near("norm", output.gradient_norm, bench.case.norms[step], 1e-3);
    }
    let after = bench.figures.vector("after", &bench.layout);
    let change = |vector: &[f32]| -> Vec<f32> {
        vector.iter().zip(&bench.initial).map(|(after, before)| after - before).collect()
    };
    let error = distance(&change(&session.state().parameters), &change(&after));
    assert!(error <= CHANGE_TOLERANCE, "three steps of {name} are off by {error}");
}

macro_rules! cases {
    ($($test:ident: $name:literal,)*) => {
        $(#[test] fn $test() { check($name); })*

        #[test]
        fn every_case_is_tested() {
            let tested = [$($name),*];
            for case in document().cases {
                assert!(tested.contains(&case.name.as_str()), "{} is not tested", case.name);
            }
        }
    };
}

cases! {
    a_llama_learns_demonstrations: "llama.sft",
    a_llama_learns_preferences: "llama.bradley_terry",
    a_llama_learns_costs: "llama.cost",
    a_llama_learns_by_dpo: "llama.dpo_sigmoid",
    a_llama_learns_by_ipo: "llama.dpo_ipo",
    a_llama_learns_by_dpo_with_hinge: "llama.dpo_hinge",
    a_llama_learns_by_ppo: "llama.ppo",
    a_llama_learns_by_grpo: "llama.grpo",
    a_llama_learns_by_rloo: "llama.rloo",
    a_neox_learns_demonstrations: "neox-parallel.sft",
    a_neox_learns_preferences: "neox-parallel.bradley_terry",
    a_neox_learns_costs: "neox-parallel.cost",
    a_neox_learns_by_dpo: "neox-parallel.dpo_sigmoid",
    a_neox_learns_by_ipo: "neox-parallel.dpo_ipo",
    a_neox_learns_by_dpo_with_hinge: "neox-parallel.dpo_hinge",
    a_neox_learns_by_ppo: "neox-parallel.ppo",
    a_neox_learns_by_grpo: "neox-parallel.grpo",
    a_neox_learns_by_rloo: "neox-parallel.rloo",
    a_sequential_neox_learns_demonstrations: "neox-sequential.sft",
    a_sequential_neox_learns_preferences: "neox-sequential.bradley_terry",
    a_llama_in_16_bits_learns_demonstrations: "llama-bf16.sft",
    a_llama_in_16_bits_learns_preferences: "llama-bf16.bradley_terry",
    all_weights_of_a_llama_learn_demonstrations: "llama.full.sft",
    all_weights_of_a_llama_learn_preferences: "llama.full.bradley_terry",
    all_weights_of_a_neox_learn_demonstrations: "neox-parallel.full.sft",
    all_weights_of_a_neox_learn_preferences: "neox-parallel.full.bradley_terry",
    tied_embeddings_learn_from_both_ends: "llama-bf16.full.sft",
}

#[test]
fn recomputing_layers_changes_no_result() {
    for name in ["llama.bradley_terry", "neox-parallel.ppo", "neox-sequential.sft", "llama.full.sft"] {
        check_with(name, true);
    }
}

#[test]
fn micro_batches_add_up_to_the_batch() {
    let Some(runtime) = runtime() else { return };
    let bench = Bench::new("llama.sft", false);
    let (sequences, LossInputs::Sft { weights }) = (sequences(&document()), &bench.inputs) else {
        panic!("sft has weights");
    };
    let mut whole = bench.session(runtime);
    let output = bench.accumulate(&mut whole);
    let mut parts = bench.session(runtime);
    let (mut loss, mut first) = (0.0, 0);
    for part in sequences.chunks(2) {
        let batch = PackedBatch::new(part, bench.spec.loss.head()).expect("a batch");
        let inputs = LossInputs::Sft { weights: weights[first..first + batch.selected()].to_vec() };
        first += batch.selected();
        loss += parts.accumulate(&batch, &inputs, &CancelFlag::new()).expect("a gradient").loss;
    }
    near("the sum of losses", loss, f64::from(output.loss), 1e-6);
    let error = distance(parts.gradient(), whole.gradient());
    assert!(error <= 1e-6, "the sum of gradients is off by {error}");
}

#[test]
fn a_session_continues_from_a_restored_state() {
    let Some(runtime) = runtime() else { return };
    let bench = Bench::new("neox-parallel.bradley_terry", false);
    let cancel = CancelFlag::new();
    let mut session = bench.session(runtime);
    session.step(&bench.batch, &bench.inputs, &bench.adam(0), &cancel).expect("a step");
    let kept = session.state().clone();
    session.step(&bench.batch, &bench.inputs, &bench.adam(1), &cancel).expect("a step");
    let mut other = bench.session(runtime);
    other.restore(kept).expect("a state of the same layout");
    other.step(&bench.batch, &bench.inputs, &bench.adam(1), &cancel).expect("a step");
    let bits =
        |session: &StepSession| session.state().parameters.iter().map(|n| n.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&session), bits(&other));
    let error = other.restore(TrainingState::new(vec![0.0; 3])).expect_err("too short").to_string();
    assert!(error.contains('3'), "{error}");
}

#[test]
fn evaluation_agrees_with_the_step_and_with_the_base_model() {
    let Some(runtime) = runtime() else { return };
    let bench = Bench::new("llama.ppo", false);
    let mut session = bench.session(runtime);
    let seen = bench.accumulate(&mut session).model;
    let (trainable, loss) = (&bench.spec.trainable, bench.spec.loss);
    let (head, report) = (loss.head(), loss.report());
    let mut eval = EvalSession::open(runtime, &bench.checkpoint, trainable, head, report, &options(1))
        .expect("a session");
    let cancel = CancelFlag::new();
    let evaluated = eval.evaluate(&bench.initial, &bench.batch, &cancel).expect("outputs");
    for (a, b) in [
        (&seen.logprobs, &evaluated.logprobs),
        (&seen.values, &evaluated.values),
        (&seen.entropy, &evaluated.entropy),
    ] {
        assert!(distance(a, b) <= 1e-6);
    }
    let base = eval.layout().without_change(&bench.initial);
    let reference = eval.evaluate(&base, &bench.batch, &cancel).expect("outputs");
    let mut scorer =
        dissent_models::scoring::PolicyScorer::open(runtime, &bench.checkpoint, None, &options(1))
            .expect("a scorer");
    let items: Vec<_> = sequences(&document())
        .into_iter()
        .map(|sequence| dissent_models::scoring::ScoreItem {
            prompt_ids: sequence.ids[..sequence.completion_start].to_vec(),
            completion_ids: sequence.ids[sequence.completion_start..].to_vec(),
        })
        .collect();
    let scored = scorer.score(&items, &cancel, &mut |_| {}).expect("log-probabilities").concat();
    assert!(distance(&reference.logprobs, &scored) <= 1e-5);
}

#[test]
fn diverging_numbers_are_an_error_and_change_nothing() {
    let Some(runtime) = runtime() else { return };
    let bench = Bench::new("llama.bradley_terry", false);
    let mut session = bench.session(runtime);
    let mut broken = TrainingState::new(bench.initial.clone());
    broken.parameters.fill(1e30);
    session.restore(broken.clone()).expect("a state");
    let error = session
        .step(&bench.batch, &bench.inputs, &bench.adam(0), &CancelFlag::new())
        .expect_err("not finite");
    assert_eq!(error.invalid_kind(), Some(InvalidKind::NotFinite), "{error}");
    assert_eq!(session.state(), &broken);
}

#[test]
fn inputs_of_another_loss_or_length_are_refused() {
    let Some(runtime) = runtime() else { return };
    let bench = Bench::new("llama.bradley_terry", false);
    let mut session = bench.session(runtime);
    let mut refused = |inputs: &LossInputs, kind: InvalidKind| {
        let error = session.accumulate(&bench.batch, inputs, &CancelFlag::new()).expect_err("refused");
        assert_eq!(error.invalid_kind(), Some(kind), "{error}");
    };
    refused(&LossInputs::Sft { weights: vec![1.0] }, InvalidKind::Data);
    let inputs = |weights: Vec<f32>| LossInputs::BradleyTerry { margins: vec![0.0; 2], weights, center: 0.0 };
    refused(&inputs(vec![1.0]), InvalidKind::ShapeMismatch);
    refused(&inputs(vec![f32::NAN; 2]), InvalidKind::NotFinite);
    let other = PackedBatch::new(&sequences(&document()), Loss::Sft.head()).expect("a batch");
    let error = session.accumulate(&other, &inputs(vec![1.0; 2]), &CancelFlag::new()).expect_err("refused");
    assert_eq!(error.invalid_kind(), Some(InvalidKind::Data), "{error}");
    let cancel = CancelFlag::new();
    cancel.cancel();
    let result = session.accumulate(&bench.batch, &bench.inputs, &cancel);
    assert!(matches!(result, Err(ModelError::Cancelled)));
}
