//! The sentences of the learning part, shared by HTML, Markdown and the summary.

use dissent_domain::analysis::Interval;
use dissent_domain::drift::{Drift, RoundDrift};
use dissent_domain::event::{Stage, StopReason};
use dissent_domain::id::ExperimentId;
use dissent_domain::learning::Difference;
use dissent_domain::plan::{FeedbackSource, LearningPlan};
use dissent_domain::training::{Hyperparameters, PolicyMethod};
use serde::Serialize;

use super::{Change, FeedbackFigures, Figure, LearningFigures, Measured, TrainingFigures};
use crate::report::lift::LiftPage;
use crate::report::outcomes::OutcomeRow;
use crate::report::topics::TopicPage;
use crate::report::wording::Setting;
use crate::text::{count, fingerprint, grouped, percent, signed};

/// Pairs of annotators that pages list.
const PAIRS_LISTED_MAX: usize = 20;

/// A row of the table that compares the first and the last evaluation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(in crate::report) struct Row {
    pub(in crate::report) name: &'static str,
    pub(in crate::report) meaning: &'static str,
    pub(in crate::report) before: String,
    pub(in crate::report) after: String,
    pub(in crate::report) difference: String,
    /// Whether the interval of the difference, corrected for the table, excludes 0.
    pub(in crate::report) is_clear: bool,
}

/// A row of the table that compares two reward models on the same completions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(in crate::report) struct AgreementRow {
    pub(in crate::report) completions: &'static str,
    pub(in crate::report) proxy: String,
    pub(in crate::report) refined: String,
    pub(in crate::report) difference: String,
    pub(in crate::report) is_clear: bool,
}

/// The data of the learning part for the templates.
#[derive(Debug, Serialize)]
pub(in crate::report) struct LearningPage {
    rows: Vec<Row>,
    /// Whether the differences have intervals, paired by prompt.
    is_paired: bool,
    agreement_rows: Vec<AgreementRow>,
    answer: String,
    lift: LiftPage,
    held_out: String,
    feedback: Vec<FeedbackRow>,
    outcomes: Vec<OutcomeRow>,
    topics: Option<TopicPage>,
    drift: Vec<DriftRow>,
    drift_truth: String,
    agreement: Vec<String>,
    trainings: Vec<TrainingRow>,
    warnings: Vec<String>,
    stopped: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct FeedbackRow {
    round: u32,
    source: &'static str,
    comparisons: String,
    judgements: String,
    preferences: String,
    ties: String,
    contradicted: String,
}

#[derive(Debug, Serialize)]
struct TrainingRow {
    title: &'static str,
    text: String,
}

/// A figure that is undefined or not measured.
const DASH: &str = "–";

/// Returns the settings of the learning part, for the end of the report.
pub(in crate::report) fn settings(plan: &LearningPlan) -> Vec<Setting> {
    let setting = |name, value| Setting { name, value };
    let feedback = &plan.feedback;
    let budget = feedback.budget.map(|budget| format!(", at most {}", count(budget, "judgement")));
    let audit = (feedback.audit > 0.0)
        .then(|| format!(", {} of them drawn uniformly for the audit", percent(feedback.audit)));
    let gold = plan.evaluation.gold.as_ref().map_or_else(
        || "none".to_owned(),
        |gold| format!("{} ({})", gold.name, fingerprint(&gold.fingerprint)),
    );
    let original = plan.refinement.original.as_ref().map_or_else(
        || "on feedback alone".to_owned(),
        |source| {
            let preferences = count(source.count.into(), "original preference");
            format!("on feedback and {preferences} ({})", fingerprint(&source.artifact))
        },
    );
    let objective = &plan.tuning.objective;
    let (method, parameter) = match objective.method {
        PolicyMethod::Dpo => ("DPO", format!("β {}", objective.beta)),
        PolicyMethod::Rso => ("RSO", format!("β {}", objective.beta)),
        PolicyMethod::Ppo => ("PPO", format!("KL coefficient {}", objective.ppo.kl_coefficient)),
        PolicyMethod::Grpo => ("GRPO", format!("KL coefficient {}", objective.ppo.kl_coefficient)),
        PolicyMethod::Rloo => ("RLOO", format!("KL coefficient {}", objective.ppo.kl_coefficient)),
    };
    let evaluation = &plan.evaluation;
    vec![
        setting(
            "Feedback",
            format!(
                "{}, {} of each comparison{}{}",
                source_text(feedback.source),
                count(feedback.overlap.into(), "judgement"),
                budget.unwrap_or_default(),
                audit.unwrap_or_default()
            ),
        ),
        setting("Gold reward", gold),
        setting("Refinement", format!("{original}; {}", hyperparameters(&plan.refinement.hyperparameters))),
        setting(
            "Tuning",
            format!("{method}, {parameter}; {}", hyperparameters(&plan.tuning.hyperparameters)),
        ),
        setting(
            "Evaluation",
            format!(
                "{} for each of {} ({})",
                count(evaluation.samples.into(), "completion"),
                count(evaluation.prompts.count.into(), "held-out prompt"),
                fingerprint(&evaluation.prompts.artifact)
            ),
        ),
    ]
}

fn hyperparameters(of: &Hyperparameters) -> String {
    let weights = of
        .lora
        .as_ref()
        .map_or_else(|| "all weights".to_owned(), |lora| format!("LoRA r {}, α {}", lora.r, lora.alpha));
    let length = of.steps.map_or_else(|| format!("{} epochs", of.epochs), |steps| count(steps, "step"));
    format!("{weights}, learning rate {:e}, {length}, batches of {}", of.learning_rate, of.batch_size)
}

fn source_text(source: FeedbackSource) -> &'static str {
    match source {
        FeedbackSource::Oracle => "oracle (the gold reward)",
        FeedbackSource::People => "people",
    }
}

