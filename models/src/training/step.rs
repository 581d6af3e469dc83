//! One training step as one graph: forward, loss, gradient, clipping, `AdamW`.

use ort::session::SessionInputValue;

use crate::checkpoint::{Checkpoint, Dtype, ModelConfig, Weights};
use crate::error::{InvalidKind, ModelError};
use crate::onnx::autodiff::gradients;
use crate::onnx::{Dim, ElementType, Graph};
use crate::processor::for_training;
use crate::runtime::{CancelFlag, OnnxRuntime, SessionOptions};
use crate::start::Processor;

use super::evaluation::{ModelOutputs, output_head};
use super::forward::{ForwardOptions, forward_pass, names};
use super::losses::{LossInputs, feeds, loss_value};
use super::optimizer::{self, AdamWStep, update};
use super::packing::PackedBatch;
use super::parameters::ParameterLayout;
use super::runner::{Inputs, Outputs, Runner, numbers, take, vector};
use super::spec::StepSpec;

const ACCUMULATED: &str = "accumulated";
const LOSS: &str = "loss";
const SEQUENCE_LOGPROBS: &str = "sequence_logprobs";
const GRADIENT: &str = "gradient";
const GRADIENT_NORM: &str = "gradient_norm";
const NEW_PARAMETERS: &str = "new_parameters";
const NEW_FIRST_MOMENT: &str = "new_adam_m";
const NEW_SECOND_MOMENT: &str = "new_adam_v";

/// The state that training changes. Each vector has the layout's length.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingState {
    /// The trained parameters.
    pub parameters: Vec<f32>,
    /// `AdamW`'s running mean of gradients.
    pub first_moment: Vec<f32>,
    /// `AdamW`'s running mean of squared gradients.
    pub second_moment: Vec<f32>,
}

impl TrainingState {
    /// Returns the state before the first step.
    #[must_use]
    pub fn new(parameters: Vec<f32>) -> Self {
        let zeros = vec![0.0; parameters.len()];
        Self { parameters, first_moment: zeros.clone(), second_moment: zeros }
    }
}

/// The outputs of a micro-batch.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchOutput {
    /// This micro-batch's weighted share of the loss of the step.
    pub loss: f32,
    /// The norm of the accumulated gradient with this micro-batch, before clipping.
    pub gradient_norm: f32,
    /// `[sequences]`: log-probabilities of whole completions, if the loss uses them (sums; means for IPO).
    pub sequence_logprobs: Vec<f32>,
    /// The outputs of the model's head, before the step.
    pub model: ModelOutputs,
}

/// A session that trains a model.
pub struct StepSession {
    runner: Runner,
    spec: StepSpec,
    layout: ParameterLayout,
    state: TrainingState,
    accumulated: Vec<f32>,
}

impl StepSession {
    /// Builds the step's graph, or takes it from the cache of this process, and opens a session. It starts
    /// with `parameters` (see [`ParameterLayout::initial`]) and zero moments.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if changes or vector do not fit the model, [`ModelError::Runtime`] if ONNX
    /// Runtime fails.
    pub fn open(
        runtime: &'static OnnxRuntime,
        checkpoint: &Checkpoint,
        spec: &StepSpec,
        state: TrainingState,
        options: &SessionOptions,
    ) -> Result<Self, ModelError> {
        let place = for_training(runtime, checkpoint, options)?;
        Self::open_on((place, options.threads), runtime, checkpoint, spec, state)
    }

    /// As [`StepSession::open`], on a processor, with the type of matrix products and the number of threads.
    fn open_on(
        place: ((Processor, Dtype), usize),
        runtime: &'static OnnxRuntime,
        checkpoint: &Checkpoint,
        spec: &StepSpec,
        state: TrainingState,
    ) -> Result<Self, ModelError> {
        let Checkpoint { config, weights, .. } = checkpoint;
        let head = spec.loss.head();
        let layout = ParameterLayout::new(config, weights, &spec.trainable, head)?;
        check_state(&layout, &state)?;
        let key = format!("step {spec:?}");
        let build = |products| step_graph(config, weights, &layout, spec, products);
        let runner = Runner::open(runtime, checkpoint, (&key, head), spec.recompute, place, build)?;
        let accumulated = vec![0.0; layout.elements()];
        Ok(Self { runner, spec: spec.clone(), layout, state, accumulated })
    }

    /// Returns the layout of the vectors.
    #[must_use]
    pub fn layout(&self) -> &ParameterLayout {
        &self.layout
    }

    /// Returns the trained parameters and the loss.
    #[must_use]
    pub fn spec(&self) -> &StepSpec {
        &self.spec
    }

    /// Returns the trained parameters and the moments, after the last step.
    #[must_use]
    pub fn state(&self) -> &TrainingState {
        &self.state
    }

