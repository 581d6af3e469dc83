//! Completions with human judgements: [the feedback of Fine-Grained RLHF](super::fine_grained), or
//! [JSON Lines](super::rows).

use std::path::Path;

use anyhow::Context as _;
use dissent_domain::feedback::Verdict;

use super::question::Question;
use super::{fine_grained, rows};
use crate::error::BadInput;
use crate::study::opponents::JudgedPair;
use crate::study::prediction::LabelledPair;

/// Limit of the file, in bytes.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Reads a file with labelled completions. A file that begins with `[` is the published one of Fine-Grained
/// RLHF; others are JSON Lines. Returns the questions and their source in words.
///
/// # Errors
/// If the file cannot be read, exceeds [`FILE_BYTES_MAX`], or has an invalid entry. The message names the
/// entry or the line, and the source of a missing file.
pub(super) fn read(path: &Path) -> anyhow::Result<(Vec<Question>, String)> {
    let metadata = std::fs::metadata(path).map_err(|error| {
        BadInput(format!(
            "failed to read the labelled completions {}: {error}; name the file with --labelled; Fine-Grained RLHF publishes {}",
            path.display(),
            fine_grained::SOURCE
        ))
    })?;
    if metadata.len() > FILE_BYTES_MAX {
        let (path, bytes) = (path.display(), metadata.len());
        return Err(BadInput(format!("{path} has {bytes} bytes: use at most {FILE_BYTES_MAX}")).into());
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    let (questions, source) = if text.trim_start().starts_with('[') {
        (fine_grained::parse(&text), fine_grained::SOURCE.to_owned())
    } else {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        (rows::parse(&text), name)
    };
    let questions = questions.map_err(|reason| BadInput(format!("{}: {reason}", path.display())))?;
    Ok((questions, source))
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

/// Returns the compared pairs of the questions with their verdicts, ties included.
#[must_use]
pub(super) fn judged_pairs(questions: &[&Question]) -> Vec<JudgedPair> {
    let of = |(prompt, question): (usize, &&Question)| {
        let judged = move |verdict: Verdict| {
            move |&(first, second): &(usize, usize)| JudgedPair {
                prompt,
                completions: [first, second],
                verdict,
            }
        };
        let preferred = question.preferred.iter().map(judged(Verdict::First));
        preferred.chain(question.ties.iter().map(judged(Verdict::Tie))).collect::<Vec<_>>()
    };
    questions.iter().enumerate().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> anyhow::Result<(Vec<Question>, String)> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(file.path())
    }

    #[test]
    fn the_first_character_tells_the_format() {
        let (questions, source) = read_text("  []").unwrap();
        assert!(questions.is_empty() && source.contains("FineGrainedRLHF"), "{source}");
        let row = r#"{"prompt": "p", "completions": ["a", "b"], "scores": [1, 2]}"#;
        let (questions, source) = read_text(row).unwrap();
        assert_eq!(questions[0].preferred, [(1, 0)]);
        assert!(!source.contains("FineGrainedRLHF"), "{source}");
    }

    #[test]
    fn an_error_names_the_source_of_a_missing_file() {
        let missing = format!("{:#}", read(Path::new("no/such/file.json")).unwrap_err());
        assert!(missing.contains("allenai/FineGrainedRLHF") && missing.contains("--labelled"), "{missing}");
    }

    #[test]
    fn judged_pairs_include_ties() {
        let question = Question { preferred: vec![(2, 0)], ties: vec![(0, 1)], ..Question::default() };
        let pair = |completions, verdict| JudgedPair { prompt: 0, completions, verdict };
        assert_eq!(judged_pairs(&[&question]), [pair([2, 0], Verdict::First), pair([0, 1], Verdict::Tie)]);
        assert_eq!(labelled_pairs(&[&question]), [LabelledPair { prompt: 0, better: 2, worse: 0 }]);
    }
}
