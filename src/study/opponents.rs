//! Compares the opponents of selected completions on pairs with a true order: how many of the proxy's errors
//! does a label find?

use std::collections::BTreeSet;

use dissent_domain::analysis::{ComparisonResult, Interval, auroc, bootstrap_intervals, t_interval};
use dissent_domain::conflict::{
    Conflict, LogprobKind, Rule, ScoredCompletions, SelectionSettings, measure, select, z_scores,
};
use dissent_domain::feedback::{Opponent, Verdict, comparisons};
use serde::Serialize;

use super::prediction::{IntervalMethod, ScoredPrompt};

/// Selected completions, as shares of all.
pub const SHARES: [f64; 3] = [0.1, 0.25, 0.5];
/// The share at which the verdict compares opponents.
pub const VERDICT_SHARE: f64 = SHARES[1];
/// Draws of random opponents, whose figures are averaged.
const RANDOM_DRAWS: u32 = 16;
/// Resamples of a bootstrap interval.
const RESAMPLES: usize = 1000;

/// A judged pair of completions. The judgement is the true order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JudgedPair {
    /// The index of the prompt.
    pub prompt: usize,
    /// The indices of the first and the second completion.
    pub completions: [usize; 2],
    /// The better completion, or a tie.
    pub verdict: Verdict,
}

/// The setting of a row of the table.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Setting {
    logprob: LogprobKind,
    share: f64,
    opponent: Opponent,
}

/// Returns the settings in the order of the table: the default kind of log-probability first.
fn settings(kind: LogprobKind) -> Vec<Setting> {
    let other = if kind == LogprobKind::Sum { LogprobKind::Mean } else { LogprobKind::Sum };
    let of_kind = |logprob: LogprobKind| {
        let of_share = move |share: f64| Opponent::ALL.map(|opponent| Setting { logprob, share, opponent });
        SHARES.into_iter().flat_map(of_share)
    };
    [kind, other].into_iter().flat_map(of_kind).collect()
}

/// The labels of one prompt under one setting.
#[derive(Debug, Clone, PartialEq, Default)]
struct Labels {
    asked: f64,
    ties: f64,
    /// Pairs that the proxy does not order as the judgement does.
    wrong: f64,
    /// The sum of the margins, in standard deviations of the prompt's rewards.
    margin: f64,
    /// The difference of PACS of each pair with a preference, and whether the proxy is wrong about it.
    gaps: Vec<(f64, bool)>,
}

/// The labels that each setting asks for, with one proxy or seed.
#[derive(Debug, Clone, PartialEq)]
pub struct AskedSample {
    /// Shape `[settings][prompts]`.
    labels: Vec<Vec<Labels>>,
    /// The prompts with a judged pair, in ascending order.
    judged: Vec<usize>,
}

impl AskedSample {
    /// Selects completions at each of the [`SHARES`], and asks about their pairs with each opponent. Only
    /// judged pairs are asked about.
    ///
    /// # Errors
    /// If scores are missing or not finite.
    pub fn new(prompts: &[ScoredPrompt], judged: &[JudgedPair], kind: LogprobKind) -> anyhow::Result<Self> {
        let verdicts = verdicts(prompts, judged);
        let mut labels = Vec::new();
        let mut measured: Option<(LogprobKind, Vec<Conflict>)> = None;
        for setting in settings(kind) {
            let conflicts = match measured.take() {
                Some((kind, conflicts)) if kind == setting.logprob => conflicts,
                _ => conflicts(prompts, setting.logprob)?,
            };
            let selected = selected(prompts, &conflicts, setting.share);
            let of_prompt = |(prompt, completions): (usize, &Vec<usize>)| {
                let scored = Scored {
                    index: prompt as u64,
                    pacs: &conflicts[prompt].pacs,
                    rewards: &prompts[prompt].rewards,
                    verdicts: &verdicts[prompt],
                };
                scored.labels(setting.opponent, completions)
            };
            labels.push(selected.iter().enumerate().map(of_prompt).collect());
            measured = Some((setting.logprob, conflicts));
        }
        let judged: BTreeSet<usize> = judged.iter().map(|pair| pair.prompt).collect();
        Ok(Self { labels, judged: judged.into_iter().collect() })
    }

