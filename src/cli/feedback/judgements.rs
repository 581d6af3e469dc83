//! Reads judgements from JSON Lines or CSV, as annotators' tools save an export.

use std::io::{Cursor, Read};
use std::path::Path;

use dissent_domain::event::FeedbackReceived;
use dissent_domain::feedback::Verdict;
use dissent_domain::id::ExperimentId;
use dissent_domain::learning::COMMENT_BYTES_MAX;
use serde::Deserialize;

use super::csv;
use super::export::annotator;
use crate::cli::paths::is_stream;
use crate::jsonl::{FieldError, FieldErrorKind, InputError, JsonLines};

/// Largest file of judgements, in bytes. The file also holds prompts and completions.
const FILE_BYTES_MAX: u64 = 256 << 20;

const NO_JUDGEMENT: &str = "the file has no judgement";

/// A judgement with its line in the file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct JudgementLine {
    pub(super) line: u64,
    pub(super) experiment: ExperimentId,
    pub(super) judgement: FeedbackReceived,
}

/// Content of a file.
#[derive(Debug, PartialEq)]
pub(super) struct JudgementFile {
    pub(super) file: String,
    pub(super) judgements: Vec<JudgementLine>,
    /// Lines without a verdict.
    pub(super) without_verdict: u64,
}

impl JudgementFile {
    /// Returns an error about one line.
    pub(super) fn error(&self, line: u64, field: &str, reason: impl Into<String>) -> InputError {
        line_error(&self.file, line, field, reason)
    }
}

fn line_error(file: &str, line: u64, field: &str, reason: impl Into<String>) -> InputError {
    let fault = FieldError::new(field, FieldErrorKind::Invalid, reason).into();
    InputError::Line { file: file.to_owned(), line, fault }
}

/// One line of a file. Other fields, such as the texts, are ignored.
#[derive(Debug, Deserialize)]
struct Line {
    experiment: String,
    round: u32,
    comparison: u32,
    annotator: Option<String>,
    verdict: Option<String>,
    first_unsafe: Option<bool>,
    second_unsafe: Option<bool>,
    comment: Option<String>,
}

/// Reads a file, or stdin for `-`. `default_annotator` judged the lines without a name.
pub(super) fn read(path: &Path, default_annotator: Option<&str>) -> Result<JudgementFile, InputError> {
    let file = if is_stream(path) { "stdin".to_owned() } else { path.display().to_string() };
    let bytes = bytes(path).map_err(|source| InputError::Open { file: file.clone(), source })?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").map_or(bytes.as_slice(), |rest| rest).to_vec();
    if bytes.trim_ascii().is_empty() {
        return Err(line_error(&file, 1, "", NO_JUDGEMENT));
    }
    let is_json = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    let lines = if is_json { json_lines(&file, bytes)? } else { table(&file, &bytes)? };
    let mut judged = JudgementFile { file, judgements: Vec::new(), without_verdict: 0 };
    for (number, line) in lines {
        let parsed = parse(line, default_annotator);
        match parsed.map_err(|(field, reason)| judged.error(number, field, reason))? {
            None => judged.without_verdict += 1,
            Some((experiment, judgement)) => {
                judged.judgements.push(JudgementLine { line: number, experiment, judgement });
            }
        }
    }
    if judged.judgements.is_empty() && judged.without_verdict == 0 {
        return Err(judged.error(1, "", NO_JUDGEMENT));
    }
    Ok(judged)
}

fn bytes(path: &Path) -> std::io::Result<Vec<u8>> {
    let reader: Box<dyn Read> = if is_stream(path) {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(path)?)
    };
    let mut bytes = Vec::new();
    let read = reader.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if read as u64 > FILE_BYTES_MAX {
        let reason = format!("more than {FILE_BYTES_MAX} bytes: import it in parts");
        return Err(std::io::Error::other(reason));
    }
    Ok(bytes)
}

fn json_lines(file: &str, bytes: Vec<u8>) -> Result<Vec<(u64, Line)>, InputError> {
    JsonLines::<Line>::new(file, Cursor::new(bytes)).collect()
}