impl LearningPage {
    pub(in crate::report) fn new(figures: &LearningFigures, experiment: &ExperimentId) -> Self {
        let last = figures.evaluations.last();
        Self {
            rows: table(figures),
            is_paired: is_paired(figures),
            agreement_rows: agreement_rows(figures),
            answer: is_better(figures),
            lift: LiftPage::new(&figures.lift),
            held_out: last.map_or_else(
                || "No policy is evaluated yet".to_owned(),
                |e| {
                    format!(
                        "{} that no training used, with {}",
                        count(e.prompts.into(), "held-out prompt"),
                        count(e.completions.into(), "completion")
                    )
                },
            ),
            feedback: figures.feedback.iter().map(feedback_row).collect(),
            outcomes: figures.outcomes.iter().map(OutcomeRow::new).collect(),
            topics: figures.topics.as_ref().map(|topics| TopicPage::new(topics, experiment)),
            drift: figures
                .drift
                .iter()
                .flat_map(|drift| drift.rounds.iter().zip(0..))
                .map(drift_row)
                .collect(),
            drift_truth: figures.drift.as_ref().map(drift_truth).unwrap_or_default(),
            agreement: figures.feedback.last().map(agreement).unwrap_or_default(),
            trainings: figures.trainings.iter().map(training_row).collect(),
            warnings: figures
                .warnings
                .iter()
                .map(|warning| format!("Round {}: {}.", warning.round, warning.signs.join("; ")))
                .collect(),
            stopped: figures.stopped.map(|stopped| stop_text(stopped.reason)),
        }
    }
}

/// A row of the table of conflicts over rounds.
#[derive(Debug, Serialize)]
struct DriftRow {
    round: u32,
    clear: usize,
    in_conflict: usize,
    born: usize,
    reopened: usize,
    resolved: String,
}

