//! The plan of the experiment, and stand-ins for its models. Their results are functions of their inputs
//! alone.

use std::collections::BTreeMap;

use dissent_domain::conflict::{LogprobKind, Rule, SelectionSettings, measure};
use dissent_domain::event::{
    CompletionsSampled, ConflictMeasured, Event, FeedbackReceived, FeedbackRequested, PolicyEvaluated,
    PolicyTuned, PromptAdmitted, PromptSetAside, Recorded, RewardModelRefined, RewardsScored, Stage,
    StepName,
};
use dissent_domain::experiment::Experiment;
use dissent_domain::feedback::{Opponent, Verdict};
use dissent_domain::generation::{Completion, FinishReason, SamplingParams};
use dissent_domain::id::{ExperimentId, PromptId};
use dissent_domain::plan::{
    ConflictPlan, DegenerateCompletions, EvaluationPlan, FeedbackPlan, FeedbackSource, GuardPlan,
    LearningPlan, Plan, PolicyPlan, PromptSource, RefinementPlan, RewardPlan, TuningPlan,
};
use dissent_domain::prompt::Prompt;
use dissent_domain::reward::RewardKind;
use dissent_domain::training::{Hyperparameters, PolicyObjective};
use dissent_domain::weight_form::WeightForm;

use crate::random::{hash, share};

pub(crate) const PROMPTS: u32 = 4;
const SAMPLES: u32 = 3;
/// Steps of a training. Each ends with a checkpoint.
pub(crate) const TRAINING_STEPS: u64 = 3;

pub(crate) fn experiment() -> ExperimentId {
    ExperimentId::new("simulation").unwrap()
}

/// The plan of two rounds with learning.
pub(crate) fn plan() -> Plan {
    let learning = LearningPlan {
        feedback: FeedbackPlan {
            source: FeedbackSource::Oracle,
            opponent: Opponent::Conflict,
            overlap: 1,
            budget: None,
            audit: 0.0,
            degenerate: DegenerateCompletions::Ask,
            focus: None,
        },
        refinement: RefinementPlan { original: None, hyperparameters: Hyperparameters::default() },
        tuning: TuningPlan {
            objective: PolicyObjective::default(),
            hyperparameters: Hyperparameters::default(),
        },
        evaluation: EvaluationPlan {
            prompts: PromptSource { artifact: "1".repeat(64), count: 2 },
            samples: 2,
            gold: None,
        },
        guards: GuardPlan::default(),
    };
    let selection = SelectionSettings { rule: Rule::Budget, budget: Some(3), ..SelectionSettings::default() };
    Plan {
        experiment: experiment(),
        seed: 7,
        rounds: 2,
        prompts: PromptSource { artifact: "0".repeat(64), count: PROMPTS },
        policy: PolicyPlan {
            name: "policy".into(),
            fingerprint: "p".into(),
            template: "chat".into(),
            weights: WeightForm::F32,
        },
        reward: RewardPlan {
            name: "proxy".into(),
            fingerprint: "r".into(),
            template: "chat".into(),
            kind: RewardKind::Reward,
            output: None,
        },
        sampling: SamplingParams { samples: SAMPLES, ..SamplingParams::default() },
        conflict: ConflictPlan { logprob: LogprobKind::Sum, selection },
        learning: Some(Box::new(learning)),
        reading_rules: 1,
        sampling_key: None,
    }
}

pub(crate) fn admitted(round: u32) -> Vec<Event> {
    let admit = |index: u32| {
        let prompt_id = PromptId::new(format!("p{index}")).unwrap();
        let prompt =
            Prompt { prompt_id, text: format!("why {index}?"), category: None, messages: Vec::new() };
        PromptAdmitted { round, index, prompt }.into()
    };
    (0..PROMPTS).map(admit).collect()
}

pub(crate) fn sample(policy: &str, admitted: &PromptAdmitted) -> Event {
    let PromptAdmitted { round, prompt, .. } = admitted;
    let completions = (0..SAMPLES).map(|sample| {
        let text = format!("{:x}", hash(&["sample", policy, &prompt.text, &format!("{round} {sample}")]));
        Completion {
            token_ids: vec![1; 1 + text.len() % 5],
            logprob: -40.0 * share(&["logprob", policy, &text]),
            text,
            finish_reason: FinishReason::Stop,
        }
    });
    CompletionsSampled {
        round: *round,
        prompt: prompt.clone(),
        policy: policy.to_owned(),
        prompt_token_ids: vec![5, 6],
        completions: completions.collect(),
    }
    .into()
}

/// Scores completions. The last prompt of a round is always set aside.
pub(crate) fn score(model: &str, sampled: &CompletionsSampled) -> Event {
    let (round, prompt_id) = (sampled.round, sampled.prompt.prompt_id.clone());
    if prompt_id.as_str() == format!("p{}", PROMPTS - 1) {
        let reason = "it does not fit".to_owned();
        return PromptSetAside { round, prompt_id, step: StepName::Reward, reason }.into();
    }
    let reward = |completion: &Completion| 4.0 * share(&["reward", model, &completion.text]) - 2.0;
    let rewards = sampled.completions.iter().map(reward).collect();
    RewardsScored { round, prompt_id, reward_model: model.to_owned(), rewards }.into()
}

