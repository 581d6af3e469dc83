//! Flags of a completion, read from its text alone: reasons why the proxy or the policy may misjudge it.
//!
//! Three flags make a completion degenerate, so that no judgement is worth its cost: [`Flag::Repetition`],
//! [`Flag::Empty`] and [`Flag::Cut`]. The others are only noted, because a refusal or a short text may be the
//! better completion. A degenerate *conflict* is another thing: its scores do not vary.
//!
//! Every flag is a rule over characters, in time O(n log n) for a text of n bytes. The rules know several
//! languages and scripts, and none of them uses a model. On the labelled set in `tests/data`, the held-out
//! half measures them.

mod code;
mod cut;
mod language;
mod leak;
mod refusal;
mod repetition;
mod runs;
mod short;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::generation::FinishReason;

pub use language::LanguageMismatch;
pub use repetition::{Repetition, RepetitionKind};

/// A property of a completion's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flag {
    /// A loop: the same characters, words, sentences or lines again and again.
    Repetition,
    /// No visible character.
    Empty,
    /// The token limit ended it. Where no reason is known, the text ends within a sentence or a block of
    /// code.
    Cut,
    /// The policy declines the request in the first sentences.
    Refusal,
    /// The language is not that of the prompt, and the prompt names no language.
    Language,
    /// Text of a chat template: a special token, a header, or the next turn of the user.
    Leak,
    /// A few words for a request of a longer text, or punctuation only.
    Short,
}

impl Flag {
    /// Every flag; those of degenerate completions first.
    pub const ALL: [Self; 7] =
        [Self::Repetition, Self::Empty, Self::Cut, Self::Refusal, Self::Language, Self::Leak, Self::Short];

    /// The name of the flag in reports and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Repetition => "repetition",
            Self::Empty => "empty",
            Self::Cut => "cut",
            Self::Refusal => "refusal",
            Self::Language => "language",
            Self::Leak => "leak",
            Self::Short => "short",
        }
    }

    /// Whether the flag makes a completion degenerate. The other flags are only noted.
    #[must_use]
    pub const fn is_degenerate(self) -> bool {
        match self {
            Self::Repetition | Self::Empty | Self::Cut => true,
            Self::Refusal | Self::Language | Self::Leak | Self::Short => false,
        }
    }
}

impl fmt::Display for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The flags of one completion, with their reasons.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct CompletionFlags {
    /// The loop, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repetition: Option<Repetition>,
    /// Whether there is no visible character.
    pub empty: bool,
    /// Whether the token limit ended it.
    pub cut: bool,
    /// The phrase that declines, in lower case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// The two languages, if they differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<LanguageMismatch>,
    /// The first text of a template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leak: Option<String>,
    /// Whether it is too short for the request.
    pub short: bool,
}

impl CompletionFlags {
    /// Whether the completion has a flag.
    #[must_use]
    pub const fn has(&self, flag: Flag) -> bool {
        match flag {
            Flag::Repetition => self.repetition.is_some(),
            Flag::Empty => self.empty,
            Flag::Cut => self.cut,
            Flag::Refusal => self.refusal.is_some(),
            Flag::Language => self.language.is_some(),
            Flag::Leak => self.leak.is_some(),
            Flag::Short => self.short,
        }
    }

    /// The flags of the completion, in the order of [`Flag::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = Flag> {
        Flag::ALL.into_iter().filter(|flag| self.has(*flag))
    }

    /// Whether a flag makes the completion degenerate: repetition, empty or cut.
    #[must_use]
    pub fn is_degenerate(&self) -> bool {
        self.iter().any(Flag::is_degenerate)
    }
}

/// Returns the flags of a completion of a prompt.
///
/// `completion` is the decoded text, without special tokens that the tokenizer removes. `finish_reason` is
/// `None` where nobody recorded it: then the text alone tells whether it is cut. The time is
/// O(n log n) in the bytes of both texts.
///
/// ```
/// use dissent_domain::flags::{Flag, completion_flags};
/// use dissent_domain::generation::FinishReason;
///
/// let flags = completion_flags("Laugh.", &"ha".repeat(100), Some(FinishReason::Length));
/// assert_eq!(flags.iter().collect::<Vec<_>>(), [Flag::Repetition, Flag::Cut]);
/// assert!(flags.is_degenerate());
/// assert!(!completion_flags("What is two plus two?", "4.", Some(FinishReason::Stop)).is_degenerate());
/// ```
#[must_use]
pub fn completion_flags(
    prompt: &str,
    completion: &str,
    finish_reason: Option<FinishReason>,
) -> CompletionFlags {
    let empty = is_empty(completion);
    let cut = match finish_reason {
        Some(FinishReason::Length) => true,
        Some(FinishReason::Stop) => false,
        None => cut::looks_cut(completion),
    };
    if empty {
        return CompletionFlags { empty, cut, ..CompletionFlags::default() };
    }
    CompletionFlags {
        repetition: repetition::repetition(prompt, completion),
        empty,
        cut,
        refusal: refusal::refusal(completion),
        language: language::language_mismatch(prompt, completion),
        leak: leak::leak(prompt, completion),
        short: short::is_short(prompt, completion),
    }
}

/// Whether every character is white space, a control character or invisible.
fn is_empty(text: &str) -> bool {
    text.chars().all(|character| {
        character.is_whitespace()
            || character.is_control()
            || matches!(character, '\u{ad}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2064}' | '\u{feff}')
    })
}

#[cfg(test)]
mod tests;