/// The invalid field and the reason.
type LineProblem = (&'static str, String);

fn parse(
    line: Line,
    default_annotator: Option<&str>,
) -> Result<Option<(ExperimentId, FeedbackReceived)>, LineProblem> {
    let Some(verdict) = line.verdict.filter(|verdict| !verdict.trim().is_empty()) else { return Ok(None) };
    let verdict = match verdict.trim().to_ascii_lowercase().as_str() {
        "first" => Verdict::First,
        "second" => Verdict::Second,
        "tie" => Verdict::Tie,
        _ => return Err(("verdict", format!("unknown verdict {verdict:?}: use first, second or tie"))),
    };
    let experiment = ExperimentId::new(line.experiment).map_err(|error| ("experiment", error.to_string()))?;
    let named = line.annotator.filter(|name| !name.trim().is_empty());
    let Some(name) = named.or_else(|| default_annotator.map(str::to_owned)) else {
        return Err(("annotator", "missing: fill in the annotator, or use --annotator".to_owned()));
    };
    let annotator = annotator(&name).map_err(|reason| ("annotator", reason))?;
    let is_unsafe = match (line.first_unsafe, line.second_unsafe) {
        (Some(first), Some(second)) => Some([first, second]),
        (None, None) => None,
        (Some(_), None) => {
            return Err(("second_unsafe", "missing: mark both completions, or neither".to_owned()));
        }
        (None, Some(_)) => {
            return Err(("first_unsafe", "missing: mark both completions, or neither".to_owned()));
        }
    };
    let comment = line.comment.filter(|comment| !comment.trim().is_empty());
    if comment.as_ref().is_some_and(|comment| comment.len() > COMMENT_BYTES_MAX) {
        return Err(("comment", format!("longer than {COMMENT_BYTES_MAX} bytes: shorten it")));
    }
    let (round, comparison) = (line.round, line.comparison);
    Ok(Some((experiment, FeedbackReceived { round, comparison, annotator, verdict, is_unsafe, comment })))
}

/// Reads CSV. The first row names the columns.
fn table(file: &str, bytes: &[u8]) -> Result<Vec<(u64, Line)>, InputError> {
    let mut reader =
        ::csv::ReaderBuilder::new().delimiter(delimiter(bytes)).flexible(true).from_reader(bytes);
    let csv_error = |error: &::csv::Error| {
        let line = error.position().map_or(1, ::csv::Position::line);
        line_error(file, line, "", csv_problem(error))
    };
    let header = reader.headers().map_err(|error| csv_error(&error))?.clone();
    let columns = Columns::of(&header).map_err(|reason| line_error(file, 1, "", reason))?;
    let mut lines = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| csv_error(&error))?;
        let number = record.position().map_or(1, ::csv::Position::line);
        if record.iter().all(|cell| cell.trim().is_empty()) {
            continue;
        }
        let line =
            columns.line(&record).map_err(|(field, reason)| line_error(file, number, field, reason))?;
        lines.push((number, line));
    }
    Ok(lines)
}

fn csv_problem(error: &::csv::Error) -> String {
    if let ::csv::ErrorKind::Utf8 { err, .. } = error.kind() {
        format!("column {} is not UTF-8: save the table as CSV in UTF-8", err.field() + 1)
    } else {
        error.to_string()
    }
}

/// Guesses the delimiter from the header: spreadsheets choose it by their locale.
fn delimiter(bytes: &[u8]) -> u8 {
    let header = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let count = |delimiter: u8| header.iter().filter(|byte| **byte == delimiter).count();
    [b',', b';', b'\t'].into_iter().rev().max_by_key(|delimiter| count(*delimiter)).unwrap_or(b',')
}