pub(crate) fn conflict(sampled: &CompletionsSampled, scored: &RewardsScored) -> Event {
    let logprobs: Vec<f64> = sampled.completions.iter().map(|completion| completion.logprob).collect();
    let conflict = measure(&scored.rewards, &logprobs).unwrap();
    ConflictMeasured { round: scored.round, prompt_id: scored.prompt_id.clone(), conflict, flags: Vec::new() }
        .into()
}

pub(crate) fn judge(sampled: &CompletionsSampled, requested: &FeedbackRequested) -> Event {
    let gold = |completion: u32| hash(&["gold", &sampled.completions[completion as usize].text]) % 7;
    let verdict = match gold(requested.first).cmp(&gold(requested.second)) {
        std::cmp::Ordering::Greater => Verdict::First,
        std::cmp::Ordering::Less => Verdict::Second,
        std::cmp::Ordering::Equal => Verdict::Tie,
    };
    let (round, comparison, annotator) = (requested.round, requested.comparison, "oracle".to_owned());
    FeedbackReceived { round, comparison, annotator, verdict, is_unsafe: None, comment: None }.into()
}

pub(crate) fn evaluate(experiment: &Experiment, evaluation: u32) -> Event {
    let policy = experiment.policy().unwrap().fingerprint;
    let reward_model = experiment.reward_model().unwrap().fingerprint;
    let figure = |what: &str| share(&[what, &policy, &reward_model]);
    PolicyEvaluated {
        evaluation,
        prompts: 2,
        completions: 4,
        gold_reward: Some([figure("gold"), 0.01]),
        proxy_reward: [figure("proxy"), 0.1],
        refined_reward: [figure("refined"), 0.1],
        proxy_agreement: Some(figure("agreement")),
        refined_agreement: Some(figure("refined agreement")),
        mean_abs_pacs: Some(figure("pacs")),
        kendall_tau: None,
        kl: figure("kl"),
        response_tokens: 3.0,
        stopped: 1.0,
        samples: None,
        by_prompt: None,
        policy,
        reward_model,
    }
    .into()
}

pub(crate) fn checkpoint(round: u32, stage: Stage, step: u64) -> String {
    format!("{round} {} {step}", stage.name())
}

/// Returns the step of a checkpoint.
pub(crate) fn checkpoint_step(checkpoint: &str) -> u64 {
    checkpoint.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Returns the result of a training. It depends on the initial model and on the judgements, not on the worker
/// or the attempts.
pub(crate) fn trained(experiment: &Experiment, round: u32, stage: Stage, attempt: u32) -> Event {
    let learning = experiment.rounds()[round as usize].learning();
    let data: Vec<String> = learning
        .comparisons()
        .iter()
        .map(|comparison| format!("{:?} {:?}", comparison.request, comparison.judgements))
        .collect();
    let [policy, reward] = [experiment.policy(), experiment.reward_model()].map(Option::unwrap);
    let digest =
        hash(&[stage.name(), &round.to_string(), &policy.fingerprint, &reward.fingerprint, &data.join("\n")]);
    let (adapter, fingerprint) = (format!("adapter {digest:x}"), format!("model {digest:x}"));
    let metrics = BTreeMap::new();
    match stage {
        Stage::Reward => {
            let preferences = learning.settled().map_or(0, |settled| settled.preferences);
            RewardModelRefined { round, attempt, adapter, fingerprint, preferences, rehearsed: 0, metrics }
                .into()
        }
        Stage::Policy => PolicyTuned { round, attempt, adapter, fingerprint, metrics }.into(),
    }
}

/// Describes the results, which must not depend on faults. Attempts are left out: they count expired leases.
pub(crate) fn summary(experiment: &Experiment) -> String {
    let mut out = format!(
        "{:?}\n{:?}\n{:?}\n{:?}\n{:?}\n{:?}\n",
        experiment.policy(),
        experiment.reward_model(),
        experiment.evaluations(),
        experiment.warnings(),
        experiment.stopped(),
        experiment.is_finished(),
    );
    for round in experiment.rounds() {
        let learning = round.learning();
        let training = |stage| learning.training(stage).map(|training| training.progress.clone());
        out += &format!(
            "{} {:?} {:?}\n{:?}\n{:?} {:?} {:?} {:?}\n",
            round.number(),
            round.counts(),
            round.evaluation(),
            round.prompts().collect::<Vec<_>>(),
            learning.comparisons(),
            learning.settled(),
            training(Stage::Reward),
            training(Stage::Policy),
        );
    }
    out
}

/// Returns the completions of the event with this id.
pub(crate) fn sampled(known: &[Recorded], id: dissent_domain::event::EventId) -> Option<CompletionsSampled> {
    let found = known.iter().find(|recorded| recorded.event.id == id)?;
    CompletionsSampled::try_from(found.decode().unwrap()).ok()
}