    /// Returns the columns of all prompts, each counted once.
    fn all(&self) -> Vec<Option<f64>> {
        self.columns(&vec![1; self.labels.first().map_or(0, Vec::len)])
    }

    /// Returns the figures of every setting, and the differences of their errors by label to `random` and to
    /// `conflict`. Each prompt counts `times` times.
    fn columns(&self, times: &[usize]) -> Vec<Option<f64>> {
        let of_settings: Vec<[Option<f64>; FIGURES]> =
            self.labels.iter().map(|labels| figures(labels, times)).collect();
        let mut columns: Vec<Option<f64>> = of_settings.iter().flatten().copied().collect();
        for (index, of) in of_settings.iter().enumerate() {
            let first = index - index % Opponent::ALL.len();
            for (place, over) in Opponent::ALL.iter().enumerate() {
                let difference = || Some(of[PER_LABEL]? - of_settings[first + place][PER_LABEL]?);
                let is_baseline = BASELINES.contains(over) && first + place != index;
                columns.push(is_baseline.then(difference).flatten());
            }
        }
        columns
    }
}

/// The opponents that the others are compared with.
const BASELINES: [Opponent; 2] = [Opponent::Conflict, Opponent::Random];

// Indices of the figures of a setting, and their number.
const ASKED: usize = 0;
const PER_LABEL: usize = 1;
const PER_PREFERENCE: usize = 2;
const TIES: usize = 3;
const MARGIN: usize = 4;
const AUROC: usize = 5;
const FIGURES: usize = 6;

fn figures(labels: &[Labels], times: &[usize]) -> [Option<f64>; FIGURES] {
    let sum = |of: fn(&Labels) -> f64| {
        labels.iter().zip(times).map(|(labels, &times)| times as f64 * of(labels)).sum::<f64>()
    };
    let [asked, ties, wrong, margin] =
        [|of: &Labels| of.asked, |of: &Labels| of.ties, |of: &Labels| of.wrong, |of: &Labels| of.margin]
            .map(sum);
    let gaps = labels.iter().zip(times).flat_map(|(labels, &times)| std::iter::repeat_n(&labels.gaps, times));
    let (gaps, is_wrong): (Vec<f64>, Vec<bool>) = gaps.flatten().copied().unzip();
    let share = |part: f64, whole: f64| (whole > 0.0).then(|| part / whole);
    let mut figures = [None; FIGURES];
    figures[ASKED] = Some(asked);
    figures[PER_LABEL] = share(wrong, asked);
    figures[PER_PREFERENCE] = share(wrong, asked - ties);
    figures[TIES] = share(ties, asked);
    figures[MARGIN] = share(margin, asked);
    figures[AUROC] = auroc(&gaps, &is_wrong);
    figures
}

fn conflicts(prompts: &[ScoredPrompt], kind: LogprobKind) -> anyhow::Result<Vec<Conflict>> {
    let of = |prompt: &ScoredPrompt| match kind {
        LogprobKind::Sum => measure(&prompt.rewards, &prompt.logprobs),
        LogprobKind::Mean => measure(&prompt.rewards, &prompt.logprob_means),
    };
    Ok(prompts.iter().map(of).collect::<Result<_, _>>()?)
}

/// Returns the completions with the largest |PACS| of each prompt: this share of all completions.
fn selected(prompts: &[ScoredPrompt], conflicts: &[Conflict], share: f64) -> Vec<Vec<usize>> {
    let scored: Vec<ScoredCompletions<'_>> = prompts
        .iter()
        .zip(conflicts)
        .map(|(prompt, conflict)| ScoredCompletions { conflict, rewards: &prompt.rewards, left_out: &[] })
        .collect();
    let completions: usize = prompts.iter().map(|prompt| prompt.rewards.len()).sum();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a count of completions"
    )]
    let budget = (share * completions as f64).round() as u64;
    let settings =
        SelectionSettings { rule: Rule::Budget, budget: Some(budget.max(1)), ..SelectionSettings::default() };
    select(&settings, &scored, 0).completions
}

