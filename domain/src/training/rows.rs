//! Training data as text: dialogues, demonstrations and preferences.

use serde::{Deserialize, Serialize};

/// The speaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Instructions for the whole dialogue.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

/// One turn of a dialogue.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    /// The speaker.
    pub role: Role,
    /// The text.
    pub content: String,
}

/// The input of a model.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialogue {
    /// One text, as a person would type it.
    Text(String),
    /// Turns. The last one is not of the model.
    Messages(Vec<Message>),
}

/// A prompt with a completion to imitate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Demonstration {
    /// The prompt.
    pub prompt: Dialogue,
    /// The completion.
    pub completion: String,
}

/// Two completions of one prompt, one of which is preferred.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Preference {
    /// The prompt.
    pub prompt: Dialogue,
    /// The preferred completion.
    pub chosen: String,
    /// The other completion.
    pub rejected: String,
    /// Smallest difference that the rewards of the two completions should have, ≥ 0.
    pub margin: f32,
    /// Whether each completion is unsafe, `[chosen, rejected]`; `None` where it was not judged.
    pub is_unsafe: Option<[bool; 2]>,
}
