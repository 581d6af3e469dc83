//! The memory of trainings on examples, predicted before anything is loaded.

use std::collections::BTreeSet;

use super::data::TrainingData;
use super::data_order::DataPlan;
use super::evaluation::eval_graph;
use super::forward::ForwardOptions;
use super::packing::PackedBatch;
use super::parameters::ParameterLayout;
use super::spec::{PositionReport, StepSpec, TrainingHead};
use super::step::step_graph;
use super::trainer::{TrainingSetup, trainable};
use crate::adapter::LoraAdapter;
use crate::checkpoint::{Checkpoint, ModelConfig};
use crate::error::ModelError;
use crate::memory::{FLOAT, MemoryPart, StepMemory, add_session};
use crate::onnx::ElementType;
use crate::onnx::graph::Graph;
use crate::onnx::memory::{Arena, GraphMemory, NamedSizes, Outputs};
use crate::start::Layout;

/// The number of steps whose micro-batches are looked at.
const STEPS_MAX: u64 = 1000;
/// The vectors that a checkpoint of a training takes while it is written: three, each as numbers, as bytes
/// and in the file's bytes.
const CHECKPOINT_VECTORS: usize = 9;
/// The number of shapes whose runs are replayed. Others are smaller.
const SHAPES_MAX: usize = 6;

/// The sizes of a micro-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchShape {
    /// Tokens of the longest sequence.
    pub longest: usize,
    /// Tokens of all sequences.
    pub tokens: usize,
    /// Tokens that the head reads.
    pub selected: usize,
    /// Sequences; a pair has two.
    pub sequences: usize,
}

impl BatchShape {
    fn of(batch: &PackedBatch) -> Self {
        let (longest, tokens) = (batch.longest(), batch.tokens());
        Self { longest, tokens, selected: batch.selected(), sequences: batch.sequences() }
    }

    fn sizes(self, config: &ModelConfig) -> NamedSizes {
        let Self { sequences, tokens, longest, selected } = self;
        let (heads, keys) = (config.heads, config.kv_heads);
        NamedSizes::from([
            ("tokens", tokens),
            ("selected", selected),
            ("sequences", sequences),
            ("pairs", sequences / 2),
            ("longest", longest),
            ("query_rows", heads / keys.max(1) * longest),
            ("token_queries", tokens * heads),
            ("token_keys", tokens * keys),
            ("query_columns", heads * longest),
            ("query_places", sequences * heads * longest),
            ("key_columns", keys * longest),
            ("key_places", sequences * keys * longest),
        ])
    }
}

/// Predicts the memory of [`super::Trainer`] with these examples.
///
/// # Errors
/// [`ModelError::Invalid`] for settings or examples that the training would refuse.
pub fn trainer(
    checkpoint: &Checkpoint,
    from: Option<&LoraAdapter>,
    setup: &TrainingSetup,
    data: &TrainingData,
) -> Result<StepMemory, ModelError> {
    data.check(setup.objective.loss())?;
    let plan = DataPlan::new(data.len(), &setup.settings, setup.order);
    let padding = checkpoint.classifier_padding();
    let (mut shapes, mut tokens) = (Vec::new(), BTreeSet::new());
    for step in 0..plan.steps(&setup.settings).min(STEPS_MAX) {
        for places in plan.micro_batches(step) {
            let batch = setup.objective.batch(data, &places, padding)?;
            tokens.extend(batch.ids.iter().copied());
            shapes.push(BatchShape::of(&batch));
        }
    }
    shapes.sort_unstable();
    shapes.dedup();
    // The longest sequences have the largest attention, the most tokens the largest hidden states.
    let mut largest: Vec<BatchShape> = shapes.iter().rev().take(SHAPES_MAX / 2).copied().collect();
    shapes.sort_unstable_by_key(|shape| (shape.tokens, shape.selected));
    largest.extend(shapes.iter().rev().take(SHAPES_MAX / 2));
    predicted(checkpoint, &sessions(checkpoint, from, setup)?, &largest, tokens.len())
}

