//! Turns as plain text, the way HH-RLHF writes them: `\n\nHuman: …\n\nAssistant: …`.

use dissent_domain::training::{Message, Role};

/// The turns, and the beginning of the assistant's next one.
pub(super) fn with_generation_prompt(turns: &[Message]) -> String {
    format!("{}\n\nAssistant:", transcript(turns))
}

/// The turns as the prompt of a template that writes its own frame: the one turn of the user as it is.
pub(super) fn for_template(turns: &[Message]) -> String {
    match turns {
        [Message { role: Role::User, content }] => content.clone(),
        _ => {
            let text = transcript(turns);
            text.strip_prefix("\n\n").map(str::to_owned).unwrap_or(text)
        }
    }
}

/// Instructions stand by themselves: the format has no name for who gives them.
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
