//! A decoder in ONNX Runtime: a session, its key-value caches, and single steps.

use std::sync::Arc;

use ort::ep::{CUDA, ExecutionProvider as _};
use ort::memory::Allocator;
use ort::session::IoBinding;
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{NoSelectedOutputs, RunOptions};
use ort::value::Tensor;

use crate::adapter::{Adapters, LoraAdapter, LoraSlots, ScoreHead};
use crate::arch::{self, AdapterPlace, Head, POSITIONS_MAX, cache_bytes_per_token, decoder_graph, names};
use crate::checkpoint::{Checkpoint, ModelConfig};
use crate::error::{InvalidKind, ModelError};
use crate::onnx::export::{ExportedModel, export};
use crate::runtime::{CancelFlag, OnnxRuntime, Provider, SessionOptions};

/// The memory layout of a session's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// A copy in the fastest layout, which needs the size of the weights in memory.
    Packed,
    /// The weights in their file, mapped into memory.
    InPlace,
    /// As [`Layout::InPlace`], for graphs with large values and changing shapes: memory is freed as soon as a
    /// value is no longer needed.
    Training {
        /// Whether the graph recomputes values on purpose.
        recompute: bool,
    },
}

impl Layout {
    /// Returns the place of adapter weights in the graph.
    ///
    /// Packed products give a row the same bits for any number of rows. Products with inputs do not: a single
    /// row takes another code path, and the split of sums depends on the number of threads.
    fn adapter_place(self) -> AdapterPlace {
        match self {
            Self::Packed => AdapterPlace::Constants,
            Self::InPlace | Self::Training { .. } => AdapterPlace::Inputs,
        }
    }
}

/// A decoder that is ready to run.
pub(crate) struct DecoderSession {
    session: Session,
    config: ModelConfig,
    needs_positions: bool,
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

/// The keys and values of some rows, with spare capacity.
///
/// Each layer has two tensors `[rows, kv_heads, capacity, head_dim]`, which the attention operator extends in
/// place.
pub(crate) struct KvCache {
    binding: IoBinding,
    layers: Vec<[Tensor<f32>; 2]>,
    rows: usize,
    capacity: usize,
    output: Option<Tensor<f32>>,
}

impl KvCache {
    /// Returns the number of tokens that a row can hold.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Copies the first `tokens` of a row of another cache of the same model into a row of this cache.
    pub(crate) fn copy_row(&mut self, row: usize, from: &Self, from_row: usize, tokens: usize) {
        for (to, from_layer) in self.layers.iter_mut().zip(&from.layers) {
            for (to, from_tensor) in to.iter_mut().zip(from_layer) {
                let (shape, source) = from_tensor.extract_tensor();
                let (heads, width) = (as_size(shape[1]), as_size(shape[3]));
                let (_, target) = to.extract_tensor_mut();
                for head in 0..heads {
                    let source_start = (from_row * heads + head) * from.capacity * width;
                    let target_start = (row * heads + head) * self.capacity * width;
                    let length = tokens * width;
                    target[target_start..target_start + length]
                        .copy_from_slice(&source[source_start..source_start + length]);
                }
            }
        }
    }
}

fn as_size(dim: i64) -> usize {
    usize::try_from(dim).unwrap_or(0)
}

/// The inputs of one run: the same number of new tokens for every row.
pub(crate) struct Step<'a> {
    /// The new tokens, row by row.
    pub(crate) ids: &'a [u32],
    /// The number of cached tokens of each row.
    pub(crate) past: &'a [usize],
    /// The positions, among all `ids`, for which the head is computed.
    pub(crate) selected: &'a [usize],
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
        if head == Head::Vocabulary {
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
            (Head::Score | Head::Vocabulary, _) => None,
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
            (Head::Vocabulary, ..) => None,
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
        let built = decoder_graph(&checkpoint.config, &checkpoint.weights, adapter, place, head)?;
        let model = export(&built.graph)?;
        let session = start(runtime, &model, layout, options)
            .map_err(|error| ModelError::Runtime(format!("failed to start a session of {name}: {error}")))?;
        Ok(Self {
            session,
            config: checkpoint.config.clone(),
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

    pub(crate) fn config(&self) -> &ModelConfig {
        &self.config
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
    pub(crate) fn cache(&self, rows: usize, capacity: usize) -> Result<KvCache, ModelError> {
        self.new_cache(rows, capacity).map_err(|error| {
            let mebibytes = (rows * capacity * cache_bytes_per_token(&self.config)) >> 20;
            ModelError::Runtime(format!(
                "failed to make a key-value cache of {mebibytes} MiB for {}: {error}",
                self.name
            ))
        })
    }

    fn new_cache(&self, rows: usize, capacity: usize) -> ort::Result<KvCache> {
        let mut binding = self.session.create_binding()?;
        for (name, tensor) in &self.fixed {
            binding.bind_input(name, tensor)?;
        }
        let allocator = Allocator::default();
        let shape = [rows, self.config.kv_heads, capacity, self.config.head_dim];
        let mut layers = Vec::with_capacity(self.config.layers);
        for layer in 0..self.config.layers {
            let mut tensors =
                [Tensor::<f32>::new(&allocator, shape)?, Tensor::<f32>::new(&allocator, shape)?];
            for (tensor, (past, present)) in
                tensors.iter_mut().zip(names::past(layer).iter().zip(names::present(layer)))
            {
                // Rows are read up to their length only, but the rest must not be NaN.
                tensor.extract_tensor_mut().1.fill(0.0);
                binding.bind_input(past, tensor)?;
                binding.bind_output(present, tensor)?;
            }
            layers.push(tensors);
        }
        Ok(KvCache { binding, layers, rows, capacity, output: None })
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
                    "{} gave an output that is not a finite number: its weights are damaged, or too large for 32-bit floats",
                    self.name
                ),
            ));
        }
        Ok(output)
    }

