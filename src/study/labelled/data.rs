//! Answers that people have compared: the human feedback of Fine-Grained RLHF (arXiv 2306.01693).

use std::path::Path;

use anyhow::Context as _;
use serde::Deserialize;

use crate::error::BadInput;
use crate::study::prediction::LabelledPair;

/// Answers to each question.
#[cfg(test)]
const ANSWERS: usize = 4;
/// The pairs that people compared, in the order of the file.
const COMPARED: [(usize, usize); 6] = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)];
/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Where the file comes from.
pub(super) const SOURCE: &str =
    "tasks/qa_feedback/data/dev_feedback.json of github.com/allenai/FineGrainedRLHF (Apache-2.0)";

/// A question with its answers and what people say about them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Question {
    /// What was asked.
    pub(super) question: String,
    /// What the answers were to be taken from: title and sentences of each passage, two line feeds between
    /// them.
    pub(super) passages: String,
    /// The answers.
    pub(super) answers: Vec<String>,
    /// For each pair of answers with a preference: the better one, the other one. Ties are not among them.
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

/// Reads a file as it was published.
///
/// # Errors
/// If it is not there (the message says where to get it), is too large, or has an entry that cannot be used.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<Question>> {
    let metadata = std::fs::metadata(path).map_err(|error| {
        BadInput(format!(
            "failed to read the labelled answers {}: {error}; they are {SOURCE}: download them there, or name the file with --labelled",
            path.display()
        ))
    })?;
    if metadata.len() > FILE_BYTES_MAX {
        return Err(BadInput(format!("{}: larger than {FILE_BYTES_MAX} bytes", path.display())).into());
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
        return Err(format!("[{index}].preference: {found} entries, expected {}", COMPARED.len()));
    }
    let mut preferred = Vec::new();
    for (&(first, second), preference) in COMPARED.iter().zip(&entry.preference) {
        match preference {
            0 => {}
            1 => preferred.push((first, second)),
            2 => preferred.push((second, first)),
            other => return Err(format!("[{index}].preference: {other}, expected 0, 1 or 2")),
        }
    }
    let passage = |passage: Vec<String>| match passage.split_first() {
        Some((title, sentences)) => {
            let sentences: Vec<&str> = sentences.iter().map(|sentence| sentence.trim()).collect();
            format!("{}: {}", title.trim(), sentences.join(" "))
        }
        None => String::new(),
    };
    let answers = [entry.first, entry.second, entry.third, entry.fourth];
    Ok(Question {
        question: entry.question.trim().to_owned(),
        passages: entry.passages.into_iter().map(passage).collect::<Vec<_>>().join("\n\n"),
        answers: answers.map(|answer| answer.trim().to_owned()).to_vec(),
        preferred,
    })
}

/// The preferences of some questions, by position among them.
#[must_use]
pub(super) fn judged(questions: &[&Question]) -> Vec<LabelledPair> {
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
    fn a_preference_names_the_better_answer_and_ties_are_left_out() {
        // 1vs2, 1vs3, 1vs4, 2vs3, 2vs4, 3vs4: 1 is the first, 2 the second, 0 neither.
        let questions = read_text(&entry("[0, 1, 2, 1, 0, 2]")).unwrap();
        assert_eq!(questions[0].preferred, [(0, 2), (3, 0), (1, 2), (3, 2)]);
        assert_eq!(questions[0].question, "why?");
        assert_eq!(questions[0].passages, "T: One. Two.\n\nU: Three.");
        assert_eq!(questions[0].answers, ["a", "b", "c", "d"]);
        assert_eq!(questions[0].answers.len(), ANSWERS);
        assert_eq!(judged(&[&questions[0]])[1], LabelledPair { prompt: 0, better: 3, worse: 0 });
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let message = |text: &str| format!("{:#}", read_text(text).unwrap_err());
        assert!(message(&entry("[0, 1]")).contains("[0].preference: 2 entries, expected 6"));
        assert!(message(&entry("[0, 1, 2, 3, 0, 0]")).contains("[0].preference: 3, expected 0, 1 or 2"));
        assert!(message(r#"[{"question": 1}]"#).contains("[0].question"));
        let missing = format!("{:#}", read(Path::new("no/such/file.json")).unwrap_err());
        assert!(missing.contains("allenai/FineGrainedRLHF") && missing.contains("--labelled"), "{missing}");
    }
}
