//! Folds events into the figures of the learning part.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use dissent_domain::event::{Event, PolicyEvaluated, Stage, TrainingEvent, TrainingProgressed};
use dissent_domain::experiment::Experiment;
use dissent_domain::feedback::{Agreement, Verdict, pair_agreements};
use dissent_domain::id::PromptId;
use dissent_domain::learning::{
    AgreementTable, Difference, HeldOutFigure, RequestedComparison, TrainingProgress, agreement_table,
    differences,
};
use dissent_domain::plan::{LearningPlan, Plan};
use dissent_domain::round::Round;

use super::super::data::Judged;
use super::super::lift::LiftFigures;
use super::super::{drift, outcomes, topics};
use super::{Change, Curve, FeedbackFigures, Figure, LearningFigures, Measured, TrainingFigures};

/// Limit of the points of a metric; an SVG shows no more.
const POINTS_MAX: usize = 2000;

/// Folds the events into the state of the domain, with the metrics of trainings.
#[derive(Default)]
pub(in crate::report) struct LearningFold {
    experiment: Experiment,
    /// Progress by round, stage and step. A later attempt replaces the same step of an earlier one.
    progress: BTreeMap<(u32, Stage), BTreeMap<u64, TrainingProgressed>>,
    /// Preferences of each refinement, from feedback and from the original data.
    preferences: BTreeMap<u32, [u32; 2]>,
    /// The rounds whose tuning found no pair to learn from.
    unchanged: BTreeSet<u32>,
}

impl LearningFold {
    pub(in crate::report) fn apply(&mut self, event: &Event) {
        if let Event::Training(e) = event {
            self.apply_to_training(e);
        }
        self.experiment.evolve(event);
    }

    fn apply_to_training(&mut self, event: &TrainingEvent) {
        match event {
            TrainingEvent::Progressed(e) => {
                let steps = self.progress.entry((e.round, e.stage)).or_default();
                // A checkpoint or a heartbeat may have no metrics: it keeps those of its step.
                if !e.metrics.is_empty() || !steps.contains_key(&e.step) {
                    steps.insert(e.step, e.clone());
                }
            }
            TrainingEvent::RewardModelRefined(e) => {
                self.preferences.insert(e.round, [e.preferences, e.rehearsed]);
            }
            TrainingEvent::PolicyTuned(e) => {
                if e.is_unchanged() {
                    self.unchanged.insert(e.round);
                }
            }
            TrainingEvent::Requested(_) | TrainingEvent::Started(_) | TrainingEvent::LeaseExpired(_) => {}
        }
    }

    /// Returns the part of each completion in the judged pairs of a round, by prompt.
    pub(in crate::report) fn judged(&self, round: u32) -> HashMap<&PromptId, Vec<Judged>> {
        let round = self.experiment.rounds().iter().find(|other| other.number() == round);
        round.map(outcomes::by_completion).unwrap_or_default()
    }

    /// Returns the figures up to a round; `None` if the plan has no learning part. `texts` are those of the
    /// prompts.
    pub(in crate::report) fn figures(
        self,
        plan: &Plan,
        round: u32,
        texts: &[(PromptId, String)],
    ) -> Option<LearningFigures> {
        let learning = plan.learning.as_ref()?;
        let rounds: Vec<&Round> =
            self.experiment.rounds().iter().filter(|other| other.number() <= round).collect();
        let reported = *rounds.last()?;
        let evaluations: Vec<PolicyEvaluated> =
            self.experiment.evaluations().iter().take(round as usize + 2).cloned().collect();
        let of_round = |other: u32| other <= round;
        let warnings = self.experiment.warnings().iter().filter(|warning| of_round(warning.round));
        Some(LearningFigures {
            stage: stage(reported, learning),
            is_closed: reported.is_closed(),
            changes: changes(&evaluations),
            agreement: agreement(&evaluations),
            lift: LiftFigures::of(&self.experiment),
            outcomes: outcomes::of_rounds(&self.experiment, round),
            topics: topics::of_prompts(texts, &self.experiment, round),
            drift: drift::of_rounds(&self.experiment, round),
            feedback: rounds.iter().filter_map(|round| feedback(round, learning)).collect(),
            trainings: [Stage::Reward, Stage::Policy]
                .into_iter()
                .filter_map(|stage| self.training(reported, stage))
                .collect(),
            warnings: warnings.cloned().collect(),
            stopped: self.experiment.stopped().filter(|stopped| of_round(stopped.round)),
            evaluations,
        })
    }

