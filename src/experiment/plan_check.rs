//! The plan of a configuration against the recorded plan of the same experiment.

use dissent_domain::event::Event;
use dissent_domain::event_ids::forked_id;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_domain::plan::Plan;

use crate::error::BadInput;

/// A recorded experiment is never continued with other settings: its results would be of neither.
pub(crate) fn refuse_another_plan(log: &dyn EventLog, plan: &Plan) -> anyhow::Result<()> {
    if let Some(recorded) = forked_plan(log, &plan.experiment)? {
        return refuse_difference(&recorded, plan);
    }
    let Some(first) = log.read_stream(&plan.experiment, 0, 1)?.pop() else { return Ok(()) };
    let Event::ExperimentStarted(started) = first.decode()? else {
        anyhow::bail!("the stream of {} does not begin with its start", plan.experiment)
    };
    refuse_difference(&started.plan, plan)
}

/// Refuses a plan that is not the recorded one, and says where they differ.
pub(crate) fn refuse_difference(recorded: &Plan, plan: &Plan) -> anyhow::Result<()> {
    match difference(recorded, plan) {
        None => Ok(()),
        Some(difference) => Err(BadInput(format!(
            "the experiment {} was begun with another plan ({difference}): give the new one another name, or \
             restore the old configuration to go on",
            plan.experiment
        ))
        .into()),
    }
}

/// The plan of a fork; none of an experiment that is none.
fn forked_plan(log: &dyn EventLog, experiment: &ExperimentId) -> anyhow::Result<Option<Plan>> {
    let mut plan = None;
    // A fork may have been forked again: the last one counts.
    for generation in 0.. {
        let Some(recorded) = log.find(forked_id(experiment, generation))? else { break };
        if let Event::ExperimentForked(forked) = recorded.decode()? {
            plan = Some(forked.plan);
        }
    }
    Ok(plan)
}

/// The first difference between two plans, for a person to read; none if they are the same.
fn difference(recorded: &Plan, wanted: &Plan) -> Option<String> {
    if recorded == wanted {
        return None;
    }
    let (recorded, wanted) = (serde_json::to_value(recorded).ok()?, serde_json::to_value(wanted).ok()?);
    first_difference("", &recorded, &wanted)
}

fn first_difference(key: &str, recorded: &serde_json::Value, wanted: &serde_json::Value) -> Option<String> {
    const NULL: serde_json::Value = serde_json::Value::Null;
    match (recorded.as_object(), wanted.as_object()) {
        (Some(recorded), Some(wanted)) => {
            // What is left out where there is nothing to say may be in either.
            let added = wanted.keys().filter(|name| !recorded.contains_key(*name));
            recorded.keys().chain(added).find_map(|name| {
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                let of = |plan: &serde_json::Map<_, _>| plan.get(name).unwrap_or(&NULL).clone();
                first_difference(&key, &of(recorded), &of(wanted))
            })
        }
        _ if recorded == wanted => None,
        _ => Some(match (key, recorded.is_null(), wanted.is_null()) {
            ("learning", true, _) => "it did not learn from feedback, now it would".to_owned(),
            ("learning", _, true) => "it learnt from feedback, now it would not".to_owned(),
            (key, ..) => named_difference(key).map_or_else(
                || format!("{key} was {recorded}, now {wanted}"),
                |what| format!("{what} not the same"),
            ),
        }),
    }
}

/// What differs where hashes do, which say nothing to a person.
fn named_difference(key: &str) -> Option<&'static str> {
    Some(match key {
        "prompts.artifact" => "the prompts are",
        "policy.fingerprint" => "the policy's weights or adapter are",
        "reward.fingerprint" => "the reward model's weights, layers or adapter are",
        "learning.refinement.original.artifact" => "the original preferences are",
        "learning.evaluation.prompts.artifact" => "the held-out prompts are",
        "learning.evaluation.gold.fingerprint" => "the gold reward is",
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
    fn what_differs_between_two_plans_is_said_in_words() {
        let recorded = plan(|_| ());
        assert_eq!(difference(&recorded, &recorded), None);
        let seed = difference(&recorded, &plan(|plan| plan["seed"] = 3.into()));
        assert_eq!(seed.unwrap(), "seed was 0, now 3");
        let weights = difference(&recorded, &plan(|plan| plan["policy"]["fingerprint"] = "h".into()));
        assert_eq!(weights.unwrap(), "the policy's weights or adapter are not the same");
    }

    #[test]
    fn learning_that_is_in_one_plan_only_is_a_difference() {
        let learning = json!({
            "feedback": {"source": "people", "opponent": "conflict", "overlap": 1, "budget": null},
            "refinement": {"original": null, "hyperparameters": {}},
            "tuning": {"objective": {}, "hyperparameters": {}},
            "evaluation": {"prompts": {"artifact": "h", "count": 1}, "samples": 2, "gold": null},
            "guards": {},
        });
        let (without, with) = (plan(|_| ()), plan(|plan| plan["learning"] = learning.clone()));
        assert!(difference(&without, &with).unwrap().contains("it did not learn from feedback"));
        assert!(difference(&with, &without).unwrap().contains("it learnt from feedback"));
        let other = plan(|plan| {
            plan["learning"] = learning.clone();
            plan["learning"]["evaluation"]["prompts"]["artifact"] = "i".into();
        });
        assert_eq!(difference(&with, &other).unwrap(), "the held-out prompts are not the same");
    }
}
