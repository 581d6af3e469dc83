//! A decoder in ONNX Runtime: a session, its key-value caches, and single steps.

mod kv_cache;

use std::sync::Arc;

use ort::memory::Allocator;
use ort::session::Session;
use ort::session::{NoSelectedOutputs, RunOptions};
use ort::value::Tensor;

use crate::adapter::{Adapters, LoraAdapter, LoraSlots, ScoreHead};
use crate::arch::{self, AdapterPlace, Head, POSITIONS_MAX, cache_bytes_per_token, decoder_graph, names};
use crate::checkpoint::{Checkpoint, Dtype, ModelConfig};
use crate::error::{InvalidKind, ModelError};
use crate::onnx::export::export;
use crate::processor::for_inference;
use crate::runtime::{CancelFlag, OnnxRuntime, SessionOptions};
use crate::start::{Layout, Processor, start};
use kv_cache::{RowMover, size};

pub(crate) use kv_cache::{KvCache, RowCopy};

/// A decoder that is ready to run.
pub(crate) struct DecoderSession {
    session: Session,
    config: ModelConfig,
    processor: Processor,
    /// The type of the cache's numbers.
    dtype: Dtype,
    /// Moves the rows of caches that the CPU cannot read as 32-bit floats.
    mover: Option<RowMover>,
    needs_positions: bool,
    needs_targets: bool,
    output_width: usize,
    /// Inputs that are the same in every run: the adapter's weights.
    fixed: Vec<(String, Tensor<f32>)>,
    swappable: Option<SwappableAdapters>,
    /// The name of the model in errors.
    name: String,
}

/// The adapters of a session with swappable adapters.
struct SwappableAdapters {
    slots: LoraSlots,
    head: Head,
    /// The checkpoint's own score head.
    own_score: Option<ScoreHead>,
}

/// The inputs of one run: the same number of new tokens for every row.
pub(crate) struct Step<'a> {
    /// The new tokens, row by row.
    pub(crate) ids: &'a [u32],
    /// The number of cached tokens of each row.
    pub(crate) past: &'a [usize],
    /// The positions, among all `ids`, for which the head is computed.
    pub(crate) selected: &'a [usize],
    /// The token whose log-probability is computed at each selected position, for [`Head::Logprobs`].
    pub(crate) targets: &'a [u32],
}

impl DecoderSession {
    pub(crate) fn open(
        runtime: &'static OnnxRuntime,
        checkpoint: &Checkpoint,
        adapters: Adapters<'_>,
        head: Head,
        layout: Layout,
        options: &SessionOptions,
    ) -> Result<Self, ModelError> {
        if head != Head::Score {
            let (Adapters::Fixed(adapter) | Adapters::Swappable(_, adapter)) = adapters;
            checkpoint.check_policy(adapter)?;
        }
        let (slots, adapter) = match adapters {
            Adapters::Swappable(slots, first) => (slots, first),
            Adapters::Fixed(adapter) => {
                let place = layout.adapter_place();
                return Self::start(runtime, checkpoint, adapter, place, head, layout, options);
            }
        };
        let (labels, hidden) = (1, checkpoint.config.hidden_size);
        let own_score = match (head, checkpoint.config.num_labels) {
            (Head::Score, Some(labels)) => {
                Some(ScoreHead { weight: checkpoint.weights.read_f32(names::SCORE)?, labels, hidden })
            }
            (Head::Score | Head::Vocabulary | Head::Logprobs, _) => None,
        };
        let score = (head == Head::Score)
            .then(|| own_score.clone().unwrap_or(ScoreHead { weight: vec![0.0; hidden], labels, hidden }));
        let room = slots.fill(None, score)?;
        let place = AdapterPlace::Inputs;
        let mut session = Self::start(runtime, checkpoint, Some(&room), place, head, layout, options)?;
        session.swappable = Some(SwappableAdapters { slots: slots.clone(), head, own_score });
        session.set_adapter(adapter)?;
        Ok(session)
    }

