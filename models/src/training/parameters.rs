//! The parameter vector: the layout of the trained tensors, their initial values, and the conversion to an
//! adapter.

use std::collections::BTreeMap;
use std::ops::Range;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

use crate::adapter::{AdapterTask, LoraAdapter, LoraPair, LoraTarget, ScoreHead, ValueHead};
use crate::checkpoint::layout::{SCORE_HEAD, projections, required};
use crate::checkpoint::{Checkpoint, ModelConfig, Weights};
use crate::error::{InvalidKind, ModelError};

use super::spec::{LoraPlan, Trainable, TrainingHead};

/// The name of the value head.
pub const VALUE_HEAD: &str = "value.weight";

/// The standard deviation of a fresh score head: `initializer_range` of transformers.
const INITIALIZER_RANGE: f64 = 0.02;

/// The role of a trained tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// A of a low-rank change, `[rank, in]`.
    LoraA(LoraTarget),
    /// B of a low-rank change, `[out, rank]`, without its scaling.
    LoraB(LoraTarget),
    /// The score head, `[1, hidden]`.
    ScoreHead,
    /// The value head, `[1, hidden]`.
    ValueHead,
    /// A weight of the checkpoint.
    Weight,
}

/// One trained tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// The name: PEFT's for the halves of a change, the checkpoint's for weights.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// Its shape, row-major.
    pub shape: Vec<usize>,
    /// Its first index in the vector.
    pub offset: usize,
}

impl Parameter {
    /// Returns the number of its elements.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Its range in the vector.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.elements()
    }
}

/// The layout of the parameter vector: matrices first, then biases and norms.
#[derive(Debug, Clone, PartialEq)]
pub struct ParameterLayout {
    parameters: Vec<Parameter>,
    decayed: usize,
    trainable: Trainable,
}

impl ParameterLayout {
    /// Returns the layout for the trained parameters of a model with a head.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if a low-rank change names a projection that the model does not have.
    pub fn new(
        config: &ModelConfig,
        weights: &Weights,
        trainable: &Trainable,
        training_head: TrainingHead,
    ) -> Result<Self, ModelError> {
        let mut tensors = match trainable {
            Trainable::Lora(plan) => low_rank(config, plan)?,
            Trainable::Full => whole(config, weights, training_head),
        };
        let row = vec![1, config.hidden_size];
        match training_head {
            TrainingHead::Score => tensors.push((SCORE_HEAD.to_owned(), Role::ScoreHead, row)),
            TrainingHead::VocabularyAndValue => tensors.push((VALUE_HEAD.to_owned(), Role::ValueHead, row)),
            TrainingHead::Vocabulary => {}
        }
        // A stable sort: decaying tensors come first.
        tensors.sort_by_key(|(_, _, shape)| !decays(shape));
        let mut parameters = Vec::with_capacity(tensors.len());
        let (mut offset, mut decayed) = (0, 0);
        for (name, role, shape) in tensors {
            let parameter = Parameter { name, role, shape, offset };
            offset = parameter.range().end;
            if decays(&parameter.shape) {
                decayed = offset;
            }
            parameters.push(parameter);
        }
        Ok(Self { parameters, decayed, trainable: trainable.clone() })
    }

