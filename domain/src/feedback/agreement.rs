//! Agreement of annotators, corrected for chance.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Judgements, Verdict};

/// Agreement among annotators on comparisons with several judgements. A figure is `None` where it is
/// undefined.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Agreement {
    /// Share of the pairs of judgements of the same comparison that are equal.
    pub observed: Option<f64>,
    /// Fleiss' κ; only where every comparison has the same number of judgements.
    pub fleiss_kappa: Option<f64>,
    /// Krippendorff's α for nominal data, which allows missing judgements.
    pub krippendorff_alpha: Option<f64>,
}

impl Agreement {
    /// Computes the agreement from the labels of each item. Items with fewer than two labels do not count.
    #[must_use]
    pub fn of<L: Copy + Ord>(items: &[Vec<L>]) -> Self {
        let mut counts: Vec<Vec<f64>> = Vec::new();
        let mut labels: Vec<L> = items.iter().flatten().copied().collect();
        labels.sort_unstable();
        labels.dedup();
        for item in items.iter().filter(|item| item.len() >= 2) {
            let count = |label: &L| item.iter().filter(|given| *given == label).count() as f64;
            counts.push(labels.iter().map(count).collect());
        }
        if counts.is_empty() {
            return Self::default();
        }
        let same_number = counts.iter().all(|item| same(total(item), total(&counts[0])));
        Self {
            observed: Some(observed(&counts)),
            fleiss_kappa: if same_number { fleiss_kappa(&counts) } else { None },
            krippendorff_alpha: krippendorff_alpha(&counts),
        }
    }
}

fn total(item: &[f64]) -> f64 {
    item.iter().sum()
}

/// Counts are whole numbers, which 64 bits hold exactly.
fn same(x: f64, y: f64) -> bool {
    (x - y).abs() < 0.5
}

/// Number of ordered pairs of equal labels in an item.
fn equal_pairs(item: &[f64]) -> f64 {
    item.iter().map(|count| count * (count - 1.0)).sum()
}

fn observed(counts: &[Vec<f64>]) -> f64 {
    let all: f64 = counts.iter().map(|item| total(item) * (total(item) - 1.0)).sum();
    counts.iter().map(|item| equal_pairs(item)).sum::<f64>() / all
}

/// Fleiss (1971): (P̄ − P̄ₑ) / (1 − P̄ₑ). Undefined if all labels are equal.
fn fleiss_kappa(counts: &[Vec<f64>]) -> Option<f64> {
    let judgements: f64 = counts.iter().map(|item| total(item)).sum();
    let chance: f64 = shares(counts, judgements).map(|share| share * share).sum();
    beyond(observed(counts), chance)
}

/// Krippendorff (2011), nominal: 1 − Dₒ / Dₑ, from the coincidence matrix. Undefined if all labels are equal.
fn krippendorff_alpha(counts: &[Vec<f64>]) -> Option<f64> {
    let judgements: f64 = counts.iter().map(|item| total(item)).sum();
    let agreeing: f64 = counts.iter().map(|item| equal_pairs(item) / (total(item) - 1.0)).sum();
    let chance: f64 = (0..counts[0].len())
        .map(|label| counts.iter().map(|item| item[label]).sum::<f64>())
        .map(|of_label| of_label * (of_label - 1.0))
        .sum();
    beyond(agreeing / judgements, chance / (judgements * (judgements - 1.0)))
}

fn shares(counts: &[Vec<f64>], judgements: f64) -> impl Iterator<Item = f64> {
    (0..counts[0].len()).map(move |label| counts.iter().map(|item| item[label]).sum::<f64>() / judgements)
}

fn beyond(observed: f64, chance: f64) -> Option<f64> {
    (chance < 1.0).then(|| (observed - chance) / (1.0 - chance))
}

/// Returns Cohen's κ (1960) of two annotators, from their labels of the items that both judged. `None`
/// without such items, or if all labels are equal.
#[must_use]
pub fn cohen_kappa<L: Copy + Ord>(pairs: &[(L, L)]) -> Option<f64> {
    let items = pairs.len() as f64;
    let mut labels: Vec<L> = pairs.iter().flat_map(|&(one, other)| [one, other]).collect();
    labels.sort_unstable();
    labels.dedup();
    let share = |is: &dyn Fn(&(L, L)) -> bool| pairs.iter().filter(|pair| is(pair)).count() as f64 / items;
    let chance =
        labels.iter().map(|label| share(&|pair| pair.0 == *label) * share(&|pair| pair.1 == *label)).sum();
    if pairs.is_empty() { None } else { beyond(share(&|(one, other)| one == other), chance) }
}

/// Agreement of two annotators on the comparisons that both judged.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PairAgreement {
    /// The annotators, in the order of names.
    pub annotators: [String; 2],
    /// Comparisons that both judged, ≥ 1.
    pub comparisons: u32,
    /// Cohen's κ; `None` where it is undefined.
    pub cohen_kappa: Option<f64>,
}

