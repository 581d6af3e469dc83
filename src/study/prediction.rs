//! How well each rule predicts where the proxy is wrong: on pairs of answers whose true order is known.

use dissent_domain::analysis::{
    ComparisonResult, Interval, at_budgets, auroc, bootstrap_intervals, mean_precision, stratified_auroc,
    t_interval,
};
use dissent_domain::conflict::{
    LogprobKind, Pair, PairScore, ScoredCompletions, margin_strata, measure, pair_scores,
};
use serde::Serialize;

/// What puts pairs in an order, the most suspicious first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Predictor {
    /// No order at all: what any order must beat.
    Random,
    /// How far the members of an ensemble of proxies differ about the two answers.
    Ensemble,
    /// A score of what proxy and policy say, with the log-probability of this kind.
    Score(PairScore, LogprobKind),
}

impl Predictor {
    /// Its name in tables; `of` is the kind of log-probability that goes without saying.
    #[must_use]
    pub fn name(self, of: LogprobKind) -> String {
        let (name, kind) = match self {
            Self::Random => return "random".to_owned(),
            Self::Ensemble => return "ensemble variance".to_owned(),
            Self::Score(PairScore::Margin, _) => return "margin".to_owned(),
            Self::Score(score, kind) => (score_name(score), kind),
        };
        if kind == of { name.to_owned() } else { format!("{name}, log-probability {kind}") }
    }

    /// What it looks at, for people.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Random => "pairs in any order",
            Self::Ensemble => "proxies trained with other seeds differ most about the pair",
            Self::Score(PairScore::Margin, _) => "the smallest difference of reward first",
            Self::Score(PairScore::Gap, _) => "SHF-CAS on pairs: the largest difference of PACS first",
            Self::Score(PairScore::LargestPacs, _) => {
                "SHF-CAS on answers: the largest |PACS| of the two first"
            }
            Self::Score(PairScore::Opposition, _) => {
                "the policy most prefers the answer that the proxy puts lower"
            }
            Self::Score(PairScore::Doubt, _) => "the policy's preference most outweighs the proxy's",
            Self::Score(PairScore::GapAndMargin, _) => "the sum of the ranks by conflict and by small margin",
            Self::Score(PairScore::EqualMargin, _) => "conflict among the pairs of about the same margin",
        }
    }
}

fn score_name(score: PairScore) -> &'static str {
    match score {
        PairScore::Margin => "margin",
        PairScore::Gap => "conflict",
        PairScore::LargestPacs => "largest |PACS|",
        PairScore::Opposition => "opposition",
        PairScore::Doubt => "doubt",
        PairScore::GapAndMargin => "conflict and margin",
        PairScore::EqualMargin => "conflict at equal margin",
    }
}

/// The answers to one prompt, as proxy and policy see them.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredPrompt {
    /// The proxy's rewards, shape `[N]`.
    pub rewards: Vec<f64>,
    /// log π of each answer in nats, shape `[N]`, summed over its tokens.
    pub logprobs: Vec<f64>,
    /// The same per token.
    pub logprob_means: Vec<f64>,
    /// Rewards of every member of an ensemble, shape `[members][N]`; empty without one.
    pub ensemble: Vec<Vec<f64>>,
}

/// A pair of answers whose true order is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelledPair {
    /// The prompt, by position.
    pub prompt: usize,
    /// The better answer.
    pub better: usize,
    /// The other one.
    pub worse: usize,
}

/// Judged pairs with what each predictor makes of them; the predictors have not seen the truth.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Whether the proxy orders each pair wrongly, or not at all.
    wrong: Vec<bool>,
    /// The prompt of each pair: pairs of one prompt are not independent.
    prompt: Vec<usize>,
    /// The margin group of each pair.
    stratum: Vec<u32>,
    /// What each predictor gives each pair, in the order of the predictors.
    scores: Vec<Vec<f64>>,
    /// The pairs of each predictor by ascending score, so that what is drawn from them comes sorted.
    order: Vec<Vec<usize>>,
}

