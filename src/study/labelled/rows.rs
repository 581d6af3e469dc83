//! Labelled completions as JSON Lines: a prompt a line, with a score of each completion or with preferences.

use serde::Deserialize;

use super::question::Question;

/// Limit of the completions of a prompt.
const COMPLETIONS_MAX: usize = 64;

/// A line of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    /// A name, for people.
    #[serde(rename = "prompt_id")]
    _prompt_id: Option<String>,
    prompt: String,
    #[serde(default)]
    passages: String,
    completions: Vec<String>,
    /// The score of each completion: the higher one is better, equal ones are a tie.
    scores: Option<Vec<f64>>,
    /// The indices of the better and of the other completion of each pair.
    preferences: Option<Vec<[usize; 2]>>,
    /// The indices of pairs of which neither completion is better.
    #[serde(default)]
    ties: Vec<[usize; 2]>,
}

/// Parses the lines. Empty lines are skipped.
///
/// # Errors
/// If a line is invalid. The message names the line and the field.
pub(super) fn parse(text: &str) -> Result<Vec<Question>, String> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            let row: Result<Row, String> =
                serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(line))
                    .map_err(|error| error.to_string());
            row.and_then(Row::question).map_err(|reason| format!("line {}: {reason}", index + 1))
        })
        .collect()
}

impl Row {
    fn question(self) -> Result<Question, String> {
        let count = self.completions.len();
        if !(2..=COMPLETIONS_MAX).contains(&count) {
            return Err(format!("completions has {count} entries: use 2 to {COMPLETIONS_MAX}"));
        }
        let (preferred, ties) = match (&self.scores, &self.preferences) {
            (Some(scores), None) if self.ties.is_empty() => by_score(scores, count)?,
            (None, Some(preferences)) => self.compared(preferences)?,
            (Some(_), _) => return Err("scores excludes preferences and ties: leave out one".to_owned()),
            (None, None) => return Err("scores or preferences is missing: add one".to_owned()),
        };
        Ok(Question {
            question: self.prompt,
            passages: self.passages,
            completions: self.completions,
            preferred,
            ties,
        })
    }

    /// Returns the preferred pairs and the ties.
    fn compared(&self, preferences: &[[usize; 2]]) -> Result<Compared, String> {
        let count = self.completions.len();
        let mut seen = vec![false; count * count];
        let mut checked = |field: &str, pairs: &[[usize; 2]]| {
            let mut found = Vec::with_capacity(pairs.len());
            for (index, &[one, other]) in pairs.iter().enumerate() {
                if one >= count || other >= count {
                    let pair = format!("{field}[{index}] = [{one}, {other}]");
                    return Err(format!("{pair} names an unknown completion: use 0 to {}", count - 1));
                }
                if one == other {
                    return Err(format!(
                        "{field}[{index}] = [{one}, {other}] compares a completion with itself"
                    ));
                }
                if std::mem::replace(&mut seen[one.min(other) * count + one.max(other)], true) {
                    let pair = format!("{field}[{index}] = [{one}, {other}]");
                    return Err(format!("{pair} is a pair that occurs twice: keep one judgement"));
                }
                found.push((one, other));
            }
            Ok(found)
        };
        Ok((checked("preferences", preferences)?, checked("ties", &self.ties)?))
    }
}

/// Preferred pairs, the better completion first, and ties.
type Compared = (Vec<(usize, usize)>, Vec<(usize, usize)>);

