//! Turns as plain text in the format of HH-RLHF: `
//!
//! Human: …
//!
//! Assistant: …`.

use dissent_domain::training::{Message, Role};

/// Returns the turns, followed by the beginning of the assistant's next turn.
pub(super) fn with_generation_prompt(turns: &[Message]) -> String {
    format!("{}\n\nAssistant:", transcript(turns))
}

/// Returns the turns as the prompt of a template with its own frame. A single turn of the user is used
/// unchanged.
pub(super) fn for_template(turns: &[Message]) -> String {
    match turns {
        [Message { role: Role::User, content }] => content.clone(),
        _ => {
            let text = transcript(turns);
            text.strip_prefix("\n\n").map(str::to_owned).unwrap_or(text)
        }
    }
}

/// Returns the transcript of the turns. System messages have no prefix, because the format has no name for
/// their author.
fn transcript(turns: &[Message]) -> String {
    let mut text = String::new();
    for Message { role, content } in turns {
        match role {
            Role::System if text.is_empty() => {}
            Role::System => text.push_str("\n\n"),
            Role::User => text.push_str("\n\nHuman: "),
            Role::Assistant => text.push_str("\n\nAssistant: "),
        }
        text.push_str(content);
    }
    text
}