impl Sample {
    /// Scores the judged pairs. Pairs of a prompt without a conflict to measure are left out.
    ///
    /// # Errors
    /// If scores are missing or not finite.
    pub fn new(
        prompts: &[ScoredPrompt],
        judged: &[LabelledPair],
        predictors: &[Predictor],
    ) -> anyhow::Result<Self> {
        let measured = |kind: LogprobKind| {
            let of = |prompt: &ScoredPrompt| match kind {
                LogprobKind::Sum => measure(&prompt.rewards, &prompt.logprobs),
                LogprobKind::Mean => measure(&prompt.rewards, &prompt.logprob_means),
            };
            prompts.iter().map(of).collect::<Result<Vec<_>, _>>()
        };
        let conflicts = [measured(LogprobKind::Sum)?, measured(LogprobKind::Mean)?];
        let answers = |kind: LogprobKind| -> Vec<ScoredCompletions<'_>> {
            let conflicts = &conflicts[usize::from(kind == LogprobKind::Mean)];
            let both = conflicts.iter().zip(prompts);
            both.map(|(conflict, prompt)| ScoredCompletions { conflict, rewards: &prompt.rewards }).collect()
        };
        let has_conflict = |judged: &&LabelledPair| conflicts.iter().all(|of| !of[judged.prompt].degenerate);
        let judged: Vec<&LabelledPair> = judged.iter().filter(has_conflict).collect();
        let pairs: Vec<Pair> = judged
            .iter()
            .map(|judged| Pair {
                prompt: judged.prompt,
                first: judged.better.min(judged.worse),
                second: judged.better.max(judged.worse),
            })
            .collect();
        let score = |predictor: &Predictor| match predictor {
            Predictor::Random => vec![0.0; pairs.len()],
            Predictor::Ensemble => {
                pairs.iter().map(|pair| disagreement(&prompts[pair.prompt].ensemble, *pair)).collect()
            }
            Predictor::Score(score, kind) => pair_scores(*score, &answers(*kind), &pairs),
        };
        let is_wrong = |judged: &&LabelledPair| {
            let rewards = &prompts[judged.prompt].rewards;
            rewards[judged.better] <= rewards[judged.worse]
        };
        let scores: Vec<Vec<f64>> = predictors.iter().map(score).collect();
        Ok(Self {
            wrong: judged.iter().map(is_wrong).collect(),
            prompt: judged.iter().map(|judged| judged.prompt).collect(),
            stratum: margin_strata(&answers(LogprobKind::Sum), &pairs),
            order: scores.iter().map(|scores| ascending(scores)).collect(),
            scores,
        })
    }

    /// Judged pairs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.wrong.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.wrong.is_empty()
    }

    /// The share of pairs that the proxy orders wrongly, in [0, 1].
    #[must_use]
    pub fn error_rate(&self) -> f64 {
        self.wrong.iter().filter(|wrong| **wrong).count() as f64 / self.len().max(1) as f64
    }

    /// Every figure of one predictor, in the order of [`FIGURES`], with each pair taken so many times.
    fn figures(&self, predictor: usize, times: &[usize]) -> [Option<f64>; FIGURES] {
        let (mut scores, mut wrong, mut stratum) = (Vec::new(), Vec::new(), Vec::new());
        for &pair in &self.order[predictor] {
            for _ in 0..times[pair] {
                scores.push(self.scores[predictor][pair]);
                wrong.push(self.wrong[pair]);
                stratum.push(self.stratum[pair]);
            }
        }
        let mut figures = [None; FIGURES];
        figures[AUROC] = auroc(&scores, &wrong);
        figures[AT_EQUAL_MARGIN] = stratified_auroc(&scores, &wrong, &stratum);
        figures[MEAN_PRECISION] = mean_precision(&scores, &wrong);
        let budgets = BUDGET_SHARES.map(|share| budget(share, scores.len()));
        for (share, at) in at_budgets(&scores, &wrong, &budgets).into_iter().enumerate() {
            figures[PRECISION + share] = Some(at.precision);
            figures[RECALL + share] = Some(at.recall);
        }
        figures
    }

    /// Every figure of every predictor, the differences in AUROC of the contests, and the share of errors.
    fn columns(&self, times: &[usize], contests: &[(usize, usize)]) -> Vec<Option<f64>> {
        let of_predictors: Vec<[Option<f64>; FIGURES]> =
            (0..self.scores.len()).map(|predictor| self.figures(predictor, times)).collect();
        let difference =
            |(one, other): &(usize, usize)| Some(of_predictors[*one][AUROC]? - of_predictors[*other][AUROC]?);
        let all: usize = times.iter().sum();
        let wrong: usize =
            times.iter().zip(&self.wrong).filter(|(_, wrong)| **wrong).map(|(times, _)| times).sum();
        let errors = (all > 0).then(|| wrong as f64 / all as f64);
        let figures = of_predictors.iter().flatten().copied();
        figures.chain(contests.iter().map(difference)).chain([errors]).collect()
    }
}