    /// Returns the tensors in the order of the vector.
    #[must_use]
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Returns the length of the vector.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.parameters.last().map_or(0, |last| last.range().end)
    }

    /// Returns the number of leading elements to which weight decay applies: matrices, but no biases or
    /// norms, as in transformers.
    #[must_use]
    pub fn decayed(&self) -> usize {
        self.decayed
    }

    /// Returns the scaling of a low-rank change.
    pub(super) fn scaling(&self, target: &LoraTarget) -> Option<f32> {
        match &self.trainable {
            Trainable::Lora(plan) => plan.pairs.get(target).map(|pair| pair.scaling),
            Trainable::Full => None,
        }
    }

    /// Returns the index of the tensor with that role.
    pub(super) fn position(&self, role: &Role) -> Option<usize> {
        self.parameters.iter().position(|parameter| parameter.role == *role)
    }

    /// Returns the initial parameters: weights of the checkpoint, values of the adapter if one is given, and
    /// new values elsewhere.
    ///
    /// As in PEFT, a new A is uniform in ±1/√in and a new B is zero. As in transformers, a new score head is
    /// normal with deviation 0.02. A new value head is zero. Each tensor's values depend on the seed and its
    /// name only.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if the adapter's sizes differ from the layout's, [`ModelError::File`] if a
    /// weight cannot be read.
    pub fn initial(
        &self,
        checkpoint: &Checkpoint,
        from: Option<&LoraAdapter>,
        value_head: Option<&ValueHead>,
        seed: u64,
    ) -> Result<Vec<f32>, ModelError> {
        let mut vector = Vec::with_capacity(self.elements());
        for parameter in &self.parameters {
            let known = known_numbers(&parameter.role, from, value_head);
            let numbers = match (known, &parameter.role) {
                (known, Role::ScoreHead) => {
                    score_row(checkpoint, known)?.unwrap_or_else(|| fresh(parameter, seed))
                }
                (Some(known), _) => known.to_vec(),
                (None, Role::Weight) => checkpoint.weights.read_f32(&parameter.name)?,
                (None, Role::LoraA(_) | Role::LoraB(_) | Role::ValueHead) => fresh(parameter, seed),
            };
            if numbers.len() != parameter.elements() {
                return Err(ModelError::invalid(
                    InvalidKind::ShapeMismatch,
                    format!(
                        "{} has {} initial values but needs {} ({:?}): the adapter belongs to another model, or has more than one score",
                        parameter.name,
                        numbers.len(),
                        parameter.elements(),
                        parameter.shape
                    ),
                ));
            }
            vector.extend(numbers);
        }
        Ok(vector)
    }

    /// Returns the vector with all low-rank changes removed (B = 0): the model before any training of the
    /// adapter. Without low-rank changes it is the vector itself.
    #[must_use]
    pub fn without_change(&self, vector: &[f32]) -> Vec<f32> {
        let mut base = vector.to_vec();
        for parameter in &self.parameters {
            if let (Role::LoraB(_), Some(numbers)) = (&parameter.role, base.get_mut(parameter.range())) {
                numbers.fill(0.0);
            }
        }
        base
    }

    /// Returns the elements of one tensor; empty if the vector is too short.
    #[must_use]
    pub fn numbers<'v>(&self, vector: &'v [f32], role: &Role) -> Option<&'v [f32]> {
        vector.get(self.parameters.get(self.position(role)?)?.range())
    }

    /// Returns the vector as an adapter; with a score head, as a sequence classifier.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if all weights are trained, the vector has another length, or a number is not
    /// finite.
    pub fn adapter(&self, vector: &[f32], base_model: Option<String>) -> Result<LoraAdapter, ModelError> {
        let Trainable::Lora(plan) = &self.trainable else {
            return Err(ModelError::invalid(
                InvalidKind::Unsupported,
                "all weights are trained: save the result as a checkpoint, not as an adapter",
            ));
        };
        self.check_length(vector)?;
        let mut layers = BTreeMap::new();
        for (target, pair) in &plan.pairs {
            let half = |role: Role| self.numbers(vector, &role).map(<[f32]>::to_vec).unwrap_or_default();
            let (a, b) = (half(Role::LoraA(target.clone())), half(Role::LoraB(target.clone())));
            let (inputs, outputs) = (a.len() / pair.rank.max(1), b.len() / pair.rank.max(1));
            let pair = LoraPair { a, b, rank: pair.rank, inputs, outputs, scaling: pair.scaling };
            layers.insert(target.clone(), pair);
        }
        let score = self.numbers(vector, &Role::ScoreHead).map(|weight| ScoreHead {
            weight: weight.to_vec(),
            labels: 1,
            hidden: weight.len(),
        });
        let task = if score.is_some() { AdapterTask::SeqCls } else { AdapterTask::CausalLm };
        LoraAdapter::new(plan.r, plan.alpha, layers, score, task, base_model)
    }

    /// Returns the value head of a vector, if it has one.
    #[must_use]
    pub fn value_head(&self, vector: &[f32]) -> Option<ValueHead> {
        Some(ValueHead { weight: self.numbers(vector, &Role::ValueHead)?.to_vec() })
    }

    /// Checks that a vector has the layout's length.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] with both lengths.
    pub fn check_length(&self, vector: &[f32]) -> Result<(), ModelError> {
        if vector.len() == self.elements() {
            return Ok(());
        }
        Err(ModelError::invalid(
            InvalidKind::ShapeMismatch,
            format!(
                "the parameter vector has length {}, but the model needs {}: it belongs to another training",
                vector.len(),
                self.elements()
            ),
        ))
    }
}

type Tensor = (String, Role, Vec<usize>);

