//! HH-RLHF transcripts: `\n\nHuman: …\n\nAssistant: …`, turn by turn.

use dissent_domain::training::{Message, Role};

const MARKERS: [(&str, Role); 2] = [("\n\nHuman:", Role::User), ("\n\nAssistant:", Role::Assistant)];

/// Returns whether a text begins like a transcript.
pub(super) fn is_transcript(text: &str) -> bool {
    text.starts_with(MARKERS[0].0)
}

/// Splits a transcript into turns of alternating speakers. Contents are kept, except for the one space after
/// the colon.
///
/// A marker of the current speaker is part of the content: real completions contain such markers.
pub(super) fn turns(text: &str) -> Result<Vec<Message>, String> {
    if !is_transcript(text) {
        return Err("must begin with \"\\n\\nHuman:\"".to_owned());
    }
    let mut turns: Vec<Message> = Vec::new();
    let mut rest = text;
    while let Some((role, text)) = split_marker(rest) {
        let end = end_of_turn(text, role);
        let content = text[..end].strip_prefix(' ').unwrap_or(&text[..end]);
        turns.push(Message { role, content: content.to_owned() });
        rest = &text[end..];
    }
    Ok(turns)
}

/// Splits the marker of the next speaker off a text.
fn split_marker(text: &str) -> Option<(Role, &str)> {
    MARKERS.iter().find_map(|(marker, role)| Some((*role, text.strip_prefix(marker)?)))
}

/// Returns the position of the next marker of the other speaker, or the end of the text.
fn end_of_turn(text: &str, speaker: Role) -> usize {
    let others = MARKERS.iter().filter(|(_, role)| *role != speaker);
    others.filter_map(|(marker, _)| text.find(marker)).min().unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles_and_contents(text: &str) -> Vec<(Role, String)> {
        turns(text).unwrap().into_iter().map(|turn| (turn.role, turn.content)).collect()
    }

    #[test]
    fn contents_keep_their_spaces() {
        assert_eq!(
            roles_and_contents("\n\nHuman: a \n\nAssistant:  b\nc\n\nHuman:\n\nAssistant: "),
            [
                (Role::User, "a ".to_owned()),
                (Role::Assistant, " b\nc".to_owned()),
                (Role::User, String::new()),
                (Role::Assistant, String::new()),
            ]
        );
    }

    #[test]
    fn a_marker_of_the_current_speaker_is_content() {
        assert_eq!(
            roles_and_contents("\n\nHuman: a\n\nAssistant: b\n\nAssistant: c\n\nHuman: d\n\nHuman: e"),
            [
                (Role::User, "a".to_owned()),
                (Role::Assistant, "b\n\nAssistant: c".to_owned()),
                (Role::User, "d\n\nHuman: e".to_owned()),
            ]
        );
    }

    #[test]
    fn a_text_with_another_beginning_is_not_a_transcript() {
        assert!(turns("Human: a").is_err());
        assert!(turns("").is_err());
    }
}
