//! Assigns the open comparisons to annotators.

use dissent_domain::learning::RequestedComparison;

/// Assigns each comparison to one annotator for each missing judgement. Annotators with the fewest
/// comparisons come first, and those who have judged the comparison are left out. A hash breaks ties, so that
/// every two annotators share comparisons: agreement is measured on these. Returns one assignment for each
/// annotator, in order. Equal inputs give equal assignments.
pub(super) fn assign<'a>(
    open: &[&'a RequestedComparison],
    overlap: usize,
    annotators: &[impl AsRef<str>],
) -> Vec<Vec<&'a RequestedComparison>> {
    let mut assignments = vec![Vec::new(); annotators.len()];
    for &requested in open {
        let missing = overlap.saturating_sub(requested.judgements.len());
        let mut candidates: Vec<_> = (assignments.iter_mut().zip(annotators))
            .filter(|(_, name)| requested.judgements.of(name.as_ref()).is_none())
            .collect();
        candidates.sort_by_cached_key(|(assignment, name)| {
            (assignment.len(), tie_break(requested.request.comparison, name.as_ref()))
        });
        candidates.into_iter().take(missing).for_each(|(assignment, _)| assignment.push(requested));
    }
    assignments
}

fn tie_break(comparison: u32, annotator: &str) -> [u8; 32] {
    *blake3::Hasher::new()
        .update(&comparison.to_le_bytes())
        .update(annotator.as_bytes())
        .finalize()
        .as_bytes()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const NAMES: [&str; 5] = ["ann", "ben", "cy", "dee", "eve"];

    /// A comparison that these annotators have judged.
    fn requested(comparison: usize, judged_by: &[&str]) -> RequestedComparison {
        let judgement = serde_json::json!({ "verdict": "tie", "is_unsafe": null });
        let judgements: serde_json::Map<_, _> =
            judged_by.iter().map(|name| ((*name).to_owned(), judgement.clone())).collect();
        let request = serde_json::json!({
            "round": 0, "comparison": comparison, "prompt_id": "p", "prompt_index": 0, "first": 0, "second": 1,
        });
        let asked =
            serde_json::json!({ "request": request, "rewards": [0.0, 0.0], "judgements": judgements });
        serde_json::from_value(asked).unwrap()
    }

    proptest! {
        #[test]
        fn each_comparison_is_assigned_once_for_each_missing_judgement(
            overlap in 1..4_usize,
            count in 2..=NAMES.len(),
            judged in prop::collection::vec(prop::sample::subsequence(NAMES.to_vec(), 0..3), 0..30),
        ) {
            let annotators = &NAMES[..count];
            let all: Vec<RequestedComparison> = judged.iter().enumerate().map(|(at, by)| requested(at, by)).collect();
            let assignments = assign(&all.iter().collect::<Vec<_>>(), overlap, annotators);
            for (asked, by) in all.iter().zip(&judged) {
                let given: Vec<&str> = (assignments.iter().zip(annotators))
                    .filter(|(assignment, _)| assignment.iter().any(|assigned| assigned.request == asked.request))
                    .map(|(_, name)| *name)
                    .collect();
                let candidates = annotators.iter().filter(|name| !by.contains(name)).count();
                prop_assert_eq!(given.len(), overlap.saturating_sub(by.len()).min(candidates));
                prop_assert!(given.iter().all(|name| !by.contains(name)));
            }
            for assignment in &assignments {
                prop_assert!(assignment.is_sorted_by_key(|assigned| assigned.request.comparison));
            }
        }

        #[test]
        fn assignments_without_judgements_differ_by_one_comparison_at_most(overlap in 1..4_usize, comparisons in 0..40_usize) {
            let all: Vec<RequestedComparison> = (0..comparisons).map(|at| requested(at, &[])).collect();
            let assignments = assign(&all.iter().collect::<Vec<_>>(), overlap, &NAMES);
            let sizes: Vec<usize> = assignments.iter().map(Vec::len).collect();
            prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1, "{:?}", sizes);
        }
    }

    #[test]
    fn every_two_annotators_share_comparisons() {
        let all: Vec<RequestedComparison> = (0..60).map(|at| requested(at, &[])).collect();
        let assignments = assign(&all.iter().collect::<Vec<_>>(), 2, &NAMES[..4]);
        let of = |assignment: &Vec<&RequestedComparison>| {
            assignment.iter().map(|assigned| assigned.request.comparison).collect::<BTreeSet<_>>()
        };
        for (at, one) in assignments.iter().enumerate() {
            for other in &assignments[at + 1..] {
                assert!(of(one).intersection(&of(other)).count() >= 3);
            }
        }
    }
}
