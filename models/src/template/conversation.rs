//! Conversations with the keys that chat templates read, and the tokens of them that are learnt.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use super::turns::{Conversation, text};
use super::{PromptTemplate, chat, rows};
use crate::checkpoint::TextTokenizer;
use crate::error::{InvalidKind, ModelError};
use crate::jinja::TemplateDate;
use crate::training::packing::TrainingSequence;

/// The tokens of a conversation that supervised fine-tuning learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LearntTurns {
    /// All tokens, as TRL's `SFTTrainer` by default.
    All,
    /// The turns of the assistant, as TRL's `assistant_only_loss`.
    Assistant,
    /// The last turn.
    Last,
}

impl LearntTurns {
    const NAMES: [(&str, Self); 3] =
        [("all", Self::All), ("assistant", Self::Assistant), ("last", Self::Last)];
}

impl fmt::Display for LearntTurns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(_, turns)| turns == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

impl FromStr for LearntTurns {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::NAMES.iter().find(|(name, _)| *name == text);
        found
            .map(|(_, turns)| *turns)
            .ok_or_else(|| format!("unknown tokens {text:?}: use all, assistant or last"))
    }
}

fn invalid(reason: impl Into<String>) -> ModelError {
    ModelError::invalid(InvalidKind::Template, reason.into())
}

impl PromptTemplate {
    /// Returns a conversation with the turns to learn, as TRL's `SFTTrainer` on `messages`.
    ///
    /// The assistant's turns are those that the template marks with `{% generation %}`. In a template without
    /// these marks, they are the text that each turn adds after the beginning of the assistant's turn.
    ///
    /// # Errors
    /// As [`PromptTemplate::render_prompt`]. [`ModelError::Invalid`] if no token is left to learn, or if the
    /// template drops tools or their calls, or does not tell the assistant's turns.
    pub fn encode_conversation(
        &self,
        tokenizer: &TextTokenizer,
        conversation: &Conversation,
        learnt: LearntTurns,
    ) -> Result<TrainingSequence, ModelError> {
        if !self.is_chat() {
            return self.encode_plain_turns(tokenizer, conversation, learnt);
        }
        let date = self.date();
        let whole = chat::render_conversation(tokenizer, conversation, false, date)?;
        for key in ["tool_calls", "tools"] {
            if conversation.has(key)
                && chat::render_conversation(tokenizer, &conversation.without(key), false, date)? == whole
            {
                return Err(invalid(format!(
                    "the model's chat template does not render {key}: use a template that does, or remove them"
                )));
            }
        }
        match learnt {
            LearntTurns::All => rows::sequence(1, tokenizer.encode(&whole, false)?),
            LearntTurns::Last => {
                let turns = conversation.messages.len().saturating_sub(1);
                let asked = chat::render_conversation(tokenizer, &conversation.beginning(turns), true, date)?;
                let (asked, ids) = (tokenizer.encode(&asked, false)?, tokenizer.encode(&whole, false)?);
                rows::sequence(rows::shared(&asked, &ids), ids)
            }
            LearntTurns::Assistant => {
                let spans = assistant_spans(tokenizer, conversation, &whole, date)?;
                learn_spans(tokenizer, &whole, &spans)
            }
        }
    }

    /// Encodes a conversation without a chat template.
    fn encode_plain_turns(
        &self,
        tokenizer: &TextTokenizer,
        conversation: &Conversation,
        learnt: LearntTurns,
    ) -> Result<TrainingSequence, ModelError> {
        let demonstration = conversation.demonstration().map_err(|key| {
            invalid(format!("{key} is read by chat templates only: use the template chat, or remove it"))
        })?;
        let sequence = self.encode_demonstration(tokenizer, &demonstration)?;
        match learnt {
            LearntTurns::All => rows::sequence(1, sequence.ids),
            LearntTurns::Last => Ok(sequence),
            LearntTurns::Assistant => Err(invalid(
                "the assistant's turns are known to chat templates only: use the template chat, or learn all or last",
            )),
        }
    }
}

/// Returns the assistant's parts of a rendered conversation, in bytes.
fn assistant_spans(
    tokenizer: &TextTokenizer,
    conversation: &Conversation,
    whole: &str,
    date: TemplateDate,
) -> Result<Vec<Range<usize>>, ModelError> {
    if let Some(spans) = chat::generation_spans(tokenizer, conversation, whole, date)? {
        return Ok(spans);
    }
    let mut spans = Vec::new();
    for (index, message) in conversation.messages.iter().enumerate() {
        if text(message, "role") != "assistant" {
            continue;
        }
        let before = chat::render_conversation(tokenizer, &conversation.beginning(index), true, date)?;
        let after = chat::render_conversation(tokenizer, &conversation.beginning(index + 1), false, date)?;
        if !whole.starts_with(&after) || !after.starts_with(&before) {
            return Err(invalid(format!(
                "the model's chat template has no {{% generation %}} marks, and rewrites earlier turns at messages[{index}], so \
                 the assistant's tokens are unknown: add the marks, or learn all or last"
            )));
        }
        spans.push(before.len()..after.len());
    }
    Ok(spans)
}

/// Returns the tokens of a text with those to learn that lie in the spans. As in transformers, a token that
/// begins or ends a span belongs to it as a whole.
fn learn_spans(
    tokenizer: &TextTokenizer,
    whole: &str,
    spans: &[Range<usize>],
) -> Result<TrainingSequence, ModelError> {
    let (ids, offsets) = tokenizer.encode_with_offsets(whole, false)?;
    let is_in =
        |&(start, end): &(usize, usize)| spans.iter().any(|span| start.max(span.start) < end.min(span.end));
    let is_learnt: Vec<bool> = offsets.iter().map(is_in).collect();
    // Nothing precedes the first token, so it cannot be learnt.
    let Some(start) = is_learnt.iter().skip(1).position(|&learnt| learnt).map(|place| place + 1) else {
        return Err(ModelError::invalid(InvalidKind::Empty, "the assistant's turns have no token"));
    };
    let end = is_learnt.iter().rposition(|&learnt| learnt).map_or(ids.len(), |last| last + 1);
    let mut sequence = rows::sequence(start, ids)?;
    sequence.skipped =
        (start..sequence.ids.len()).filter(|&place| place >= end || !is_learnt[place]).collect();
    Ok(sequence)
}

#[cfg(test)]
mod tests;