/// Names and indices of the columns that are read.
struct Columns(Vec<(&'static str, usize)>);

const REQUIRED: [&str; 4] = ["experiment", "round", "comparison", "verdict"];
const OPTIONAL: [&str; 4] = ["annotator", "first_unsafe", "second_unsafe", "comment"];

impl Columns {
    fn of(header: &::csv::StringRecord) -> Result<Self, String> {
        let index = |name: &str| header.iter().position(|cell| cell.trim().eq_ignore_ascii_case(name));
        if let Some(missing) = REQUIRED.into_iter().find(|name| index(name).is_none()) {
            return Err(format!(
                "neither JSON Lines nor CSV with a column {missing}: start from an export of `dissent feedback export`"
            ));
        }
        let columns = REQUIRED.into_iter().chain(OPTIONAL);
        Ok(Self(columns.filter_map(|name| Some((name, index(name)?))).collect()))
    }

    fn cell<'a>(&self, record: &'a ::csv::StringRecord, name: &str) -> Option<&'a str> {
        let (_, index) = self.0.iter().find(|(column, _)| *column == name)?;
        record.get(*index).map(|cell| csv::unescape_formula(cell).trim()).filter(|cell| !cell.is_empty())
    }

    fn line(&self, record: &::csv::StringRecord) -> Result<Line, LineProblem> {
        let number = |name: &'static str| {
            let cell = self.cell(record, name).ok_or((name, "missing".to_owned()))?;
            cell.parse().map_err(|_| (name, format!("must be a whole number, found {cell:?}")))
        };
        let flag = |name: &'static str| match self.cell(record, name).map(str::to_ascii_lowercase).as_deref()
        {
            None => Ok(None),
            Some("true" | "yes" | "1") => Ok(Some(true)),
            Some("false" | "no" | "0") => Ok(Some(false)),
            Some(other) => Err((name, format!("must be yes or no, found {other:?}"))),
        };
        let text = |name| self.cell(record, name).map(str::to_owned);
        let verdict = text("verdict");
        Ok(Line {
            experiment: text("experiment").ok_or(("experiment", "missing".to_owned()))?,
            round: number("round")?,
            comparison: number("comparison")?,
            annotator: text("annotator"),
            verdict,
            first_unsafe: flag("first_unsafe")?,
            second_unsafe: flag("second_unsafe")?,
            comment: text("comment"),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    const TABLE: &str = "experiment,round,comparison,annotator,verdict,first_unsafe,second_unsafe,comment\ne,0,1,ann,first,yes,no,\"a \"\"b\"\"\"\ne,0,2,ann,,,,\n";
    const LINES: &str =
        "{\"experiment\":\"e\",\"round\":0,\"comparison\":1,\"annotator\":\"ann\",\"verdict\":\"tie\"}\n";

    fn read_bytes(bytes: &[u8]) -> Result<JudgementFile, InputError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("judgements");
        fs::write(&path, bytes).unwrap();
        read(&path, Some("ben"))
    }

    #[test]
    fn csv_and_json_lines_are_read() {
        let table = read_bytes(TABLE.as_bytes()).unwrap();
        assert_eq!((table.judgements.len(), table.without_verdict), (1, 1));
        assert_eq!(table.judgements[0].judgement.comment.as_deref(), Some("a \"b\""));
        assert_eq!(read_bytes(LINES.as_bytes()).unwrap().judgements[0].judgement.verdict, Verdict::Tie);
    }

    proptest! {
        #[test]
        fn a_damaged_file_is_read_or_an_error_names_one_of_its_lines(
            table in any::<bool>(),
            at in any::<prop::sample::Index>(),
            cut in 0_usize..8,
            put in prop::collection::vec(any::<u8>(), 0..8),
        ) {
            let mut bytes = if table { TABLE } else { LINES }.as_bytes().to_vec();
            let at = at.index(bytes.len());
            bytes.splice(at..(at + cut).min(bytes.len()), put);
            let lines = 1 + bytes.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count() as u64;
            match read_bytes(&bytes) {
                Ok(judged) => prop_assert!(judged.judgements.len() as u64 + judged.without_verdict <= lines),
                Err(InputError::Line { line, .. }) => prop_assert!((1..=lines).contains(&line), "{line} of {lines}"),
                Err(other) => prop_assert!(false, "{other}"),
            }
        }
    }
}
