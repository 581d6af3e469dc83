//! Evaluates how well each rule predicts the proxy's errors, on pairs of completions with a true order.

use dissent_domain::analysis::{
    ComparisonResult, Interval, at_budgets, auroc, bootstrap_intervals, mean_precision, stratified_auroc,
    t_interval,
};
use dissent_domain::conflict::{
    LogprobKind, Pair, PairScore, ScoredCompletions, margin_strata, measure, pair_scores,
};
use serde::Serialize;

/// A rule that ranks pairs of completions by suspicion of a proxy error, the most suspicious first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Predictor {
    /// No ranking: the baseline of every other rule.
    Random,
    /// The disagreement of an ensemble of proxies about the two completions.
    Ensemble,
    /// A score from rewards and log-probabilities of this kind.
    Score(PairScore, LogprobKind),
}

impl Predictor {
    /// Returns the name in tables, which omits the kind of log-probability if it is `default`.
    #[must_use]
    pub fn name(self, default: LogprobKind) -> String {
        let (name, kind) = match self {
            Self::Random => return "random".to_owned(),
            Self::Ensemble => return "ensemble variance".to_owned(),
            Self::Score(PairScore::Margin, _) => return "margin".to_owned(),
            Self::Score(score, kind) => (score_name(score), kind),
        };
        if kind == default { name.to_owned() } else { format!("{name}, log-probability {kind}") }
    }

    /// Returns the ranking in words.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Random => "a random order",
            Self::Ensemble => "the largest disagreement of proxies with different seeds first",
            Self::Score(PairScore::Margin, _) => "the smallest difference of reward first",
            Self::Score(PairScore::Gap, _) => "SHF-CAS on pairs: the largest difference of PACS first",
            Self::Score(PairScore::LargestPacs, _) => {
                "SHF-CAS on completions: in descending order of the larger |PACS| of the two"
            }
            Self::Score(PairScore::Opposition, _) => {
                "in descending order of the policy's preference for the completion with the lower reward"
            }
            Self::Score(PairScore::Doubt, _) => {
                "in descending order of the excess of the policy's preference over the proxy's"
            }
            Self::Score(PairScore::GapAndMargin, _) => {
                "the smallest sum of the ranks by conflict and by margin first"
            }
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

/// The scores of the completions of one prompt by proxy and policy.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredPrompt {
    /// The proxy's rewards, shape `[N]`.
    pub rewards: Vec<f64>,
    /// The log-probability of each completion in nats, shape `[N]`, the sum over its tokens.
    pub logprobs: Vec<f64>,
    /// The mean log-probability of a token in nats, shape `[N]`.
    pub logprob_means: Vec<f64>,
    /// The rewards by every member of an ensemble, shape `[members][N]`; empty without an ensemble.
    pub ensemble: Vec<Vec<f64>>,
}

/// A pair of completions with a true order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelledPair {
    /// The index of the prompt.
    pub prompt: usize,
    /// The index of the better completion.
    pub better: usize,
    /// The index of the other completion.
    pub worse: usize,
}

/// Labelled pairs with the scores of each predictor. The predictors do not see the true order.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Whether the proxy fails to order each pair correctly; a tie counts as an error.
    wrong: Vec<bool>,
    /// The prompt of each pair: pairs of one prompt are not independent.
    prompt: Vec<usize>,
    /// The margin group of each pair.
    stratum: Vec<u32>,
    /// The scores of the pairs, by predictor.
    scores: Vec<Vec<f64>>,
    /// The indices of the pairs in ascending order of score, by predictor. A bootstrap draw is then sorted,
    /// too.
    order: Vec<Vec<usize>>,
}

