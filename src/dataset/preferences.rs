//! Preference rows: a prompt with a chosen and a rejected completion.

use dissent_domain::training::{Dialogue, Message, Preference};
use serde::Deserialize;

use super::format::Format;
use super::options::{Margins, Preferred};
use super::text_or_turns::{
    TextOrTurns, asked_by_user, checked_turns, completion, dialogue, prompt_and_completion, split_completion,
};
use super::transcript;
use crate::jsonl::FieldErrorKind::{Inconsistent, Invalid, Missing, OutOfRange, WrongType};
use crate::jsonl::{FieldError, finite_or_null};

#[derive(Deserialize)]
pub(super) struct RawPreference {
    prompt: Option<TextOrTurns>,
    chosen: TextOrTurns,
    rejected: TextOrTurns,
    #[serde(default, deserialize_with = "finite_or_null")]
    margin: Option<f64>,
    #[serde(default, deserialize_with = "finite_or_null")]
    score_chosen: Option<f64>,
    #[serde(default, deserialize_with = "finite_or_null")]
    score_rejected: Option<f64>,
    is_chosen_safe: Option<bool>,
    is_rejected_safe: Option<bool>,
}

#[derive(Deserialize)]
pub(super) struct RawSafeRlhf {
    prompt: String,
    response_0: String,
    response_1: String,
    better_response_id: Option<u64>,
    safer_response_id: Option<u64>,
    is_response_0_safe: Option<bool>,
    is_response_1_safe: Option<bool>,
}

impl RawPreference {
    /// Converts the row, which has this format.
    pub(super) fn checked(self, format: Format, margins: Margins) -> Result<Preference, FieldError> {
        let (margin, is_unsafe) = (self.margin(margins)?, self.is_unsafe()?);
        let (prompt, chosen, rejected) = match format {
            Format::HhRlhf => from_transcripts(self)?,
            Format::ImplicitPreference => implicit(self)?,
            Format::Preference
            | Format::SafeRlhf
            | Format::PromptCompletion
            | Format::Unpaired
            | Format::Messages
            | Format::ShareGpt
            | Format::Alpaca
            | Format::Text
            | Format::PromptOnly => explicit(self)?,
        };
        Ok(Preference { prompt, chosen, rejected, margin, is_unsafe })
    }

    fn margin(&self, margins: Margins) -> Result<f32, FieldError> {
        let (field, margin) = match margins {
            Margins::Zero => return Ok(0.0),
            Margins::Column => ("margin", self.margin.unwrap_or(0.0)),
            Margins::Scores => {
                let Some(chosen) = self.score_chosen else {
                    return Err(FieldError::new("score_chosen", Missing, "missing"));
                };
                let Some(rejected) = self.score_rejected else {
                    return Err(FieldError::new("score_rejected", Missing, "missing"));
                };
                ("score_chosen", chosen - rejected)
            }
        };
        #[expect(clippy::cast_possible_truncation, reason = "the models compute in 32 bits")]
        let narrow = margin as f32;
        if !narrow.is_finite() {
            return Err(FieldError::new(field, OutOfRange, "must be a number that 32 bits can hold"));
        }
        Ok(narrow)
    }

    fn is_unsafe(&self) -> Result<Option<[bool; 2]>, FieldError> {
        match (self.is_chosen_safe, self.is_rejected_safe) {
            (Some(chosen), Some(rejected)) => Ok(Some([!chosen, !rejected])),
            (None, None) => Ok(None),
            (Some(_), None) => Err(missing_with("is_rejected_safe", "is_chosen_safe")),
            (None, Some(_)) => Err(missing_with("is_chosen_safe", "is_rejected_safe")),
        }
    }
}

pub(super) fn safe_rlhf(raw: RawSafeRlhf, preferred: Preferred) -> Result<Preference, FieldError> {
    let (field, id, other) = match preferred {
        Preferred::Better => ("better_response_id", raw.better_response_id, "safer"),
        Preferred::Safer => ("safer_response_id", raw.safer_response_id, "better"),
    };
    let Some(id) = id else {
        let reason = format!("missing: use --preferred {other}, which reads {other}_response_id");
        return Err(FieldError::new(field, Missing, reason));
    };
    let is_unsafe = match (raw.is_response_0_safe, raw.is_response_1_safe) {
        (Some(first), Some(second)) => Some([!first, !second]),
        (None, None) => None,
        (None, Some(_)) => return Err(missing_with("is_response_0_safe", "is_response_1_safe")),
        (Some(_), None) => return Err(missing_with("is_response_1_safe", "is_response_0_safe")),
    };
    let prompt = dialogue(TextOrTurns::Text(raw.prompt))?;
    let (chosen, rejected, is_unsafe) = match id {
        0 => (raw.response_0, raw.response_1, is_unsafe),
        1 => (raw.response_1, raw.response_0, is_unsafe.map(|[first, second]| [second, first])),
        other => return Err(FieldError::new(field, OutOfRange, format!("must be 0 or 1, found {other}"))),
    };
    Ok(Preference { prompt, chosen, rejected, margin: 0.0, is_unsafe })
}

