//! The check of a configuration's plan against the recorded plan of the experiment.

use std::fmt;

use dissent_domain::event::{ExperimentForked, ExperimentStarted};
use dissent_domain::event_ids::forked_id;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_domain::plan::Plan;

/// A plan that differs from the recorded plan of its experiment.
#[derive(Debug, thiserror::Error)]
#[error(
    "the experiment {experiment} has another recorded plan ({difference}): use another name, or restore the old \
     configuration"
)]
pub(crate) struct PlanDiffers {
    pub(crate) experiment: ExperimentId,
    pub(crate) difference: PlanDifference,
}

/// The first difference between two plans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlanDifference {
    /// The key, such as `policy.fingerprint`.
    pub(crate) key: String,
    /// The recorded and the new value, or a description if they are hashes.
    description: String,
}

impl fmt::Display for PlanDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.description)
    }
}

/// Rejects a plan that differs from the recorded one. An experiment never continues with other settings,
/// because its results would belong to neither plan.
pub(crate) fn check_recorded_plan(log: &dyn EventLog, plan: &Plan) -> anyhow::Result<()> {
    match recorded_plan(log, &plan.experiment)? {
        Some(recorded) => Ok(check_same_plan(&recorded, plan)?),
        None => Ok(()),
    }
}

/// Returns the recorded plan of an experiment; `None` if it has not begun.
pub(crate) fn recorded_plan(log: &dyn EventLog, experiment: &ExperimentId) -> anyhow::Result<Option<Plan>> {
    if let Some(forked) = forked_plan(log, experiment)? {
        return Ok(Some(forked));
    }
    let Some(first) = log.read_stream(experiment, 0, 1)?.pop() else { return Ok(None) };
    let Ok(started) = ExperimentStarted::try_from(first.decode()?) else {
        anyhow::bail!(
            "the stream of {experiment} does not begin with experiment.started: check it with `dissent log verify`"
        )
    };
    Ok(Some(started.plan))
}

/// Rejects a plan that differs from the recorded one; the error names the first difference.
pub(crate) fn check_same_plan(recorded: &Plan, plan: &Plan) -> Result<(), PlanDiffers> {
    match difference(recorded, plan) {
        None => Ok(()),
        Some(difference) => Err(PlanDiffers { experiment: plan.experiment.clone(), difference }),
    }
}

/// Returns the plan of a fork; `None` if the experiment is not a fork.
fn forked_plan(log: &dyn EventLog, experiment: &ExperimentId) -> anyhow::Result<Option<Plan>> {
    let mut plan = None;
    // A fork of a fork has several such events; the last one counts.
    for generation in 0.. {
        let Some(recorded) = log.find(forked_id(experiment, generation))? else { break };
        if let Ok(forked) = ExperimentForked::try_from(recorded.decode()?) {
            plan = Some(forked.plan);
        }
    }
    Ok(plan)
}

/// Finds the first difference between two plans; `None` if they are equal.
fn difference(recorded: &Plan, wanted: &Plan) -> Option<PlanDifference> {
    if recorded == wanted {
        return None;
    }
    let (recorded, wanted) = (serde_json::to_value(recorded).ok()?, serde_json::to_value(wanted).ok()?);
    first_difference("", &recorded, &wanted)
}

fn first_difference(
    key: &str,
    recorded: &serde_json::Value,
    wanted: &serde_json::Value,
) -> Option<PlanDifference> {
    const NULL: serde_json::Value = serde_json::Value::Null;
    match (recorded.as_object(), wanted.as_object()) {
        (Some(recorded), Some(wanted)) => {
            // Keys with default values are omitted, in either plan.
            let added = wanted.keys().filter(|name| !recorded.contains_key(*name));
            recorded.keys().chain(added).find_map(|name| {
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                let of = |plan: &serde_json::Map<_, _>| plan.get(name).unwrap_or(&NULL).clone();
                first_difference(&key, &of(recorded), &of(wanted))
            })
        }
        _ if recorded == wanted => None,
        _ => {
            let description = match (key, recorded.is_null(), wanted.is_null()) {
                ("learning", true, _) => "learning was off, now on".to_owned(),
                ("learning", _, true) => "learning was on, now off".to_owned(),
                (key, ..) => named_difference(key)
                    .map_or_else(|| format!("{key} was {recorded}, now {wanted}"), str::to_owned),
            };
            Some(PlanDifference { key: key.to_owned(), description })
        }
    }
}

