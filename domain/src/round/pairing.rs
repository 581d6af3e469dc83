//! The input of a selection, and the comparisons that judge what it selects.

use super::prompts::MeasuredPrompt;
use crate::conflict::{ScoredCompletions, Selection};
use crate::feedback::{self, Opponent};

/// The input of a selection.
pub(crate) fn scored<'a>(
    measured: &[MeasuredPrompt<'a>],
    left_out: &'a [Vec<bool>],
) -> Vec<ScoredCompletions<'a>> {
    let prompts = measured.iter().zip(left_out);
    prompts
        .map(|(prompt, left_out)| ScoredCompletions {
            conflict: prompt.conflict,
            rewards: prompt.rewards,
            left_out,
        })
        .collect()
}

/// Returns the comparisons that judge what is selected of one prompt, the one at `place`.
pub(super) fn comparisons_of(
    selection: &Selection,
    opponent: Opponent,
    place: usize,
    prompt: &MeasuredPrompt<'_>,
    left_out: &[bool],
    seed: u64,
) -> Vec<feedback::Comparison> {
    match &selection.pairs {
        Some(pairs) => feedback::in_display_order(&pairs[place], seed),
        None => feedback::comparisons(
            opponent,
            &selection.completions[place],
            &prompt.conflict.pacs,
            prompt.rewards,
            left_out,
            seed,
        ),
    }
}