fn drift_row((round, number): (&RoundDrift, u32)) -> DriftRow {
    let RoundDrift { clear, in_conflict, born, reopened, resolved, rightly, wrongly, unknown } = *round;
    DriftRow {
        round: number,
        clear,
        in_conflict,
        born,
        reopened,
        resolved: format!("{resolved} ({rightly} rightly, {wrongly} wrongly, {unknown} unknown)"),
    }
}

/// What labels say of the resolved conflicts.
fn drift_truth(drift: &Drift) -> String {
    let share = drift.rightly().map_or_else(
        || "No judged pair tells whether conflicts were resolved rightly.".to_owned(),
        |Interval { mean, low, high, .. }| {
            format!(
                "Of the resolved conflicts with labels, {} were resolved rightly ({} to {}).",
                percent(mean),
                percent(low),
                percent(high)
            )
        },
    );
    format!(
        "{share} A falling |PACS| alone proves nothing: a policy that is tuned by the proxy agrees with it, errors included."
    )
}

fn stop_text(reason: StopReason) -> &'static str {
    match reason {
        StopReason::Kl => {
            "The experiment stopped before its last round: the KL from the first policy exceeds guards.kl_max."
        }
        StopReason::GoldReward => {
            "The experiment stopped before its last round: the gold reward did not rise for guards.gold_patience rounds."
        }
        StopReason::RewardHacking => {
            "The experiment stopped before its last round: reward hacking is suspected, and \
             guards.stop_on_reward_hacking is set."
        }
    }
}

/// Returns the rows that compare the first and the last evaluation. The agreement with the gold reward has a
/// table of its own where it can: its two evaluations are on different completions.
pub(in crate::report) fn table(figures: &LearningFigures) -> Vec<Row> {
    let has_own_table = |figure| matches!(figure, Figure::ProxyAgreement | Figure::RefinedAgreement);
    let shown = |change: &&Change| figures.agreement.is_none() || !has_own_table(change.figure);
    figures.changes.iter().filter(shown).map(row).collect()
}

/// Whether a difference of the table has an interval.
pub(in crate::report) fn is_paired(figures: &LearningFigures) -> bool {
    figures.changes.iter().any(|change| change.paired.is_some())
}

fn row(change: &Change) -> Row {
    let Change { figure, before, after, difference, paired } = change;
    let formatted = |measured: &Option<Measured>| {
        measured
            .map_or_else(|| DASH.to_owned(), |measured| with_error(measured, |value| figure.format(value)))
    };
    let change = |difference: Measured| with_error(difference, |value| figure.format_difference(value));
    let paired_text = paired.as_ref().map(|paired| figure.format_interval(&paired.interval));
    let unpaired = || difference.map_or_else(|| DASH.to_owned(), change);
    Row {
        name: figure.name(),
        meaning: figure.meaning(),
        before: formatted(before),
        after: formatted(after),
        difference: paired_text.unwrap_or_else(unpaired),
        is_clear: paired.is_some_and(|paired| paired.is_clear),
    }
}

/// Returns the rows that compare the first proxy with the current reward model, each on the same completions.
pub(in crate::report) fn agreement_rows(figures: &LearningFigures) -> Vec<AgreementRow> {
    let Some(table) = &figures.agreement else { return Vec::new() };
    let row = |completions, difference: Option<Difference>| {
        let Difference { before, after, interval: Interval { mean, low, high, .. }, is_clear, .. } =
            difference?;
        let [mean, low, high] = [mean, low, high].map(|value| signed(100.0 * value, 1));
        Some(AgreementRow {
            completions,
            proxy: percent(before),
            refined: percent(after),
            difference: format!("{mean} points ({low} to {high})"),
            is_clear,
        })
    };
    let rows = [row("of the first policy", table.on_first), row("of the current policy", table.on_current)];
    rows.into_iter().flatten().collect()
}

