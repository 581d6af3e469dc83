//! Samples completions: each prompt is run once, and its samples are decoded together.

use dissent_domain::generation::{FinishReason, SamplingParams};

use crate::adapter::{Adapters, LoraAdapter};
use crate::arch::Head;
use crate::checkpoint::{Checkpoint, TextTokenizer, warn_if_endless};
use crate::error::{InvalidKind, ModelError};
use crate::runtime::{CancelFlag, OnnxRuntime, SessionOptions};
use crate::sampling::{SampleRng, Sampler};
use crate::scoring::logits;
use crate::session::{DecoderSession, KvCache, RowCopy, RunHandle, Step};
use crate::start::Layout;

/// The limit of the key-value cache of a batch on the CPU, in bytes. Longer sequences get fewer rows.
const CACHE_BYTES_MAX: usize = 2 << 30;

/// The minimum number of rows in decoding on the CPU. Matrix products with one row take another code path
/// there, which rounds differently.
const ROWS_MIN: usize = 2;

/// One prompt and the seeds of its samples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerationJob {
    /// The prompt's tokens; at least one.
    pub prompt_ids: Vec<u32>,
    /// One seed per sample. A completion depends on its prompt, its seed and the model only.
    pub seeds: Vec<[u8; 32]>,
}

/// Progress of a call of [`Generator::generate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GenerationProgress {
    /// Prompts with all completions done.
    pub prompts_done: usize,
    /// Completions done.
    pub completions_done: usize,
    /// Tokens sampled so far, in finished and unfinished completions.
    pub tokens: u64,
}

/// One sampled completion.
#[derive(Debug, Clone, PartialEq)]
pub struct SampledTokens {
    /// The tokens, including a stop token.
    pub token_ids: Vec<u32>,
    /// log π(y|x) in nats: the sum over `token_ids`, in 64 bits, of the model without temperature.
    pub logprob: f64,
    /// The reason for its end.
    pub finish_reason: FinishReason,
    /// The stop text that ended it, of [`SamplingParams::stop`].
    pub stop: Option<String>,
}

impl SampledTokens {
    /// Returns the completion's text, without special tokens and up to the stop text.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when the tokenizer fails.
    pub fn text(&self, tokenizer: &TextTokenizer) -> Result<String, ModelError> {
        let mut text = tokenizer.decode(&self.token_ids, true)?;
        if let Some(start) = self.stop.as_deref().and_then(|stop| text.find(stop)) {
            text.truncate(start);
        }
        Ok(text)
    }
}

/// A policy that samples completions.
///
/// A completion does not depend on the other rows of its batch, bit for bit: see [`Generator::generate`].
pub struct Generator {
    session: DecoderSession,
    tokenizer: TextTokenizer,
    stop_tokens: Vec<u32>,
    rows: usize,
    /// The least number of rows that are decoded together.
    rows_min: usize,
}

