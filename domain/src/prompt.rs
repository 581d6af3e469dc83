//! The prompt step: the prompts of a round.

use serde::{Deserialize, Serialize};

use crate::id::PromptId;
use crate::training::{Dialogue, Message, Role};

/// A prompt for the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    /// The id, unique within the experiment.
    pub prompt_id: PromptId,
    /// The text, before any template. Of several turns, a transcript for people.
    pub text: String,
    /// A label for grouping in reports, such as a topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// The turns, as templates render them; empty if the text is the prompt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Message>,
}

impl Prompt {
    /// Creates a prompt without a category.
    #[must_use]
    pub fn new(prompt_id: PromptId, prompt: Dialogue) -> Self {
        match prompt {
            Dialogue::Text(text) => Self { prompt_id, text, category: None, messages: Vec::new() },
            Dialogue::Messages(messages) => {
                Self { prompt_id, text: transcript(&messages), category: None, messages }
            }
        }
    }

    /// Returns the prompt as templates render it.
    #[must_use]
    pub fn dialogue(&self) -> Dialogue {
        if self.messages.is_empty() {
            Dialogue::Text(self.text.clone())
        } else {
            Dialogue::Messages(self.messages.clone())
        }
    }
}

/// Returns turns as a text for people, each with its speaker. A single turn of the user is only its content.
fn transcript(messages: &[Message]) -> String {
    if let [Message { role: Role::User, content }] = messages {
        return content.clone();
    }
    let turn = |Message { role, content }: &Message| {
        let speaker = match role {
            Role::System => "System",
            Role::User => "User",
            Role::Assistant => "Assistant",
        };
        format!("{speaker}: {content}")
    };
    messages.iter().map(turn).collect::<Vec<_>>().join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(role: Role, content: &str) -> Message {
        Message { role, content: content.to_owned() }
    }

    #[test]
    fn a_prompt_of_text_is_written_as_before_and_turns_keep_their_speakers() {
        let id = || PromptId::new("p").unwrap();
        let plain = Prompt::new(id(), Dialogue::Text("why?".to_owned()));
        assert_eq!(serde_json::to_string(&plain).unwrap(), r#"{"prompt_id":"p","text":"why?"}"#);
        let turns = vec![turn(Role::System, "Be brief."), turn(Role::User, "why?")];
        let prompt = Prompt::new(id(), Dialogue::Messages(turns.clone()));
        assert_eq!(prompt.text, "System: Be brief.\n\nUser: why?");
        assert_eq!(prompt.dialogue(), Dialogue::Messages(turns.clone()));
        let read: Prompt = serde_json::from_str(&serde_json::to_string(&prompt).unwrap()).unwrap();
        assert_eq!(read, prompt);
        assert_eq!(Prompt::new(id(), Dialogue::Messages(turns[1..].to_vec())).text, "why?");
    }
}