/// Answers the question: is the new policy better?
pub(in crate::report) fn is_better(figures: &LearningFigures) -> String {
    let Some(last) = figures.evaluations.last().filter(|last| last.evaluation > 0) else {
        return "Not evaluated yet: no policy is tuned.".to_owned();
    };
    let of = |figure| figures.changes.iter().find(|change| change.figure == figure);
    let paired = |figure| of(figure).and_then(|change| change.paired);
    let text = |figure: Figure, Difference { interval, .. }: Difference| {
        format!("{} on {}", figure.format_interval(&interval), count(interval.n as u64, "held-out prompt"))
    };
    if last.gold_reward.is_none() {
        let proxy = paired(Figure::ProxyReward).map_or_else(String::new, |found| {
            format!(
                " The proxy reward changed by {}; a higher one proves nothing, because training aims at it.",
                text(Figure::ProxyReward, found)
            )
        });
        return format!(
            "Unknown: the experiment has no gold reward, which would stand for the truth.{proxy}"
        );
    }
    match paired(Figure::GoldReward) {
        None => "Not tested: the evaluations have no figures by prompt to pair.".to_owned(),
        Some(found) => {
            let text = text(Figure::GoldReward, found);
            match (found.is_clear, found.interval.mean > 0.0) {
                (true, true) => format!("Yes: the gold reward rose by {text}."),
                (true, false) => format!("No, worse: the gold reward fell by {text}."),
                (false, _) => format!(
                    "Not shown: the gold reward changed by {text}. That may be chance, after correction for the figures below."
                ),
            }
        }
    }
}

fn with_error(measured: Measured, format: impl Fn(f64) -> String) -> String {
    let error = measured.standard_error.map(|error| format!(" ± {error:.3}")).unwrap_or_default();
    format!("{}{error}", format(measured.value))
}

impl Figure {
    fn name(self) -> &'static str {
        match self {
            Self::GoldReward => "Gold reward",
            Self::ProxyReward => "Proxy reward",
            Self::RefinedReward => "Reward by the current model",
            Self::ProxyAgreement => "Agreement of first proxy and gold",
            Self::RefinedAgreement => "Agreement of current model and gold",
            Self::MeanAbsPacs => "mean |PACS|",
            Self::KendallTau => "Kendall’s tau",
            Self::Kl => "KL from the first policy",
            Self::ResponseTokens => "Completion length",
            Self::Stopped => "Completions not cut off",
        }
    }

    fn meaning(self) -> &'static str {
        match self {
            Self::GoldReward => "the reward that stands for the truth",
            Self::ProxyReward => "by the first reward model of the experiment",
            Self::RefinedReward => "before: the proxy; after: the refined model. Their scales may differ",
            Self::ProxyAgreement => "share of pairs of completions that both order alike",
            Self::RefinedAgreement => "share of pairs of completions that both order alike",
            Self::MeanAbsPacs => "conflict between the policy and the current reward model",
            Self::KendallTau => "agreement of the rankings by policy and current reward model",
            Self::Kl => "nats per completion: the distance that training moved the policy",
            Self::ResponseTokens => "tokens",
            Self::Stopped => "share of completions that end before the token limit",
        }
    }

    fn unit(self) -> Unit {
        match self {
            Self::ProxyAgreement | Self::RefinedAgreement | Self::Stopped => Unit::Share,
            Self::MeanAbsPacs => Unit::Size,
            Self::ResponseTokens => Unit::Tokens,
            Self::GoldReward | Self::ProxyReward | Self::RefinedReward | Self::KendallTau | Self::Kl => {
                Unit::Signed
            }
        }
    }

    fn format(self, value: f64) -> String {
        match self.unit() {
            Unit::Share => percent(value),
            Unit::Size => format!("{value:.3}"),
            Unit::Tokens => format!("{value:.1}"),
            Unit::Signed => signed(value, 3),
        }
    }

    /// A difference with the ends of its interval, in the same unit.
    fn format_interval(self, Interval { mean, low, high, .. }: &Interval) -> String {
        let end = |value: f64| match self.unit() {
            Unit::Share => signed(100.0 * value, 1),
            Unit::Tokens => signed(value, 1),
            Unit::Size | Unit::Signed => signed(value, 3),
        };
        format!("{} ({} to {})", self.format_difference(*mean), end(*low), end(*high))
    }

    fn format_difference(self, value: f64) -> String {
        match self.unit() {
            Unit::Share => format!("{} points", signed(100.0 * value, 1)),
            Unit::Tokens => signed(value, 1),
            Unit::Size | Unit::Signed => signed(value, 3),
        }
    }
}

