//! The verdict of a study in sentences, derived from intervals and never from means.

use dissent_domain::analysis::{ComparisonResult, Interval};
use dissent_domain::feedback::Opponent;

use super::opponents::{OpponentTable, VERDICT_SHARE};
use super::prediction::{AurocComparison, Predictions};

/// Returns the verdict in sentences, the comparison of conflict with the baselines first.
#[must_use]
pub fn of_predictions(predictions: &Predictions) -> Vec<String> {
    let of_conflict: Vec<&AurocComparison> =
        predictions.comparisons.iter().filter(|comparison| comparison.rule == CONFLICT).collect();
    let mut sentences = Vec::new();
    if !of_conflict.is_empty() {
        let results: Vec<String> = of_conflict.iter().map(|comparison| result(comparison)).collect();
        sentences.push(format!("In finding the proxy's errors, conflict (SHF-CAS) {}.", listed(&results)));
    }
    if let Some(errors) = predictions.error_rate.filter(|errors| errors.high >= 0.5) {
        sentences.push(format!(
            "The proxy may be no better than chance: the proxy orders {:.1} % of pairs wrongly (95 % {:.1} to {:.1}). No rule \
             can then find its errors.",
            100.0 * errors.mean,
            100.0 * errors.low,
            100.0 * errors.high
        ));
    }
    sentences.extend(of_conflict.iter().map(|comparison| detail(predictions, comparison)));
    let best: Vec<&str> = combinations(predictions);
    sentences.push(if best.is_empty() {
        "No combination of conflict and margin was better than both of them alone.".to_owned()
    } else {
        format!(
            "Rules that won against both conflict and margin (95 % intervals exclude 0): {}.",
            best.join(", ")
        )
    });
    sentences
}

/// Returns the comparison of the other opponents with `conflict`, in a sentence; `None` without intervals.
#[must_use]
pub fn of_opponents(table: &OpponentTable) -> Option<String> {
    let kind = table.rows.first()?.logprob;
    let rows = table.rows.iter().filter(|row| row.logprob == kind && is_verdict_share(row.share));
    let results: Vec<String> = rows
        .filter_map(|row| {
            let found = row.differences.iter().find(|difference| difference.over == Opponent::Conflict)?;
            let (name, result) = (row.opponent.name(), found.result.name());
            Some(format!("{name} {result} ({})", interval(&found.errors_per_label)))
        })
        .collect();
    (!results.is_empty()).then(|| {
        let share = 100.0 * VERDICT_SHARE;
        format!(
            "By errors found a label at {share:.0} % of the completions, against the opponent conflict: {}.",
            listed(&results)
        )
    })
}

fn is_verdict_share(share: f64) -> bool {
    (share - VERDICT_SHARE).abs() < 1e-9
}

/// The name of the SHF-CAS rule.
const CONFLICT: &str = "conflict";

/// Returns the rules that won against conflict and against the margin.
fn combinations(predictions: &Predictions) -> Vec<&str> {
    let beats = |rule: &str, other: &str| {
        predictions.comparisons.iter().any(|comparison| {
            comparison.rule == rule && comparison.over == other && comparison.result == ComparisonResult::Won
        })
    };
    let names = predictions.rules.iter().map(|prediction| prediction.rule.as_str());
    names.filter(|rule| beats(rule, CONFLICT) && beats(rule, "margin")).collect()
}

fn result(comparison: &AurocComparison) -> String {
    match comparison.result {
        ComparisonResult::Won => format!("won against {}", comparison.over),
        ComparisonResult::Lost => format!("lost to {}", comparison.over),
        ComparisonResult::Tied => format!("tied with {}", comparison.over),
    }
}

