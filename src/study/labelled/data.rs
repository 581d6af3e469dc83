//! Completions with human preferences: the feedback of Fine-Grained RLHF (arXiv 2306.01693).

use std::path::Path;

use anyhow::Context as _;
use serde::Deserialize;

use crate::error::BadInput;
use crate::study::prediction::LabelledPair;

/// Completions of each question.
#[cfg(test)]
const COMPLETIONS: usize = 4;
/// The compared pairs of completions, in the order of the file.
const COMPARED: [(usize, usize); 6] = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)];
/// Limit of the file, in bytes.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// The published source of the file.
pub(super) const SOURCE: &str =
    "tasks/qa_feedback/data/dev_feedback.json of github.com/allenai/FineGrainedRLHF (Apache-2.0)";

/// A question with its completions and their human preferences.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Question {
    /// The question.
    pub(super) question: String,
    /// The source passages of the completions, with two newlines between them. Each has a title and
    /// sentences.
    pub(super) passages: String,
    /// The completions.
    pub(super) completions: Vec<String>,
    /// The preferred and the other completion of each compared pair, without ties.
    pub(super) preferred: Vec<(usize, usize)>,
}

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

/// Reads the published file.
///
/// # Errors
/// If the file cannot be read, exceeds [`FILE_BYTES_MAX`], or has an invalid entry. The message names the
/// source.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<Question>> {
    let metadata = std::fs::metadata(path).map_err(|error| {
        BadInput(format!(
            "failed to read the labelled completions {}: {error}; download {SOURCE}, or name the file with --labelled",
            path.display()
        ))
    })?;
    if metadata.len() > FILE_BYTES_MAX {
        let (path, bytes) = (path.display(), metadata.len());
        return Err(BadInput(format!("{path} has {bytes} bytes: use at most {FILE_BYTES_MAX}")).into());
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    let entries: Vec<Entry> =
        serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(&text))
            .map_err(|error| BadInput(format!("{}: {error}", path.display())))?;
    let questions: Result<Vec<Question>, String> = entries.into_iter().enumerate().map(question).collect();
    Ok(questions.map_err(|reason| BadInput(format!("{}: {reason}", path.display())))?)
}

fn question((index, entry): (usize, Entry)) -> Result<Question, String> {
    if entry.preference.len() != COMPARED.len() {
        let found = entry.preference.len();
        return Err(format!("[{index}].preference has {found} entries: use {}", COMPARED.len()));
    }
    let mut preferred = Vec::new();
    for (&(first, second), preference) in COMPARED.iter().zip(&entry.preference) {
        match preference {
            0 => {}
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
    })
}

/// Returns the preferred pairs of the questions. The `prompt` of a pair is the index of its question.
#[must_use]
pub(super) fn labelled_pairs(questions: &[&Question]) -> Vec<LabelledPair> {
    let of = |(prompt, question): (usize, &&Question)| {
        question
            .preferred
            .iter()
            .map(move |&(better, worse)| LabelledPair { prompt, better, worse })
            .collect::<Vec<_>>()
    };
    questions.iter().enumerate().flat_map(of).collect()
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

    fn read_text(text: &str) -> anyhow::Result<Vec<Question>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(file.path())
    }

    #[test]
    fn preferences_are_read_without_ties() {
        // 1vs2, 1vs3, 1vs4, 2vs3, 2vs4, 3vs4: 1 prefers the first, 2 the second, 0 is a tie.
        let questions = read_text(&entry("[0, 1, 2, 1, 0, 2]")).unwrap();
        assert_eq!(questions[0].preferred, [(0, 2), (3, 0), (1, 2), (3, 2)]);
        assert_eq!(questions[0].question, "why?");
        assert_eq!(questions[0].passages, "T: One. Two.\n\nU: Three.");
        assert_eq!(questions[0].completions, ["a", "b", "c", "d"]);
        assert_eq!(questions[0].completions.len(), COMPLETIONS);
        assert_eq!(labelled_pairs(&[&questions[0]])[1], LabelledPair { prompt: 0, better: 3, worse: 0 });
    }

    #[test]
    fn an_error_names_the_invalid_entry_or_the_source_of_a_missing_file() {
        let message = |text: &str| format!("{:#}", read_text(text).unwrap_err());
        assert!(message(&entry("[0, 1]")).contains("[0].preference has 2 entries: use 6"));
        let unknown = message(&entry("[0, 1, 2, 3, 0, 0]"));
        assert!(unknown.contains("[0].preference has the unknown value 3"), "{unknown}");
        assert!(message(r#"[{"question": 1}]"#).contains("[0].question"));
        let missing = format!("{:#}", read(Path::new("no/such/file.json")).unwrap_err());
        assert!(missing.contains("allenai/FineGrainedRLHF") && missing.contains("--labelled"), "{missing}");
    }
}
