//! Opponents of selected completions through the program, on tiny models.

use std::collections::{BTreeMap, BTreeSet};

use dissent_domain::event::{ConflictMeasured, FeedbackRequested, PairSelected, Recorded, RewardsScored};

use crate::support::{Lab, Learning, Setup, succeeded};

/// An experiment of one round without an audit, with more settings of `[feedback]`.
fn lab(feedback: &str) -> Option<Lab> {
    let learns = Some(Learning { rounds: 1, steps: 2 });
    let lab = Lab::new(&Setup { prompts: 8, samples: 6, max_new_tokens: 8, learns, ..Setup::default() })?;
    let config = std::fs::read_to_string(lab.config()).unwrap();
    let settings = format!("[feedback]\naudit = 0.0\ndegenerate = \"ask\"\n{feedback}\n");
    std::fs::write(
        lab.config(),
        config.replace("[feedback]\n", &settings).replace("budget = 7", "budget = 20"),
    )
    .unwrap();
    Some(lab)
}

fn of<T: TryFrom<dissent_domain::event::Event>>(events: &[Recorded]) -> Vec<T> {
    events.iter().filter_map(|recorded| T::try_from(recorded.decode().unwrap()).ok()).collect()
}

/// The pair of a completion with the farthest PACS among the nearer half by reward, as documented.
fn matched(completion: usize, rewards: &[f64], pacs: &[f64]) -> [usize; 2] {
    let mut others: Vec<usize> = (0..rewards.len()).filter(|&other| other != completion).collect();
    let margin = |other: usize| (rewards[completion] - rewards[other]).abs();
    let gap = |other: usize| (pacs[completion] - pacs[other]).abs();
    others.sort_by(|&one, &other| margin(one).total_cmp(&margin(other)));
    others.truncate(others.len().div_ceil(2));
    let farthest = others.into_iter().max_by(|&one, &other| gap(one).total_cmp(&gap(other))).unwrap();
    [completion.min(farthest), completion.max(farthest)]
}

#[test]
fn a_matched_opponent_is_accepted_chosen_as_documented_and_replayed() {
    let Some(lab) = lab("opponent = \"matched\"") else { return };
    lab.run("data");
    let events = lab.events("data");
    let rewards: BTreeMap<String, Vec<f64>> = of::<RewardsScored>(&events)
        .into_iter()
        .filter(|scored| scored.round == 0)
        .map(|scored| (scored.prompt_id.to_string(), scored.rewards))
        .collect();
    let pacs: BTreeMap<String, Vec<f64>> = of::<ConflictMeasured>(&events)
        .into_iter()
        .map(|measured| (measured.prompt_id.to_string(), measured.conflict.pacs))
        .collect();
    let selected: Vec<PairSelected> = of(&events);
    assert_eq!(selected.len(), 20);
    let expected: BTreeSet<(String, [usize; 2])> = selected
        .iter()
        .map(|pair| {
            let prompt = pair.prompt_id.to_string();
            let found = matched(pair.completion as usize, &rewards[&prompt], &pacs[&prompt]);
            (prompt, found)
        })
        .collect();
    let requested: BTreeSet<(String, [usize; 2])> = of::<FeedbackRequested>(&events)
        .iter()
        .map(|pair| {
            let (first, second) = (pair.first as usize, pair.second as usize);
            (pair.prompt_id.to_string(), [first.min(second), first.max(second)])
        })
        .collect();
    assert_eq!(requested, expected);
    succeeded(lab.dissent("data", &["replay", "lab", "--verify"]));
    succeeded(lab.dissent("data", &["replay", "lab", "--what-if", "feedback.opponent=conflict"]));
}

#[test]
fn an_unknown_opponent_is_refused_with_the_known_ones() {
    let Some(lab) = lab("opponent = \"equal\"") else { return };
    let config = lab.config();
    let output = lab.dissent("data", &["run", config.to_str().unwrap()]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("equal") && stderr.contains("`matched`"), "{stderr}");
}