    /// Replaces the current adapter; `None` is the checkpoint without an adapter. Existing caches keep the
    /// adapter that they were made with.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if the session has no swappable adapters, the adapter does not fit, or a score
    /// head is missing.
    pub(crate) fn set_adapter(&mut self, adapter: Option<&LoraAdapter>) -> Result<(), ModelError> {
        let Some(SwappableAdapters { slots, head, own_score }) = &self.swappable else {
            return Err(ModelError::invalid(
                InvalidKind::Unsupported,
                format!("the session of {} has no swappable adapters", self.name),
            ));
        };
        let score = match (head, adapter.and_then(|adapter| adapter.score.as_ref()), own_score) {
            (Head::Vocabulary | Head::Logprobs, ..) => None,
            (Head::Score, Some(score), _) | (Head::Score, None, Some(score)) => Some(score.clone()),
            (Head::Score, None, None) => {
                return Err(ModelError::invalid(
                    InvalidKind::MissingTensor,
                    format!(
                        "neither {} nor the adapter has a score head: a reward model needs one",
                        self.name
                    ),
                ));
            }
        };
        if let Some(score) = &score
            && (score.labels, score.hidden) != (self.output_width, self.config.hidden_size)
        {
            return Err(ModelError::invalid(
                InvalidKind::ShapeMismatch,
                format!(
                    "the adapter does not fit the session: its score head has shape [{}, {}] instead of [{}, {}]",
                    score.labels, score.hidden, self.output_width, self.config.hidden_size
                ),
            ));
        }
        let filled = slots.fill(adapter, score)?;
        self.fixed = adapter_inputs(&filled, AdapterPlace::Inputs, *head)?;
        Ok(())
    }

