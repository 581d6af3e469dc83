//! The texts of a completion's tokens.

use dissent_models::ModelError;
use dissent_models::checkpoint::TextTokenizer;

use crate::report::TokenLogprob;

/// What a decoder writes for an incomplete character.
const INCOMPLETE: char = '\u{fffd}';

/// Returns the tokens of a completion with their texts. Tokens that share a character are joined, and their
/// log-probabilities add up. `logprobs` are in nats, one for each token.
pub(super) fn tokens(
    tokenizer: &TextTokenizer,
    ids: &[u32],
    logprobs: &[f32],
) -> Result<Vec<TokenLogprob>, ModelError> {
    let mut found: Vec<TokenLogprob> = Vec::with_capacity(ids.len());
    let (mut shown, mut pending, mut begin) = (String::new(), 0.0, 0);
    for (index, logprob) in logprobs.iter().enumerate().take(ids.len()) {
        pending += f64::from(*logprob);
        let text = tokenizer.decode(&ids[..=index], true)?;
        let is_last = index + 1 == ids.len();
        if text.ends_with(INCOMPLETE) && !is_last {
            continue;
        }
        let new = text.strip_prefix(shown.as_str()).unwrap_or_default().to_owned();
        // A special token, such as the one that ends a turn, has no text.
        let new = if new.is_empty() { tokenizer.decode(&ids[begin..=index], false)? } else { new };
        found.push(TokenLogprob { text: new, logprob: pending });
        (shown, pending, begin) = (text, 0.0, index + 1);
    }
    Ok(found)
}