/// Predicts the memory of [`super::Trainer`] whose micro-batches are at most of this shape.
///
/// # Errors
/// As [`trainer`].
pub fn trainer_of_shape(
    checkpoint: &Checkpoint,
    from: Option<&LoraAdapter>,
    setup: &TrainingSetup,
    batch: BatchShape,
) -> Result<StepMemory, ModelError> {
    predicted(checkpoint, &sessions(checkpoint, from, setup)?, &[batch], checkpoint.config.vocab_size)
}

/// The sessions of a training.
pub(crate) struct Sessions {
    /// The specification of the steps.
    pub(crate) spec: StepSpec,
    /// The additional outputs of the session of the reference; `None` without one.
    pub(crate) reference: Option<PositionReport>,
}

fn sessions(
    checkpoint: &Checkpoint,
    from: Option<&LoraAdapter>,
    setup: &TrainingSetup,
) -> Result<Sessions, ModelError> {
    let (loss, recompute) = (setup.objective.loss(), setup.settings.recompute);
    let spec = StepSpec { trainable: trainable(checkpoint, from, &setup.settings)?, loss, recompute };
    Ok(Sessions { spec, reference: setup.objective.has_reference().then(|| loss.report()) })
}

/// Predicts the memory of sessions that run these micro-batches. `tokens` is the number of different tokens.
pub(crate) fn predicted(
    checkpoint: &Checkpoint,
    sessions: &Sessions,
    batches: &[BatchShape],
    tokens: usize,
) -> Result<StepMemory, ModelError> {
    let (config, weights) = (&checkpoint.config, &checkpoint.weights);
    let Sessions { spec, reference } = sessions;
    let (head, recompute, products) = (spec.loss.head(), spec.recompute, ElementType::F32);
    let layout = ParameterLayout::new(config, weights, &spec.trainable, head)?;
    let vector = FLOAT * layout.elements();
    let mut memory = StepMemory::of_program(checkpoint.tokenizer.vocabulary_size());
    // The parameters at the start; the inputs of a step count those of now, both moments and the gradient.
    memory.add(MemoryPart::Parameters, (1 + CHECKPOINT_VECTORS) * vector);
    let graph = step_graph(config, weights, &layout, spec, products)?;
    add_session(&mut memory, &graph, Layout::Training { recompute }, tokens);
    add_runs(&mut memory, &graph, config, batches, 4 * vector)?;
    if let Some(report) = *reference {
        let options = ForwardOptions { head, recompute: false, report, products };
        let graph = eval_graph(config, weights, &layout, options)?;
        add_session(&mut memory, &graph, Layout::Training { recompute: false }, tokens);
        add_runs(&mut memory, &graph, config, batches, vector)?;
    }
    Ok(memory)
}

/// Adds the runs of a session. `vectors` are the bytes of its inputs that depend on parameters.
fn add_runs(
    memory: &mut StepMemory,
    graph: &Graph,
    config: &ModelConfig,
    batches: &[BatchShape],
    vectors: usize,
) -> Result<(), ModelError> {
    let (plan, mut arena) = (GraphMemory::plan(graph), Arena::default());
    let mut inputs = 0;
    // The second pass finds the free chunks of the first one.
    for batch in batches.iter().chain(batches) {
        let sizes = batch.sizes(config);
        plan.run(&sizes, Outputs::Allocated, &mut arena)?;
        inputs = inputs.max(plan.input_bytes(&sizes)?);
    }
    memory.add(MemoryPart::Parameters, vectors);
    memory.add(MemoryPart::Inputs, inputs.saturating_sub(vectors));
    memory.add(MemoryPart::Activations, arena.touched());
    Ok(())
}

/// Returns the largest micro-batch of sequences of at most `longest` tokens, of which the head reads at most
/// `read` each.
#[must_use]
pub fn largest_batch(head: TrainingHead, sequences: usize, longest: usize, read: usize) -> BatchShape {
    let read = match head {
        TrainingHead::Score => 1,
        TrainingHead::Vocabulary | TrainingHead::VocabularyAndValue => read,
    };
    BatchShape { longest, tokens: sequences * longest, selected: sequences * read, sequences }
}