impl Sample {
    /// Scores the labelled pairs. Excludes a pair if the conflict of its prompt is undefined.
    ///
    /// # Errors
    /// If scores are missing or not finite.
    pub fn new(
        prompts: &[ScoredPrompt],
        labelled: &[LabelledPair],
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
        let completions = |kind: LogprobKind| -> Vec<ScoredCompletions<'_>> {
            let conflicts = &conflicts[usize::from(kind == LogprobKind::Mean)];
            let both = conflicts.iter().zip(prompts);
            both.map(|(conflict, prompt)| ScoredCompletions {
                conflict,
                rewards: &prompt.rewards,
                left_out: &[],
            })
            .collect()
        };
        let has_conflict = |pair: &&LabelledPair| conflicts.iter().all(|of| !of[pair.prompt].degenerate);
        let labelled: Vec<&LabelledPair> = labelled.iter().filter(has_conflict).collect();
        let pairs: Vec<Pair> = labelled
            .iter()
            .map(|pair| Pair {
                prompt: pair.prompt,
                first: pair.better.min(pair.worse),
                second: pair.better.max(pair.worse),
            })
            .collect();
        let score = |predictor: &Predictor| match predictor {
            Predictor::Random => vec![0.0; pairs.len()],
            Predictor::Ensemble => {
                pairs.iter().map(|pair| disagreement(&prompts[pair.prompt].ensemble, *pair)).collect()
            }
            Predictor::Score(score, kind) => pair_scores(*score, &completions(*kind), &pairs),
        };
        let is_wrong = |pair: &&LabelledPair| {
            let rewards = &prompts[pair.prompt].rewards;
            rewards[pair.better] <= rewards[pair.worse]
        };
        let scores: Vec<Vec<f64>> = predictors.iter().map(score).collect();
        Ok(Self {
            wrong: labelled.iter().map(is_wrong).collect(),
            prompt: labelled.iter().map(|pair| pair.prompt).collect(),
            stratum: margin_strata(&completions(LogprobKind::Sum), &pairs),
            order: scores.iter().map(|scores| ascending(scores)).collect(),
            scores,
        })
    }

    /// Returns the number of pairs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.wrong.len()
    }

    /// Whether the sample has no pair.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.wrong.is_empty()
    }

    /// Returns the share of pairs that the proxy orders wrongly, in [0, 1].
    #[must_use]
    pub fn error_rate(&self) -> f64 {
        self.wrong.iter().filter(|wrong| **wrong).count() as f64 / self.len().max(1) as f64
    }

    /// Returns the [`FIGURES`] figures of one predictor, with each pair repeated `times`.
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

    /// Returns the figures of every predictor, the AUROC differences of the comparisons, and the share of
    /// errors.
    fn columns(&self, times: &[usize], comparisons: &[(usize, usize)]) -> Vec<Option<f64>> {
        let of_predictors: Vec<[Option<f64>; FIGURES]> =
            (0..self.scores.len()).map(|predictor| self.figures(predictor, times)).collect();
        let difference =
            |(one, other): &(usize, usize)| Some(of_predictors[*one][AUROC]? - of_predictors[*other][AUROC]?);
        let all: usize = times.iter().sum();
        let wrong: usize =
            times.iter().zip(&self.wrong).filter(|(_, wrong)| **wrong).map(|(times, _)| times).sum();
        let errors = (all > 0).then(|| wrong as f64 / all as f64);
        let figures = of_predictors.iter().flatten().copied();
        figures.chain(comparisons.iter().map(difference)).chain([errors]).collect()
    }
}

// Indices of the figures of a predictor, and their number.
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

/// Returns the number of pairs of a share, at least one.
fn budget(share: f64, pairs: usize) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a count of pairs"
    )]
    let budget = (share * pairs as f64).round() as usize;
    budget.max(1)
}

/// Returns the standard deviation, over the members of an ensemble, of the difference of the two rewards. The
/// rewards of a member are z-scores within the prompt, because each member has its own scale.
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

/// Budgets for precision and recall, as shares of all pairs.
pub const BUDGET_SHARES: [f64; 8] = [0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75];

/// Resamples of a bootstrap interval.
const RESAMPLES: usize = 1000;

/// The figures of one predictor of the proxy's errors.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction {
    /// The name of the predictor.
    pub rule: String,
    /// The ranking in words.
    pub meaning: &'static str,
    /// The probability that the predictor ranks an error before a correct pair.
    pub auroc: Option<Interval>,
    /// The same probability among pairs of about the same margin.
    pub auroc_at_equal_margin: Option<Interval>,
    /// The mean precision over all budgets.
    pub mean_precision: Option<Interval>,
    /// Precision and recall by budget.
    pub at: Vec<AtShare>,
}

/// Precision and recall at a budget.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AtShare {
    /// The budget as a share of all pairs.
    pub share: f64,
    /// The share of errors among the first pairs.
    pub precision: Option<Interval>,
    /// The share of all errors that are among the first pairs.
    pub recall: Option<Interval>,
}

