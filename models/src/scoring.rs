//! Scoring given texts: log-probabilities of completions under a policy, and rewards.
//!
//! Sequences are run one at a time. One sequence already uses the whole processor, no time is spent on
//! padding, and a score cannot depend on other sequences.

use std::sync::Once;

use dissent_domain::reward::RewardOutput;

use crate::adapter::{Adapters, LoraAdapter};
use crate::arch::Head;
use crate::checkpoint::score_head::scored_token;
use crate::checkpoint::{Checkpoint, Dtype, ReadingRules};
use crate::error::{InvalidKind, ModelError};
use crate::processor::for_inference;
use crate::runtime::{CancelFlag, OnnxRuntime, SessionOptions};
use crate::sampling::LogNormaliser;
use crate::session::{CHUNK, DecoderSession, KvCache, RunHandle, Step};
use crate::start::{Layout, Processor};

/// The number of completion tokens whose logits are held at a time.
pub(crate) const LOGIT_ROWS: usize = 64;

/// A prompt and its completion, encoded separately.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScoreItem {
    /// The prompt's tokens; at least one.
    pub prompt_ids: Vec<u32>,
    /// The completion's tokens.
    pub completion_ids: Vec<u32>,
}

/// A policy that computes the log-probabilities of given completions, in 32-bit floats.
///
/// Packed weights are also computed with in 32-bit floats here, which [`crate::generation::Generator`] does
/// not. Log-probabilities that are compared need a checkpoint with weights f32.
pub struct PolicyScorer {
    session: DecoderSession,
    head: Head,
}

impl PolicyScorer {
    /// Builds the graph of a model and opens a session.
    ///
    /// # Errors
    /// As [`crate::generation::Generator::open`].
    pub fn open<'a>(
        runtime: &'static OnnxRuntime,
        checkpoint: &Checkpoint,
        adapters: impl Into<Adapters<'a>>,
        options: &SessionOptions,
    ) -> Result<Self, ModelError> {
        let on_cpu = for_inference(runtime, checkpoint, options)? == (Processor::Cpu, Dtype::F32);
        // The logits of a GPU stay there. Those of the CPU are read in 64 bits.
        let head = if on_cpu { Head::Vocabulary } else { Head::Logprobs };
        let layout = Layout::InPlace;
        let session = DecoderSession::open(runtime, checkpoint, adapters.into(), head, layout, options)?;
        Ok(Self { session, head })
    }

    /// Replaces the current adapter of a session with swappable adapters. `None` is the checkpoint without an
    /// adapter.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if the session has no swappable adapters or the adapter does not fit.
    pub fn set_adapter(&mut self, adapter: Option<&LoraAdapter>) -> Result<(), ModelError> {
        self.session.set_adapter(adapter)
    }

    /// Checks that a completion can be scored.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] for an empty prompt, a token outside the vocabulary, or a sequence longer than
    /// the model's context.
    pub fn check(&self, item: &ScoreItem) -> Result<(), ModelError> {
        self.session.check_sequence(&item.prompt_ids, &item.completion_ids)
    }

    /// log π(yₜ | x, y₍<ₜ₎) in nats of every completion token, for each item in order; empty for an empty
    /// completion.
    ///
    /// Consecutive items with the same prompt share one run of it. `progress` receives the number of items
    /// done.
    ///
    /// # Errors
    /// [`ModelError::Cancelled`]. [`ModelError::Invalid`] for an empty prompt, a token outside the
    /// vocabulary, a sequence longer than the model's context, or model outputs that are not finite.
    pub fn score(
        &mut self,
        items: &[ScoreItem],
        cancel: &CancelFlag,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        for item in items {
            self.session.check_sequence(&item.prompt_ids, &item.completion_ids)?;
        }
        let longest = items.iter().map(|item| item.prompt_ids.len() + item.completion_ids.len()).max();
        let Some(longest) = longest else { return Ok(Vec::new()) };
        let run = RunHandle::new(cancel)?;
        let mut cache = self.session.cache(1, longest)?;
        if self.head == Head::Logprobs {
            return self.score_in_graph(&mut cache, items, &run, progress);
        }
        let mut prompt: Option<(&[u32], Vec<f32>)> = None;
        let mut scores = Vec::with_capacity(items.len());
        for (done, item) in items.iter().enumerate() {
            let logits = match prompt.take() {
                Some((ids, logits)) if ids == item.prompt_ids => logits,
                Some(_) | None => self.session.prefill(&mut cache, &item.prompt_ids, &run)?,
            };
            scores.push(self.score_completion(&mut cache, item, &logits, &run)?);
            prompt = Some((&item.prompt_ids, logits));
            progress(done + 1);
        }
        Ok(scores)
    }

    /// As [`PolicyScorer::score`], where the graph computes log-probabilities. A prompt is run without its
    /// last token, which begins the run of each completion.
    fn score_in_graph(
        &mut self,
        cache: &mut KvCache,
        items: &[ScoreItem],
        run: &RunHandle,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        let mut prompt: Option<&[u32]> = None;
        let mut scores = Vec::with_capacity(items.len());
        for (done, item) in items.iter().enumerate() {
            let Some((last, before)) = item.prompt_ids.split_last() else { continue };
            if prompt != Some(before) {
                self.session.prefill(cache, before, run)?;
                prompt = Some(before);
            }
            let inputs: Vec<u32> = std::iter::once(last).chain(&item.completion_ids).copied().collect();
            let (mut past, mut logprobs) = (before.len(), Vec::with_capacity(item.completion_ids.len()));
            for (inputs, targets) in inputs.chunks(CHUNK).zip(item.completion_ids.chunks(CHUNK)) {
                let inputs = &inputs[..targets.len()];
                let selected: Vec<usize> = (0..inputs.len()).collect();
                let step = Step { ids: inputs, past: &[past], selected: &selected, targets };
                logprobs.extend_from_slice(self.session.step(cache, &step, run)?);
                past += inputs.len();
            }
            scores.push(logprobs);
            progress(done + 1);
        }
        Ok(scores)
    }

    /// Returns the logits after every token of a sequence, `[tokens, vocabulary]`, row-major.
    ///
    /// # Errors
    /// As [`PolicyScorer::score`], and [`ModelError::Invalid`] unless it computes on the CPU in 32 bits.
    pub fn logits(&mut self, ids: &[u32], cancel: &CancelFlag) -> Result<Vec<f32>, ModelError> {
        if self.head == Head::Logprobs {
            return Err(ModelError::invalid(
                InvalidKind::Unsupported,
                "logits are read on the CPU in f32 only: use --provider cpu and --dtype auto",
            ));
        }
        logits(&mut self.session, ids, cancel)
    }

    /// Runs a completion after its prompt, whose last logits are given. Overwrites the cache after the
    /// prompt.
    fn score_completion(
        &mut self,
        cache: &mut KvCache,
        item: &ScoreItem,
        prompt_logits: &[f32],
        run: &RunHandle,
    ) -> Result<Vec<f32>, ModelError> {
        let Some((&first, _)) = item.completion_ids.split_first() else { return Ok(Vec::new()) };
        let width = self.session.output_width();
        let mut scores = vec![logprob(prompt_logits, first)];
        let mut past = item.prompt_ids.len();
        let inputs = &item.completion_ids[..item.completion_ids.len() - 1];
        for (inputs, targets) in inputs.chunks(LOGIT_ROWS).zip(item.completion_ids[1..].chunks(LOGIT_ROWS)) {
            let selected: Vec<usize> = (0..inputs.len()).collect();
            let step = Step { ids: inputs, past: &[past], selected: &selected, targets: &[] };
            let logits = self.session.step(cache, &step, run)?;
            scores.extend(logits.chunks_exact(width).zip(targets).map(|(row, &target)| logprob(row, target)));
            past += inputs.len();
        }
        Ok(scores)
    }
}