impl Generator {
    /// Builds the graph of a model and opens a session.
    ///
    /// With swappable adapters, a completion may depend on the other rows of its batch: products with inputs
    /// round differently for other numbers of rows.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if the model is not supported or the adapter does not fit.
    /// [`ModelError::Runtime`] if ONNX Runtime fails or lacks the provider.
    pub fn open<'a>(
        runtime: &'static OnnxRuntime,
        checkpoint: &Checkpoint,
        adapters: impl Into<Adapters<'a>>,
        options: &SessionOptions,
    ) -> Result<Self, ModelError> {
        let (adapters, head) = (adapters.into(), Head::Vocabulary);
        let session = DecoderSession::open(runtime, checkpoint, adapters, head, Layout::Packed, options)?;
        let stop_tokens = checkpoint.config.eos_token_ids.clone();
        let tokenizer = checkpoint.tokenizer.clone();
        warn_if_endless(&stop_tokens, session.name());
        let packed_alike = checkpoint.weights.packed_count() > 0 && has_alike_integer_rows();
        let rounds_alike = !session.is_on_cpu() || packed_alike;
        let rows_min = if rounds_alike { 1 } else { ROWS_MIN };
        Ok(Self { session, tokenizer, stop_tokens, rows: options.rows.max(1), rows_min })
    }

    /// Replaces the current adapter of a session with swappable adapters. `None` is the checkpoint without an
    /// adapter.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if the session has no swappable adapters or the adapter does not fit.
    pub fn set_adapter(&mut self, adapter: Option<&LoraAdapter>) -> Result<(), ModelError> {
        self.session.set_adapter(adapter)
    }

    /// Returns the logits after every token of a sequence, `[tokens, vocabulary]`, row-major. The policy
    /// samples from such logits.
    ///
    /// # Errors
    /// As [`Generator::generate`], for a sequence instead of a prompt.
    pub fn logits(&mut self, ids: &[u32], cancel: &CancelFlag) -> Result<Vec<f32>, ModelError> {
        logits(&mut self.session, ids, cancel)
    }

    /// Checks that a prompt can be completed. Callers check before a batch, so that one bad prompt does not
    /// fail the others.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] for an empty prompt, a token outside the vocabulary, or a prompt that fills
    /// the model's context.
    pub fn check_prompt(&self, prompt_ids: &[u32]) -> Result<(), ModelError> {
        self.session.check_prompt(prompt_ids)
    }

    /// Samples the completions of every job: one per seed, in the order of the seeds.
    ///
    /// `params.samples` is not used: the seeds set the number. Each prompt is run once, alone, and its cache
    /// is copied to its samples. Waiting samples take over the rows that finish.
    ///
    /// The same prompt and seed give the same tokens and log-probability on the same machine, bit for bit, in
    /// any batch. Prompts are never padded or batched. On the CPU, the operators treat all rows alike from
    /// two rows on, and a single completion is decoded in two. Packed weights treat a single row alike too,
    /// as tested on x86-64 with AVX-512: inputs are rounded to 8 bits row by row. On a GPU the kernels depend
    /// on the number of rows: completions may differ where the first choices are almost equal.
    ///
    /// # Errors
    /// [`ModelError::Cancelled`]. [`ModelError::Invalid`] for parameters out of range, model outputs that are
    /// not finite, or a prompt that [`Generator::check_prompt`] refuses.
    pub fn generate(
        &mut self,
        jobs: &[GenerationJob],
        params: &SamplingParams,
        cancel: &CancelFlag,
        progress: &mut dyn FnMut(GenerationProgress),
    ) -> Result<Vec<Vec<SampledTokens>>, ModelError> {
        params.validate().map_err(|error| ModelError::invalid(InvalidKind::Setting, error.to_string()))?;
        for job in jobs {
            self.session.check_prompt(&job.prompt_ids)?;
        }
        let samples: usize = jobs.iter().map(|job| job.seeds.len()).sum();
        if samples == 0 {
            return Ok(jobs.iter().map(|_| Vec::new()).collect());
        }
        let tokens_max = usize::try_from(params.max_new_tokens).unwrap_or(usize::MAX);
        let prompt_max = jobs.iter().map(|job| job.prompt_ids.len()).max().unwrap_or(1);
        let capacity = prompt_max.saturating_add(tokens_max).min(self.session.positions_max());
        let row_bytes = capacity * self.session.cache_bytes_per_token();
        let wanted = self.rows.min(samples);
        let fitting = if self.session.is_on_cpu() { rows_in_cache(wanted, row_bytes) } else { wanted };
        let rows = fitting.max(self.rows_min);
        let cache = self.session.cache(rows, capacity)?;
        let prompt_capacity = if self.session.copies_whole_rows() { capacity } else { prompt_max };
        let prompt_cache = self.session.cache(1, prompt_capacity)?;
        let mut batch = Batch {
            run: RunHandle::new(cancel)?,
            sampler: Sampler::new(params),
            stop_tokens: &self.stop_tokens,
            stop_texts: StopTexts { texts: &params.stop, tokenizer: &self.tokenizer },
            tokens_max,
            rows_min: self.rows_min,
            jobs,
            prompt: Prompt { job: None, cache: prompt_cache, logits: Vec::new() },
            cache,
            rows: (0..rows).map(|_| None).collect(),
            waiting: (0..jobs.len())
                .flat_map(|job| (0..jobs[job].seeds.len()).map(move |sample| (job, sample)))
                .collect(),
            finished: jobs.iter().map(|job| vec![None; job.seeds.len()]).collect(),
            logits: Vec::new(),
            progress: GenerationProgress::default(),
            session: &mut self.session,
        };
        batch.waiting.reverse();
        while batch.refill()? {
            batch.shrink()?;
            batch.decode()?;
            progress(batch.progress);
        }
        progress(batch.progress);
        Ok(batch.finished.into_iter().map(|samples| samples.into_iter().flatten().collect()).collect())
    }
}

