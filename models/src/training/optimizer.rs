//! The optimiser in the graph of a step: clipping by the global norm, then `AdamW`.

use dissent_domain::training::Hyperparameters;

use crate::error::ModelError;
use crate::onnx::{Dim, ElementType, Graph, Value};

use super::parameters::ParameterLayout;

/// Names of the optimiser's inputs.
pub(super) mod names {
    pub(in crate::training) const FIRST_MOMENT: &str = "adam_m";
    pub(in crate::training) const SECOND_MOMENT: &str = "adam_v";
    pub(super) const MAX_NORM: &str = "max_norm";
    pub(super) const DECAY: &str = "decay";
    pub(super) const BETA_1_REST: &str = "one_minus_beta_1";
    pub(super) const BETA_2: &str = "beta_2";
    pub(super) const BETA_2_REST: &str = "one_minus_beta_2";
    pub(super) const STEP_SIZE: &str = "step_size";
    pub(super) const ROOT_CORRECTION: &str = "root_of_correction_2";
    pub(super) const EPSILON: &str = "epsilon";
}

/// The settings of one step of `AdamW` (arXiv 1711.05101), as in `torch.optim.AdamW`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// This step's learning rate, ≥ 0.
    pub learning_rate: f64,
    /// The number of this step, from 1, for the bias correction of the moments.
    pub step: u64,
    /// Decay rates of the moments, each in [0, 1).
    pub betas: [f64; 2],
    /// The term added to the root of the second moment, > 0.
    pub epsilon: f64,
    /// Decoupled weight decay, ≥ 0.
    pub weight_decay: f64,
    /// The norm to which larger gradients are scaled down; 0 disables clipping.
    pub max_grad_norm: f64,
}

impl AdamWStep {
    /// Returns the settings of step `step`, from 1, at this learning rate.
    #[must_use]
    pub fn new(settings: &Hyperparameters, learning_rate: f64, step: u64) -> Self {
        Self {
            learning_rate,
            step,
            betas: settings.adam_betas,
            epsilon: settings.adam_epsilon,
            weight_decay: settings.weight_decay,
            max_grad_norm: settings.max_grad_norm,
        }
    }

    /// Returns the optimiser's inputs: the scalars that do not depend on the gradient, computed in 64 bits.
    pub(super) fn scalars(&self) -> [(&'static str, f32); 8] {
        let [beta_1, beta_2] = self.betas;
        let steps = i32::try_from(self.step).unwrap_or(i32::MAX);
        let correction = |beta: f64| 1.0 - beta.powi(steps);
        let max_norm = if self.max_grad_norm > 0.0 { self.max_grad_norm } else { f64::INFINITY };
        [
            (names::MAX_NORM, max_norm),
            (names::DECAY, 1.0 - self.learning_rate * self.weight_decay),
            (names::BETA_1_REST, 1.0 - beta_1),
            (names::BETA_2, beta_2),
            (names::BETA_2_REST, 1.0 - beta_2),
            (names::STEP_SIZE, self.learning_rate / correction(beta_1)),
            (names::ROOT_CORRECTION, correction(beta_2).sqrt()),
            (names::EPSILON, self.epsilon),
        ]
        .map(|(name, number)| {
            #[expect(clippy::cast_possible_truncation, reason = "steps are computed in 32 bits")]
            let number = number as f32;
            (name, number)
        })
    }
}

/// The results of a step.
pub(super) struct Update {
    /// `[]`: the norm of the gradient before clipping.
    pub(super) gradient_norm: Value,
    /// `[elements]` each.
    pub(super) parameters: Value,
    pub(super) first_moment: Value,
    pub(super) second_moment: Value,
}

/// Adds the step from `parameters` by `gradient`, both `[elements]`, to a graph.
pub(super) fn update(
    graph: &mut Graph,
    layout: &ParameterLayout,
    parameters: Value,
    gradient: Value,
) -> Result<Update, ModelError> {
    let (gradient_norm, gradient) = clipped(graph, gradient)?;
    let vector = vec![Dim::Fixed(layout.elements())];
    let first = graph.input(names::FIRST_MOMENT, ElementType::F32, vector.clone());
    let second = graph.input(names::SECOND_MOMENT, ElementType::F32, vector);
    // m + (1 − β₁)(g − m), and β₂ v + (1 − β₂) g².
    let rest = scalar(graph, names::BETA_1_REST);
    let change = graph.sub(gradient, first)?;
    let change = graph.mul(change, rest)?;
    let first_moment = graph.add(first, change)?;
    let (beta, rest) = (scalar(graph, names::BETA_2), scalar(graph, names::BETA_2_REST));
    let kept = graph.mul(second, beta)?;
    let square = graph.square(gradient);
    let new = graph.mul(square, rest)?;
    let second_moment = graph.add(kept, new)?;
    // p · (1 − lr · decay) − lr / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε).
    let root = graph.sqrt(second_moment);
    let correction = scalar(graph, names::ROOT_CORRECTION);
    let corrected = graph.div(root, correction)?;
    let epsilon = scalar(graph, names::EPSILON);
    let denominator = graph.add(corrected, epsilon)?;
    let direction = graph.div(first_moment, denominator)?;
    let size = scalar(graph, names::STEP_SIZE);
    let step = graph.mul(direction, size)?;
    let decayed = decayed(graph, layout, parameters)?;
    let parameters = graph.sub(decayed, step)?;
    Ok(Update { gradient_norm, parameters, first_moment, second_moment })
}

/// Returns the norm of a gradient, and the gradient times min(1, max / (norm + 1e-6)), as
/// `torch.nn.utils.clip_grad_norm_`.
fn clipped(graph: &mut Graph, gradient: Value) -> Result<(Value, Value), ModelError> {
    let square = graph.square(gradient);
    let sum = graph.sum_all(square);
    let norm = graph.sqrt(sum);
    let max_norm = scalar(graph, names::MAX_NORM);
    let divisor = graph.shift(norm, 1e-6);
    let ratio = graph.div(max_norm, divisor)?;
    let one = graph.constant_scalar(1.0);
    let factor = graph.min(ratio, one)?;
    Ok((norm, graph.mul(gradient, factor)?))
}

/// Returns the parameters after weight decay. Biases and norms do not decay.
fn decayed(graph: &mut Graph, layout: &ParameterLayout, parameters: Value) -> Result<Value, ModelError> {
    let decay = scalar(graph, names::DECAY);
    let spared = layout.elements() - layout.decayed();
    if spared == 0 {
        return graph.mul(parameters, decay);
    }
    let parts = graph.split(parameters, 0, &[layout.decayed(), spared])?;
    let decayed = graph.mul(parts[0], decay)?;
    graph.concat(&[decayed, parts[1]], 0)
}

fn scalar(graph: &mut Graph, name: &str) -> Value {
    graph.input(name, ElementType::F32, Vec::new())
}