    fn training(&self, round: &Round, stage: Stage) -> Option<TrainingFigures> {
        let training = round.learning().training(stage)?;
        let progress = self.progress.get(&(round.number(), stage));
        let last = progress.and_then(|progress| progress.values().next_back());
        let is_reward = stage == Stage::Reward;
        Some(TrainingFigures {
            round: round.number(),
            stage,
            attempts: training.attempt + 1,
            step: last.map_or(0, |last| last.step),
            steps: last.map_or(0, |last| last.steps),
            is_done: training.progress == TrainingProgress::Done,
            is_unchanged: !is_reward && self.unchanged.contains(&round.number()),
            preferences: self.preferences.get(&round.number()).copied().filter(|_| is_reward),
            curves: progress.map(curves).unwrap_or_default(),
        })
    }
}

fn curves(progress: &BTreeMap<u64, TrainingProgressed>) -> Vec<Curve> {
    let mut points: BTreeMap<&str, Vec<(u64, f64)>> = BTreeMap::new();
    for (step, e) in progress {
        for (metric, value) in e.metrics.iter().filter(|(_, value)| value.is_finite()) {
            points.entry(metric).or_default().push((*step, *value));
        }
    }
    let thinned = |points: Vec<(u64, f64)>| {
        let every = points.len().div_ceil(POINTS_MAX).max(1);
        points.into_iter().step_by(every).collect()
    };
    points
        .into_iter()
        .map(|(metric, points)| Curve { metric: metric.to_owned(), points: thinned(points) })
        .collect()
}

fn stage(round: &Round, plan: &LearningPlan) -> String {
    let learning = round.learning();
    if round.is_closed() {
        return "complete".to_owned();
    }
    if round.evaluation().is_none() {
        return "conflicts are being measured".to_owned();
    }
    if learning.settled().is_none() {
        let open = open(learning.comparisons(), plan);
        return format!(
            "waits for feedback: {open} of {} comparisons are open",
            learning.comparisons().len()
        );
    }
    for (stage, model) in [(Stage::Policy, "the policy"), (Stage::Reward, "the reward model")] {
        let Some(training) = learning.training(stage) else { continue };
        match training.progress {
            TrainingProgress::Done => break,
            TrainingProgress::Running { step, steps, .. } if steps > 0 => {
                return format!("{model} is being trained: step {step} of {steps}");
            }
            TrainingProgress::Running { .. } | TrainingProgress::Requested | TrainingProgress::Expired => {
                return format!("{model} is about to be trained");
            }
        }
    }
    let tuned = learning.training(Stage::Policy).is_some();
    if tuned { "the tuned policy is evaluated" } else { "the first policy is evaluated" }.to_owned()
}

/// Returns the number of comparisons that lack judgements.
fn open(comparisons: &[RequestedComparison], plan: &LearningPlan) -> usize {
    comparisons.iter().filter(|requested| requested.judgements.len() < plan.feedback.overlap as usize).count()
}