/// Whether products of packed weights round one row as they round several: so do those of ONNX Runtime's
/// kernels for AVX-512 with VNNI. Those for AVX2 do not, and those of other processors are not measured.
fn has_alike_integer_rows() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx512vnni")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Returns the rows with weights f32 that are decoded together on the CPU, of those that may be. Each needs
/// `row_bytes` of cache.
pub(crate) fn rows_on_cpu(wanted: usize, row_bytes: usize) -> usize {
    rows_in_cache(wanted, row_bytes).max(ROWS_MIN)
}

fn rows_in_cache(wanted: usize, row_bytes: usize) -> usize {
    wanted.min(CACHE_BYTES_MAX / row_bytes.max(1))
}

/// The last prompt that was run, for its samples that wait for a row.
struct Prompt {
    job: Option<usize>,
    cache: KvCache,
    /// The logits after its last token.
    logits: Vec<f32>,
}

/// A completion in progress.
struct Row {
    job: usize,
    sample: usize,
    rng: SampleRng,
    /// Tokens sampled so far. The last one is not in the cache yet.
    token_ids: Vec<u32>,
    logprob: f64,
    /// Tokens in the cache.
    past: usize,
    /// The token limit of this completion.
    tokens_max: usize,
}

/// The texts that end a completion.
struct StopTexts<'a> {
    texts: &'a [String],
    tokenizer: &'a TextTokenizer,
}

impl StopTexts<'_> {
    /// Tokens before those of a stop text that are decoded with it: the first bytes of a window may be parts
    /// of a character, and some tokenizers drop a leading space.
    const TOKENS_BEFORE: usize = 8;

    /// Returns the stop text that the last token completes; the earliest, if there are several.
    fn found(&self, token_ids: &[u32]) -> Result<Option<String>, ModelError> {
        let Some(longest) = self.texts.iter().map(String::len).max() else { return Ok(None) };
        // A token that is not special has at least one byte.
        let window = token_ids.len().saturating_sub(longest + Self::TOKENS_BEFORE);
        let text = self.tokenizer.decode(&token_ids[window..], true)?;
        let found = self.texts.iter().filter_map(|stop| text.find(stop.as_str()).map(|start| (start, stop)));
        Ok(found.min().map(|(_, stop)| stop.clone()))
    }
}

/// The completions that are decoded together, and the waiting samples.
struct Batch<'a> {
    session: &'a mut DecoderSession,
    run: RunHandle,
    sampler: Sampler,
    stop_tokens: &'a [u32],
    stop_texts: StopTexts<'a>,
    tokens_max: usize,
    /// The least number of rows that are decoded together.
    rows_min: usize,
    jobs: &'a [GenerationJob],
    prompt: Prompt,
    cache: KvCache,
    rows: Vec<Option<Row>>,
    /// Job and sample; the last entry is next.
    waiting: Vec<(usize, usize)>,
    finished: Vec<Vec<Option<SampledTokens>>>,
    /// The logits of the last step. The buffer is reused.
    logits: Vec<f32>,
    progress: GenerationProgress,
}