/// The number format of a figure.
enum Unit {
    Share,
    Size,
    Tokens,
    Signed,
}

fn feedback_row(figures: &FeedbackFigures) -> FeedbackRow {
    let number = |value: Option<u32>| value.map_or_else(|| DASH.to_owned(), |value| grouped(value.into()));
    let share = figures.preferences.zip(figures.contradicted).filter(|(preferences, _)| *preferences > 0);
    FeedbackRow {
        round: figures.round,
        source: source_text(figures.source),
        comparisons: match figures.open {
            0 => grouped(figures.comparisons.into()),
            open => format!("{}, {open} open", grouped(figures.comparisons.into())),
        },
        judgements: grouped(figures.judgements),
        preferences: number(figures.preferences),
        ties: number(figures.ties),
        contradicted: share.map_or_else(
            || DASH.to_owned(),
            |(preferences, contradicted)| {
                format!("{contradicted} ({})", percent(f64::from(contradicted) / f64::from(preferences)))
            },
        ),
    }
}

/// Returns sentences about the agreement of annotators; empty if no comparison has two annotators.
fn agreement(figures: &FeedbackFigures) -> Vec<String> {
    if figures.pairs.is_empty() {
        return Vec::new();
    }
    let figure = |value: Option<f64>| {
        value.map_or_else(|| "undefined".to_owned(), |value| format!("{value:.3}").replace('-', "−"))
    };
    let annotators = count(figures.annotators.len() as u64, "annotator");
    let observed = figures.agreement.observed.map_or_else(|| "undefined".to_owned(), percent);
    let mut lines = vec![format!(
        "Round {}: {annotators}. Pairs of judgements of one comparison agree in {observed} of cases. \
         Krippendorff’s α is {}, Fleiss’ κ {} \
         (0 is chance, 1 is full agreement).",
        figures.round,
        figure(figures.agreement.krippendorff_alpha),
        figure(figures.agreement.fleiss_kappa),
    )];
    lines.extend(figures.pairs.iter().take(PAIRS_LISTED_MAX).map(|pair| {
        let [one, other] = &pair.annotators;
        let of = count(pair.comparisons.into(), "comparison");
        format!("{one} and {other}: Cohen’s κ {} on {of}.", figure(pair.cohen_kappa))
    }));
    lines
}

fn training_row(figures: &TrainingFigures) -> TrainingRow {
    let title = match figures.stage {
        Stage::Reward => "Refinement of the reward model",
        Stage::Policy => "Tuning of the policy",
    };
    let mut text = match (figures.is_done, figures.steps) {
        (true, _) if figures.is_unchanged => {
            "skipped, because the reward model rates all completions of a prompt alike; the policy is unchanged".to_owned()
        }
        (true, 0) => "done".to_owned(),
        (true, steps) => format!("done in {}", count(steps, "step")),
        (false, 0) => "not started".to_owned(),
        (false, steps) => format!("step {} of {}", grouped(figures.step), grouped(steps)),
    };
    if figures.attempts > 1 {
        text += &format!("; resumed {}", count(u64::from(figures.attempts - 1), "time"));
    }
    if let Some([preferences, rehearsed]) = figures.preferences {
        text += &format!(
            "; on {} from feedback and {} from the original data",
            count(preferences.into(), "preference"),
            grouped(rehearsed.into())
        );
    }
    TrainingRow { title, text }
}