fn feedback(round: &Round, plan: &LearningPlan) -> Option<FeedbackFigures> {
    let learning = round.learning();
    round.evaluation()?;
    let mut annotators: BTreeMap<&str, u64> = BTreeMap::new();
    let mut verdicts: Vec<Vec<Verdict>> = Vec::new();
    for requested in learning.comparisons() {
        verdicts.push(requested.judgements.iter().map(|(_, judgement)| judgement.verdict).collect());
        requested.judgements.iter().for_each(|(name, _)| *annotators.entry(name).or_default() += 1);
    }
    let settled = learning.settled();
    let to_u32 = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Some(FeedbackFigures {
        round: round.number(),
        source: plan.feedback.source,
        comparisons: to_u32(learning.comparisons().len()),
        open: if settled.is_some() { 0 } else { to_u32(open(learning.comparisons(), plan)) },
        judgements: learning.judgements(),
        annotators: annotators.into_iter().map(|(name, judged)| (name.to_owned(), judged)).collect(),
        preferences: settled.map(|settled| settled.preferences),
        ties: settled.map(|settled| settled.ties),
        contradicted: settled.map(|settled| settled.contradicted),
        agreement: settled.map_or_else(|| Agreement::of(&verdicts), |settled| settled.agreement),
        pairs: pair_agreements(learning.comparisons().iter().map(|requested| &requested.judgements)),
    })
}

const FIGURES: [Figure; 10] = [
    Figure::GoldReward,
    Figure::ProxyReward,
    Figure::RefinedReward,
    Figure::ProxyAgreement,
    Figure::RefinedAgreement,
    Figure::MeanAbsPacs,
    Figure::KendallTau,
    Figure::Kl,
    Figure::ResponseTokens,
    Figure::Stopped,
];

fn changes(evaluations: &[PolicyEvaluated]) -> Vec<Change> {
    let Some(first) = evaluations.first() else { return Vec::new() };
    let last = evaluations.last().filter(|last| last.evaluation > 0);
    let paired = last.map(|last| differences(first, last)).unwrap_or_default();
    let change = |figure: Figure| {
        let of_figure = |(held_out, found): &(HeldOutFigure, Difference)| {
            (Figure::from(*held_out) == figure).then_some(*found)
        };
        let (before, after) = (figure.of(first), last.and_then(|last| figure.of(last)));
        let difference = before.zip(after).map(|(before, after)| Measured {
            value: after.value - before.value,
            standard_error: before.standard_error.zip(after.standard_error).map(|(x, y)| x.hypot(y)),
        });
        Change { figure, before, after, difference, paired: paired.iter().find_map(of_figure) }
    };
    // A figure that both evaluations lack, such as a gold reward, has no row.
    FIGURES
        .into_iter()
        .map(change)
        .filter(|change| change.before.is_some() || change.after.is_some())
        .collect()
}

/// The agreement of reward models with the gold reward, at the last evaluation.
fn agreement(evaluations: &[PolicyEvaluated]) -> Option<AgreementTable> {
    let last = evaluations.last().filter(|last| last.evaluation > 0)?;
    agreement_table(evaluations.first()?, last)
}

impl From<HeldOutFigure> for Figure {
    fn from(figure: HeldOutFigure) -> Self {
        match figure {
            HeldOutFigure::GoldReward => Self::GoldReward,
            HeldOutFigure::ProxyReward => Self::ProxyReward,
            HeldOutFigure::Kl => Self::Kl,
            HeldOutFigure::ResponseTokens => Self::ResponseTokens,
            HeldOutFigure::Stopped => Self::Stopped,
        }
    }
}

impl Figure {
    fn of(self, e: &PolicyEvaluated) -> Option<Measured> {
        let mean = |[value, error]: [f64; 2]| Measured { value, standard_error: Some(error) };
        let alone = |value: f64| Measured { value, standard_error: None };
        match self {
            Self::GoldReward => e.gold_reward.map(mean),
            Self::ProxyReward => Some(mean(e.proxy_reward)),
            Self::RefinedReward => Some(mean(e.refined_reward)),
            Self::ProxyAgreement => e.proxy_agreement.map(alone),
            Self::RefinedAgreement => e.refined_agreement.map(alone),
            Self::MeanAbsPacs => e.mean_abs_pacs.map(alone),
            Self::KendallTau => e.kendall_tau.map(alone),
            Self::Kl => Some(alone(e.kl)),
            Self::ResponseTokens => Some(alone(e.response_tokens)),
            Self::Stopped => Some(alone(e.stopped)),
        }
    }
}
