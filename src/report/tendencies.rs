//! What goes with conflict: how PACS differs, within a prompt, between completions with a property of their
//! text and the others. PACS is a difference of two z-scores. So a difference of PACS divides into a part of
//! the proxy, by the reward, and a part of the policy, by the log-probability.

use dissent_domain::analysis::{Interval, Spread, contrasts, corrected_level, sign_flip_p};
use dissent_domain::flags::Flag;
use serde::Serialize;

use super::prompt_figures::{CompletionFigures, PromptFigures};
use crate::text::{grouped, signed};

/// Fewest prompts of a row.
const PROMPTS_MIN: usize = 3;
/// The seed of the bootstrap: the same figures have the same intervals.
const SEED: u64 = 0;

/// A property of a completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Property {
    /// More tokens than the median completion of the prompt.
    Long,
    /// What its text shows.
    #[serde(untagged)]
    Flag(Flag),
}

impl Property {
    fn all() -> impl Iterator<Item = Self> {
        std::iter::once(Self::Long).chain(Flag::ALL.map(Self::Flag))
    }

    /// Whether each completion of a prompt has the property.
    fn marks(self, completions: &[&CompletionFigures]) -> Vec<bool> {
        let mut lengths: Vec<u32> = completions.iter().map(|completion| completion.tokens).collect();
        lengths.sort_unstable();
        let median = lengths.get(lengths.len().saturating_sub(1) / 2).copied().unwrap_or_default();
        let has = |completion: &&CompletionFigures| match self {
            Self::Long => completion.tokens > median,
            Self::Flag(flag) => completion.flags.contains(&flag),
        };
        completions.iter().map(has).collect()
    }

    fn text(self) -> &'static str {
        match self {
            Self::Long => "longer than the median of the prompt",
            Self::Flag(flag) => flag_text(flag),
        }
    }
}

/// The conflict that goes with a property.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tendency {
    /// The property.
    pub property: Property,
    /// Prompts with completions of both kinds: the rows of the mean.
    pub prompts: usize,
    /// Completions with the property, of these prompts.
    pub completions: usize,
    /// The mean over prompts of the difference in PACS, with its 95 % interval.
    pub pacs: Interval,
    /// The part of the proxy: the mean difference in the z-score of the reward.
    pub proxy: f64,
    /// The part of the policy: the mean difference in the z-score of the log-probability, negated.
    pub policy: f64,
    /// Whether the interval excludes 0 after correction for the number of rows, and the paired permutation
    /// test agrees.
    pub is_clear: bool,
}

/// Returns the properties that at least three prompts have in some of their completions, the largest
/// difference first.
pub(super) fn of_prompts(prompts: &[PromptFigures]) -> Vec<Tendency> {
    let measured: Vec<Vec<&CompletionFigures>> = prompts
        .iter()
        .map(|prompt| prompt.completions.iter().filter(|completion| completion.pacs.is_some()).collect())
        .filter(|completions: &Vec<_>| !completions.is_empty())
        .collect();
    let found: Vec<Differences> = Property::all()
        .map(|property| Differences::of(property, &measured))
        .filter(|found| found.pacs.len() >= PROMPTS_MIN)
        .collect();
    let tests = found.len();
    let mut rows: Vec<Tendency> = found.iter().filter_map(|found| found.tendency(tests)).collect();
    rows.sort_by(|a, b| b.pacs.mean.abs().total_cmp(&a.pacs.mean.abs()));
    rows
}

/// The differences of a property, one for each prompt with completions of both kinds.
struct Differences {
    property: Property,
    completions: usize,
    pacs: Vec<f64>,
    proxy: Vec<f64>,
    policy: Vec<f64>,
}

impl Differences {
    fn of(property: Property, measured: &[Vec<&CompletionFigures>]) -> Self {
        let marks: Vec<Vec<bool>> = measured.iter().map(|completions| property.marks(completions)).collect();
        let of = |figure: fn(&CompletionFigures) -> Option<f64>| {
            let values: Vec<Vec<f64>> = measured
                .iter()
                .map(|completions| completions.iter().map(|c| figure(c).unwrap_or_default()).collect())
                .collect();
            contrasts(values.iter().zip(&marks).map(|(values, marks)| (values.as_slice(), marks.as_slice())))
        };
        let has_both = |marks: &&Vec<bool>| marks.contains(&true) && marks.contains(&false);
        let marked = marks.iter().filter(has_both).flatten().filter(|mark| **mark);
        Self {
            property,
            completions: marked.count(),
            pacs: of(|completion| completion.pacs),
            proxy: of(|completion| completion.z_reward),
            policy: of(|completion| completion.z_logprob.map(|z| -z)),
        }
    }