    /// Returns the accumulated gradient of the micro-batches since the last step.
    #[must_use]
    pub fn gradient(&self) -> &[f32] {
        &self.accumulated
    }

    /// Restores a state. Micro-batches since the last step are discarded.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if a vector does not have the layout's length.
    pub fn restore(&mut self, state: TrainingState) -> Result<(), ModelError> {
        check_state(&self.layout, &state)?;
        self.state = state;
        self.accumulated.fill(0.0);
        Ok(())
    }

    /// Adds the gradient of a micro-batch to the accumulated gradient.
    ///
    /// # Errors
    /// As [`StepSession::step`].
    pub fn accumulate(
        &mut self,
        batch: &PackedBatch,
        inputs: &LossInputs,
        cancel: &CancelFlag,
    ) -> Result<BatchOutput, ModelError> {
        // The step's results are not read.
        let unused = AdamWStep {
            learning_rate: 0.0,
            step: 1,
            betas: [0.0, 0.0],
            epsilon: 1.0,
            weight_decay: 0.0,
            max_grad_norm: 0.0,
        };
        let (output, mut outputs) = self.run(batch, inputs, &unused, cancel)?;
        self.accumulated = taken(&mut outputs, GRADIENT, &self.layout)?;
        Ok(output)
    }

    /// Takes a step by the gradient of this micro-batch and the accumulated ones.
    ///
    /// # Errors
    /// [`ModelError::Cancelled`]. [`ModelError::Invalid`] for a batch that the model cannot run, inputs that
    /// do not fit it, or a loss or gradient that is not finite. [`ModelError::Runtime`] if the run fails. An
    /// error leaves the state unchanged.
    pub fn step(
        &mut self,
        batch: &PackedBatch,
        inputs: &LossInputs,
        adam: &AdamWStep,
        cancel: &CancelFlag,
    ) -> Result<BatchOutput, ModelError> {
        let (output, mut outputs) = self.run(batch, inputs, adam, cancel)?;
        let state = TrainingState {
            parameters: taken(&mut outputs, NEW_PARAMETERS, &self.layout)?,
            first_moment: taken(&mut outputs, NEW_FIRST_MOMENT, &self.layout)?,
            second_moment: taken(&mut outputs, NEW_SECOND_MOMENT, &self.layout)?,
        };
        self.state = state;
        self.accumulated.fill(0.0);
        Ok(output)
    }

    fn run(
        &mut self,
        batch: &PackedBatch,
        inputs: &LossInputs,
        adam: &AdamWStep,
        cancel: &CancelFlag,
    ) -> Result<(BatchOutput, Outputs), ModelError> {
        let feeds = feeds(self.spec.loss, batch, inputs)?;
        let named = (|| -> ort::Result<Inputs<'_>> {
            let mut named = vec![
                vector(names::PARAMETERS, &self.state.parameters)?,
                vector(optimizer::names::FIRST_MOMENT, &self.state.first_moment)?,
                vector(optimizer::names::SECOND_MOMENT, &self.state.second_moment)?,
                vector(ACCUMULATED, &self.accumulated)?,
            ];
            for feed in feeds {
                named.push(numbers(feed.name, &feed.shape, feed.numbers)?);
            }
            for (name, number) in adam.scalars() {
                named.push(scalar(name, number)?);
            }
            Ok(named)
        })();
        let named =
            named.map_err(|error| ModelError::Runtime(format!("failed to pass the state: {error}")))?;
        let mut outputs = self.runner.run(batch, named, cancel)?;
        let output = BatchOutput {
            loss: first(&mut outputs, LOSS),
            gradient_norm: first(&mut outputs, GRADIENT_NORM),
            sequence_logprobs: take(&mut outputs, SEQUENCE_LOGPROBS),
            model: ModelOutputs::take(&mut outputs),
        };
        for (what, number) in [("loss", output.loss), ("gradient's norm", output.gradient_norm)] {
            if !number.is_finite() {
                return Err(ModelError::invalid(
                    InvalidKind::NotFinite,
                    format!(
                        "the {what} is {number}, not a finite number: lower the learning rate, or check the examples"
                    ),
                ));
            }
        }
        Ok((output, outputs))
    }
}

fn scalar(name: &str, number: f32) -> ort::Result<(String, SessionInputValue<'static>)> {
    numbers(name, &[], vec![number])
}

fn first(outputs: &mut Outputs, name: &str) -> f32 {
    take(outputs, name).first().copied().unwrap_or(f32::NAN)
}

fn taken(outputs: &mut Outputs, name: &str, layout: &ParameterLayout) -> Result<Vec<f32>, ModelError> {
    let numbers = take(outputs, name);
    layout.check_length(&numbers)?;
    Ok(numbers)
}

fn check_state(layout: &ParameterLayout, state: &TrainingState) -> Result<(), ModelError> {
    let vectors = [&state.parameters, &state.first_moment, &state.second_moment];
    vectors.into_iter().try_for_each(|vector| layout.check_length(vector))
}