/// Returns the verdict of each ordered pair of completions of each prompt, shape `[prompts][N][N]`.
fn verdicts(prompts: &[ScoredPrompt], judged: &[JudgedPair]) -> Vec<Vec<Vec<Option<Verdict>>>> {
    let empty = |prompt: &ScoredPrompt| vec![vec![None; prompt.rewards.len()]; prompt.rewards.len()];
    let mut found: Vec<Vec<Vec<Option<Verdict>>>> = prompts.iter().map(empty).collect();
    for JudgedPair { prompt, completions: [first, second], verdict } in judged {
        let reverse = match verdict {
            Verdict::First => Verdict::Second,
            Verdict::Second => Verdict::First,
            Verdict::Tie => Verdict::Tie,
        };
        found[*prompt][*first][*second] = Some(*verdict);
        found[*prompt][*second][*first] = Some(reverse);
    }
    found
}

/// A prompt with the scores of its completions and the verdicts of its pairs.
struct Scored<'a> {
    index: u64,
    pacs: &'a [f64],
    rewards: &'a [f64],
    verdicts: &'a [Vec<Option<Verdict>>],
}

impl Scored<'_> {
    fn labels(&self, opponent: Opponent, selected: &[usize]) -> Labels {
        let draws = if opponent == Opponent::Random { RANDOM_DRAWS } else { 1 };
        let mut labels = Labels::default();
        for draw in 0..draws {
            for [first, second] in self.pairs(opponent, selected, u64::from(draw)) {
                self.add(&mut labels, first, second, draw == 0);
            }
        }
        for sum in [&mut labels.asked, &mut labels.ties, &mut labels.wrong, &mut labels.margin] {
            *sum /= f64::from(draws);
        }
        labels
    }

    /// Returns the pairs of the selected completions with their opponents, no pair twice.
    fn pairs(&self, opponent: Opponent, selected: &[usize], draw: u64) -> BTreeSet<[usize; 2]> {
        let of = |&completion: &usize| {
            let not_judged: Vec<bool> = self.verdicts[completion].iter().map(Option::is_none).collect();
            let seed = self.index.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ draw << 32 ^ completion as u64;
            comparisons(opponent, &[completion], self.pacs, self.rewards, &not_judged, seed)
        };
        let pairs = selected.iter().flat_map(of);
        pairs.map(|pair| [pair.first.min(pair.second), pair.first.max(pair.second)]).collect()
    }

    fn add(&self, labels: &mut Labels, first: usize, second: usize, with_gap: bool) {
        let Some(verdict) = self.verdicts[first][second] else { return };
        let is_wrong = match verdict {
            Verdict::First => Some(self.rewards[first] <= self.rewards[second]),
            Verdict::Second => Some(self.rewards[second] <= self.rewards[first]),
            Verdict::Tie => None,
        };
        labels.asked += 1.0;
        match is_wrong {
            Some(is_wrong) => {
                labels.wrong += f64::from(u8::from(is_wrong));
                if with_gap {
                    labels.gaps.push(((self.pacs[first] - self.pacs[second]).abs(), is_wrong));
                }
            }
            None => labels.ties += 1.0,
        }
        labels.margin += z_scores(self.rewards).map_or(0.0, |z| (z[first] - z[second]).abs());
    }
}

/// The figures of an opponent at a share of the completions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OpponentRow {
    /// The kind of log-probability in PACS.
    pub logprob: LogprobKind,
    /// The selected completions as a share of all.
    pub share: f64,
    /// The opponent.
    pub opponent: Opponent,
    /// Judged pairs that are asked about, the mean over samples. Ties are among them.
    pub labels: f64,
    /// The share of ties among these.
    pub ties: Option<f64>,
    /// Errors of the proxy found by label. A tie finds none.
    pub errors_per_label: Option<Interval>,
    /// Errors of the proxy found by preference: ties are excluded.
    pub errors_per_preference: Option<Interval>,
    /// The mean reward margin of the pairs, in standard deviations of the prompt's rewards.
    pub margin: Option<Interval>,
    /// The probability that an error has a larger difference of PACS than a correct pair, among these pairs.
    pub auroc: Option<Interval>,
    /// The difference to each of the opponents `conflict` and `random`.
    pub differences: Vec<OpponentDifference>,
}

/// The difference of two opponents, paired by prompt or by seed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OpponentDifference {
    /// The opponent that the row is compared with.
    pub over: Opponent,
    /// Errors found by label, minus those of `over`.
    pub errors_per_label: Interval,
    /// The result by this interval.
    pub result: ComparisonResult,
}