/// Returns the logits after every token of a sequence, `[tokens, vocabulary]`, row-major.
pub(crate) fn logits(
    session: &mut DecoderSession,
    ids: &[u32],
    cancel: &CancelFlag,
) -> Result<Vec<f32>, ModelError> {
    session.check_sequence(ids, &[])?;
    let run = RunHandle::new(cancel)?;
    let mut cache = session.cache(1, ids.len())?;
    let mut logits = Vec::with_capacity(ids.len() * session.output_width());
    for (index, chunk) in ids.chunks(LOGIT_ROWS).enumerate() {
        let selected: Vec<usize> = (0..chunk.len()).collect();
        let step = Step { ids: chunk, past: &[index * LOGIT_ROWS], selected: &selected, targets: &[] };
        logits.extend_from_slice(session.step(&mut cache, &step, &run)?);
    }
    Ok(logits)
}

fn logprob(logits: &[f32], token: u32) -> f32 {
    let logit = logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "one token's log-probability; sums are made in 64 bits"
    )]
    let logprob = LogNormaliser::of(logits).logprob(logit) as f32;
    logprob
}

/// A reward model: a decoder whose reward head is read at one token, for most models the last.
pub struct RewardModel {
    session: DecoderSession,
    cache: Option<KvCache>,
    /// The token at which no score is read.
    padding: Option<u32>,
    outputs: ScoreOutputs,
}