fn detail(predictions: &Predictions, comparison: &AurocComparison) -> String {
    let auroc = |rule: &str| {
        let found = predictions.rules.iter().find(|prediction| prediction.rule == rule);
        found.and_then(|prediction| prediction.auroc).map_or(f64::NAN, |auroc| auroc.mean)
    };
    format!(
        "{} {} by AUROC: {:.3} against {:.3}, a difference of {}.",
        capitalised(&comparison.rule),
        result(comparison),
        auroc(&comparison.rule),
        auroc(&comparison.over),
        interval(&comparison.auroc)
    )
}

/// Formats a difference with its interval.
#[must_use]
pub fn interval(interval: &Interval) -> String {
    format!("{:+.3} (95 % {:+.3} to {:+.3})", interval.mean, interval.low, interval.high)
}

/// Joins items as in a sentence, with "and" before the last one.
#[must_use]
pub fn listed(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::prediction::Prediction;
    use super::*;

    fn predictions(comparisons: Vec<(&str, &str, Interval)>) -> Predictions {
        let rule = |rule: &str| Prediction {
            rule: rule.to_owned(),
            meaning: "",
            auroc: None,
            auroc_at_equal_margin: None,
            mean_precision: None,
            at: Vec::new(),
        };
        let comparison = |(rule, over, auroc): (&str, &str, Interval)| AurocComparison {
            rule: rule.to_owned(),
            over: over.to_owned(),
            auroc,
            result: ComparisonResult::of(&auroc),
        };
        Predictions {
            pairs: 10.0,
            prompts: 5,
            samples: 1,
            error_rate: None,
            rules: ["random", "margin", "conflict", "doubt"].map(rule).to_vec(),
            comparisons: comparisons.into_iter().map(comparison).collect(),
        }
    }

    fn of(low: f64, high: f64) -> Interval {
        Interval { mean: f64::midpoint(low, high), low, high, n: 9 }
    }

    #[test]
    fn the_first_sentence_compares_conflict_with_the_baselines() {
        let found = of_predictions(&predictions(vec![
            ("conflict", "random", of(0.01, 0.2)),
            ("conflict", "margin", of(-0.2, -0.1)),
            ("conflict", "ensemble variance", of(-0.1, 0.1)),
        ]));
        assert_eq!(
            found[0],
            "In finding the proxy's errors, conflict (SHF-CAS) won against random, lost to margin and tied with ensemble variance."
        );
        assert!(found[2].contains("-0.150 (95 % -0.200 to -0.100)"), "{}", found[2]);
        assert_eq!(
            found.last().unwrap(),
            "No combination of conflict and margin was better than both of them alone."
        );
    }

    #[test]
    fn a_combination_must_beat_conflict_and_margin() {
        let beats = |over_margin: Interval| {
            of_predictions(&predictions(vec![
                ("doubt", "conflict", of(0.1, 0.2)),
                ("doubt", "margin", over_margin),
            ]))
        };
        assert!(beats(of(0.01, 0.2)).last().unwrap().ends_with("doubt."));
        assert!(beats(of(-0.01, 0.2)).last().unwrap().starts_with("No combination"));
    }

    #[test]
    fn the_verdict_warns_of_a_proxy_at_chance() {
        let warns = |errors: Interval| {
            let found = Predictions { error_rate: Some(errors), ..predictions(Vec::new()) };
            of_predictions(&found).iter().any(|sentence| sentence.contains("no better than chance"))
        };
        assert!(warns(of(0.47, 0.52)));
        assert!(!warns(of(0.3, 0.4)));
    }

    proptest! {
        #[test]
        fn the_sentence_agrees_with_the_interval(low in -0.5..0.5_f64, width in 0.0..0.5_f64) {
            let interval = of(low, low + width);
            let sentence = of_predictions(&predictions(vec![("conflict", "random", interval)])).remove(0);
            prop_assert_eq!(sentence.contains("won against random"), interval.low > 0.0);
            prop_assert_eq!(sentence.contains("lost to random"), interval.high < 0.0);
            prop_assert_eq!(
                sentence.contains("tied with random"), interval.low <= 0.0 && interval.high >= 0.0
            );
        }
    }
}
