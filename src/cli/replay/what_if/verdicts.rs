//! Texts and recorded verdicts of the comparisons of a what-if.

use std::collections::{BTreeSet, HashMap};

use dissent_domain::feedback::Verdict;
use dissent_domain::id::PromptId;
use dissent_domain::what_if::{PromptCompared, RoundCompared};
use serde::Serialize;

use crate::history::pairs::{Outcome, Pairs};
use crate::text::excerpt;

/// Characters of a text in the printed output.
const TEXT_CHARS: usize = 60;

/// The recorded verdicts on the comparisons of both selections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Known {
    recorded: Counts,
    changed: Counts,
}

/// Counts of the comparisons of one selection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct Counts {
    comparisons: u64,
    /// Those with a recorded verdict.
    judged: u64,
    ties: u64,
    /// Judged comparisons that the proxy orders otherwise than the annotators.
    proxy_wrong: u64,
    /// Judged comparisons that the policy orders otherwise than the annotators.
    policy_wrong: u64,
}

impl Counts {
    fn add(&mut self, outcome: Option<Outcome>) {
        self.comparisons += 1;
        let Some(outcome) = outcome else { return };
        self.judged += 1;
        match outcome {
            Outcome::Tie => self.ties += 1,
            Outcome::ProxyWrong => self.proxy_wrong += 1,
            Outcome::PolicyWrong => self.policy_wrong += 1,
            Outcome::BothWrong => {
                self.proxy_wrong += 1;
                self.policy_wrong += 1;
            }
            Outcome::FalseAlarm => {}
        }
    }

    fn text(&self) -> String {
        let Self { comparisons, judged, ties, proxy_wrong, policy_wrong } = self;
        format!(
            "{judged} of {comparisons} judged: proxy wrong {proxy_wrong}, policy wrong {policy_wrong}, ties {ties}"
        )
    }
}

impl Known {
    pub(super) fn print(&self, out: &mut impl std::io::Write) -> std::io::Result<()> {
        writeln!(out, "  verdicts     recorded selection: {}", self.recorded.text())?;
        writeln!(out, "               changed selection:  {}", self.changed.text())
    }
}

/// A comparison that only one of the selections has.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct ComparedPair<'a> {
    round: u32,
    prompt_id: &'a PromptId,
    prompt: &'a str,
    /// Whether the changed selection has it, and the recorded one not.
    new: bool,
    completions: [u32; 2],
    texts: [&'a str; 2],
    rewards: Option<[f64; 2]>,
    /// The completion that the annotators prefer; null for a tie, or without a verdict.
    preferred: Option<u32>,
    outcome: Option<Outcome>,
}

impl ComparedPair<'_> {
    pub(super) fn print(&self, out: &mut impl std::io::Write) -> std::io::Result<()> {
        let [one, other] = self.completions;
        let verdict = match (self.outcome, self.preferred) {
            (None, _) => "not judged".to_owned(),
            (Some(Outcome::Tie), _) | (Some(_), None) => "judged: tie".to_owned(),
            (Some(outcome), Some(preferred)) => {
                let wrong = match outcome {
                    Outcome::ProxyWrong => ", proxy wrong",
                    Outcome::PolicyWrong => ", policy wrong",
                    Outcome::BothWrong => ", both wrong",
                    Outcome::FalseAlarm | Outcome::Tie => "",
                };
                format!("judged: {preferred} is better{wrong}")
            }
        };
        writeln!(out, "    {} {one} and {other}, {verdict}", if self.new { "new:    " } else { "dropped:" })?;
        for (completion, text) in self.completions.iter().zip(self.texts) {
            writeln!(out, "      {completion}  {}", excerpt(text, TEXT_CHARS))?;
        }
        Ok(())
    }
}

/// A round, a prompt and a pair of its completions.
type PairKey<'a> = (u32, &'a PromptId, [u32; 2]);

/// The verdicts of a history, by round, prompt and pair with the lower completion first.
pub(super) struct Verdicts<'a> {
    pairs: &'a Pairs,
    known: HashMap<PairKey<'a>, (Option<u32>, Outcome)>,
}

impl<'a> Verdicts<'a> {
    pub(super) fn of(pairs: &'a Pairs) -> Self {
        let judged = pairs.all().iter().filter_map(|pair| {
            let request = &pair.request;
            let preferred = match pair.verdict()? {
                Verdict::First => Some(request.first),
                Verdict::Second => Some(request.second),
                Verdict::Tie => None,
            };
            let ascending = [request.first.min(request.second), request.first.max(request.second)];
            Some(((request.round, &request.prompt_id, ascending), (preferred, pairs.outcome(pair)?)))
        });
        Self { pairs, known: judged.collect() }
    }

    /// Counts the recorded verdicts on the comparisons of both selections.
    pub(super) fn known(&self, rounds: &[RoundCompared]) -> Known {
        let mut known = Known::default();
        for round in rounds {
            for prompt in &round.prompts {
                let outcome = |pair: &[u32; 2]| {
                    self.known.get(&(round.round, &prompt.prompt_id, *pair)).map(|(_, outcome)| *outcome)
                };
                prompt.recorded_comparisons.iter().for_each(|pair| known.recorded.add(outcome(pair)));
                prompt.changed_comparisons.iter().for_each(|pair| known.changed.add(outcome(pair)));
            }
        }
        known
    }

    /// Returns the comparisons of a round that only one selection has.
    pub(super) fn different<'b>(
        &'b self,
        round: &'b RoundCompared,
    ) -> impl Iterator<Item = ComparedPair<'b>> {
        round.prompts.iter().flat_map(|prompt| self.different_of(round.round, prompt))
    }

    /// Returns the comparisons of a prompt that only one selection has, new ones first.
    pub(super) fn different_of<'b>(
        &'b self,
        round: u32,
        prompt: &'b PromptCompared,
    ) -> Vec<ComparedPair<'b>> {
        let recorded: BTreeSet<&[u32; 2]> = prompt.recorded_comparisons.iter().collect();
        let changed: BTreeSet<&[u32; 2]> = prompt.changed_comparisons.iter().collect();
        let new = changed.difference(&recorded).map(|pair| (true, **pair));
        let dropped = recorded.difference(&changed).map(|pair| (false, **pair));
        new.chain(dropped).filter_map(|(new, pair)| self.pair(round, &prompt.prompt_id, pair, new)).collect()
    }

    fn pair<'b>(
        &'b self,
        round: u32,
        prompt_id: &'b PromptId,
        completions: [u32; 2],
        new: bool,
    ) -> Option<ComparedPair<'b>> {
        let texts = self.pairs.texts(round, prompt_id)?;
        let text = |completion: u32| texts.texts.get(completion as usize).map(String::as_str);
        let reward = |completion: u32| texts.rewards.get(completion as usize).copied();
        let known = self.known.get(&(round, prompt_id, completions));
        let [one, other] = completions;
        Some(ComparedPair {
            round,
            prompt_id,
            prompt: &texts.prompt,
            new,
            completions,
            texts: [text(one)?, text(other)?],
            rewards: reward(one).zip(reward(other)).map(|(one, other)| [one, other]),
            preferred: known.and_then(|(preferred, _)| *preferred),
            outcome: known.map(|(_, outcome)| *outcome),
        })
    }
}