impl RewardModel {
    /// Builds the graph of a model and opens a session. The score head is the adapter's, else the
    /// checkpoint's own. To run only the first layers, open the checkpoint with them.
    ///
    /// Of a checkpoint's head with several outputs, [`Checkpoint::reward_output`] names those that count. An
    /// adapter's head with one output needs no such choice.
    ///
    /// # Errors
    /// As [`crate::generation::Generator::open`], and [`ModelError::Invalid`] if the score head is missing,
    /// has an unknown form, or has several outputs of which none is chosen.
    pub fn open<'a>(
        runtime: &'static OnnxRuntime,
        checkpoint: &Checkpoint,
        adapters: impl Into<Adapters<'a>>,
        options: &SessionOptions,
    ) -> Result<Self, ModelError> {
        let (adapters, head) = (adapters.into(), Head::Score);
        let adapter_head = match adapters {
            Adapters::Fixed(adapter) => adapter.and_then(|adapter| adapter.score.as_ref()),
            Adapters::Swappable(_, first) => first.and_then(|adapter| adapter.score.as_ref()),
        };
        let session = DecoderSession::open(runtime, checkpoint, adapters, head, Layout::InPlace, options)?;
        let padding = match adapter_head {
            Some(_) => checkpoint.classifier_padding(),
            None => checkpoint.own_head_padding()?,
        };
        let chosen =
            checkpoint.reward_output.as_ref().filter(|_| adapter_head.is_none_or(|head| head.labels != 1));
        let outputs = ScoreOutputs::new(session.name(), session.output_width(), chosen)?;
        say_reading(checkpoint, session.name());
        Ok(Self { session, cache: None, padding, outputs })
    }

    /// Replaces the current adapter of a session with swappable adapters. `None` is the checkpoint without an
    /// adapter.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if the session has no swappable adapters, the adapter does not fit, or the
    /// score head is missing.
    pub fn set_adapter(&mut self, adapter: Option<&LoraAdapter>) -> Result<(), ModelError> {
        // The cache is bound to the weights of the previous adapter.
        self.cache = None;
        self.session.set_adapter(adapter)
    }

    /// Checks that a sequence can be scored.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] for an empty sequence, a token outside the vocabulary, or a sequence longer
    /// than the model's context.
    pub fn check_sequence(&self, sequence: &[u32]) -> Result<(), ModelError> {
        self.session.check_sequence(sequence, &[])
    }

    /// Returns the reward of each sequence, in order: the raw output of the score head.
    ///
    /// A sequence classifier is read at the rightmost token that is not its padding token, as in
    /// transformers. Value heads (`v_head`, `value_head`) are read at the last token.
    ///
    /// `progress` receives the number of sequences done.
    ///
    /// # Errors
    /// [`ModelError::Cancelled`]. [`ModelError::Invalid`] for an empty sequence, a token outside the
    /// vocabulary, a sequence longer than the model's context, or model outputs that are not finite.
    pub fn score(
        &mut self,
        sequences: &[Vec<u32>],
        cancel: &CancelFlag,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<f32>, ModelError> {
        for sequence in sequences {
            self.session.check_sequence(sequence, &[])?;
        }
        let Some(longest) = sequences.iter().map(Vec::len).max() else { return Ok(Vec::new()) };
        let run = RunHandle::new(cancel)?;
        let mut cache = match self.cache.take() {
            Some(cache) if cache.capacity() >= longest => cache,
            Some(_) | None => self.session.cache(1, longest)?,
        };
        let mut rewards = Vec::with_capacity(sequences.len());
        for (done, sequence) in sequences.iter().enumerate() {
            // No token after the one that is read plays a part.
            let read = &sequence[..=scored_token(sequence, self.padding)];
            rewards.push(self.outputs.score(&self.session.prefill(&mut cache, read, &run)?));
            progress(done + 1);
        }
        self.cache = Some(cache);
        Ok(rewards)
    }
}

/// The factors of a head's outputs in the score; `None` for a head with one output.
struct ScoreOutputs(Option<Vec<f64>>);

impl ScoreOutputs {
    fn new(name: &str, outputs: usize, chosen: Option<&RewardOutput>) -> Result<Self, ModelError> {
        match chosen {
            None if outputs == 1 => Ok(Self(None)),
            None => Err(ModelError::invalid(
                InvalidKind::ShapeMismatch,
                format!(
                    "the score head of {name} has {outputs} outputs: choose a label, or give a weight to each"
                ),
            )),
            Some(chosen) => {
                let factors = chosen.factors(outputs);
                let unsuitable = |error| {
                    ModelError::invalid_because(
                        InvalidKind::Setting,
                        format!("the outputs of {name} cannot be used"),
                        error,
                    )
                };
                Ok(Self(Some(factors.map_err(unsuitable)?)))
            }
        }
    }

    fn score(&self, outputs: &[f32]) -> f32 {
        let Some(factors) = &self.0 else { return outputs.first().copied().unwrap_or_default() };
        let terms = factors.iter().zip(outputs).map(|(factor, &output)| factor * f64::from(output));
        #[expect(clippy::cast_possible_truncation, reason = "scores have 32 bits")]
        let score = terms.sum::<f64>() as f32;
        score
    }
}

/// Logs once that the padding token also ends texts, because the versions of the reading rules then differ.
fn say_reading(checkpoint: &Checkpoint, model: &str) {
    static SAID: Once = Once::new();
    if !checkpoint.pads_with_end_of_sequence() {
        return;
    }
    let padding = checkpoint.config.pad_token_id;
    SAID.call_once(|| match checkpoint.reading {
        ReadingRules::V1 => tracing::warn!(
            model,
            padding,
            "reading the score at the last token, as version 0.1 did: transformers reads the last token before \
             padding, which the end of a text is for this model"
        ),
        ReadingRules::V2 => tracing::info!(
            model,
            padding,
            "reading the score before the end-of-sequence token, which is padding for this model"
        ),
    });
}
