//! What was learnt, in words: the same ones on pages, in Markdown and in the terminal.

use dissent_domain::event::{Stage, StopReason};
use dissent_domain::plan::{FeedbackSource, LearningPlan};
use dissent_domain::training::{Hyperparameters, PolicyMethod};
use serde::Serialize;

use super::{Change, FeedbackFigures, Figure, LearningFigures, Measured, TrainingFigures};
use crate::report::words::Setting;
use crate::text::{count, fingerprint, grouped, percent, signed};

/// Pairs of annotators that pages list.
const PAIRS_LISTED_MAX: usize = 20;

/// A row of the table of before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(in crate::report) struct Row {
    pub(in crate::report) name: &'static str,
    pub(in crate::report) meaning: &'static str,
    pub(in crate::report) before: String,
    pub(in crate::report) after: String,
    pub(in crate::report) difference: String,
    /// Whether the difference is more than twice its standard error.
    pub(in crate::report) is_clear: bool,
}

/// The learning part of a report as the templates see it.
#[derive(Debug, Serialize)]
pub(in crate::report) struct LearningPage {
    rows: Vec<Row>,
    held_out: String,
    feedback: Vec<FeedbackRow>,
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

const NOTHING: &str = "–";

/// How it was learnt, for the end of the report.
pub(in crate::report) fn settings(plan: &LearningPlan) -> Vec<Setting> {
    let setting = |name, value| Setting { name, value };
    let feedback = &plan.feedback;
    let budget = feedback.budget.map(|budget| format!(", at most {}", count(budget, "judgement")));
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
    let (method, knob) = match objective.method {
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
                "{}, {} of each comparison{}",
                source_words(feedback.source),
                count(feedback.overlap.into(), "judgement"),
                budget.unwrap_or_default()
            ),
        ),
        setting("Gold reward", gold),
        setting("Refinement", format!("{original}; {}", training_words(&plan.refinement.hyperparameters))),
        setting("Tuning", format!("{method}, {knob}; {}", training_words(&plan.tuning.hyperparameters))),
        setting(
            "Evaluation",
            format!(
                "{} of each of {} ({})",
                count(evaluation.samples.into(), "answer"),
                count(evaluation.prompts.count.into(), "held-out prompt"),
                fingerprint(&evaluation.prompts.artifact)
            ),
        ),
    ]
}

fn training_words(of: &Hyperparameters) -> String {
    let what = of
        .lora
        .as_ref()
        .map_or_else(|| "all weights".to_owned(), |lora| format!("LoRA r {}, α {}", lora.r, lora.alpha));
    let length = of.steps.map_or_else(|| format!("{} epochs", of.epochs), |steps| count(steps, "step"));
    format!("{what}, learning rate {:e}, {length}, batches of {}", of.learning_rate, of.batch_size)
}

fn source_words(source: FeedbackSource) -> &'static str {
    match source {
        FeedbackSource::Oracle => "oracle (the gold reward)",
        FeedbackSource::People => "people",
    }
}

impl LearningPage {
    pub(in crate::report) fn new(figures: &LearningFigures) -> Self {
        let last = figures.evaluations.last();
        Self {
            rows: table(figures),
            held_out: last.map_or_else(
                || "No policy is evaluated yet.".to_owned(),
                |e| {
                    format!(
                        "{} that no policy was tuned on, {} in all",
                        count(e.prompts.into(), "held-out prompt"),
                        count(e.completions.into(), "answer")
                    )
                },
            ),
            feedback: figures.feedback.iter().map(feedback_row).collect(),
            agreement: figures.feedback.last().map(agreement).unwrap_or_default(),
            trainings: figures.trainings.iter().map(training_row).collect(),
            warnings: figures
                .warnings
                .iter()
                .map(|warning| format!("Round {}: {}.", warning.round, warning.signs.join("; ")))
                .collect(),
            stopped: figures.stopped.map(|stopped| stop_words(stopped.reason)),
        }
    }
}

fn stop_words(reason: StopReason) -> &'static str {
    match reason {
        StopReason::Kl => {
            "The experiment ended before its last round: the policy is farther from where it began than guards.kl_max \
             allows."
        }
        StopReason::GoldReward => {
            "The experiment ended before its last round: the gold reward has not grown for as many rounds as \
             guards.gold_patience allows."
        }
        StopReason::RewardHacking => {
            "The experiment ended before its last round: reward hacking is suspected, and guards.stop_on_reward_hacking \
             ends it then."
        }
    }
}

/// The table of before and after.
pub(in crate::report) fn table(figures: &LearningFigures) -> Vec<Row> {
    figures.changes.iter().map(row).collect()
}

