//! The judging page: one HTML file that needs no server and no network. It saves judgements as a file for
//! `dissent feedback import`.

use anyhow::Context as _;
use dissent_domain::id::ExperimentId;
use dissent_domain::learning::{ANNOTATOR_BYTES_MAX, COMMENT_BYTES_MAX};
use minijinja::{Value, context};
use serde::Serialize;

use crate::feedback::comparisons::Row;
use crate::report::page::html_environment;
use crate::text;

const TEMPLATE: &str = include_str!("page/page.html");
/// Script that manages the judgements, independent of the page.
const JUDGING: &str = include_str!("page/judging.js");
const PAGE: &str = include_str!("page/page.js");
/// Length of a comparison's fingerprint, in hexadecimal digits.
const FINGERPRINT_CHARS: usize = 16;

/// Input of the page's script.
#[derive(Serialize)]
pub(super) struct Task<'a> {
    experiment: &'a ExperimentId,
    round: u32,
    /// Name of the annotator; without one the page asks for it.
    annotator: Option<&'a str>,
    annotator_bytes_max: usize,
    comment_bytes_max: usize,
    comparisons: Vec<ShownComparison>,
}

/// One comparison, without the id of its prompt, because an id may reveal properties of the prompt.
#[derive(Serialize)]
struct ShownComparison {
    comparison: u32,
    prompt: String,
    first: String,
    second: String,
    /// Identifies the texts: the browser discards stored judgements of other texts.
    fingerprint: String,
}

impl<'a> Task<'a> {
    pub(super) fn new(experiment: &'a ExperimentId, round: u32, annotator: Option<&'a str>) -> Self {
        Self {
            experiment,
            round,
            annotator,
            annotator_bytes_max: ANNOTATOR_BYTES_MAX,
            comment_bytes_max: COMMENT_BYTES_MAX,
            comparisons: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, row: &Row<'_>) {
        let texts = [row.prompt, row.first, row.second];
        let [prompt, first, second] = texts.map(text::visible);
        let fingerprint = fingerprint(&texts);
        self.comparisons.push(ShownComparison {
            comparison: row.comparison,
            prompt,
            first,
            second,
            fingerprint,
        });
    }

    /// Renders the page.
    ///
    /// # Errors
    /// If the template fails, which is a bug.
    pub(super) fn html(&self) -> anyhow::Result<String> {
        let data = in_script(&serde_json::to_string(self)?);
        let mut environment = html_environment()?;
        environment.add_template("page", TEMPLATE)?;
        let page = environment.get_template("page")?.render(context! {
            experiment => self.experiment.as_str(),
            round => self.round,
            comparisons => text::count(self.comparisons.len() as u64, "comparison"),
            // Only scripts with this nonce run. It is a hash of the page's data, which the author of a
            // completion cannot predict.
            nonce => blake3::hash(data.as_bytes()).to_hex().as_str(),
            data => Value::from_safe_string(data),
            judging => Value::from_safe_string(JUDGING.to_owned()),
            page => Value::from_safe_string(PAGE.to_owned()),
        });
        page.context("failed to render the page")
    }
}

/// Returns a hash of the texts and their lengths.
fn fingerprint(texts: &[&str; 3]) -> String {
    let mut hasher = blake3::Hasher::new();
    for text in texts {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    hasher.finalize().to_hex().chars().take(FINGERPRINT_CHARS).collect()
}

/// Escapes JSON for a script element. `<` occurs in JSON strings only, where its escape means the same;
/// without `<` no HTML parser sees the end of the script.
fn in_script(json: &str) -> String {
    text::ascii_controls(json.replace('<', "\\u003c"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_in_a_script_keeps_its_meaning_and_cannot_end_the_script() {
        let value = serde_json::json!({ "text": "</script><!-- \u{2028} \\u003c" });
        let written = in_script(&value.to_string());
        assert!(!written.contains('<') && !written.contains('\u{2028}'), "{written}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&written).unwrap(), value);
    }

    #[test]
    fn fingerprints_depend_on_the_boundaries_of_texts() {
        assert_ne!(fingerprint(&["ab", "c", ""]), fingerprint(&["a", "bc", ""]));
    }
}
