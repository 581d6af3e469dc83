//! Topics of the prompts, by the errors of the proxy.

use std::collections::HashMap;

use dissent_domain::experiment::Experiment;
use dissent_domain::id::{ExperimentId, PromptId};
use dissent_domain::lift::proxy_error;
use dissent_domain::topics::{
    JudgedPrompt, PROMPTS_MIN, RankedTopic, RankingSettings, TopicSettings, rank_topics, topics,
};
use serde::Serialize;

use crate::text::{excerpt, grouped, shell_command};

/// Most prompts that are divided into topics: the time grows with their number.
const PROMPTS_MAX: usize = 2000;
/// Prompts that a row quotes.
const EXAMPLES: usize = 2;
const EXAMPLE_CHARS: usize = 80;

/// The topics of an experiment's prompts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TopicFigures {
    /// The topics, the one with the highest estimated error first. The estimate of a topic without a judged
    /// pair is that of all.
    pub topics: Vec<TopicRow>,
    /// The share of errors among all judged pairs.
    pub overall: f64,
    /// Prompts beyond the first 2,000, which belong to no topic.
    pub left_out: usize,
}

/// One topic.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TopicRow {
    /// Its distinctive words.
    pub words: Vec<String>,
    /// Number of its prompts.
    pub prompts: usize,
    /// Its prompts, in the order of the prompt file.
    pub prompt_ids: Vec<PromptId>,
    /// Beginnings of some of them.
    pub examples: Vec<String>,
    /// Judged pairs, errors, and the estimated share of errors.
    #[serde(flatten)]
    pub ranked: RankedTopic,
}

/// Divides prompts, `(prompt, text)`, into topics, and ranks these by the judged pairs of all rounds up to
/// `last`. `None` with too few prompts or without a judged pair.
pub(super) fn of_prompts(
    prompts: &[(PromptId, String)],
    experiment: &Experiment,
    last: u32,
) -> Option<TopicFigures> {
    let left_out = prompts.len().saturating_sub(PROMPTS_MAX);
    let prompts = &prompts[..prompts.len() - left_out];
    let errors = errors(experiment, last);
    if prompts.len() < PROMPTS_MIN || errors.is_empty() {
        return None;
    }
    let texts: Vec<&str> = prompts.iter().map(|(_, text)| text.as_str()).collect();
    let found = topics(&texts, None, &TopicSettings::default()).ok()?;
    let judged: Vec<JudgedPrompt> = prompts
        .iter()
        .zip(&found.of_prompt)
        .filter_map(|((prompt_id, _), topic)| {
            let [errors, labels] = *errors.get(prompt_id)?;
            Some(JudgedPrompt { topic: (*topic)?, errors, labels })
        })
        .collect();
    let ranking = rank_topics(found.topics.len(), &judged, &RankingSettings::default());
    let row = |ranked: &RankedTopic| {
        let topic = &found.topics[ranked.topic];
        let examples = topic.prompts.iter().take(EXAMPLES);
        TopicRow {
            words: topic.words.clone(),
            prompts: topic.prompts.len(),
            prompt_ids: topic.prompts.iter().map(|&prompt| prompts[prompt].0.clone()).collect(),
            examples: examples.map(|&prompt| excerpt(texts[prompt], EXAMPLE_CHARS)).collect(),
            ranked: *ranked,
        }
    };
    let topics = ranking.topics.iter().map(row).collect();
    Some(TopicFigures { topics, overall: ranking.overall?, left_out })
}

/// The errors of the proxy and the judged pairs of each prompt, `[errors, labels]`.
fn errors(experiment: &Experiment, last: u32) -> HashMap<&PromptId, [f64; 2]> {
    let mut found: HashMap<&PromptId, [f64; 2]> = HashMap::new();
    let rounds = experiment.rounds().iter().filter(|round| round.number() <= last);
    for comparison in rounds.flat_map(|round| round.learning().comparisons()) {
        let Some(error) = proxy_error(comparison) else { continue };
        let [errors, labels] = found.entry(&comparison.request.prompt_id).or_default();
        *errors += error;
        *labels += 1.0;
    }
    found
}

/// The topics, as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct TopicPage {
    overall: String,
    /// The command that asks further pairs about the first topic that has a word.
    ask_more: Option<String>,
    /// The topics with a judged pair.
    rows: Vec<TopicLine>,
    left_out: usize,
}

/// A row of the table, as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct TopicLine {
    words: String,
    examples: Vec<String>,
    prompts: String,
    labels: String,
    errors: String,
    estimate: String,
    is_flagged: bool,
}

impl TopicPage {
    /// Returns the topics of this experiment as text.
    pub(super) fn new(figures: &TopicFigures, experiment: &ExperimentId) -> Self {
        let line = |row: &TopicRow| TopicLine {
            words: if row.words.is_empty() {
                "(no distinctive word)".to_owned()
            } else {
                row.words.join(", ")
            },
            examples: row.examples.clone(),
            prompts: grouped(row.prompts as u64),
            labels: crate::text::short(row.ranked.labels),
            errors: crate::text::short(row.ranked.errors),
            estimate: format!(
                "{:.0} % ({:.0} to {:.0})",
                100.0 * row.ranked.estimate,
                100.0 * row.ranked.low,
                100.0 * row.ranked.high
            ),
            is_flagged: row.ranked.flagged,
        };
        Self {
            overall: crate::text::percent(figures.overall),
            ask_more: ask_more(&figures.topics, experiment),
            rows: figures.topics.iter().filter(|row| row.ranked.prompts > 0).map(line).collect(),
            left_out: figures.left_out,
        }
    }
}

/// The command that asks further pairs about the first topic that one word names; `None` if there is none.
fn ask_more(topics: &[TopicRow], experiment: &ExperimentId) -> Option<String> {
    let has = |word: &String| topics.iter().filter(|topic| topic.words.contains(word)).count();
    let word = topics.iter().flat_map(|topic| &topic.words).find(|word| has(word) == 1)?;
    let name = format!("{experiment}-{word}");
    let name = if ExperimentId::new(&name).is_ok() { name } else { format!("{experiment}-focus") };
    let words = ["dissent", "experiment", "fork", experiment.as_str(), "--focus", word, "--as", &name];
    Some(shell_command(words))
}