fn row(change: &Change) -> Row {
    let Change { figure, before, after, difference } = change;
    let written = |measured: &Option<Measured>| {
        measured.map_or_else(
            || NOTHING.to_owned(),
            |measured| with_error(measured, |value| figure.written(value)),
        )
    };
    let is_clear = difference.is_some_and(|difference| {
        difference.standard_error.is_some_and(|error| difference.value.abs() > 2.0 * error)
    });
    let change = |difference: Measured| with_error(difference, |value| figure.changed(value));
    Row {
        name: figure.name(),
        meaning: figure.meaning(),
        before: written(before),
        after: written(after),
        difference: difference.map_or_else(|| NOTHING.to_owned(), change),
        is_clear,
    }
}

fn with_error(measured: Measured, written: impl Fn(f64) -> String) -> String {
    let error = measured.standard_error.map(|error| format!(" ± {error:.3}")).unwrap_or_default();
    format!("{}{error}", written(measured.value))
}

impl Figure {
    fn name(self) -> &'static str {
        match self {
            Self::GoldReward => "Gold reward",
            Self::ProxyReward => "Proxy reward",
            Self::RefinedReward => "Reward by the model of the time",
            Self::ProxyAgreement => "First proxy orders as gold",
            Self::RefinedAgreement => "Model of the time orders as gold",
            Self::MeanAbsPacs => "mean |PACS|",
            Self::KendallTau => "Kendall’s tau",
            Self::Kl => "KL from the first policy",
            Self::ResponseTokens => "Answer length",
            Self::Stopped => "Ended by itself",
        }
    }

    fn meaning(self) -> &'static str {
        match self {
            Self::GoldReward => "what stands for the truth: the figure that counts",
            Self::ProxyReward => "by the reward model that the experiment began with",
            Self::RefinedReward => "before: the proxy; after: refined. Another model may have another scale",
            Self::ProxyAgreement => "share of pairs of answers to one prompt, on this policy’s answers",
            Self::RefinedAgreement => "the same, of the reward model as refined",
            Self::MeanAbsPacs => "conflict between policy and the reward model of the time",
            Self::KendallTau => "agreement of their rankings",
            Self::Kl => "nats an answer: how far training moved the policy",
            Self::ResponseTokens => "tokens",
            Self::Stopped => "answers that were not cut off",
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

    fn written(self, value: f64) -> String {
        match self.unit() {
            Unit::Share => percent(value),
            Unit::Size => format!("{value:.3}"),
            Unit::Tokens => format!("{value:.1}"),
            Unit::Signed => signed(value, 3),
        }
    }

    fn changed(self, value: f64) -> String {
        match self.unit() {
            Unit::Share => format!("{} points", signed(100.0 * value, 1)),
            Unit::Tokens => signed(value, 1),
            Unit::Size | Unit::Signed => signed(value, 3),
        }
    }
}

/// How a figure is written.
enum Unit {
    Share,
    Size,
    Tokens,
    Signed,
}

fn feedback_row(figures: &FeedbackFigures) -> FeedbackRow {
    let number = |value: Option<u32>| value.map_or_else(|| NOTHING.to_owned(), |value| grouped(value.into()));
    let share = figures.preferences.zip(figures.contradicted).filter(|(preferences, _)| *preferences > 0);
    FeedbackRow {
        round: figures.round,
        source: source_words(figures.source),
        comparisons: match figures.open {
            0 => grouped(figures.comparisons.into()),
            open => format!("{}, {open} open", grouped(figures.comparisons.into())),
        },
        judgements: grouped(figures.judgements),
        preferences: number(figures.preferences),
        ties: number(figures.ties),
        contradicted: share.map_or_else(
            || NOTHING.to_owned(),
            |(preferences, contradicted)| {
                format!("{contradicted} ({})", percent(f64::from(contradicted) / f64::from(preferences)))
            },
        ),
    }
}

/// How far annotators agree, a sentence each; none where nobody judged what another did.
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
        "Round {}: {annotators}; {observed} of the pairs of judgements of a comparison agree (Krippendorff’s α {}, Fleiss’ \
         κ {}; 0 is chance, 1 is full agreement).",
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
            "left out, since the reward model found the answers of each prompt equally good; the policy stays as it was"
                .to_owned()
        }
        (true, 0) => "done".to_owned(),
        (true, steps) => format!("done in {}", count(steps, "step")),
        (false, 0) => "about to begin".to_owned(),
        (false, steps) => format!("step {} of {}", grouped(figures.step), grouped(steps)),
    };
    if figures.attempts > 1 {
        text += &format!("; taken up again {}", count(u64::from(figures.attempts - 1), "time"));
    }
    if let Some([preferences, rehearsed]) = figures.learnt_from {
        text += &format!(
            "; on {} from feedback and {} of the original data",
            count(preferences.into(), "preference"),
            grouped(rehearsed.into())
        );
    }
    TrainingRow { title, text }
}
