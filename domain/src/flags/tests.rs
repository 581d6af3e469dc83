//! Measures the flags on the labelled set, and checks single rules.
//!
//! The texts of `tests/data/completion-flags.jsonl` were written for this test, before the rules. Up to id
//! 244, odd ids are the development half, on which rules and limits were set, and even ids are held out. The
//! rules of language and of short texts changed once after a first figure, by errors of the development half
//! alone. So the ids from 245 were written afterwards and are held out too. Nobody may change a rule for a
//! held-out completion. One author wrote rules and texts, so figures on other texts will be lower.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::required::{file, optional};

#[derive(Deserialize)]
struct Labelled {
    id: u32,
    labels: BTreeSet<Flag>,
    finish_reason: Option<FinishReason>,
    prompt: String,
    completion: String,
}

fn labelled() -> Vec<Labelled> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/completion-flags.jsonl");
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn is_development(item: &Labelled) -> bool {
    item.id % 2 == 1 && item.id <= 244
}

/// Counts of one flag: (true positives, false positives, false negatives).
fn counts(half: &[&Labelled], flag: Flag) -> (usize, usize, usize) {
    let mut counts = (0, 0, 0);
    for item in half {
        let found = completion_flags(&item.prompt, &item.completion, item.finish_reason).has(flag);
        match (found, item.labels.contains(&flag)) {
            (true, true) => counts.0 += 1,
            (true, false) => counts.1 += 1,
            (false, true) => counts.2 += 1,
            (false, false) => {}
        }
    }
    counts
}

/// Prints precision and recall of every flag and returns the smaller one of each.
fn measured(half: &[&Labelled]) -> Vec<(Flag, f64)> {
    let of_flag = |flag| {
        let (hits, false_alarms, missed) = counts(half, flag);
        let precision = hits as f64 / (hits + false_alarms).max(1) as f64;
        let recall = hits as f64 / (hits + missed).max(1) as f64;
        println!(
            "{flag:<11} precision {precision:.3} recall {recall:.3} ({hits} hits, {false_alarms} false, {missed} missed)"
        );
        (flag, f64::min(precision, recall))
    };
    Flag::ALL.into_iter().map(of_flag).collect()
}

#[test]
fn precision_and_recall_of_every_flag_are_above_nine_tenths_on_held_out_completions() {
    let all = labelled();
    assert!(all.len() >= 200);
    let held_out: Vec<&Labelled> = all.iter().filter(|item| !is_development(item)).collect();
    assert!(2 * held_out.len() >= all.len());
    for (flag, least) in measured(&held_out) {
        assert!(least >= 0.9, "{flag}: {least}");
    }
}

#[test]
fn development_completions_have_their_labels() {
    let all = labelled();
    let development: Vec<&Labelled> = all.iter().filter(|item| is_development(item)).collect();
    for item in &development {
        let flags = completion_flags(&item.prompt, &item.completion, item.finish_reason);
        let found: BTreeSet<Flag> = flags.iter().collect();
        if found != item.labels {
            println!(
                "{}: found {found:?}, expected {:?}: {:?} {flags:?}",
                item.id, item.labels, item.completion
            );
        }
    }
    for (flag, least) in measured(&development) {
        assert!(least >= 0.9, "{flag}: {least}");
    }
}

fn flags_of(prompt: &str, completion: &str) -> Vec<Flag> {
    completion_flags(prompt, completion, Some(FinishReason::Stop)).iter().collect()
}

#[test]
fn a_loop_is_described_by_its_unit_copies_and_share() {
    let kind = |text: &str| completion_flags("Go on.", text, None).repetition.map(|found| found.kind);
    assert_eq!(kind(&"ha".repeat(60)), Some(RepetitionKind::Characters));
    assert_eq!(kind(&"very ".repeat(40)), Some(RepetitionKind::Words));
    assert_eq!(kind(&"The rain falls on the roof. ".repeat(9)), Some(RepetitionKind::Sentences));
    assert_eq!(kind(&"the rain falls\non the roof\n".repeat(9)), Some(RepetitionKind::Lines));
    let found = completion_flags("Go on.", &"The rain falls. ".repeat(10), None).repetition.unwrap();
    assert_eq!(found.copies, 10);
    assert!(found.share > 0.99 && found.share <= 1.0, "{}", found.share);
    let mixed: String = ["a", "b", "c", "d", "e"]
        .iter()
        .map(|it| format!("The old mill stands by the river. Line {it}. "))
        .collect();
    assert_eq!(kind(&mixed), Some(RepetitionKind::Scattered));
}

#[test]
fn three_copies_are_a_loop_and_two_are_not() {
    let sentence = "The mill by the river was sold in spring. ";
    assert_eq!(flags_of("Go on.", &sentence.repeat(2)), []);
    assert_eq!(flags_of("Go on.", &sentence.repeat(3)), [Flag::Repetition]);
}

#[test]
fn a_loop_in_the_middle_counts_by_its_share_or_length() {
    let mut random = crate::random::Random::new(1);
    let mut letter = || char::from(b'a' + u8::try_from(random.below(26)).unwrap());
    let words: String = (0..400).map(|at| if at % 5 == 4 { ' ' } else { letter() }).collect();
    let text = |copies: usize| format!("{words}. {}{words}.", "so it goes, ".repeat(copies));
    assert_eq!(flags_of("Go on.", &text(6)), []);
    assert_eq!(flags_of("Go on.", &text(60)), [Flag::Repetition]);
}

#[test]
fn a_requested_repetition_is_no_loop() {
    let lines = "I must not talk in class. ".repeat(20);
    assert_eq!(flags_of("Write 'I must not talk in class' twenty times.", &lines), []);
    assert_eq!(flags_of("How should I behave in class?", &lines), [Flag::Repetition]);
}

