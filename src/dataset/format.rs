//! The formats of data sets and their names.

use std::fmt;
use std::str::FromStr;

/// The format of a file's rows. Names and fields are those of TRL, if TRL has the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// `prompt`, `chosen`, `rejected`: plain texts, or lists of `{role, content}`.
    Preference,
    /// `chosen`, `rejected`: their common prefix is the prompt.
    ImplicitPreference,
    /// `chosen`, `rejected`: transcripts of `\n\nHuman: …\n\nAssistant: …` (Anthropic's HH-RLHF).
    HhRlhf,
    /// `prompt`, `response_0`, `response_1` and their judgements (PKU-SafeRLHF).
    SafeRlhf,
    /// `prompt`, `completion`.
    PromptCompletion,
    /// `prompt`, `completion`, `label`: whether the completion is good.
    Unpaired,
    /// `messages`: a dialogue with the completion as its last turn.
    Messages,
    /// `text`: a text without a prompt.
    Text,
    /// `prompt`.
    PromptOnly,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 9] = [
        Self::Preference,
        Self::ImplicitPreference,
        Self::HhRlhf,
        Self::SafeRlhf,
        Self::PromptCompletion,
        Self::Unpaired,
        Self::Messages,
        Self::Text,
        Self::PromptOnly,
    ];

    /// Returns the name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Preference => "preference",
            Self::ImplicitPreference => "implicit-preference",
            Self::HhRlhf => "hh-rlhf",
            Self::SafeRlhf => "safe-rlhf",
            Self::PromptCompletion => "prompt-completion",
            Self::Unpaired => "unpaired",
            Self::Messages => "messages",
            Self::Text => "text",
            Self::PromptOnly => "prompt-only",
        }
    }

    /// Returns the fields by which the format is recognised.
    #[must_use]
    pub fn fields(self) -> &'static str {
        match self {
            Self::Preference => "prompt, chosen, rejected",
            Self::ImplicitPreference => "chosen, rejected",
            Self::HhRlhf => "chosen, rejected: \"\\n\\nHuman: …\\n\\nAssistant: …\"",
            Self::SafeRlhf => "prompt, response_0, response_1",
            Self::PromptCompletion => "prompt, completion",
            Self::Unpaired => "prompt, completion, label",
            Self::Messages => "messages",
            Self::Text => "text",
            Self::PromptOnly => "prompt",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|format| format.name() == text);
        found.ok_or_else(|| format!("use one of {}", Self::ALL.map(Self::name).join(", ")))
    }
}
