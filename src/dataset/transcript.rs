//! HH-RLHF transcripts: `\n\nHuman: …\n\nAssistant: …`, turn by turn.

use dissent_domain::training::{Message, Role};

const MARKERS: [(&str, Role); 2] = [("\n\nHuman:", Role::User), ("\n\nAssistant:", Role::Assistant)];

/// Whether a text begins as a transcript does.
pub(super) fn is_one(text: &str) -> bool {
    text.starts_with(MARKERS[0].0)
}

/// The turns of a transcript, in order, speakers taking turns. What is said is kept as it is, less the one
/// space after the colon.
///
/// A marker of the one who is speaking already is part of what is said: answers of real data contain them,
/// and no one answers himself.
pub(super) fn turns(text: &str) -> Result<Vec<Message>, String> {
    if !is_one(text) {
        return Err("must begin with \"\\n\\nHuman:\"".to_owned());
    }
    let mut turns: Vec<Message> = Vec::new();
    let mut rest = text;
    while let Some((role, said)) = opening(rest) {
        let end = end_of_turn(said, role);
        let content = said[..end].strip_prefix(' ').unwrap_or(&said[..end]);
        turns.push(Message { role, content: content.to_owned() });
        rest = &said[end..];
    }
    Ok(turns)
}

/// Who speaks next, and the text from there on.
fn opening(text: &str) -> Option<(Role, &str)> {
    MARKERS.iter().find_map(|(marker, role)| Some((*role, text.strip_prefix(marker)?)))
}

/// Where the other one begins to speak.
fn end_of_turn(said: &str, speaker: Role) -> usize {
    let others = MARKERS.iter().filter(|(_, role)| *role != speaker);
    others.filter_map(|(marker, _)| said.find(marker)).min().unwrap_or(said.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spoken(text: &str) -> Vec<(Role, String)> {
        turns(text).unwrap().into_iter().map(|turn| (turn.role, turn.content)).collect()
    }

    #[test]
    fn turns_are_kept_to_the_last_space() {
        assert_eq!(
            spoken("\n\nHuman: a \n\nAssistant:  b\nc\n\nHuman:\n\nAssistant: "),
            [
                (Role::User, "a ".to_owned()),
                (Role::Assistant, " b\nc".to_owned()),
                (Role::User, String::new()),
                (Role::Assistant, String::new()),
            ]
        );
    }

    #[test]
    fn a_marker_within_an_answer_is_part_of_it() {
        assert_eq!(
            spoken("\n\nHuman: a\n\nAssistant: b\n\nAssistant: c\n\nHuman: d\n\nHuman: e"),
            [
                (Role::User, "a".to_owned()),
                (Role::Assistant, "b\n\nAssistant: c".to_owned()),
                (Role::User, "d\n\nHuman: e".to_owned()),
            ]
        );
    }

    #[test]
    fn a_text_that_begins_otherwise_is_no_transcript() {
        assert!(turns("Human: a").is_err());
        assert!(turns("").is_err());
    }
}