    fn run(&mut self, cache: &mut KvCache, step: &Step<'_>, options: &RunOptions) -> ort::Result<()> {
        let rows = cache.rows;
        let seq = step.ids.len() / rows.max(1);
        let integers = |numbers: &mut dyn Iterator<Item = usize>| -> Vec<i64> {
            numbers.map(|number| i64::try_from(number).unwrap_or(i64::MAX)).collect()
        };
        let ids: Vec<i64> = step.ids.iter().map(|&id| i64::from(id)).collect();
        let short = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
        let lengths: Vec<i32> = step.past.iter().map(|past| short(past + seq - 1)).collect();
        let total = short(step.past.iter().max().map_or(0, |past| past + seq));
        let selected = integers(&mut step.selected.iter().copied());
        let binding = &mut cache.binding;
        binding.bind_input(names::INPUT_IDS, &Tensor::from_array(([rows, seq], ids))?)?;
        binding.bind_input(names::SEQLENS_K, &Tensor::from_array(([rows], lengths))?)?;
        binding.bind_input(names::TOTAL_SEQUENCE_LENGTH, &Tensor::from_array(([1], vec![total]))?)?;
        binding.bind_input(names::SELECTED, &Tensor::from_array(([selected.len()], selected))?)?;
        if self.needs_positions {
            let positions = integers(&mut step.past.iter().flat_map(|past| *past..past + seq));
            binding.bind_input(names::POSITION_IDS, &Tensor::from_array(([rows, seq], positions))?)?;
        }
        let shape = [step.selected.len(), self.output_width];
        let fits = |tensor: &Tensor<f32>| tensor.shape().first().copied().map(as_size) == Some(shape[0]);
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
const CHUNK: usize = 256;

impl DecoderSession {
    /// Runs a whole sequence from an empty row, in a cache of one row. Returns the head's output at its last
    /// token.
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
            let step = Step { ids: chunk, past: &[past], selected: &[chunk.len() - 1] };
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

pub(crate) fn start(
    runtime: &OnnxRuntime,
    model: &ExportedModel,
    layout: Layout,
    options: &SessionOptions,
) -> Result<Session, String> {
    let builder = match options.provider {
        Provider::Cpu => configure(runtime, model, layout, options)?,
        Provider::Cuda => with_cuda(configure(runtime, model, layout, options)?)?,
        Provider::Auto => match configure(runtime, model, layout, options).and_then(with_cuda) {
            Ok(builder) => {
                tracing::info!(provider = "cuda", "chose execution provider");
                builder
            }
            Err(reason) => {
                tracing::info!(provider = "cpu", reason, "chose execution provider");
                configure(runtime, model, layout, options)?
            }
        },
    };
    let mut builder = builder;
    builder.commit_from_memory(&model.bytes).map_err(|error| error.to_string())
}

fn with_cuda(builder: SessionBuilder) -> Result<SessionBuilder, String> {
    let cuda = CUDA::default();
    if !CUDA::is_available().unwrap_or(false) {
        return Err(
            "this ONNX Runtime has no CUDA: install onnxruntime-gpu and name its library, or use provider cpu"
                .to_owned(),
        );
    }
    builder.with_execution_providers([cuda.build().error_on_failure()]).map_err(|error| {
        format!("CUDA cannot be used ({error}): it needs an NVIDIA GPU, its driver and the CUDA 13 and cuDNN libraries")
    })
}

fn configure(
    runtime: &OnnxRuntime,
    model: &ExportedModel,
    layout: Layout,
    options: &SessionOptions,
) -> Result<SessionBuilder, String> {
    let text = |error: ort::Error<SessionBuilder>| error.to_string();
    let mut builder = Session::builder(runtime.environment())
        .map_err(|error| error.to_string())?
        .with_optimization_level(GraphOptimizationLevel::Level1)
        .map_err(text)?
        .with_intra_threads(options.threads)
        .map_err(text)?
        .with_prepacking(layout == Layout::Packed)
        .map_err(text)?;
    if let Layout::Training { recompute } = layout {
        builder = builder.with_memory_pattern(false).map_err(text)?;
        if recompute {
            builder = builder.with_disabled_optimizers("CommonSubexpressionElimination").map_err(text)?;
        }
    }
    if let Some(dir) = &model.weights_dir {
        let dir = dir.to_str().ok_or_else(|| format!("{} is not UTF-8", dir.display()))?;
        builder = builder
            .with_config_entry("session.model_external_initializers_file_folder_path", dir)
            .map_err(text)?;
    }
    Ok(builder)
}