/// The difference of two predictors by AUROC.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AurocComparison {
    /// The name of the predictor.
    pub rule: String,
    /// The name of the predictor that it is compared with.
    pub over: String,
    /// The AUROC of `rule` minus that of `over`, on the same pairs.
    pub auroc: Interval,
    /// The result by this interval.
    #[serde(rename = "standing")]
    pub result: ComparisonResult,
}

/// The method of the intervals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IntervalMethod {
    /// Student's t over samples, which have different seeds.
    StudentT,
    /// A bootstrap over prompts of the mean over samples, which have the same prompts, such as several
    /// proxies.
    Bootstrap,
}

/// The evaluation of the predictors of a study.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Predictions {
    /// The mean number of pairs of a sample.
    pub pairs: f64,
    /// The number of prompts of these pairs.
    pub prompts: usize,
    /// The number of samples: proxies or seeds.
    pub samples: usize,
    /// The share of pairs that the proxy orders wrongly.
    pub error_rate: Option<Interval>,
    /// The predictions of every predictor.
    pub rules: Vec<Prediction>,
    /// Comparisons of conflict with the baselines, and of its combinations with conflict and with the margin.
    #[serde(rename = "advantages")]
    pub comparisons: Vec<AurocComparison>,
}

/// Evaluates the predictors with which the samples were scored.
#[must_use]
pub fn evaluate(
    samples: &[Sample],
    predictors: &[Predictor],
    kind: LogprobKind,
    method: IntervalMethod,
    seed: u64,
) -> Predictions {
    let comparisons = comparisons(predictors, kind);
    let mut prompts: Vec<usize> = samples.iter().flat_map(|sample| sample.prompt.iter().copied()).collect();
    prompts.sort_unstable();
    prompts.dedup();
    let columns = match method {
        IntervalMethod::StudentT => student_t_columns(samples, &comparisons),
        IntervalMethod::Bootstrap => bootstrap_columns(samples, &comparisons, &prompts, seed),
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
    let first_comparison = predictors.len() * FIGURES;
    let auroc_comparison = |(index, &(one, other)): (usize, &(usize, usize))| {
        let auroc = column(first_comparison + index)?;
        Some(AurocComparison {
            rule: predictors[one].name(kind),
            over: predictors[other].name(kind),
            auroc,
            result: ComparisonResult::of(&auroc),
        })
    };
    Predictions {
        pairs: samples.iter().map(|sample| sample.len() as f64).sum::<f64>() / samples.len().max(1) as f64,
        prompts: prompts.len(),
        samples: samples.len(),
        error_rate: column(first_comparison + comparisons.len()),
        rules: rules.collect(),
        comparisons: comparisons.iter().enumerate().filter_map(auroc_comparison).collect(),
    }
}

/// Returns the mean of every column over samples, with Student's t intervals.
fn student_t_columns(samples: &[Sample], comparisons: &[(usize, usize)]) -> Vec<Option<Interval>> {
    let each: Vec<Vec<Option<f64>>> =
        samples.iter().map(|sample| sample.columns(&vec![1; sample.len()], comparisons)).collect();
    let width = each.first().map_or(0, Vec::len);
    let interval = |column: usize| {
        let values: Option<Vec<f64>> = each.iter().map(|columns| columns[column]).collect();
        t_interval(&values?)
    };
    (0..width).map(interval).collect()
}

/// Returns the mean of every column over samples, with bootstrap intervals over prompts.
fn bootstrap_columns(
    samples: &[Sample],
    comparisons: &[(usize, usize)],
    prompts: &[usize],
    seed: u64,
) -> Vec<Option<Interval>> {
    bootstrap_intervals(prompts.len(), RESAMPLES, seed, |drawn| {
        let mut times = vec![0; prompts.len()];
        drawn.iter().for_each(|&prompt| times[prompt] += 1);
        let of_sample = |sample: &Sample| {
            let of_pair = |prompt: &usize| prompts.binary_search(prompt).map_or(0, |index| times[index]);
            sample.columns(&sample.prompt.iter().map(of_pair).collect::<Vec<usize>>(), comparisons)
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

/// Returns the compared predictors: conflict with every baseline, and its combinations with conflict and with
/// the margin.
fn comparisons(predictors: &[Predictor], kind: LogprobKind) -> Vec<(usize, usize)> {
    let find = |target: Predictor| predictors.iter().position(|predictor| *predictor == target);
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
