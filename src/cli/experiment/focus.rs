//! `--focus` of `dissent experiment fork`: further pairs from the prompts of a topic or a category.

use std::collections::BTreeSet;

use dissent_domain::id::{ExperimentId, PromptId};
use dissent_domain::log::EventLog;
use dissent_domain::topics::PROMPTS_MIN;

use crate::error::BadInput;
use crate::experiment::focus::Focus;
use crate::history::fork_points::{self, RoundStep};
use crate::report::{ReportData, TopicRow};
use crate::text::similar;

#[derive(Debug, clap::Args)]
pub(super) struct FocusArgs {
    /// Ask further pairs about the prompts of a topic or a category. One or several words of the report name
    /// a topic. The fork begins before the last selection unless options name another point.
    #[arg(long, value_name = "TOPIC|CATEGORY")]
    focus: Option<String>,
    /// Number of further pairs of --focus.
    #[arg(long, value_name = "N", default_value_t = 20, requires = "focus", value_parser = clap::value_parser!(u64).range(1..))]
    more: u64,
}

impl FocusArgs {
    /// Whether a focus is named.
    pub(super) fn is_given(&self) -> bool {
        self.focus.is_some()
    }

    /// Returns the named group of prompts, found in the last round of the experiment; `None` without
    /// `--focus`.
    ///
    /// # Errors
    /// If no topic or category has this name, or several topics have it, or the log cannot be read.
    pub(super) fn find(
        &self,
        log: &dyn EventLog,
        experiment: &ExperimentId,
    ) -> anyhow::Result<Option<Focus>> {
        let Some(name) = &self.focus else { return Ok(None) };
        let data = ReportData::from_log(log, experiment, None)?;
        let of_category: BTreeSet<PromptId> = data
            .prompts
            .iter()
            .filter(|prompt| prompt.category.as_ref() == Some(name))
            .map(|prompt| prompt.prompt_id.clone())
            .collect();
        let (topic, prompts) = if of_category.is_empty() {
            let topics = data.learning.as_ref().and_then(|learning| learning.topics.as_ref());
            let topic = topic(topics.map_or(&[], |topics| topics.topics.as_slice()), name, &data)?;
            (topic.words.join(", "), topic.prompt_ids.iter().cloned().collect())
        } else {
            (name.clone(), of_category)
        };
        Ok(Some(Focus::new(topic, prompts, self.more)))
    }

    /// Returns the last position before the selection of the last round; `None` if there is no such
    /// selection yet, or no `--focus`.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub(super) fn position(
        &self,
        log: &dyn EventLog,
        experiment: &ExperimentId,
    ) -> anyhow::Result<Option<u64>> {
        if !self.is_given() {
            return Ok(None);
        }
        match fork_points::position_before(log, experiment, None, RoundStep::Selection) {
            Ok(position) => Ok(Some(position)),
            Err(error) if error.is::<BadInput>() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Returns the only topic that has all the words of `name`.
fn topic<'a>(topics: &'a [TopicRow], name: &str, data: &ReportData) -> Result<&'a TopicRow, BadInput> {
    let wanted: Vec<String> = name
        .split([',', ' '])
        .map(|word| word.trim().to_lowercase())
        .filter(|word| !word.is_empty())
        .collect();
    let has_all =
        |topic: &&TopicRow| !wanted.is_empty() && wanted.iter().all(|word| topic.words.contains(word));
    let found: Vec<&TopicRow> = topics.iter().filter(has_all).collect();
    let names = |topics: &[&TopicRow]| {
        let names: Vec<String> = topics.iter().map(|topic| format!("`{}`", topic.words.join(", "))).collect();
        names.join("; ")
    };
    match found.as_slice() {
        [topic] => Ok(topic),
        [] => {
            let categories: BTreeSet<&str> =
                data.prompts.iter().filter_map(|prompt| prompt.category.as_deref()).collect();
            let words = topics.iter().flat_map(|topic| topic.words.iter().map(String::as_str));
            let near = similar(name, words.chain(categories.iter().copied()));
            let known = if !near.is_empty() {
                format!("use {}", near.join(" or "))
            } else if !topics.is_empty() {
                format!("use words of {}", names(&topics.iter().collect::<Vec<_>>()))
            } else if categories.is_empty() {
                format!("the experiment has no topics: they need {PROMPTS_MIN} prompts, and a judged pair")
            } else {
                format!("use a category: {}", categories.into_iter().collect::<Vec<_>>().join(", "))
            };
            Err(BadInput(format!("--focus: unknown topic or category `{name}`: {known}")))
        }
        several => Err(BadInput(format!(
            "--focus: {} topics have `{name}`: use more words of one: {}",
            several.len(),
            names(several)
        ))),
    }
}
