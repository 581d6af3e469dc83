//! The padding token of a written classifier. transformers reads the score at the rightmost token that is not
//! padding, and needs a padding token for batches.

use crate::checkpoint::Checkpoint;

/// Texts of tokens that do not occur at the end of a text, in the order of preference.
const UNREAD: [&str; 6] = ["<pad>", "<|padding|>", "<|pad|>", "[PAD]", "<unk>", "[UNK]"];

/// Returns the padding token with which transformers reads the classifier as Dissent does: the token that is
/// not read, else one that no text ends with. `None`, after a warning, if there is no such token: then
/// transformers reads the last token, and refuses batches.
pub(super) fn of_classifier(checkpoint: &Checkpoint) -> Option<u32> {
    let padding = checkpoint.classifier_padding().or_else(|| unread(checkpoint));
    if padding.is_none() {
        tracing::warn!(
            "the model has no token that could be padding: transformers scores its texts one at a time; add a \
             padding token for batches"
        );
    }
    padding
}

fn unread(checkpoint: &Checkpoint) -> Option<u32> {
    let (config, tokenizer) = (&checkpoint.config, &checkpoint.tokenizer);
    let end = tokenizer.eos_token().and_then(|end| tokenizer.token_id(end));
    let ends = |id: u32| config.eos_token_ids.contains(&id) || end == Some(id);
    let named = UNREAD.iter().filter_map(|text| tokenizer.token_id(text));
    // Embeddings without a token are padding of the vocabulary.
    let spare = config.vocab_size.checked_sub(1).filter(|&last| last >= tokenizer.vocabulary_size());
    let spare = spare.and_then(|last| u32::try_from(last).ok());
    config.bos_token_id.into_iter().chain(named).chain(spare).find(|&id| !ends(id))
}