fn missing_with(field: &str, present: &str) -> FieldError {
    FieldError::new(field, Missing, format!("missing, but {present} is present: give both or neither"))
}

/// Prompt, chosen completion, rejected completion.
type PreferenceTexts = (Dialogue, String, String);

fn explicit(raw: RawPreference) -> Result<PreferenceTexts, FieldError> {
    let Some(prompt) = raw.prompt else { return Err(FieldError::new("prompt", Missing, "missing")) };
    let (prompt, chosen) = prompt_and_completion(prompt, raw.chosen, "chosen")?;
    let conversational = matches!(prompt, Dialogue::Messages(_));
    Ok((prompt, chosen, completion(raw.rejected, "rejected", conversational)?))
}

fn implicit(raw: RawPreference) -> Result<PreferenceTexts, FieldError> {
    match (raw.chosen, raw.rejected) {
        (TextOrTurns::Text(chosen), TextOrTurns::Text(rejected)) => split_common_prefix(&chosen, &rejected),
        (TextOrTurns::Turns(chosen), TextOrTurns::Turns(rejected)) => match raw.prompt {
            // The prompt is a text, and the completions are turns after it.
            Some(TextOrTurns::Text(prompt)) if chosen.len() == 1 && rejected.len() == 1 => {
                let chosen = TextOrTurns::Turns(chosen);
                let prompt = asked_by_user(dialogue(TextOrTurns::Text(prompt))?, &chosen);
                let rejected = completion(TextOrTurns::Turns(rejected), "rejected", true)?;
                Ok((prompt, completion(chosen, "chosen", true)?, rejected))
            }
            Some(_) | None => from_turns(chosen, rejected),
        },
        (TextOrTurns::Text(_), TextOrTurns::Turns(_)) => {
            Err(FieldError::new("rejected", WrongType, "must be a text, like chosen"))
        }
        (TextOrTurns::Turns(_), TextOrTurns::Text(_)) => {
            Err(FieldError::new("rejected", WrongType, "must be a list, like chosen"))
        }
    }
}

/// Splits both texts after their longest common prefix, which is the prompt. A space at its end belongs to
/// the completions. If one text is a prefix of the other, the last character of the shorter one is a
/// completion. TRL's `extract_prompt` has the same rules.
fn split_common_prefix(chosen: &str, rejected: &str) -> Result<PreferenceTexts, FieldError> {
    let differs = chosen.chars().zip(rejected.chars()).position(|(one, other)| one != other);
    let shorter = chosen.chars().count().min(rejected.chars().count());
    let mut shared = differs.unwrap_or(shorter.saturating_sub(1));
    if differs.is_some() && shared > 0 && chosen.chars().nth(shared - 1) == Some(' ') {
        shared -= 1;
    }
    let bytes = chosen.chars().take(shared).map(char::len_utf8).sum();
    let prompt = &chosen[..bytes];
    if prompt.trim().is_empty() {
        let reason = "shares no beginning with rejected, so the prompt is missing: add a `prompt` field";
        return Err(FieldError::new("chosen", Inconsistent, reason));
    }
    Ok((Dialogue::Text(prompt.to_owned()), chosen[bytes..].to_owned(), rejected[bytes..].to_owned()))
}

fn from_transcripts(raw: RawPreference) -> Result<PreferenceTexts, FieldError> {
    let turns = |value, field: &str| match value {
        TextOrTurns::Text(text) => {
            transcript::turns(&text).map_err(|reason| FieldError::new(field, Invalid, reason))
        }
        TextOrTurns::Turns(_) => {
            Err(FieldError::new(field, WrongType, "must be a transcript in one text, not a list"))
        }
    };
    from_turns(turns(raw.chosen, "chosen")?, turns(raw.rejected, "rejected")?)
}

/// Converts two dialogues, which may differ only in their last turn, the assistant's.
fn from_turns(chosen: Vec<Message>, rejected: Vec<Message>) -> Result<PreferenceTexts, FieldError> {
    let (chosen_prompt, chosen) = split_completion(chosen, "chosen")?;
    let (rejected_prompt, rejected) = split_completion(rejected, "rejected")?;
    if chosen_prompt != rejected_prompt {
        let differs = chosen_prompt.iter().zip(&rejected_prompt).position(|(one, other)| one != other);
        let turn = differs.unwrap_or(chosen_prompt.len().min(rejected_prompt.len()));
        let reason = format!("turn {} differs from that of chosen: only the last turns may differ", turn + 1);
        return Err(FieldError::new("rejected", Inconsistent, reason));
    }
    Ok((checked_turns(chosen_prompt, "chosen")?, chosen, rejected))
}