    /// `tests` rows share the table.
    fn tendency(&self, tests: usize) -> Option<Tendency> {
        let spread = Spread::of(&self.pacs, SEED)?;
        let corrected = spread.interval(corrected_level(tests));
        let excludes_0 = corrected.low > 0.0 || corrected.high < 0.0;
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        Some(Tendency {
            property: self.property,
            prompts: self.pacs.len(),
            completions: self.completions,
            pacs: spread.interval(0.95),
            proxy: mean(&self.proxy),
            policy: mean(&self.policy),
            is_clear: excludes_0 && sign_flip_p(&self.pacs, SEED) <= 1.0 - corrected_level(tests),
        })
    }
}

/// A row of the table, as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct TendencyRow {
    property: &'static str,
    completions: String,
    prompts: String,
    pacs: String,
    proxy: String,
    policy: String,
    is_clear: bool,
}

impl TendencyRow {
    pub(super) fn new(tendency: &Tendency) -> Self {
        let Interval { mean, low, high, .. } = tendency.pacs;
        let two = |number: f64| signed(number, 2);
        Self {
            property: tendency.property.text(),
            completions: grouped(tendency.completions as u64),
            prompts: grouped(tendency.prompts as u64),
            pacs: format!("{} ({} to {})", two(mean), two(low), two(high)),
            proxy: two(tendency.proxy),
            policy: two(tendency.policy),
            is_clear: tendency.is_clear,
        }
    }
}

/// Returns a flag as a property of a completion.
pub(super) fn flag_text(flag: Flag) -> &'static str {
    match flag {
        Flag::Repetition => "with a loop",
        Flag::Empty => "empty",
        Flag::Cut => "cut off",
        Flag::Refusal => "refusing",
        Flag::Language => "in another language than the prompt",
        Flag::Leak => "with parts of a chat template",
        Flag::Short => "too short for the request",
    }
}

#[cfg(test)]
mod tests {
    use dissent_domain::generation::FinishReason;
    use dissent_domain::id::PromptId;

    use super::*;
    use crate::report::{Judged, PromptState};

    /// A completion whose proxy favours what is `long`, by `bias`.
    fn completion(long: bool, bias: f64, noise: f64) -> CompletionFigures {
        let (z_reward, z_logprob) = (if long { bias } else { 0.0 } + noise, noise / 2.0);
        CompletionFigures {
            logprob: -1.0,
            logprob_mean: -1.0,
            tokens: if long { 20 } else { 5 },
            finish_reason: FinishReason::Stop,
            reward: Some(z_reward),
            z_logprob: Some(z_logprob),
            z_reward: Some(z_reward),
            pacs: Some(z_reward - z_logprob),
            selected: false,
            judged: Judged::No,
            flags: Vec::new(),
        }
    }

    fn prompt(index: u32, bias: f64) -> PromptFigures {
        let noise = |sample: u32| f64::from((index * 7 + sample * 5) % 11) / 11.0 - 0.45;
        PromptFigures {
            prompt_id: PromptId::new(format!("p{index}")).unwrap(),
            index,
            category: None,
            state: PromptState::Measured,
            degenerate: false,
            mean_abs_pacs: None,
            kendall_tau: None,
            kendall_tau_distance: None,
            concordant: 0,
            discordant: 0,
            tied: 0,
            completions: (0..4).map(|sample| completion(sample >= 2, bias, noise(sample))).collect(),
        }
    }

    #[test]
    fn a_proxy_that_favours_length_shows_and_the_parts_add_up() {
        let prompts: Vec<PromptFigures> = (0..20).map(|index| prompt(index, 1.0)).collect();
        let found = of_prompts(&prompts);
        assert_eq!(found.len(), 1, "no flag occurs");
        let row = &found[0];
        assert_eq!((row.property, row.prompts, row.completions), (Property::Long, 20, 40));
        assert!(row.is_clear && row.pacs.mean > 0.7, "{row:?}");
        assert!((row.pacs.mean - row.proxy - row.policy).abs() < 1e-12);
        let none: Vec<PromptFigures> = (0..20).map(|index| prompt(index, 0.0)).collect();
        assert!(!of_prompts(&none)[0].is_clear);
        assert!(of_prompts(&prompts[..2]).is_empty(), "two prompts are too few");
    }
}
