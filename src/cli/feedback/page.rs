//! A page to judge on: one HTML file that needs nothing else, neither a server nor a network, and saves what
//! was judged as a file for `dissent feedback import`.

use anyhow::Context as _;
use dissent_domain::id::ExperimentId;
use dissent_domain::learning::{ANNOTATOR_BYTES_MAX, COMMENT_BYTES_MAX};
use minijinja::{Value, context};
use serde::Serialize;

use super::comparisons::Row;
use crate::report::page::html_environment;
use crate::text;

const TEMPLATE: &str = include_str!("page/page.html");
/// What is said of the comparisons, apart from the page.
const JUDGING: &str = include_str!("page/judging.js");
const PAGE: &str = include_str!("page/page.js");
/// Hexadecimal digits that tell the texts of one comparison from those of another.
const FINGERPRINT_CHARS: usize = 16;

/// What the page's script is given.
#[derive(Serialize)]
pub(super) struct Task<'a> {
    experiment: &'a ExperimentId,
    round: u32,
    /// Who judges; asked for by the page if nobody was named.
    annotator: Option<&'a str>,
    annotator_bytes_max: usize,
    comment_bytes_max: usize,
    comparisons: Vec<Shown>,
}

/// One comparison, without a name that could say anything about its prompt.
#[derive(Serialize)]
struct Shown {
    comparison: u32,
    prompt: String,
    first: String,
    second: String,
    /// What a browser kept for other texts is not for these.
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
        self.comparisons.push(Shown { comparison: row.comparison, prompt, first, second, fingerprint });
    }

    /// The page.
    ///
    /// # Errors
    /// If the template fails, which is a fault of the program.
    pub(super) fn html(&self) -> anyhow::Result<String> {
        let data = in_script(&serde_json::to_string(self)?);
        let mut environment = html_environment()?;
        environment.add_template("page", TEMPLATE)?;
        let page = environment.get_template("page")?.render(context! {
            experiment => self.experiment.as_str(),
            round => self.round,
            comparisons => text::count(self.comparisons.len() as u64, "comparison"),
            // Only these scripts run, whatever an answer holds. It follows from the content: who writes an
            // answer does not know it.
            nonce => blake3::hash(data.as_bytes()).to_hex().as_str(),
            data => Value::from_safe_string(data),
            judging => Value::from_safe_string(JUDGING.to_owned()),
            page => Value::from_safe_string(PAGE.to_owned()),
        });
        page.context("failed to make the page")
    }
}

/// Tells the texts of comparisons apart.
fn fingerprint(texts: &[&str; 3]) -> String {
    let mut hasher = blake3::Hasher::new();
    for text in texts {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    hasher.finalize().to_hex().chars().take(FINGERPRINT_CHARS).collect()
}

/// JSON that no reader of HTML takes for the end of its script: `<` can only stand within a string there, and
/// stands as an escape.
fn in_script(json: &str) -> String {
    text::ascii_controls(json.replace('<', "\\u003c"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_in_a_script_means_the_same_and_ends_nothing() {
        let value = serde_json::json!({ "text": "</script><!-- \u{2028} \\u003c" });
        let written = in_script(&value.to_string());
        assert!(!written.contains('<') && !written.contains('\u{2028}'), "{written}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&written).unwrap(), value);
    }

    #[test]
    fn texts_that_are_cut_otherwise_are_others() {
        assert_ne!(fingerprint(&["ab", "c", ""]), fingerprint(&["a", "bc", ""]));
    }
}