fn low_rank(config: &ModelConfig, plan: &LoraPlan) -> Result<Vec<Tensor>, ModelError> {
    let known: BTreeMap<_, _> = projections(config).into_iter().collect();
    let mut tensors = Vec::with_capacity(2 * plan.pairs.len());
    for (target, pair) in &plan.pairs {
        let projection = known.get(target.module.as_str()).filter(|_| target.layer < config.layers);
        let Some(projection) = projection else {
            return Err(ModelError::invalid(
                InvalidKind::ShapeMismatch,
                format!(
                    "the adapter changes layers.{}.{}, which this model of {} layers does not have",
                    target.layer, target.module, config.layers
                ),
            ));
        };
        let path = format!("{}.{}", config.adapter_layer_name(target.layer), target.module);
        let name = |half: &str| format!("base_model.model.{path}.lora_{half}.weight");
        tensors.push((name("A"), Role::LoraA(target.clone()), vec![pair.rank, projection.inputs]));
        tensors.push((name("B"), Role::LoraB(target.clone()), vec![projection.outputs, pair.rank]));
    }
    Ok(tensors)
}

fn whole(config: &ModelConfig, weights: &Weights, training_head: TrainingHead) -> Vec<Tensor> {
    let mut tensors: Vec<Tensor> =
        required(config).into_iter().map(|(name, shape)| (name, Role::Weight, shape)).collect();
    let output = config.head();
    let untied = !config.tied_embeddings && weights.contains(output);
    if training_head != TrainingHead::Score && untied {
        let shape = vec![config.vocab_size, config.hidden_size];
        tensors.push((output.to_owned(), Role::Weight, shape));
    }
    tensors
}

/// Whether weight decay applies. In these architectures, exactly biases and norm weights have one dimension.
fn decays(shape: &[usize]) -> bool {
    shape.len() > 1
}

fn known_numbers<'a>(
    role: &Role,
    from: Option<&'a LoraAdapter>,
    value_head: Option<&'a ValueHead>,
) -> Option<&'a [f32]> {
    match role {
        Role::LoraA(target) => Some(&from?.layers.get(target)?.a),
        Role::LoraB(target) => Some(&from?.layers.get(target)?.b),
        Role::ScoreHead => Some(&from?.score.as_ref()?.weight),
        Role::ValueHead => Some(&value_head?.weight),
        Role::Weight => None,
    }
}

/// Returns the score head with which a training starts, `[1, hidden]`: the adapter's or the checkpoint's. Of
/// several outputs, [`Checkpoint::reward_output`] makes one. `None`: neither has a head.
fn score_row(checkpoint: &Checkpoint, adapter: Option<&[f32]>) -> Result<Option<Vec<f32>>, ModelError> {
    let head = match (adapter, checkpoint.reward_head()?) {
        (Some(adapter), _) => adapter.to_vec(),
        (None, None) => return Ok(None),
        (None, Some(head)) if head.is_classifier() => checkpoint.weights.read_f32(SCORE_HEAD)?,
        (None, Some(head)) => {
            return Err(ModelError::invalid(
                InvalidKind::Unsupported,
                format!(
                    "a training cannot continue from the reward head {}: use a model with score.weight alone, as \
                     transformers' sequence classifiers have it",
                    head.layers.iter().map(|layer| layer.weight.as_str()).collect::<Vec<_>>().join(", ")
                ),
            ));
        }
    };
    let hidden = checkpoint.config.hidden_size;
    let Some(output) = checkpoint.reward_output.as_ref().filter(|_| head.len() > hidden) else {
        return Ok(Some(head));
    };
    let factors = output.factors(head.len() / hidden).map_err(|error| {
        ModelError::invalid_because(
            InvalidKind::Setting,
            "the training cannot start from these outputs",
            error,
        )
    })?;
    let mut row = vec![0.0_f64; hidden];
    for (factor, output) in factors.iter().zip(head.chunks_exact(hidden)) {
        row.iter_mut().zip(output).for_each(|(sum, &weight)| *sum += factor * f64::from(weight));
    }
    #[expect(clippy::cast_possible_truncation, reason = "parameters are of 32 bits")]
    let row = row.into_iter().map(|number| number as f32).collect();
    Ok(Some(row))
}