fn by_score(scores: &[f64], count: usize) -> Result<Compared, String> {
    if scores.len() != count {
        return Err(format!("scores has {} entries: use {count}, one for each completion", scores.len()));
    }
    let (mut preferred, mut ties) = (Vec::new(), Vec::new());
    for first in 0..count {
        for second in first + 1..count {
            match scores[first].total_cmp(&scores[second]) {
                std::cmp::Ordering::Greater => preferred.push((first, second)),
                std::cmp::Ordering::Less => preferred.push((second, first)),
                std::cmp::Ordering::Equal => ties.push((first, second)),
            }
        }
    }
    Ok((preferred, ties))
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::path::Path;
    use std::process::Command;

    use crate::required::{file as required_file, optional};

    const COMPLETIONS: &str = r#""prompt": "p", "completions": ["a", "b", "c"]"#;

    fn row(rest: &str) -> Result<Vec<Question>, String> {
        parse(&format!("\n{{{COMPLETIONS}, {rest}}}\n"))
    }

    #[test]
    fn scores_order_every_pair() {
        let questions = row(r#""passages": "q", "prompt_id": "x", "scores": [1, 2.5, 1]"#).unwrap();
        assert_eq!(questions[0].preferred, [(1, 0), (1, 2)]);
        assert_eq!(questions[0].ties, [(0, 2)]);
        assert_eq!((questions[0].question.as_str(), questions[0].passages.as_str()), ("p", "q"));
    }

    #[test]
    fn preferences_may_leave_pairs_out() {
        let questions = row(r#""preferences": [[2, 0]], "ties": [[1, 2]]"#).unwrap();
        assert_eq!(questions[0].preferred, [(2, 0)]);
        assert_eq!(questions[0].ties, [(1, 2)]);
    }

    #[test]
    fn an_error_names_line_and_field() {
        for (rest, message) in [
            (r#""scores": [1, 2]"#, "line 2: scores has 2 entries: use 3, one for each completion"),
            (r#""scores": [1, "x", 2]"#, "line 2: scores[1]: invalid type"),
            (r#""scores": [1, 2, 3], "ties": [[0, 1]]"#, "line 2: scores excludes preferences and ties"),
            (r#""ties": []"#, "line 2: scores or preferences is missing: add one"),
            (r#""score": []"#, "line 2: score: unknown field"),
            (r#""preferences": [[0, 3]]"#, "preferences[0] = [0, 3] names an unknown completion: use 0 to 2"),
            (r#""preferences": [[1, 1]]"#, "preferences[0] = [1, 1] compares a completion with itself"),
            (r#""preferences": [[1, 0]], "ties": [[0, 1]]"#, "ties[0] = [0, 1] is a pair that occurs twice"),
            (r#""preferences": [[1]]"#, "line 2: preferences[0]: invalid length"),
        ] {
            let error = row(rest).unwrap_err();
            assert!(error.contains(message), "{rest}: {error}");
        }
        let few = parse(r#"{"prompt": "p", "completions": ["a"], "scores": [1]}"#).unwrap_err();
        assert_eq!(few, "line 1: completions has 1 entries: use 2 to 64");
        assert!(parse("{").unwrap_err().starts_with("line 1: "));
    }

    /// Converts a published file, and returns the prompts, the preferences and the ties.
    fn converted(set: &str, file: &str) -> Option<[usize; 3]> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let source = optional(required_file(root.join("../shared/data").join(file)))?;
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("converted.jsonl");
        let mut command = Command::new("python3");
        command.arg(root.join("examples/study-opponents/convert.py")).arg(set).arg(source).arg(&output);
        assert!(optional(command.status())?.success());
        let rows = parse(&std::fs::read_to_string(output).unwrap()).unwrap();
        let sum = |of: fn(&Question) -> usize| rows.iter().map(of).sum();
        Some([rows.len(), sum(|row| row.preferred.len()), sum(|row| row.ties.len())])
    }

    #[test]
    fn published_judgements_are_converted() {
        for (set, file, expected) in [
            ("fine-grained", "finegrained/dev_feedback.json", [500, 2616, 384]),
            ("xstest", "xstest/xstest_completions.jsonl", [450, 1420, 3080]),
            ("newsroom", "newsroom/newsroom.jsonl.gz", [60, 1223, 37]),
            ("convarg", "convarg/convarg.jsonl.gz", [62, 1763, 194]),
        ] {
            let Some(found) = converted(set, file) else { continue };
            assert_eq!(found, expected, "{set}");
        }
    }
}