/// Returns every pair of annotators with a common comparison, in the order of names.
#[must_use]
pub fn pair_agreements<'a>(comparisons: impl IntoIterator<Item = &'a Judgements>) -> Vec<PairAgreement> {
    let mut pairs: BTreeMap<[&str; 2], Vec<(Verdict, Verdict)>> = BTreeMap::new();
    for judgements in comparisons {
        let given: Vec<_> = judgements.iter().collect();
        for (place, (one, first)) in given.iter().enumerate() {
            for (other, second) in given.iter().skip(place + 1) {
                pairs.entry([*one, *other]).or_default().push((first.verdict, second.verdict));
            }
        }
    }
    let agreement = |(names, verdicts): ([&str; 2], Vec<(Verdict, Verdict)>)| PairAgreement {
        annotators: names.map(str::to_owned),
        comparisons: u32::try_from(verdicts.len()).unwrap_or(u32::MAX),
        cohen_kappa: cohen_kappa(&verdicts),
    };
    pairs.into_iter().map(agreement).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn assert_near(value: Option<f64>, expected: f64) {
        let value = value.unwrap();
        assert!((value - expected).abs() < 5e-7, "{value}, not {expected}");
    }

    /// Two annotators, 50 items: 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no. Observed .7, by chance .5.
    fn grants() -> Vec<(bool, bool)> {
        let cells = [((true, true), 20), ((true, false), 5), ((false, true), 10), ((false, false), 15)];
        cells.into_iter().flat_map(|(cell, count)| std::iter::repeat_n(cell, count)).collect()
    }

    #[test]
    fn cohens_kappa_of_a_textbook_table() {
        assert_near(cohen_kappa(&grants()), 0.4);
        let swapped: Vec<(bool, bool)> = grants().into_iter().map(|(one, other)| (other, one)).collect();
        assert_near(cohen_kappa(&swapped), 0.4);
    }

    #[test]
    fn two_annotators_agree_alike_by_every_figure() {
        let items: Vec<Vec<bool>> = grants().into_iter().map(|(one, other)| vec![one, other]).collect();
        let agreement = Agreement::of(&items);
        assert_near(agreement.observed, 0.7);
        // 55 of 100 labels are yes: chance .55² + .45² = .505.
        assert_near(agreement.fleiss_kappa, (0.7 - 0.505) / 0.495);
        // Without replacement: (55·54 + 45·44) / (100·99) = .5.
        assert_near(agreement.krippendorff_alpha, 0.4);
    }

    /// Krippendorff (2011), section C: nominal data, missing values, α = .743.
    #[test]
    fn krippendorffs_alpha_of_his_own_example_with_missing_labels() {
        const A: [u8; 12] = [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0];
        const B: [u8; 12] = [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3];
        const C: [u8; 12] = [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0];
        const D: [u8; 12] = [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0];
        let item = |at: usize| [A, B, C, D].iter().map(|by| by[at]).filter(|label| *label > 0).collect();
        let items: Vec<Vec<u8>> = (0..12).map(item).collect();
        let agreement = Agreement::of(&items);
        assert!((agreement.krippendorff_alpha.unwrap() - 0.743).abs() < 5e-4);
        assert_eq!(agreement.fleiss_kappa, None, "items have different numbers of labels");
    }

    #[test]
    fn full_agreement_is_one_and_what_is_undefined_is_none() {
        let agreed = Agreement::of(&[vec![1, 1], vec![2, 2]]);
        assert_near(agreed.fleiss_kappa, 1.0);
        assert_near(agreed.krippendorff_alpha, 1.0);
        assert_near(cohen_kappa(&[(1, 1), (2, 2)]), 1.0);
        // Equal labels have no disagreement by chance, so κ is undefined.
        let alike = Agreement::of(&[vec![1, 1], vec![1, 1]]);
        assert_eq!((alike.observed, alike.fleiss_kappa, alike.krippendorff_alpha), (Some(1.0), None, None));
        assert_eq!(cohen_kappa(&[(1, 1)]), None);
        assert_eq!(cohen_kappa::<u8>(&[]), None);
        assert_eq!(Agreement::of(&[vec![1], vec![2], vec![]]), Agreement::default());
    }

    #[test]
    fn pairs_of_annotators_are_compared_on_what_both_judged() {
        let judged = |given: &[(&str, Verdict)]| {
            let mut judgements = Judgements::default();
            for &(annotator, verdict) in given {
                judgements.insert(annotator, super::super::Judgement { verdict, is_unsafe: None });
            }
            judgements
        };
        let (first, second) = (Verdict::First, Verdict::Second);
        let comparisons = [
            judged(&[("bob", first), ("ann", first)]),
            judged(&[("bob", second), ("ann", second), ("cy", first)]),
            judged(&[("ann", first)]),
        ];
        let pairs = pair_agreements(&comparisons);
        let seen: Vec<_> = pairs
            .iter()
            .map(|pair| (pair.annotators.join("-"), pair.comparisons, pair.cohen_kappa))
            .collect();
        let expected = [("ann-bob", 2, Some(1.0)), ("ann-cy", 1, Some(0.0)), ("bob-cy", 1, Some(0.0))];
        assert_eq!(seen, expected.map(|(names, count, kappa)| (names.to_owned(), count, kappa)));
    }

    #[derive(serde::Deserialize)]
    struct Item {
        annotator1: u8,
        annotator2: u8,
        annotator3: u8,
    }

    /// Real judgements: 999 pairs of completions, each judged by three people.
    #[test]
    fn the_figures_of_the_pandalm_annotators_are_the_known_ones() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/pandalm/testset-v1.json");
        let Some(path) = crate::required::optional(crate::required::file(path)) else { return };
        let text = std::fs::read_to_string(&path).unwrap();
        let items: Vec<Item> = serde_json::from_str(&text).unwrap();
        assert_eq!(items.len(), 999);
        let labels: Vec<Vec<u8>> =
            items.iter().map(|item| vec![item.annotator1, item.annotator2, item.annotator3]).collect();
        let agreement = Agreement::of(&labels);
        assert_near(agreement.observed, 0.919920);
        assert_near(agreement.fleiss_kappa, 0.864175);
        assert_near(agreement.krippendorff_alpha, 0.864221);
        for (one, other, expected) in [(0, 1, 0.852023), (0, 2, 0.878944), (1, 2, 0.861661)] {
            let pairs: Vec<(u8, u8)> = labels.iter().map(|labels| (labels[one], labels[other])).collect();
            assert_near(cohen_kappa(&pairs), expected);
        }
    }
}