    fn start(
        runtime: &'static OnnxRuntime,
        checkpoint: &Checkpoint,
        adapter: Option<&LoraAdapter>,
        place: AdapterPlace,
        head: Head,
        layout: Layout,
        options: &SessionOptions,
    ) -> Result<Self, ModelError> {
        // Errors are recorded in events, which must not depend on the location of a model.
        let source = &checkpoint.source;
        let name = source.file_name().unwrap_or(source.as_os_str()).to_string_lossy().into_owned();
        let failed =
            |error: String| ModelError::Runtime(format!("failed to start a session of {name}: {error}"));
        let (processor, dtype) = for_inference(runtime, checkpoint, options)?;
        let (config, weights) = (&checkpoint.config, &checkpoint.weights);
        let built = decoder_graph(config, weights, adapter, place, head, dtype.into())?;
        let model = export(&built.graph)?;
        let session = start(runtime, &model, layout, processor, options.threads).map_err(failed)?;
        let in_place = (processor, dtype) == (Processor::Cpu, Dtype::F32);
        let mover = (!in_place).then(|| RowMover::new(runtime, config, dtype, processor)).transpose()?;
        Ok(Self {
            session,
            processor,
            dtype,
            mover,
            needs_targets: head == Head::Logprobs,
            config: config.clone(),
            needs_positions: built.needs_positions,
            output_width: built.output_width,
            fixed: adapter
                .map(|adapter| adapter_inputs(adapter, place, head))
                .transpose()?
                .unwrap_or_default(),
            swappable: None,
            name,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Width of the output: the vocabulary, or the number of labels.
    pub(crate) fn output_width(&self) -> usize {
        self.output_width
    }

    /// Returns the longest sequence that can be run, in tokens.
    pub(crate) fn positions_max(&self) -> usize {
        self.config.context_length.min(POSITIONS_MAX)
    }

    /// Returns an empty cache.
    pub(crate) fn cache(&mut self, rows: usize, capacity: usize) -> Result<KvCache, ModelError> {
        self.new_cache(rows, capacity).map_err(|error| {
            let mebibytes = (rows * capacity * self.cache_bytes_per_token()) >> 20;
            ModelError::Runtime(format!(
                "failed to make a key-value cache of {mebibytes} MiB for {}: {error}",
                self.name
            ))
        })
    }

    fn new_cache(&mut self, rows: usize, capacity: usize) -> ort::Result<KvCache> {
        let mut binding = self.session.create_binding()?;
        for (name, tensor) in &self.fixed {
            binding.bind_input(name, tensor)?;
        }
        let allocator = self.processor.allocator(&self.session)?;
        let mover = self.mover.as_mut();
        KvCache::new(binding, &allocator, mover, &self.config, self.dtype, [rows, capacity])
    }

    /// Returns the size of the cache of one token, in bytes.
    pub(crate) fn cache_bytes_per_token(&self) -> usize {
        cache_bytes_per_token(&self.config, self.dtype)
    }

    /// Whether the session computes on the CPU.
    pub(crate) fn is_on_cpu(&self) -> bool {
        self.processor == Processor::Cpu
    }

    /// Copies rows of another cache of this session into a cache. Where
    /// [`DecoderSession::copies_whole_rows`], both must have the same capacity.
    ///
    /// # Errors
    /// [`ModelError::Runtime`] if the copy fails.
    pub(crate) fn copy_rows(
        &mut self,
        to: &mut KvCache,
        from: &KvCache,
        copies: &[RowCopy],
    ) -> Result<(), ModelError> {
        let copied = match &mut self.mover {
            Some(mover) => mover.copy_rows(to, from, copies),
            None => to.copy_rows(from, copies),
        };
        copied.map_err(|error| {
            ModelError::Runtime(format!("failed to copy cache rows of {}: {error}", self.name))
        })
    }

    /// Whether rows are copied with their spare capacity.
    pub(crate) fn copies_whole_rows(&self) -> bool {
        self.mover.is_some()
    }

    /// Runs the new tokens of each row, extends the cache, and returns the head's outputs at the selected
    /// positions, `[selected, output width]`.
    ///
    /// # Errors
    /// [`ModelError::Cancelled`], [`ModelError::Runtime`] if the run fails, and [`ModelError::Invalid`] if an
    /// output is not finite.
    pub(crate) fn step<'c>(
        &mut self,
        cache: &'c mut KvCache,
        step: &Step<'_>,
        run: &RunHandle,
    ) -> Result<&'c [f32], ModelError> {
        run.cancel.check()?;
        self.run(cache, step, &run.options).map_err(|error| {
            if run.cancel.is_cancelled() {
                ModelError::Cancelled
            } else {
                ModelError::Runtime(format!("failed to run {}: {error}", self.name))
            }
        })?;
        let output = cache.output.as_ref().map_or(&[][..], |tensor| tensor.extract_tensor().1);
        // `all` would stop early and could not be vectorised.
        if !output.iter().fold(true, |finite, number| finite & number.is_finite()) {
            return Err(ModelError::invalid(
                InvalidKind::NotFinite,
                format!(
                    "{} gave an output that is not a finite number: its weights are damaged, or too large for {}-bit floats",
                    self.name,
                    8 * self.dtype.size()
                ),
            ));
        }
        Ok(output)
    }

    fn run(&mut self, cache: &mut KvCache, step: &Step<'_>, options: &RunOptions) -> ort::Result<()> {
        let rows = cache.rows;
        let seq = step.ids.len() / rows.max(1);
        let short = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
        let tokens = |ids: &[u32]| ids.iter().map(|&id| short(id as usize)).collect::<Vec<_>>();
        let lengths: Vec<i32> = step.past.iter().map(|past| short(past + seq - 1)).collect();
        let total = short(step.past.iter().max().map_or(0, |past| past + seq));
        let selected: Vec<i32> = step.selected.iter().copied().map(short).collect();
        let binding = &mut cache.binding;
        binding.bind_input(names::INPUT_IDS, &Tensor::from_array(([rows, seq], tokens(step.ids)))?)?;
        binding.bind_input(names::SEQLENS_K, &Tensor::from_array(([rows], lengths))?)?;
        binding.bind_input(names::TOTAL_SEQUENCE_LENGTH, &Tensor::from_array(([1], vec![total]))?)?;
        binding.bind_input(names::SELECTED, &Tensor::from_array(([selected.len()], selected))?)?;
        if self.needs_targets {
            let targets = Tensor::from_array(([step.targets.len(), 1], tokens(step.targets)))?;
            binding.bind_input(names::TARGETS, &targets)?;
        }
        if self.needs_positions {
            let positions = step.past.iter().flat_map(|past| *past..past + seq);
            let positions: Vec<i64> = positions.map(|place| i64::from(short(place))).collect();
            binding.bind_input(names::POSITION_IDS, &Tensor::from_array(([rows, seq], positions))?)?;
        }
        let shape = [step.selected.len(), self.output_width];
        let fits = |tensor: &Tensor<f32>| tensor.shape().first().copied().map(size) == Some(shape[0]);
        if !cache.output.as_ref().is_some_and(fits) {
            let mut output = Tensor::<f32>::new(&Allocator::default(), shape)?;
            binding.bind_output(names::OUTPUT, &mut output)?;
            cache.output = Some(output);
        }
        self.session.run_binding_with_options(&cache.binding, options)?;
        Ok(())
    }
}

/// The number of tokens per run of a sequence. It bounds the memory of attention, and is the same for all
/// sequences.
pub(crate) const CHUNK: usize = 256;

impl DecoderSession {
    /// Runs a whole sequence from an empty row, in a cache of one row. Returns the head's output at its last
    /// token; for [`Head::Logprobs`], of an arbitrary target.
    ///
    /// # Errors
    /// As [`DecoderSession::step`].
    pub(crate) fn prefill(
        &mut self,
        cache: &mut KvCache,
        ids: &[u32],
        run: &RunHandle,
    ) -> Result<Vec<f32>, ModelError> {
        let mut past = 0;
        let mut output = Vec::new();
        for chunk in ids.chunks(CHUNK) {
            let targets: &[u32] = if self.needs_targets { &[0] } else { &[] };
            let step = Step { ids: chunk, past: &[past], selected: &[chunk.len() - 1], targets };
            output = self.step(cache, &step, run)?.to_vec();
            past += chunk.len();
        }
        Ok(output)
    }

