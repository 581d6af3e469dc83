//! Evaluation without a gradient: log-probabilities, values and scores of a batch under any parameter vector.
//!
//! The same session serves the policy and its reference: they differ in the vector only.

use crate::checkpoint::{Checkpoint, ModelConfig, Weights};
use crate::error::{InvalidKind, ModelError};
use crate::onnx::Graph;
use crate::processor::for_training;
use crate::runtime::{CancelFlag, OnnxRuntime, SessionOptions};

use super::forward::{ForwardOptions, HeadOutputs, forward_pass, names};
use super::packing::PackedBatch;
use super::parameters::ParameterLayout;
use super::runner::{Outputs, Runner, take, vector};
use super::spec::{PositionReport, Trainable, TrainingHead};

const SCORES: &str = "scores";
const LOGPROBS: &str = "logprobs";
const VALUES: &str = "values";
const ENTROPY: &str = "entropy";
const HITS: &str = "hits";

/// The outputs of a model's head for a batch. Outputs that the head does not have are empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelOutputs {
    /// `[sequences]`.
    pub scores: Vec<f32>,
    /// `[selected]`: log π(yₜ | x, y₍<ₜ₎) of each completion token, in nats.
    pub logprobs: Vec<f32>,
    /// `[selected]`: the value of the position before each completion token.
    pub values: Vec<f32>,
    /// `[selected]`: the entropy of the policy there, in nats.
    pub entropy: Vec<f32>,
    /// `[selected]`: 1 if no token is more likely than the completion's, else 0.
    pub hits: Vec<f32>,
}

impl ModelOutputs {
    pub(super) fn take(outputs: &mut Outputs) -> Self {
        Self {
            scores: take(outputs, SCORES),
            logprobs: take(outputs, LOGPROBS),
            values: take(outputs, VALUES),
            entropy: take(outputs, ENTROPY),
            hits: take(outputs, HITS),
        }
    }

    /// Whether every number is finite.
    fn is_finite(&self) -> bool {
        let all = [&self.scores, &self.logprobs, &self.values, &self.entropy, &self.hits];
        all.into_iter().flatten().all(|number| number.is_finite())
    }
}

/// Makes the head's outputs outputs of the graph.
pub(super) fn output_head(graph: &mut Graph, outputs: &HeadOutputs) {
    let named = [
        (outputs.scores, SCORES),
        (outputs.logprobs, LOGPROBS),
        (outputs.values, VALUES),
        (outputs.entropy, ENTROPY),
        (outputs.hits, HITS),
    ];
    for (value, name) in named {
        if let Some(value) = value {
            graph.output(value, name);
        }
    }
}

/// A model's forward pass over packed sequences.
pub struct EvalSession {
    runner: Runner,
    layout: ParameterLayout,
}

impl EvalSession {
    /// Builds the graph, or takes it from the cache of this process, and opens a session. `report` selects
    /// the additional outputs per position.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if the changes do not fit the model, [`ModelError::Runtime`] if ONNX Runtime
    /// fails.
    pub fn open(
        runtime: &'static OnnxRuntime,
        checkpoint: &Checkpoint,
        trainable: &Trainable,
        head: TrainingHead,
        report: PositionReport,
        options: &SessionOptions,
    ) -> Result<Self, ModelError> {
        let Checkpoint { config, weights, .. } = checkpoint;
        let layout = ParameterLayout::new(config, weights, trainable, head)?;
        let key = format!("evaluation {trainable:?} {head:?} {report:?}");
        let build = |products| {
            let options = ForwardOptions { head, recompute: false, report, products };
            eval_graph(config, weights, &layout, options)
        };
        let place = for_training(runtime, checkpoint, options)?;
        let runner = Runner::open(runtime, checkpoint, (&key, head), false, (place, options.threads), build)?;
        Ok(Self { runner, layout })
    }

    /// Returns the layout of the parameter vector.
    #[must_use]
    pub fn layout(&self) -> &ParameterLayout {
        &self.layout
    }

    /// Returns the outputs of the model for a batch under these parameters. (For the model without any
    /// low-rank change, see [`ParameterLayout::without_change`].)
    ///
    /// # Errors
    /// [`ModelError::Cancelled`]. [`ModelError::Invalid`] for a vector of another length, a batch that the
    /// model cannot run, or outputs that are not finite. [`ModelError::Runtime`] if the run fails.
    pub fn evaluate(
        &mut self,
        parameters: &[f32],
        batch: &PackedBatch,
        cancel: &CancelFlag,
    ) -> Result<ModelOutputs, ModelError> {
        self.layout.check_length(parameters)?;
        let parameters = vector(names::PARAMETERS, parameters)
            .map_err(|error| ModelError::Runtime(format!("failed to pass the parameters: {error}")))?;
        let outputs = ModelOutputs::take(&mut self.runner.run(batch, vec![parameters], cancel)?);
        if !outputs.is_finite() {
            return Err(ModelError::invalid(
                InvalidKind::NotFinite,
                "an output of the model is not finite: the training has diverged; \
                 return to a checkpoint and lower the learning rate",
            ));
        }
        Ok(outputs)
    }
}

pub(super) fn eval_graph(
    config: &ModelConfig,
    weights: &Weights,
    layout: &ParameterLayout,
    options: ForwardOptions,
) -> Result<Graph, ModelError> {
    let mut pass = forward_pass(config, weights, layout, options)?;
    output_head(&mut pass.graph, &pass.outputs);
    Ok(pass.graph)
}
