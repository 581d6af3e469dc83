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
    /// `conversations`: a dialogue of `{from, value}` (ShareGPT).
    ShareGpt,
    /// `instruction`, `input`, `output` (Alpaca).
    Alpaca,
    /// `text`: a text without a prompt.
    Text,
    /// `prompt`.
    PromptOnly,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 11] = [
        Self::Preference,
        Self::ImplicitPreference,
        Self::HhRlhf,
        Self::SafeRlhf,
        Self::PromptCompletion,
        Self::Unpaired,
        Self::Messages,
        Self::ShareGpt,
        Self::Alpaca,
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
            Self::ShareGpt => "sharegpt",
            Self::Alpaca => "alpaca",
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
            Self::ShareGpt => "conversations: {from, value}",
            Self::Alpaca => "instruction, input?, output",
            Self::Text => "text",
            Self::PromptOnly => "prompt",
        }
    }

    /// Returns the fields that a row must have.
    pub(super) fn needed(self) -> &'static [&'static str] {
        match self {
            Self::Preference => &["prompt", "chosen", "rejected"],
            Self::ImplicitPreference | Self::HhRlhf => &["chosen", "rejected"],
            Self::SafeRlhf => &["prompt", "response_0", "response_1"],
            Self::PromptCompletion => &["prompt", "completion"],
            Self::Unpaired => &["prompt", "completion", "label"],
            Self::Messages => &["messages"],
            Self::ShareGpt => &["conversations"],
            Self::Alpaca => &["instruction", "output"],
            Self::Text => &["text"],
            Self::PromptOnly => &["prompt"],
        }
    }

    /// Whether a field has a meaning in the format. Names of rows, such as `id`, mean nothing and are no
    /// loss.
    pub(super) fn reads(self, field: &str) -> bool {
        let further: &[&str] = match self {
            Self::Preference | Self::ImplicitPreference | Self::HhRlhf => {
                &["prompt", "margin", "score_chosen", "score_rejected", "is_chosen_safe", "is_rejected_safe"]
            }
            Self::SafeRlhf => {
                &["better_response_id", "safer_response_id", "is_response_0_safe", "is_response_1_safe"]
            }
            Self::Messages | Self::ShareGpt => &["tools", "chat_template_kwargs"],
            Self::Alpaca => &["input"],
            Self::PromptCompletion | Self::Unpaired | Self::Text | Self::PromptOnly => &[],
        };
        let names = ["id", "prompt_id", "category", "source"];
        [self.needed(), further, &names].iter().any(|fields| fields.contains(&field))
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