/// Forward pass, loss, gradient and update.
pub(super) fn step_graph(
    config: &ModelConfig,
    weights: &Weights,
    layout: &ParameterLayout,
    spec: &StepSpec,
    products: ElementType,
) -> Result<Graph, ModelError> {
    let (loss, recompute) = (spec.loss, spec.recompute);
    let options = ForwardOptions { head: loss.head(), recompute, report: loss.report(), products };
    let mut pass = forward_pass(config, weights, layout, options)?;
    let graph = &mut pass.graph;
    let loss = loss_value(graph, loss, &pass.outputs)?;
    let gradient = gradients(graph, loss.loss, &[pass.parameters])?;
    let accumulated = graph.input(ACCUMULATED, ElementType::F32, vec![Dim::Fixed(layout.elements())]);
    let gradient = graph.add(accumulated, gradient[0])?;
    let update = update(graph, layout, pass.parameters, gradient)?;
    graph.output(loss.loss, LOSS);
    if let Some(logprobs) = loss.sequence_logprobs {
        graph.output(logprobs, SEQUENCE_LOGPROBS);
    }
    output_head(graph, &pass.outputs);
    graph.output(gradient, GRADIENT);
    graph.output(update.gradient_norm, GRADIENT_NORM);
    graph.output(update.parameters, NEW_PARAMETERS);
    graph.output(update.first_moment, NEW_FIRST_MOMENT);
    graph.output(update.second_moment, NEW_SECOND_MOMENT);
    Ok(pass.graph)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use dissent_domain::training::LoraSettings;

    use super::*;
    use crate::checkpoint::{OpenOptions, ReadingRules};
    use crate::required::required;
    use crate::training::{LoraPlan, Loss, Trainable, TrainingSequence};

    /// The gradient of a step on the CPU, with matrix products of this type.
    fn gradient(runtime: &'static OnnxRuntime, trainable: &Trainable, products: Dtype) -> Vec<f32> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/llama");
        let cache = tempfile::tempdir().expect("a folder");
        let cache_dir = cache.path().to_owned();
        let options = OpenOptions { layers: None, cache_dir, reading: ReadingRules::default() };
        let checkpoint = Checkpoint::open(&folder, &options).expect("the checkpoint opens");
        let spec = StepSpec { trainable: trainable.clone(), loss: Loss::Sft, recompute: true };
        let Checkpoint { config, weights, .. } = &checkpoint;
        let layout = ParameterLayout::new(config, weights, trainable, spec.loss.head()).expect("a layout");
        let mut parameters = layout.initial(&checkpoint, None, None, 3).expect("parameters");
        if matches!(trainable, Trainable::Lora(_)) {
            // B is zero at first, which would hide the gradient of A.
            parameters.iter_mut().for_each(|number| *number += 0.01);
        }
        let place = ((Processor::Cpu, products), 1);
        let state = TrainingState::new(parameters);
        let mut session = StepSession::open_on(place, runtime, &checkpoint, &spec, state).expect("a session");
        let ids = vec![3, 9, 4, 17, 5, 8];
        let sequence = TrainingSequence { ids, completion_start: 2, skipped: Vec::new() };
        let batch = PackedBatch::new(&[sequence], spec.loss.head()).expect("a batch");
        let inputs = LossInputs::Sft { weights: vec![0.25; 4] };
        session.accumulate(&batch, &inputs, &CancelFlag::new()).expect("a gradient");
        session.gradient().to_vec()
    }

    #[test]
    fn products_of_16_bits_change_a_gradient_by_their_rounding_only() {
        let Some(runtime) = required(OnnxRuntime::load(None)) else { return };
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/llama/config.json");
        let config = ModelConfig::from_json(&std::fs::read_to_string(folder).expect("a configuration"));
        let lora = LoraSettings { r: 4, alpha: 8.0, targets: Vec::new() };
        let lora = Trainable::Lora(LoraPlan::new(&config, &lora).expect("a plan"));
        for trainable in [lora, Trainable::Full] {
            let exact = gradient(runtime, &trainable, Dtype::F32);
            let rounded = gradient(runtime, &trainable, Dtype::F16);
            let square = |numbers: &mut dyn Iterator<Item = f32>| -> f64 {
                numbers.map(|number| f64::from(number).powi(2)).sum()
            };
            let pairs = exact.iter().zip(&rounded);
            let difference = square(&mut pairs.map(|(x, y)| x - y)) / square(&mut exact.iter().copied());
            let difference = difference.sqrt();
            // The CPU converts operands back to 32 bits, so that only constant weights are rounded there.
            let rounds = matches!(trainable, Trainable::Lora(_));
            assert!(difference < 3e-3 && (difference > 1e-6) == rounds, "{trainable:?}: {difference}");
        }
    }
}
