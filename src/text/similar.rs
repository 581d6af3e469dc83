//! Names similar to a misspelt one.

/// Least similarity of a suggestion, of 1 for equal names.
const SIMILARITY_MIN: f64 = 0.8;
/// Largest number of suggestions.
const SUGGESTIONS_MAX: usize = 3;

/// Returns the names most similar to a given one, the best first. A name also counts as similar if its last
/// part, after a dot, is the given last part: `tuning.budget` finds `conflict.budget`.
pub(crate) fn similar<'a>(given: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let last_part = |name: &'a str| name.rsplit('.').next().unwrap_or(name);
    let given_part = given.rsplit('.').next().unwrap_or(given);
    let mut found: Vec<(f64, &str)> = names
        .into_iter()
        .map(|name| {
            let whole = strsim::normalized_damerau_levenshtein(given, name);
            let part = strsim::normalized_damerau_levenshtein(given_part, last_part(name));
            // A right section with a misspelt key comes before a misspelt section.
            (whole.max(0.9 * part), name)
        })
        .filter(|(similarity, _)| *similarity >= SIMILARITY_MIN)
        .collect();
    found.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    found.into_iter().take(SUGGESTIONS_MAX).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_key_and_a_key_of_another_section_are_found() {
        let keys =
            ["conflict.budget", "conflict.rule", "feedback.budget", "generation.samples", "tuning.steps"];
        assert_eq!(similar("conflict.buget", keys), ["conflict.budget"]);
        assert_eq!(similar("selection.budget", keys), ["conflict.budget", "feedback.budget"]);
        assert_eq!(similar("budget", keys), ["conflict.budget", "feedback.budget"]);
        assert_eq!(similar("generation.sample", keys), ["generation.samples"]);
        assert!(similar("colour", keys).is_empty());
    }
}
