//! The memory of generation and scoring: a decoder with a key-value cache.

use super::session::{FLOAT, add_session};
use super::{MemoryPart, StepMemory};
use crate::adapter::LoraAdapter;
use crate::arch::{AdapterPlace, Head, cache_bytes_per_token, decoder_graph};
use crate::checkpoint::{Checkpoint, Dtype};
use crate::error::ModelError;
use crate::generation::rows_on_cpu;
use crate::onnx::ElementType;
use crate::onnx::graph::Graph;
use crate::onnx::memory::{Arena, GraphMemory, NamedSizes, Outputs};
use crate::scoring::LOGIT_ROWS;
use crate::session::CHUNK;
use crate::start::Layout;

/// The longest sequences and the number of rows of a generation or a scoring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoding {
    /// The longest prompt, in tokens.
    pub prompt: usize,
    /// The longest completion, in tokens.
    pub completion: usize,
    /// Completions that may be decoded together. Scoring does not use it.
    pub rows: usize,
    /// The largest number of different tokens in all prompts and completions.
    pub distinct_tokens: usize,
}

impl Decoding {
    fn capacity(self, checkpoint: &Checkpoint) -> usize {
        (self.prompt + self.completion).min(checkpoint.config.context_length.min(crate::arch::POSITIONS_MAX))
    }
}

/// The sizes of one run of a decoder's graph.
struct Run {
    batch: usize,
    seq: usize,
    selected: usize,
    capacity: usize,
}

/// Predicts the memory of [`crate::generation::Generator`].
///
/// # Errors
/// As [`decoder_graph`].
pub fn generation(
    checkpoint: &Checkpoint,
    adapter: Option<&LoraAdapter>,
    decoding: Decoding,
) -> Result<StepMemory, ModelError> {
    let (mut memory, packed_from) = open(checkpoint, adapter, (Head::Vocabulary, Layout::Packed), decoding)?;
    let opened = memory.total();
    let Decoding { prompt, rows, .. } = decoding;
    let capacity = decoding.capacity(checkpoint);
    let token = cache_bytes_per_token(&checkpoint.config, Dtype::F32);
    let rows = rows_on_cpu(rows, capacity * token);
    memory.add(MemoryPart::Cache, token * (rows * capacity + prompt));
    // The output of a step and the copy from which tokens are sampled, and the same of the prompt.
    memory.add(MemoryPart::Logits, FLOAT * checkpoint.config.vocab_size * (2 * rows + 2));
    let graph = graph(checkpoint, adapter, AdapterPlace::Constants, Head::Vocabulary)?;
    let runs = [
        Run { batch: 1, seq: prompt.min(CHUNK), selected: 1, capacity: prompt },
        Run { batch: rows, seq: 1, selected: rows, capacity },
    ];
    memory.add(MemoryPart::Activations, replay(&graph, &runs)?);
    // The peak is the last packing, if runs take less than the matrix from which it copies.
    let ran = usize::try_from(memory.total() - opened).unwrap_or(usize::MAX);
    memory.add(MemoryPart::MappedWeights, packed_from.saturating_sub(ran));
    Ok(memory)
}

/// Predicts the memory of [`crate::scoring::PolicyScorer`].
///
/// # Errors
/// As [`decoder_graph`].
pub fn policy_scoring(
    checkpoint: &Checkpoint,
    adapter: Option<&LoraAdapter>,
    decoding: Decoding,
) -> Result<StepMemory, ModelError> {
    let (mut memory, _) = open(checkpoint, adapter, (Head::Vocabulary, Layout::InPlace), decoding)?;
    let capacity = decoding.capacity(checkpoint);
    let token = cache_bytes_per_token(&checkpoint.config, Dtype::F32);
    memory.add(MemoryPart::Cache, token * capacity);
    let selected = decoding.completion.clamp(1, LOGIT_ROWS);
    memory.add(MemoryPart::Logits, FLOAT * checkpoint.config.vocab_size * (selected + 1));
    let graph = graph(checkpoint, adapter, AdapterPlace::Inputs, Head::Vocabulary)?;
    let runs = [
        Run { batch: 1, seq: decoding.prompt.min(CHUNK), selected: 1, capacity },
        Run { batch: 1, seq: selected, selected, capacity },
    ];
    memory.add(MemoryPart::Activations, replay(&graph, &runs)?);
    Ok(memory)
}

/// Predicts the memory of [`crate::scoring::RewardModel`]. `decoding` has the prompt and completion that
/// together are the longest sequence.
///
/// # Errors
/// As [`decoder_graph`].
pub fn reward_scoring(
    checkpoint: &Checkpoint,
    adapter: Option<&LoraAdapter>,
    decoding: Decoding,
) -> Result<StepMemory, ModelError> {
    let (mut memory, _) = open(checkpoint, adapter, (Head::Score, Layout::InPlace), decoding)?;
    let capacity = decoding.capacity(checkpoint);
    memory.add(MemoryPart::Cache, cache_bytes_per_token(&checkpoint.config, Dtype::F32) * capacity);
    let graph = graph(checkpoint, adapter, AdapterPlace::Inputs, Head::Score)?;
    let runs = [Run { batch: 1, seq: capacity.min(CHUNK), selected: 1, capacity }];
    memory.add(MemoryPart::Activations, replay(&graph, &runs)?);
    Ok(memory)
}

fn graph(
    checkpoint: &Checkpoint,
    adapter: Option<&LoraAdapter>,
    place: AdapterPlace,
    head: Head,
) -> Result<Graph, ModelError> {
    let Checkpoint { config, weights, .. } = checkpoint;
    Ok(decoder_graph(config, weights, adapter, place, head, ElementType::F32)?.graph)
}

/// Returns the memory of the program with an open session, and what [`add_session`] returns.
fn open(
    checkpoint: &Checkpoint,
    adapter: Option<&LoraAdapter>,
    (head, layout): (Head, Layout),
    decoding: Decoding,
) -> Result<(StepMemory, usize), ModelError> {
    let graph = graph(checkpoint, adapter, layout.adapter_place(), head)?;
    let mut memory = StepMemory::of_program(checkpoint.tokenizer.vocabulary_size());
    let packed_from = add_session(&mut memory, &graph, layout, decoding.distinct_tokens);
    Ok((memory, packed_from))
}

/// Returns the bytes of the arena after these runs.
fn replay(graph: &Graph, runs: &[Run]) -> Result<usize, ModelError> {
    let (plan, mut arena) = (GraphMemory::plan(graph), Arena::default());
    for run in runs {
        let sizes = NamedSizes::from([
            ("batch", run.batch),
            ("seq", run.seq),
            ("selected", run.selected),
            ("capacity", run.capacity),
            ("rows", run.batch * run.seq),
        ]);
        plan.run(&sizes, Outputs::Bound, &mut arena)?;
    }
    Ok(arena.touched())
}
