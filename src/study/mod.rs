//! `dissent study`: compares selection rules over several seeds in one report.
//!
//! A study on [labelled completions](labelled) measures how early each rule finds the proxy's errors. A study
//! of [experiments](arms), which differ in rule, budget and seed only, measures the trained policy and proxy.
//! All results are kept in the data folder of the study, so a repeated run resumes.

pub mod arms;
pub mod config;
pub mod labelled;
pub mod opponents;
mod path_keys;
pub mod prediction;
pub mod preparation;
pub mod report;
mod shuffle;
pub mod step_cache;
pub mod training;
pub mod verdict;

use std::collections::BTreeMap;
use std::path::Path;

use dissent_domain::conflict::{LogprobKind, PairScore};

use arms::{Arm, ArmOutcome, ArmsConfig, ArmsResult};
use config::{StudyConfig, Subject};
use labelled::{LabelledConfig, LabelledResult};
use opponents::{AskedSample, OpponentTable};
use prediction::{IntervalMethod, Predictions, Predictor, Sample, evaluate};
use report::{SCHEMA, StudyReport};
use step_cache::StepCache;
use training::ModelRuntime;

/// Runs a study, or resumes an interrupted one. Passes progress messages to `progress`.
///
/// # Errors
/// If a file or a model cannot be used, a step or an experiment fails, or the user interrupts.
pub fn run(
    config: &StudyConfig,
    data_dir: &Path,
    models: &ModelRuntime,
    progress: &dyn Fn(&str),
) -> anyhow::Result<StudyReport> {
    let steps = StepCache::new(data_dir);
    let seed = config.study.seed;
    let (labelled, arms, method) = match &config.subject {
        Subject::Labelled(of) => {
            let result = labelled::run(of, seed, &steps, models, progress)?;
            let method = labelled_method(of, &result);
            (Some(result), None, method)
        }
        Subject::Arms(of) => {
            let mut prepared = BTreeMap::new();
            if let Some(categories) = &of.categories {
                for &seed in &of.seeds {
                    prepared.insert(seed, preparation::prepare(categories, seed, &steps, models, progress)?);
                }
            }
            let arms = of.arms(config.study.name.as_str(), &prepared)?;
            let outcomes = arms::run(&arms, data_dir, config.study.parallel, &models.cancel, progress)?;
            let (predictions, opponents) =
                (predictions(&outcomes, of, seed)?, opponent_table(&outcomes, of, seed)?);
            let mut method = arms_method(of, config.study.parallel);
            method.extend(opponents.is_some().then(|| OPPONENTS.to_owned()));
            let result = ArmsResult::of(&outcomes, predictions, opponents);
            (None, Some(result), method)
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

/// Evaluates the rules as predictors of the proxy's errors. Returns `None` unless an arm judged every pair of
/// completions.
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
        .map(|round| Sample::new(&round.prompts(), &round.pairs(), &predictors))
        .collect::<anyhow::Result<_>>()?;
    Ok((!samples.is_empty()).then(|| evaluate(&samples, &predictors, kind, IntervalMethod::StudentT, seed)))
}

/// Compares the opponents of selected completions. Returns `None` unless an arm judged every pair of
/// completions.
fn opponent_table(
    outcomes: &[(Arm, ArmOutcome)],
    config: &ArmsConfig,
    seed: u64,
) -> anyhow::Result<Option<OpponentTable>> {
    let kind = config.logprob();
    let judged = outcomes.iter().filter_map(|(_, outcome)| outcome.judged.as_ref());
    let samples: Vec<AskedSample> = judged
        .map(|round| AskedSample::new(&round.prompts(), &round.judged_pairs(), kind))
        .collect::<anyhow::Result<_>>()?;
    Ok(opponents::evaluate(&samples, kind, IntervalMethod::StudentT, seed))
}

/// The method of the comparison of opponents.
const OPPONENTS: &str = "For the comparison of opponents, 10, 25 or 50 % of all completions are selected by |PACS|. An opponent is \
     chosen among the completions with which the selected one was compared. The random opponent is the mean over 16 draws.";

fn labelled_method(config: &LabelledConfig, result: &LabelledResult) -> Vec<String> {
    let kind = match result.logprob {
        LogprobKind::Sum => "the sum over the tokens of a completion",
        LogprobKind::Mean => "the mean over the tokens of a completion",
    };
    let proxies = match &config.proxy.adapter {
        Some(_) => "The configuration names a trained proxy.".to_owned(),
        None => format!(
            "{} proxies are trained on {} preferences each, drawn from the questions that are not held out. Each proxy is \
             tested, and together they form the ensemble.",
            config.proxy.members, result.preferences
        ),
    };
    vec![
        format!("Completions and human preferences: {}.", result.source),
        format!(
            "{} of {} questions, drawn by the seed, are held out of the training of proxies.",
            result.held_out, result.questions
        ),
        proxies,
        format!(
            "The policy's prompt is {:?}. A log-probability is {kind}, unless the name of a rule states the other kind.",
            config.policy.prompt
        ),
        "A preference pair is an error if the proxy does not rate the preferred completion higher. Ties are excluded. The rules see \
         rewards and log-probabilities only."
            .to_owned(),
        OPPONENTS.to_owned(),
        "Intervals are 95 % bootstrap intervals over questions, of the mean over proxies.".to_owned(),
    ]
}

fn arms_method(config: &ArmsConfig, parallel: usize) -> Vec<String> {
    vec![
        format!(
            "Every rule is run at each of its budgets with the seeds {:?}, at most {parallel} experiments at a time. The \
             experiments of a seed differ in rule, opponent and budget only, and begin with the same completions.",
            config.seeds
        ),
        "The selection sees rewards and log-probabilities only. The gold reward judges the comparisons and evaluates."
            .to_owned(),
        "Gold reward and errors are measured on held-out prompts. An error is a pair of completions by the tuned policy that \
         the refined proxy does not order as the gold reward does."
            .to_owned(),
        "Intervals are 95 % intervals by Student's t over seeds. Differences between rules are paired by seed.".to_owned(),
    ]
}