/// Describes a difference of hashes, which are meaningless to people.
fn named_difference(key: &str) -> Option<&'static str> {
    Some(match key {
        "prompts.artifact" => "the prompts differ",
        "policy.weights" => "the weights that sample (policy.weights) differ",
        "policy.fingerprint" => "the policy's weights or adapter differ",
        "reward.fingerprint" => "the reward model's weights, layers or adapter differ",
        "learning.refinement.original.artifact" => "the original preferences differ",
        "learning.evaluation.prompts.artifact" => "the held-out prompts differ",
        "learning.evaluation.gold.fingerprint" => "the gold reward differs",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use dissent_domain::plan::Plan;
    use serde_json::{Value, json};

    use super::*;

    fn plan(change: impl Fn(&mut Value)) -> Plan {
        let mut plan = json!({
            "experiment": "e", "seed": 0, "rounds": 1,
            "prompts": {"artifact": "a", "count": 2},
            "policy": {"name": "p", "fingerprint": "f", "template": "chat"},
            "reward": {"name": "r", "fingerprint": "g", "template": "chat", "kind": "reward"},
            "sampling": {},
            "conflict": {"logprob": "sum", "selection": dissent_domain::conflict::SelectionSettings::default()},
        });
        change(&mut plan);
        serde_json::from_value(plan).unwrap()
    }

    #[test]
    fn the_first_difference_between_two_plans_is_described() {
        let recorded = plan(|_| ());
        assert_eq!(difference(&recorded, &recorded), None);
        let seed = difference(&recorded, &plan(|plan| plan["seed"] = 3.into())).unwrap();
        assert_eq!((seed.key.as_str(), seed.to_string().as_str()), ("seed", "seed was 0, now 3"));
        let weights =
            difference(&recorded, &plan(|plan| plan["policy"]["fingerprint"] = "h".into())).unwrap();
        assert_eq!(weights.key, "policy.fingerprint");
        assert_eq!(weights.to_string(), "the policy's weights or adapter differ");
    }

    #[test]
    fn the_plan_of_version_0_1_has_no_reading_rules() {
        let first = serde_json::to_value(plan(|_| ())).unwrap();
        assert!(first.get("reading_rules").is_none() && first["reward"].get("output").is_none(), "{first}");
        let second = plan(|plan| {
            plan["reading_rules"] = 2.into();
            plan["reward"]["output"] = json!({"weights": [0.5, -1.0]});
        });
        let second = serde_json::to_value(second).unwrap();
        assert_eq!(second["reading_rules"], 2);
        assert_eq!(second["reward"]["output"], json!({"weights": [0.5, -1.0]}));
    }

    #[test]
    fn other_weights_that_sample_are_a_difference() {
        let (floats, int8) = (plan(|_| ()), plan(|plan| plan["policy"]["weights"] = "int8".into()));
        assert!(serde_json::to_value(&floats).unwrap()["policy"].get("weights").is_none());
        let found = difference(&floats, &int8).unwrap();
        assert_eq!(found.key, "policy.weights");
        assert!(found.to_string().contains("policy.weights"), "{found}");
        assert_eq!(difference(&int8, &floats).unwrap().key, "policy.weights");
    }

    #[test]
    fn learning_in_one_plan_only_is_a_difference() {
        let learning = json!({
            "feedback": {"source": "people", "opponent": "conflict", "overlap": 1, "budget": null},
            "refinement": {"original": null, "hyperparameters": {}},
            "tuning": {"objective": {}, "hyperparameters": {}},
            "evaluation": {"prompts": {"artifact": "h", "count": 1}, "samples": 2, "gold": null},
            "guards": {},
        });
        let (without, with) = (plan(|_| ()), plan(|plan| plan["learning"] = learning.clone()));
        assert_eq!(difference(&without, &with).unwrap().to_string(), "learning was off, now on");
        assert_eq!(difference(&with, &without).unwrap().to_string(), "learning was on, now off");
        let other = plan(|plan| {
            plan["learning"] = learning.clone();
            plan["learning"]["evaluation"]["prompts"]["artifact"] = "i".into();
        });
        assert_eq!(difference(&with, &other).unwrap().key, "learning.evaluation.prompts.artifact");
    }
}
