//! `dissent study`: the same question asked of several rules and seeds, and the answer in one report.
//!
//! Two kinds of study: on [given answers](labelled) that people have compared, rules are judged by how soon
//! they find the proxy's errors; [experiments](arms) that differ in nothing but their rule, budget and seed
//! are judged by what becomes of policy and proxy. Everything that a study has done is kept in its data
//! folder, and found when it is run again.

pub mod arms;
pub mod config;
mod draw;
pub mod labelled;
mod path_keys;
pub mod prediction;
pub mod preparation;
pub mod report;
pub mod steps;
pub mod training;
pub mod verdict;

use std::collections::BTreeMap;
use std::path::Path;

use dissent_domain::conflict::{LogprobKind, PairScore};

use arms::{Arm, ArmOutcome, ArmsConfig, ArmsResult};
use config::{StudyConfig, Subject};
use labelled::{LabelledConfig, LabelledResult};
use prediction::{Predictions, Predictor, Sample, Spread, evaluate};
use report::{SCHEMA, StudyReport};
use steps::Steps;
use training::ModelRuntime;

/// Runs a study to its end, or goes on where it was stopped; `say` is told what is being done.
///
/// # Errors
/// If something that it needs cannot be used, a step or an experiment fails, or the user asks to stop.
pub fn run(
    config: &StudyConfig,
    data_dir: &Path,
    workshop: &ModelRuntime,
    say: &dyn Fn(&str),
) -> anyhow::Result<StudyReport> {
    let steps = Steps::new(data_dir);
    let seed = config.study.seed;
    let (labelled, arms, method) = match &config.subject {
        Subject::Labelled(of) => {
            let result = labelled::run(of, seed, &steps, workshop, say)?;
            let method = labelled_method(of, &result);
            (Some(result), None, method)
        }
        Subject::Arms(of) => {
            let mut prepared = BTreeMap::new();
            if let Some(categories) = &of.categories {
                for &seed in &of.seeds {
                    prepared.insert(seed, preparation::prepare(categories, seed, &steps, workshop, say)?);
                }
            }
            let arms = of.arms(config.study.name.as_str(), &prepared)?;
            let outcomes = arms::run(&arms, data_dir, config.study.parallel, &workshop.cancel, say)?;
            let result = ArmsResult::of(&outcomes, predictions(&outcomes, of, seed)?);
            (None, Some(result), arms_method(of, config.study.parallel))
        }
    };
    Ok(StudyReport {
        schema: SCHEMA,
        study: config.study.name.to_string(),
        seed,
        verdict: report::verdict_of(labelled.as_ref(), arms.as_ref()),
        method,
        labelled,
        arms,
        configuration: config.text.clone(),
    })
}

/// How well the rules predict the proxy's errors, from the arms that asked about every pair; none without
/// such an arm.
fn predictions(
    outcomes: &[(Arm, ArmOutcome)],
    config: &ArmsConfig,
    seed: u64,
) -> anyhow::Result<Option<Predictions>> {
    let kind = config.logprob();
    let scores = PairScore::ALL.into_iter().map(|score| Predictor::Score(score, kind));
    let predictors: Vec<Predictor> = std::iter::once(Predictor::Random).chain(scores).collect();
    let judged = outcomes.iter().filter_map(|(_, outcome)| outcome.judged.as_ref());
    let samples: Vec<Sample> = judged
        .map(|round| Sample::new(&round.prompts(), &round.judged(), &predictors))
        .collect::<anyhow::Result<_>>()?;
    Ok((!samples.is_empty()).then(|| evaluate(&samples, &predictors, kind, Spread::OverSamples, seed)))
}

fn labelled_method(config: &LabelledConfig, result: &LabelledResult) -> Vec<String> {
    let kind = match result.logprob {
        LogprobKind::Sum => "summed over the tokens of an answer",
        LogprobKind::Mean => "per token of an answer",
    };
    let proxies = match &config.proxy.adapter {
        Some(_) => "The proxy was given.".to_owned(),
        None => format!(
            "{} proxies learnt from {} preferences each, drawn from those of the questions that are not held out; each is put to \
             the test, and together they are the ensemble.",
            config.proxy.members, result.learnt_from
        ),
    };
    vec![
        format!("Answers and human preferences: {}.", result.source),
        format!("{} of {} questions are held out, drawn by the seed; no proxy has seen them.", result.held_out, result.questions),
        proxies,
        format!("The policy was asked: {:?}. Log-probabilities are {kind}, unless a rule's name says otherwise.", config.policy.prompt),
        "A pair is an error if the proxy does not rate the answer higher that people prefer; ties of people are left out. The rules \
         see rewards and log-probabilities only."
            .to_owned(),
        "Intervals: 95 %, by a bootstrap over questions of the mean over proxies.".to_owned(),
    ]
}

fn arms_method(config: &ArmsConfig, parallel: usize) -> Vec<String> {
    vec![
        format!(
            "Every rule was run at each of its budgets with the seeds {:?}, at most {parallel} at a time; the experiments of a \
             seed differ in nothing else, and begin with the same answers.",
            config.seeds
        ),
        "The selection sees rewards and log-probabilities only; the gold reward answers what was selected, and evaluates.".to_owned(),
        "Gold reward and errors are measured on held-out prompts: the errors are the pairs of the tuned policy's answers that the \
         refined proxy does not order as the gold reward does."
            .to_owned(),
        "Intervals: 95 %, Student's t over seeds; differences between rules are of the same seeds.".to_owned(),
    ]
}