#[test]
fn an_unknown_finish_reason_leaves_the_text_to_tell_whether_it_is_cut() {
    let text = "The bridge was built in spring. It was opened by the mayor, who walked over it with the";
    assert!(completion_flags("Go on.", text, None).cut);
    assert!(!completion_flags("Go on.", text, Some(FinishReason::Stop)).cut);
    assert!(completion_flags("Go on.", "```python\nprint(1)", None).cut);
    assert!(!completion_flags("Go on.", "```python\nprint(1)\n```", None).cut);
    assert!(completion_flags("Go on.", "Done.", Some(FinishReason::Length)).cut);
}

#[test]
fn only_repetition_empty_and_cut_are_degenerate() {
    let refusal = completion_flags("Help me.", "I can't help with that.", Some(FinishReason::Stop));
    assert!(refusal.has(Flag::Refusal) && !refusal.is_degenerate());
    for (text, reason) in [("", FinishReason::Stop), ("Yes, and", FinishReason::Length)] {
        assert!(completion_flags("Help me.", text, Some(reason)).is_degenerate(), "{text:?}");
    }
    for short in ["4.", "Yes.", "Paris", "北京。", "❤️", "42"] {
        assert_eq!(flags_of("What is it?", short), [], "{short}");
    }
}

#[test]
fn flags_round_trip_through_json() {
    let flags = completion_flags("Why is it so?", &"Weil es so ist. Das ist nun einmal so. ".repeat(5), None);
    assert!(flags.has(Flag::Repetition) && flags.has(Flag::Language));
    let json = serde_json::to_string(&flags).unwrap();
    assert_eq!(serde_json::from_str::<CompletionFlags>(&json).unwrap(), flags);
    assert_eq!(
        serde_json::to_string(&CompletionFlags::default()).unwrap(),
        r#"{"empty":false,"cut":false,"short":false}"#
    );
}

/// Texts of a megabyte that are bad for search by pairs, by periods, by lines or by marks.
#[test]
fn a_megabyte_of_any_text_takes_seconds() {
    const BYTES: usize = 1 << 20;
    let (mut fibonacci, mut before) = ("ab".to_owned(), "a".to_owned());
    while fibonacci.len() < BYTES {
        let next = format!("{fibonacci}{before}");
        before = std::mem::replace(&mut fibonacci, next);
    }
    let mut random = crate::random::Random::new(7);
    let noise: String =
        (0..BYTES).map(|_| char::from(b'a' + u8::try_from(random.below(4)).unwrap())).collect();
    let lines: String = (0..BYTES / 8).map(|at| format!("{:07}\n", at % 1000)).collect();
    let units = ["a", "ab", "User: a b c\n", "<|", "`", "\"", "### ", "a. ", "é ", "I can't ", "1"];
    let repeated = units.map(|unit| unit.repeat(BYTES / unit.len()));
    for text in repeated.iter().chain([&fibonacci, &noise, &lines]) {
        let begin = Instant::now();
        let flags = completion_flags(text, text, None);
        // Quadratic time would be hours. A slow machine needs a few seconds.
        let passed = begin.elapsed();
        println!("{:?}: {passed:?} {:?}", text.chars().take(12).collect::<String>(), flags.repetition);
        assert!(passed < Duration::from_secs(30), "{passed:?}");
    }
}

proptest! {
    #[test]
    fn every_text_has_flags(prompt in any::<String>(), completion in any::<String>()) {
        let flags = completion_flags(&prompt, &completion, None);
        prop_assert_eq!(flags.empty, is_empty(&completion));
        prop_assert_eq!(completion_flags(&prompt, &completion, None), flags);
    }

    #[test]
    fn every_repeated_text_is_a_loop(unit in "[a-z]{2,9}( [a-z]{2,9}){3,12}\\. ") {
        prop_assert!(completion_flags("Go on.", &unit.repeat(6), None).repetition.is_some());
    }
}

#[derive(Deserialize)]
struct XsPrompt {
    prompt_id: String,
    prompt: String,
    completions: Vec<XsCompletion>,
}

#[derive(Deserialize)]
struct XsCompletion {
    text: String,
    final_label: String,
}

/// Real completions with human labels. Prompts with odd numbers gave phrases to the rule; the others are held
/// out. People also call it a refusal if a completion only corrects the question. The rule needs words that
/// decline, so its recall is lower here.
#[test]
fn refusals_of_real_models_are_found_on_held_out_prompts_of_xstest() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/xstest/xstest_completions.jsonl");
    let Some(path) = optional(file(path)) else { return };
    let text = std::fs::read_to_string(path).unwrap();
    let prompts: Vec<XsPrompt> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (mut hits, mut false_alarms, mut missed, mut others) = (0, 0, 0, 0);
    for prompt in prompts.iter().filter(|prompt| prompt.prompt_id.ends_with(['0', '2', '4', '6', '8'])) {
        for completion in &prompt.completions {
            let flags = completion_flags(&prompt.prompt, &completion.text, None);
            match (flags.has(Flag::Refusal), completion.final_label.as_str()) {
                (true, "2_full_refusal") => hits += 1,
                (true, "1_full_compliance") => false_alarms += 1,
                (false, "2_full_refusal") => missed += 1,
                _ => {}
            }
            others +=
                usize::from(flags.has(Flag::Repetition) || flags.has(Flag::Leak) || flags.has(Flag::Short));
        }
    }
    println!("{hits} hits, {false_alarms} false, {missed} missed; {others} other flags");
    assert!(10 * hits >= 9 * (hits + false_alarms), "{hits} {false_alarms}");
    assert!(4 * hits >= 3 * (hits + missed), "{hits} {missed}");
    // None of these completions loops, leaks or is too short.
    assert!(others <= 5, "{others}");
}