    /// Checks that a prompt can be run and leaves room for a completion.
    pub(crate) fn check_prompt(&self, prompt_ids: &[u32]) -> Result<(), ModelError> {
        let (length, max) = (prompt_ids.len(), self.positions_max());
        if length >= max {
            return Err(ModelError::invalid(
                InvalidKind::TooLong { tokens: length, max },
                // A recorded reason of prompts that are set aside: its words are frozen.
                format!(
                    "a prompt of {length} tokens leaves no room for an answer in the {max} tokens of {}'s context",
                    self.name
                ),
            ));
        }
        self.check_sequence(prompt_ids, &[])
    }

    /// Checks that a prompt with its completion can be run.
    pub(crate) fn check_sequence(
        &self,
        prompt_ids: &[u32],
        completion_ids: &[u32],
    ) -> Result<(), ModelError> {
        let (prompt, completion, max) = (prompt_ids.len(), completion_ids.len(), self.positions_max());
        if prompt == 0 {
            return Err(ModelError::invalid(
                InvalidKind::Empty,
                "a prompt without a single token cannot be run",
            ));
        }
        if prompt.saturating_add(completion) > max {
            return Err(ModelError::invalid(
                InvalidKind::TooLong { tokens: prompt.saturating_add(completion), max },
                format!(
                    "a sequence of {prompt} + {completion} tokens (prompt + completion) is longer than the {max} tokens of {}'s context",
                    self.name
                ),
            ));
        }
        let vocabulary = self.config.vocab_size;
        match prompt_ids.iter().chain(completion_ids).find(|&&id| id as usize >= vocabulary) {
            None => Ok(()),
            Some(id) => Err(ModelError::invalid(
                InvalidKind::UnknownToken { id: *id },
                format!(
                    "token {id} is outside the vocabulary of {} ({vocabulary} tokens): use the tokenizer of this model",
                    self.name
                ),
            )),
        }
    }
}

/// Ties runs to a [`CancelFlag`]. One handle serves one piece of work.
pub(crate) struct RunHandle {
    cancel: CancelFlag,
    options: Arc<RunOptions<NoSelectedOutputs>>,
}

impl RunHandle {
    pub(crate) fn new(cancel: &CancelFlag) -> Result<Self, ModelError> {
        Ok(Self { cancel: cancel.clone(), options: cancel.run_options()? })
    }
}

/// Returns the adapter's weights as inputs.
fn adapter_inputs(
    adapter: &LoraAdapter,
    place: AdapterPlace,
    head: Head,
) -> Result<Vec<(String, Tensor<f32>)>, ModelError> {
    let tensor = |shape: [usize; 2], data: Vec<f32>| {
        Tensor::from_array((shape, data)).map_err(|error| {
            ModelError::invalid(
                InvalidKind::ShapeMismatch,
                format!("the lengths of the adapter do not match its sizes: {error}"),
            )
        })
    };
    let mut inputs = Vec::new();
    let low_rank = (place == AdapterPlace::Inputs).then_some(&adapter.layers);
    for (target, pair) in low_rank.into_iter().flatten() {
        let [a, b] = arch::names::lora(target);
        inputs.push((a, tensor([pair.rank, pair.inputs], pair.a.clone())?));
        inputs.push((b, tensor([pair.outputs, pair.rank], arch::scaled_b(pair))?));
    }
    if let (Head::Score, Some(score)) = (head, &adapter.score) {
        inputs.push((names::SCORE.to_owned(), tensor([score.labels, score.hidden], score.weight.clone())?));
    }
    Ok(inputs)
}