/// Where each figure of a predictor stands among them.
const AUROC: usize = 0;
const AT_EQUAL_MARGIN: usize = 1;
const MEAN_PRECISION: usize = 2;
const PRECISION: usize = 3;
const RECALL: usize = PRECISION + BUDGET_SHARES.len();
const FIGURES: usize = RECALL + BUDGET_SHARES.len();

fn ascending(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    order
}

/// The pairs that a share of all makes, at least one.
fn budget(share: f64, pairs: usize) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a count of pairs"
    )]
    let budget = (share * pairs as f64).round() as usize;
    budget.max(1)
}

/// The standard deviation, over the members of an ensemble, of the difference between the two answers'
/// rewards; each member's rewards are taken as z-scores within the prompt, since each has a scale of its own.
fn disagreement(ensemble: &[Vec<f64>], pair: Pair) -> f64 {
    let differences: Vec<f64> = ensemble
        .iter()
        .filter_map(|rewards| dissent_domain::conflict::z_scores(rewards))
        .map(|z| z[pair.first] - z[pair.second])
        .collect();
    let n = differences.len().max(1) as f64;
    let mean = differences.iter().sum::<f64>() / n;
    (differences.iter().map(|difference| (difference - mean).powi(2)).sum::<f64>() / n).sqrt()
}

/// Shares of all pairs at which precision and recall are given.
pub const BUDGET_SHARES: [f64; 8] = [0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75];

/// Draws of a bootstrap interval.
const RESAMPLES: usize = 1000;

/// How well one predictor finds the proxy's errors.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction {
    /// The predictor.
    pub rule: String,
    /// What it looks at.
    pub meaning: &'static str,
    /// The probability that an error comes before a pair that is no error.
    pub auroc: Option<Interval>,
    /// The same among pairs of about the same margin.
    pub auroc_at_equal_margin: Option<Interval>,
    /// The mean precision over all budgets.
    pub mean_precision: Option<Interval>,
    /// Precision and recall by budget.
    pub at: Vec<AtShare>,
}

/// Precision and recall at a budget.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AtShare {
    /// Share of all pairs that are looked at.
    pub share: f64,
    /// Share of them that are errors.
    pub precision: Option<Interval>,
    /// Share of all errors that are among them.
    pub recall: Option<Interval>,
}

/// One predictor against another, by AUROC.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Advantage {
    /// The one.
    pub rule: String,
    /// The other.
    pub over: String,
    /// AUROC of the one less that of the other, on the same pairs.
    pub auroc: Interval,
    /// By that interval.
    pub standing: ComparisonResult,
}

/// Where intervals come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// Each sample is of a seed of its own: Student's t over samples.
    OverSamples,
    /// The samples are of the same prompts, such as several proxies: the mean over samples, and a bootstrap
    /// over prompts.
    OverPrompts,
}

/// What a study says about its predictors.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Predictions {
    /// Judged pairs of a sample, on average.
    pub pairs: f64,
    /// Prompts that they are of.
    pub prompts: usize,
    /// Samples: proxies, or seeds.
    pub samples: usize,
    /// The share of pairs that the proxy orders wrongly.
    pub error_rate: Option<Interval>,
    /// Every predictor.
    pub rules: Vec<Prediction>,
    /// Conflict and its combinations against the baselines, and the combinations against conflict.
    pub advantages: Vec<Advantage>,
}