/// The comparison of opponents on pairs with a true order.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OpponentTable {
    /// The mean number of prompts with a judged pair.
    pub prompts: f64,
    /// The number of samples: proxies or seeds.
    pub samples: usize,
    /// The number of differences in the table, whose intervals are not corrected.
    pub comparisons: usize,
    /// Every opponent at every share, for both kinds of log-probability.
    pub rows: Vec<OpponentRow>,
}

/// Evaluates the opponents; `None` without samples. `kind` is the one with which the samples were made.
#[must_use]
pub fn evaluate(
    samples: &[AskedSample],
    kind: LogprobKind,
    method: IntervalMethod,
    seed: u64,
) -> Option<OpponentTable> {
    let judged: usize = samples.iter().map(|sample| sample.judged.len()).sum();
    let columns = match method {
        IntervalMethod::StudentT => over_samples(samples),
        IntervalMethod::Bootstrap => over_prompts(samples, seed),
    };
    let settings = settings(kind);
    let each: Vec<Vec<Option<f64>>> = samples.iter().map(AskedSample::all).collect();
    let mean = |column: usize| {
        let values: Option<Vec<f64>> = each.iter().map(|of| of[column]).collect();
        values.map(|values| values.iter().sum::<f64>() / values.len() as f64)
    };
    let column = |column: usize| columns.get(column).copied().flatten();
    let differences = |row: usize| {
        let first = settings.len() * FIGURES + row * Opponent::ALL.len();
        let difference = |(place, &over): (usize, &Opponent)| {
            let errors_per_label = column(first + place)?;
            let result = ComparisonResult::of(&errors_per_label);
            Some(OpponentDifference { over, errors_per_label, result })
        };
        Opponent::ALL.iter().enumerate().filter_map(difference).collect()
    };
    let rows: Vec<OpponentRow> = settings
        .iter()
        .enumerate()
        .map(|(row, setting)| {
            let of = |figure: usize| column(row * FIGURES + figure);
            OpponentRow {
                logprob: setting.logprob,
                share: setting.share,
                opponent: setting.opponent,
                labels: mean(row * FIGURES + ASKED).unwrap_or(0.0),
                ties: mean(row * FIGURES + TIES),
                errors_per_label: of(PER_LABEL),
                errors_per_preference: of(PER_PREFERENCE),
                margin: of(MARGIN),
                auroc: of(AUROC),
                differences: differences(row),
            }
        })
        .collect();
    (!samples.is_empty()).then(|| OpponentTable {
        prompts: judged as f64 / samples.len() as f64,
        samples: samples.len(),
        comparisons: rows.iter().map(|row| row.differences.len()).sum(),
        rows,
    })
}

/// Returns the mean of every column over samples, with Student's t intervals.
fn over_samples(samples: &[AskedSample]) -> Vec<Option<Interval>> {
    let each: Vec<Vec<Option<f64>>> = samples.iter().map(AskedSample::all).collect();
    let interval =
        |column: usize| t_interval(&each.iter().map(|of| of[column]).collect::<Option<Vec<f64>>>()?);
    (0..each.first().map_or(0, Vec::len)).map(interval).collect()
}

/// Returns the mean of every column over samples, with bootstrap intervals over prompts. The selection is not
/// repeated.
fn over_prompts(samples: &[AskedSample], seed: u64) -> Vec<Option<Interval>> {
    let Some(first) = samples.first() else { return Vec::new() };
    let prompts = first.labels.first().map_or(0, Vec::len);
    bootstrap_intervals(first.judged.len(), RESAMPLES, seed, |drawn| {
        let mut times = vec![0; prompts];
        drawn.iter().for_each(|&index| times[first.judged[index]] += 1);
        let each: Vec<Vec<Option<f64>>> = samples.iter().map(|sample| sample.columns(&times)).collect();
        let mean = |column: usize| {
            let values: Option<Vec<f64>> = each.iter().map(|of| of[column]).collect();
            values.map(|values| values.iter().sum::<f64>() / values.len() as f64)
        };
        (0..each[0].len()).map(mean).collect()
    })
}

#[cfg(test)]
mod tests;