impl Batch<'_> {
    /// Assigns free rows to waiting samples; false if no completion is left to decode.
    fn refill(&mut self) -> Result<bool, ModelError> {
        for index in 0..self.rows.len() {
            while self.rows[index].is_none() {
                let Some((job, sample)) = self.waiting.pop() else { break };
                self.start(index, job, sample)?;
            }
        }
        Ok(self.rows.iter().any(Option::is_some))
    }

    /// Samples a completion's first token from the logits of its prompt, and assigns a row to it if it
    /// continues.
    fn start(&mut self, index: usize, job: usize, sample: usize) -> Result<(), ModelError> {
        let prompt_ids = &self.jobs[job].prompt_ids;
        if self.prompt.job != Some(job) {
            self.prompt.logits = self.session.prefill(&mut self.prompt.cache, prompt_ids, &self.run)?;
            self.prompt.job = Some(job);
        }
        let row = Row {
            job,
            sample,
            rng: SampleRng::new(self.jobs[job].seeds[sample]),
            token_ids: Vec::new(),
            logprob: 0.0,
            past: prompt_ids.len(),
            tokens_max: self.tokens_max.min(self.session.positions_max() - prompt_ids.len()),
        };
        let logits = std::mem::take(&mut self.prompt.logits);
        if let Some(row) = self.extend(row, &logits)? {
            let copy = RowCopy { from: 0, to: index, tokens: row.past };
            self.session.copy_rows(&mut self.cache, &self.prompt.cache, &[copy])?;
            self.rows[index] = Some(row);
        }
        self.prompt.logits = logits;
        Ok(())
    }

    /// Moves the live rows to a smaller cache if no sample waits and at least half of the rows are free.
    fn shrink(&mut self) -> Result<(), ModelError> {
        let live = self.rows.iter().flatten().count().max(self.rows_min);
        if !self.waiting.is_empty() || live * 2 > self.rows.len() {
            return Ok(());
        }
        let mut cache = self.session.cache(live, self.cache.capacity())?;
        let mut rows: Vec<Option<Row>> = Vec::with_capacity(live);
        let mut copies = Vec::with_capacity(live);
        for (from, row) in self.rows.drain(..).enumerate() {
            if let Some(row) = row {
                copies.push(RowCopy { from, to: rows.len(), tokens: row.past });
                rows.push(Some(row));
            }
        }
        self.session.copy_rows(&mut cache, &self.cache, &copies)?;
        rows.resize_with(live, || None);
        (self.cache, self.rows) = (cache, rows);
        Ok(())
    }

    /// Decodes one more token for every live row.
    fn decode(&mut self) -> Result<(), ModelError> {
        let last =
            |row: &Option<Row>| row.as_ref().and_then(|row| row.token_ids.last().copied()).unwrap_or(0);
        let ids: Vec<u32> = self.rows.iter().map(last).collect();
        let past: Vec<usize> = self.rows.iter().map(|row| row.as_ref().map_or(0, |row| row.past)).collect();
        let selected: Vec<usize> = (0..self.rows.len()).collect();
        let width = self.session.output_width();
        let step = Step { ids: &ids, past: &past, selected: &selected, targets: &[] };
        let mut logits = std::mem::take(&mut self.logits);
        logits.clear();
        logits.extend_from_slice(self.session.step(&mut self.cache, &step, &self.run)?);
        for (index, logits) in logits.chunks_exact(width).enumerate() {
            if let Some(mut row) = self.rows[index].take() {
                row.past += 1;
                self.rows[index] = self.extend(row, logits)?;
            }
        }
        self.logits = logits;
        Ok(())
    }

    /// Samples the next token of a row, and frees the row if that token is the last.
    fn extend(&mut self, mut row: Row, logits: &[f32]) -> Result<Option<Row>, ModelError> {
        let choice = self.sampler.choose(logits, &mut row.rng);
        row.token_ids.push(choice.token);
        row.logprob += choice.logprob;
        self.progress.tokens += 1;
        let stop = self.stop_texts.found(&row.token_ids)?;
        let finish_reason = if self.stop_tokens.contains(&choice.token) || stop.is_some() {
            FinishReason::Stop
        } else if row.token_ids.len() >= row.tokens_max {
            FinishReason::Length
        } else {
            return Ok(Some(row));
        };
        let Row { job, sample, token_ids, logprob, .. } = row;
        self.finished[job][sample] = Some(SampledTokens { token_ids, logprob, finish_reason, stop });
        self.progress.completions_done += 1;
        if self.finished[job].iter().all(Option::is_some) {
            self.progress.prompts_done += 1;
        }
        Ok(None)
    }
}