/// Evaluates the predictors that the samples were scored by.
#[must_use]
pub fn evaluate(
    samples: &[Sample],
    predictors: &[Predictor],
    kind: LogprobKind,
    spread: Spread,
    seed: u64,
) -> Predictions {
    let contests = contests(predictors, kind);
    let mut prompts: Vec<usize> = samples.iter().flat_map(|sample| sample.prompt.iter().copied()).collect();
    prompts.sort_unstable();
    prompts.dedup();
    let columns = match spread {
        Spread::OverSamples => over_samples(samples, &contests),
        Spread::OverPrompts => over_prompts(samples, &contests, &prompts, seed),
    };
    let column = |column: usize| columns.get(column).copied().flatten();
    let rules = predictors.iter().enumerate().map(|(index, predictor)| {
        let of = |figure: usize| column(index * FIGURES + figure);
        Prediction {
            rule: predictor.name(kind),
            meaning: predictor.meaning(),
            auroc: of(AUROC),
            auroc_at_equal_margin: of(AT_EQUAL_MARGIN),
            mean_precision: of(MEAN_PRECISION),
            at: (0..BUDGET_SHARES.len())
                .map(|share| AtShare {
                    share: BUDGET_SHARES[share],
                    precision: of(PRECISION + share),
                    recall: of(RECALL + share),
                })
                .collect(),
        }
    });
    let first_contest = predictors.len() * FIGURES;
    let advantage = |(place, &(one, other)): (usize, &(usize, usize))| {
        let auroc = column(first_contest + place)?;
        Some(Advantage {
            rule: predictors[one].name(kind),
            over: predictors[other].name(kind),
            auroc,
            standing: ComparisonResult::of(&auroc),
        })
    };
    Predictions {
        pairs: samples.iter().map(|sample| sample.len() as f64).sum::<f64>() / samples.len().max(1) as f64,
        prompts: prompts.len(),
        samples: samples.len(),
        error_rate: column(first_contest + contests.len()),
        rules: rules.collect(),
        advantages: contests.iter().enumerate().filter_map(advantage).collect(),
    }
}

/// Every column's mean over samples, by Student's t.
fn over_samples(samples: &[Sample], contests: &[(usize, usize)]) -> Vec<Option<Interval>> {
    let each: Vec<Vec<Option<f64>>> =
        samples.iter().map(|sample| sample.columns(&vec![1; sample.len()], contests)).collect();
    let width = each.first().map_or(0, Vec::len);
    let interval = |column: usize| {
        let values: Option<Vec<f64>> = each.iter().map(|columns| columns[column]).collect();
        t_interval(&values?)
    };
    (0..width).map(interval).collect()
}

/// Every column's mean over samples, by a bootstrap over prompts.
fn over_prompts(
    samples: &[Sample],
    contests: &[(usize, usize)],
    prompts: &[usize],
    seed: u64,
) -> Vec<Option<Interval>> {
    bootstrap_intervals(prompts.len(), RESAMPLES, seed, |drawn| {
        let mut times = vec![0; prompts.len()];
        drawn.iter().for_each(|&prompt| times[prompt] += 1);
        let of_sample = |sample: &Sample| {
            let of_pair = |prompt: &usize| prompts.binary_search(prompt).map_or(0, |place| times[place]);
            sample.columns(&sample.prompt.iter().map(of_pair).collect::<Vec<usize>>(), contests)
        };
        let each: Vec<Vec<Option<f64>>> = samples.iter().map(of_sample).collect();
        let width = each.first().map_or(0, Vec::len);
        let mean = |column: usize| {
            let values: Option<Vec<f64>> = each.iter().map(|columns| columns[column]).collect();
            values.map(|values| values.iter().sum::<f64>() / values.len() as f64)
        };
        (0..width).map(mean).collect()
    })
}

/// Who is compared with whom: conflict with every baseline, and every other use of conflict with conflict and
/// with the margin.
fn contests(predictors: &[Predictor], kind: LogprobKind) -> Vec<(usize, usize)> {
    let find = |wanted: Predictor| predictors.iter().position(|predictor| *predictor == wanted);
    let conflict = find(Predictor::Score(PairScore::Gap, kind));
    let margin = predictors.iter().position(|p| matches!(p, Predictor::Score(PairScore::Margin, _)));
    let baselines = [find(Predictor::Random), margin, find(Predictor::Ensemble)];
    let mut found: Vec<(usize, usize)> =
        baselines.into_iter().flatten().filter_map(|baseline| Some((conflict?, baseline))).collect();
    for (index, predictor) in predictors.iter().enumerate() {
        let is_combination = matches!(predictor, Predictor::Score(score, of) if *of == kind
            && !matches!(score, PairScore::Gap | PairScore::Margin));
        if is_combination {
            found.extend([conflict, margin].into_iter().flatten().map(|other| (index, other)));
        }
    }
    found
}

#[cfg(test)]
mod tests;
