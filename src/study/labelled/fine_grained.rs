//! The feedback of Fine-Grained RLHF (arXiv 2306.01693).

use serde::Deserialize;

use super::question::Question;

/// Completions of each question.
#[cfg(test)]
const COMPLETIONS: usize = 4;
/// The compared pairs of completions, in the order of the file.
const COMPARED: [(usize, usize); 6] = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)];

/// The published source of the file.
pub(super) const SOURCE: &str =
    "tasks/qa_feedback/data/dev_feedback.json of github.com/allenai/FineGrainedRLHF (Apache-2.0)";

#[derive(Deserialize)]
struct Entry {
    question: String,
    passages: Vec<Vec<String>>,
    #[serde(rename = "prediction 1")]
    first: String,
    #[serde(rename = "prediction 2")]
    second: String,
    #[serde(rename = "prediction 3")]
    third: String,
    #[serde(rename = "prediction 4")]
    fourth: String,
    preference: Vec<u8>,
}

/// Parses the published file.
///
/// # Errors
/// If an entry is invalid. The message names it.
pub(super) fn parse(text: &str) -> Result<Vec<Question>, String> {
    let entries: Vec<Entry> = serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(text))
        .map_err(|error| error.to_string())?;
    entries.into_iter().enumerate().map(question).collect()
}

fn question((index, entry): (usize, Entry)) -> Result<Question, String> {
    if entry.preference.len() != COMPARED.len() {
        let found = entry.preference.len();
        return Err(format!("[{index}].preference has {found} entries: use {}", COMPARED.len()));
    }
    let (mut preferred, mut ties) = (Vec::new(), Vec::new());
    for (&(first, second), preference) in COMPARED.iter().zip(&entry.preference) {
        match preference {
            0 => ties.push((first, second)),
            1 => preferred.push((first, second)),
            2 => preferred.push((second, first)),
            other => {
                return Err(format!("[{index}].preference has the unknown value {other}: use 0, 1 or 2"));
            }
        }
    }
    let passage = |passage: Vec<String>| match passage.split_first() {
        Some((title, sentences)) => {
            let sentences: Vec<&str> = sentences.iter().map(|sentence| sentence.trim()).collect();
            format!("{}: {}", title.trim(), sentences.join(" "))
        }
        None => String::new(),
    };
    let completions = [entry.first, entry.second, entry.third, entry.fourth];
    Ok(Question {
        question: entry.question.trim().to_owned(),
        passages: entry.passages.into_iter().map(passage).collect::<Vec<_>>().join("\n\n"),
        completions: completions.map(|completion| completion.trim().to_owned()).to_vec(),
        preferred,
        ties,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(preference: &str) -> String {
        format!(
            r#"[{{"question": " why? ", "passages": [["T", "One. ", " Two."], ["U", "Three."]], "prediction 1": "a ",
            "prediction 2": "b", "prediction 3": "c", "prediction 4": "d", "gold": "e", "preference": {preference}}}]"#
        )
    }

    #[test]
    fn preferences_are_read_without_ties() {
        // 1vs2, 1vs3, 1vs4, 2vs3, 2vs4, 3vs4: 1 prefers the first, 2 the second, 0 is a tie.
        let questions = parse(&entry("[0, 1, 2, 1, 0, 2]")).unwrap();
        assert_eq!(questions[0].preferred, [(0, 2), (3, 0), (1, 2), (3, 2)]);
        assert_eq!(questions[0].ties, [(0, 1), (1, 3)]);
        assert_eq!(questions[0].question, "why?");
        assert_eq!(questions[0].passages, "T: One. Two.\n\nU: Three.");
        assert_eq!(questions[0].completions, ["a", "b", "c", "d"]);
        assert_eq!(questions[0].completions.len(), COMPLETIONS);
    }

    #[test]
    fn an_error_names_the_invalid_entry() {
        let message = |text: &str| parse(text).unwrap_err();
        assert!(message(&entry("[0, 1]")).contains("[0].preference has 2 entries: use 6"));
        let unknown = message(&entry("[0, 1, 2, 3, 0, 0]"));
        assert!(unknown.contains("[0].preference has the unknown value 3"), "{unknown}");
        assert!(message(r#"[{"question": 1}]"#).contains("[0].question"));
    }
}
