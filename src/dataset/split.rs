//! The split of rows into training and evaluation.

use super::rows::Row;

/// Splits rows into training rows and about `share` held-out rows, both in the order of the file.
///
/// Rows with the same prompt stay together, so that no prompt of the training is evaluated. `share` is in
/// (0, 1). The choice depends on the seed and the prompts only.
#[must_use]
pub fn hold_out<T>(
    rows: Vec<Row<T>>,
    share: f64,
    seed: u64,
    prompt: impl Fn(&T) -> String,
) -> (Vec<Row<T>>, Vec<Row<T>>) {
    let draw = |row: &Row<T>| {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        hasher.update(prompt(&row.value).as_bytes());
        *hasher.finalize().as_bytes()
    };
    let draws: Vec<[u8; 32]> = rows.iter().map(draw).collect();
    let mut sorted = draws.clone();
    sorted.sort_unstable();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a length is a length"
    )]
    let wanted = ((rows.len() as f64 * share).round() as usize).clamp(1, rows.len().max(1));
    let Some(last) = sorted.get(wanted - 1).copied() else { return (rows, Vec::new()) };
    let mut draws = draws.into_iter();
    let (held, learnt) = rows.into_iter().partition(|_| draws.next().is_some_and(|draw| draw <= last));
    (learnt, held)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows(prompts: &[u8]) -> Vec<Row<u8>> {
        prompts.iter().zip(1..).map(|(&value, line)| Row { line, value }).collect()
    }

    proptest! {
        #[test]
        fn rows_are_split_completely_and_prompts_are_never_divided(
            prompts in prop::collection::vec(0u8..30, 1..60),
            share in 0.01..0.99f64,
            seed in 0u64..50,
        ) {
            let (learnt, held) = hold_out(rows(&prompts), share, seed, u8::to_string);
            let mut lines: Vec<u64> = learnt.iter().chain(&held).map(|row| row.line).collect();
            lines.sort_unstable();
            prop_assert_eq!(lines, (1..=prompts.len() as u64).collect::<Vec<_>>());
            prop_assert!(held.iter().all(|row| learnt.iter().all(|other| other.value != row.value)));
            prop_assert!(learnt.is_sorted_by_key(|row| row.line) && held.is_sorted_by_key(|row| row.line));
        }
    }

    #[test]
    fn the_share_of_distinct_prompts_is_kept_and_the_seed_chooses_them() {
        let prompts: Vec<u8> = (0..200).collect();
        let held = |seed| hold_out(rows(&prompts), 0.1, seed, u8::to_string).1;
        assert_eq!(held(1).len(), 20);
        assert_eq!(held(1), held(1));
        assert_ne!(held(1), held(2));
    }
}