fn fresh(parameter: &Parameter, seed: u64) -> Vec<f32> {
    let mut hasher = blake3::Hasher::new_derive_key("dissent initial parameters 1");
    hasher.update(&seed.to_le_bytes()).update(parameter.name.as_bytes());
    let mut numbers = ChaCha8Rng::from_seed(*hasher.finalize().as_bytes());
    // In [0, 1), of 53 bits.
    let mut uniform = || (numbers.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
    let inputs = parameter.shape.last().copied().unwrap_or(1) as f64;
    let mut draw = || match parameter.role {
        Role::LoraA(_) => (2.0 * uniform() - 1.0) / inputs.sqrt(),
        Role::ScoreHead => {
            // Box–Muller transform.
            let radius = (-2.0 * (1.0 - uniform()).ln()).sqrt();
            INITIALIZER_RANGE * radius * (std::f64::consts::TAU * uniform()).cos()
        }
        Role::LoraB(_) | Role::ValueHead | Role::Weight => 0.0,
    };
    #[expect(clippy::cast_possible_truncation, reason = "parameters are of 32 bits")]
    let numbers = (0..parameter.elements()).map(|_| draw() as f32).collect();
    numbers
}

#[cfg(test)]
pub(super) mod tests {
    use dissent_domain::training::LoraSettings;

    use super::*;

    pub(in crate::training) fn config(model_type: &str) -> ModelConfig {
        let rest =
            if model_type == "gpt_neox" { r#", "rotary_pct": 1.0"# } else { r#", "hidden_act": "gelu""# };
        ModelConfig::from_json(&format!(
            r#"{{"model_type": "{model_type}", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 32, "max_position_embeddings": 64,
            "rms_norm_eps": 1e-5, "tie_word_embeddings": true{rest}}}"#
        ))
    }

    fn lora(model_type: &str, head: TrainingHead) -> ParameterLayout {
        let config = config(model_type);
        let settings = LoraSettings { r: 4, alpha: 8.0, targets: Vec::new() };
        let plan = LoraPlan::new(&config, &settings).expect("a plan");
        ParameterLayout::new(&config, &Weights::default(), &Trainable::Lora(plan), head).expect("a layout")
    }

    #[test]
    fn tensors_are_contiguous() {
        let layout = lora("llama", TrainingHead::Score);
        let mut end = 0;
        for parameter in layout.parameters() {
            assert_eq!(parameter.offset, end, "{}", parameter.name);
            end = parameter.range().end;
        }
        // q: 4 · 16 + 16 · 4, v: 4 · 16 + 8 · 4, in two layers, and the head.
        assert_eq!((layout.elements(), end), (2 * (128 + 96) + 16, 2 * (128 + 96) + 16));
        assert_eq!(layout.decayed(), layout.elements());
        assert_eq!(
            layout.parameters()[0].name,
            "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
        );
    }

    #[test]
    fn biases_and_norms_come_last_and_do_not_decay() {
        let config = config("gpt_neox");
        let layout =
            ParameterLayout::new(&config, &Weights::default(), &Trainable::Full, TrainingHead::Vocabulary)
                .expect("a layout");
        for parameter in layout.parameters() {
            let plain = parameter.name.ends_with("bias") || parameter.name.contains("norm");
            assert_eq!(plain, parameter.offset >= layout.decayed(), "{}", parameter.name);
        }
    }

    #[test]
    fn initial_values_depend_on_the_seed_and_have_their_spread() {
        let layout = lora("llama", TrainingHead::Score);
        let parameter = |role| layout.parameters()[layout.position(&role).expect("there")].clone();
        let target = LoraTarget { layer: 0, module: "self_attn.q_proj".to_owned() };
        let mut a = parameter(Role::LoraA(target.clone()));
        assert_eq!(fresh(&a, 1), fresh(&a, 1));
        assert_ne!(fresh(&a, 1), fresh(&a, 2));
        a.shape = vec![4000, 16];
        let numbers = fresh(&a, 3);
        assert!(numbers.iter().all(|number| number.abs() <= 0.25));
        let variance = |numbers: &[f32]| {
            numbers.iter().map(|&number| f64::from(number).powi(2)).sum::<f64>() / numbers.len() as f64
        };
        assert!((variance(&numbers) - 0.25_f64.powi(2) / 3.0).abs() < 1e-3);
        assert!(fresh(&parameter(Role::LoraB(target)), 1).iter().all(|number| number.to_bits() == 0));
        let mut score = parameter(Role::ScoreHead);
        score.shape = vec![1, 50_000];
        assert!((variance(&fresh(&score, 1)).sqrt() - 0.02).abs() < 1e-3);
    }

    #[test]
    fn a_vector_converts_to_an_adapter_element_by_element() {
        let layout = lora("llama", TrainingHead::Score);
        let vector: Vec<f32> = (0_u16..).take(layout.elements()).map(f32::from).collect();
        let adapter = layout.adapter(&vector, None).expect("an adapter");
        let target = LoraTarget { layer: 1, module: "self_attn.v_proj".to_owned() };
        let pair = &adapter.layers[&target];
        assert_eq!((pair.rank, pair.inputs, pair.outputs), (4, 16, 8));
        assert_eq!(Some(pair.b.as_slice()), layout.numbers(&vector, &Role::LoraB(target)));
        assert_eq!(adapter.task, AdapterTask::SeqCls);
        let base = layout.without_change(&vector);
        let adapter = layout.adapter(&base, None).expect("an adapter");
        assert!(adapter.layers.values().all(|pair| pair.b.iter().all(|number| number.to_bits() == 0)));
        assert!(layout.adapter(&vector[1..], None).is_err());
    }
}
