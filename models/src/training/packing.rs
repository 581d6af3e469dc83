//! Packs sequences of different lengths into one run of a training graph.
//!
//! The tokens of all sequences are concatenated without padding: every linear layer, norm and head works on
//! `[tokens, width]`. Only attention needs separate sequences, padded to the longest. An index moves heads
//! from `[tokens · heads, head_dim]` to `[sequences, kv_heads, group · longest, head_dim]`; its inverse moves
//! them back. The heads of a group are stacked, so that they share one product with their keys.

use std::iter::repeat_n;

use crate::checkpoint::ModelConfig;
use crate::checkpoint::score_head::scored_token;
use crate::error::{InvalidKind, ModelError};

use super::spec::TrainingHead;

/// A sequence to train on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainingSequence {
    /// The tokens of the prompt and the completion.
    pub ids: Vec<u32>,
    /// The index at which the completion begins: at least 1, and below the length. Not used if whole
    /// sequences are scored.
    pub completion_start: usize,
    /// The indices of tokens after [`TrainingSequence::completion_start`] that are not learnt, ascending: the
    /// other speaker's turns between completions. Empty for whole completions; only for supervised
    /// fine-tuning.
    pub skipped: Vec<usize>,
}

/// Packed sequences, with the positions that the head reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedBatch {
    head: TrainingHead,
    lengths: Vec<usize>,
    /// `[tokens]`.
    pub(super) ids: Vec<i64>,
    /// `[tokens]`: the position of each token in its sequence.
    pub(super) positions: Vec<i64>,
    /// `[selected]`: the tokens whose hidden states the head reads.
    pub(super) selected: Vec<i64>,
    /// `[selected]`: the token that follows each; empty for a score head.
    pub(super) targets: Vec<i64>,
    /// The number of selected tokens of each sequence.
    selected_lengths: Vec<usize>,
}

impl PackedBatch {
    /// Packs sequences for a head. [`TrainingHead::Score`] reads the last token of each sequence; the other
    /// heads read the token before each completion token.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if there are no sequences, or one is empty or has no prompt or completion.
    pub fn new(sequences: &[TrainingSequence], head: TrainingHead) -> Result<Self, ModelError> {
        Self::with_padding(sequences, head, None)
    }

    /// As [`PackedBatch::new`], for a model with a padding token. [`TrainingHead::Score`] then reads the
    /// rightmost token of each sequence that is not padding.
    ///
    /// # Errors
    /// As [`PackedBatch::new`].
    pub fn with_padding(
        sequences: &[TrainingSequence],
        head: TrainingHead,
        padding: Option<u32>,
    ) -> Result<Self, ModelError> {
        if sequences.is_empty() {
            return Err(ModelError::invalid(InvalidKind::Empty, "a batch needs at least one sequence"));
        }
        let mut batch = Self {
            head,
            lengths: Vec::with_capacity(sequences.len()),
            ids: Vec::new(),
            positions: Vec::new(),
            selected: Vec::new(),
            targets: Vec::new(),
            selected_lengths: Vec::with_capacity(sequences.len()),
        };
        for (index, sequence) in sequences.iter().enumerate() {
            batch.push(sequence, padding).map_err(|reason| {
                ModelError::invalid(InvalidKind::Data, format!("sequence {index} of a batch {reason}"))
            })?;
        }
        Ok(batch)
    }

    fn push(&mut self, sequence: &TrainingSequence, padding: Option<u32>) -> Result<(), String> {
        let (length, start) = (sequence.ids.len(), sequence.completion_start);
        let first = self.ids.len();
        if length == 0 {
            return Err("has no token".to_owned());
        }
        let selected: Vec<usize> = match self.head {
            TrainingHead::Score => vec![scored_token(&sequence.ids, padding)],
            TrainingHead::Vocabulary | TrainingHead::VocabularyAndValue => {
                if start == 0 || start >= length {
                    return Err(format!(
                        "has {length} tokens and its completion begins at {start}: \
                         use at least one token of a prompt and one of a completion"
                    ));
                }
                let learnt = (start..length).filter(|place| sequence.skipped.binary_search(place).is_err());
                self.targets.extend(learnt.clone().map(|place| i64::from(sequence.ids[place])));
                learnt.map(|place| place - 1).collect()
            }
        };
        self.selected_lengths.push(selected.len());
        self.selected.extend(selected.into_iter().map(|place| integer(first + place)));
        self.ids.extend(sequence.ids.iter().map(|&id| i64::from(id)));
        self.positions.extend((0..length).map(integer));
        self.lengths.push(length);
        Ok(())
    }

    /// Returns the head for which the batch was packed.
    #[must_use]
    pub fn head(&self) -> TrainingHead {
        self.head
    }

    /// Returns the number of sequences.
    #[must_use]
    pub fn sequences(&self) -> usize {
        self.lengths.len()
    }

    /// Returns the number of tokens.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Returns the number of tokens that the head reads: completion tokens, or one per sequence.
    #[must_use]
    pub fn selected(&self) -> usize {
        self.selected.len()
    }

    /// Splits numbers of selected tokens, `[selected]`, by sequence.
    pub fn by_sequence<'n, T>(&self, numbers: &'n [T]) -> impl Iterator<Item = &'n [T]> {
        let mut rest = numbers;
        self.selected_lengths.iter().map(move |&length| {
            let (first, after) = rest.split_at_checked(length).unwrap_or((rest, &[]));
            rest = after;
            first
        })
    }

    /// `[tokens]`: the index of each token among the selected, or −1.
    pub(super) fn selected_inverse(&self) -> Vec<i64> {
        let mut inverse = vec![-1; self.tokens()];
        for (place, token) in self.selected.iter().enumerate() {
            if let Some(at_token) = usize::try_from(*token).ok().and_then(|token| inverse.get_mut(token)) {
                *at_token = integer(place);
            }
        }
        inverse
    }

    /// `[sequences, selected]`, row-major: 1 where a selected token belongs to the sequence, else 0. For
    /// means, 1 / its selected tokens. Its product with numbers of selected tokens is their sum (or mean)
    /// over each sequence.
    pub(super) fn membership(&self, mean: bool) -> Vec<f32> {
        let mut rows = Vec::with_capacity(self.sequences() * self.selected());
        let mut before = 0;
        for &length in &self.selected_lengths {
            #[expect(clippy::cast_precision_loss, reason = "a completion has far fewer than 2²⁴ tokens")]
            let weight = if mean { 1.0 / length as f32 } else { 1.0 };
            rows.extend(repeat_n(0.0, before));
            rows.extend(repeat_n(weight, length));
            before += length;
            rows.extend(repeat_n(0.0, self.selected() - before));
        }
        rows
    }

    /// Checks that a model can run the batch.
    pub(super) fn check(&self, config: &ModelConfig, positions_max: usize) -> Result<(), ModelError> {
        if let Some(longest) = self.lengths.iter().find(|&&length| length > positions_max) {
            return Err(ModelError::invalid(
                InvalidKind::TooLong { tokens: *longest, max: positions_max },
                format!(
                    "a sequence of {longest} tokens is longer than the {positions_max} tokens of the model's context"
                ),
            ));
        }
        match self.ids.iter().find(|&&id| usize::try_from(id).is_ok_and(|id| id >= config.vocab_size)) {
            None => Ok(()),
            Some(id) => Err(ModelError::invalid(
                InvalidKind::UnknownToken { id: u32::try_from(*id).unwrap_or(u32::MAX) },
                format!(
                    "token {id} is outside the vocabulary ({} tokens): use the tokenizer of this model",
                    config.vocab_size
                ),
            )),
        }
    }

    /// Returns the indices by which attention finds each head.
    pub(super) fn attention(&self, heads: usize, kv_heads: usize) -> AttentionPlaces {
        let group = heads / kv_heads.max(1);
        let (query_index, query_inverse) = self.places(kv_heads, group);
        let (key_index, key_inverse) = self.places(kv_heads, 1);
        AttentionPlaces { query_index, query_inverse, key_index, key_inverse }
    }

    /// `[group · longest, longest]`, for `group` query heads of a key-value head: 0 for visible tokens, −∞
    /// for later ones and for those before the window.
    pub(super) fn mask(&self, group: usize, window: Option<usize>) -> Vec<f32> {
        let longest = self.longest();
        let row = |query: usize| {
            let hidden = window.map_or(0, |window| (query + 1).saturating_sub(window));
            repeat_n(f32::NEG_INFINITY, hidden)
                .chain(repeat_n(0.0, query + 1 - hidden))
                .chain(repeat_n(f32::NEG_INFINITY, longest - query - 1))
        };
        (0..group).flat_map(|_| 0..longest).flat_map(row).collect()
    }

    /// Returns the longest sequence, in tokens.
    pub(super) fn longest(&self) -> usize {
        self.lengths.iter().copied().max().unwrap_or(0)
    }

    /// For each place of `[sequences, kv_heads, group, longest]` the row of `[tokens, kv_heads · group]` at
    /// that place (−1: padding), and for each row its place.
    fn places(&self, kv_heads: usize, group: usize) -> (Vec<i64>, Vec<i64>) {
        let (heads, longest) = (kv_heads * group, self.longest());
        let mut index = vec![-1; self.sequences() * heads * longest];
        let mut inverse = Vec::with_capacity(self.tokens() * heads);
        for (sequence, &length) in self.lengths.iter().enumerate() {
            for position in 0..length {
                for head in 0..heads {
                    let place = (sequence * heads + head) * longest + position;
                    if let Some(at_place) = index.get_mut(place) {
                        *at_place = integer(inverse.len());
                    }
                    inverse.push(integer(place));
                }
            }
        }
        (index, inverse)
    }
}

/// The indices of attention, and its mask.
pub(super) struct AttentionPlaces {
    /// `[sequences · heads · longest]`: rows of `[tokens · heads]`, or −1.
    pub(super) query_index: Vec<i64>,
    /// `[tokens · heads]`.
    pub(super) query_inverse: Vec<i64>,
    /// `[sequences · kv_heads · longest]`: rows of `[tokens · kv_heads]`, or −1.
    pub(super) key_index: Vec<i64>,
    /// `[tokens · kv_heads]`.
    pub(super) key_inverse: Vec<i64>,
}

fn integer(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(ids: &[u32], completion_start: usize) -> TrainingSequence {
        TrainingSequence { ids: ids.to_vec(), completion_start, skipped: Vec::new() }
    }

    fn batch(head: TrainingHead) -> PackedBatch {
        PackedBatch::new(&[sequence(&[5, 6, 7, 8], 2), sequence(&[9, 10], 1)], head).expect("a batch")
    }

    #[test]
    fn tokens_are_packed_without_padding_and_the_head_reads_completion_predictors() {
        let batch = batch(TrainingHead::Vocabulary);
        assert_eq!(batch.ids, [5, 6, 7, 8, 9, 10]);
        assert_eq!(batch.positions, [0, 1, 2, 3, 0, 1]);
        assert_eq!((&batch.selected[..], &batch.targets[..]), (&[1, 2, 4][..], &[7, 8, 10][..]));
        assert_eq!(batch.selected_inverse(), [-1, 0, 1, -1, 2, -1]);
        assert_eq!(batch.by_sequence(&[1, 2, 3]).collect::<Vec<_>>(), [&[1, 2][..], &[3]]);
        assert_eq!(batch.membership(false), [1.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
        assert_eq!(batch.membership(true), [0.5, 0.5, 0.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn skipped_tokens_are_not_read() {
        let skipping = TrainingSequence { skipped: vec![2, 4], ..sequence(&[5, 6, 7, 8, 9, 10], 1) };
        let batch =
            PackedBatch::new(&[skipping, sequence(&[9, 10], 1)], TrainingHead::Vocabulary).expect("a batch");
        assert_eq!((&batch.selected[..], &batch.targets[..]), (&[0, 2, 4, 6][..], &[6, 8, 10, 10][..]));
        assert_eq!(batch.by_sequence(&[1, 2, 3, 4]).collect::<Vec<_>>(), [&[1, 2, 3][..], &[4]]);
    }

    #[test]
    fn a_score_is_read_at_the_last_token() {
        assert_eq!(batch(TrainingHead::Score).selected, [3, 5]);
    }

    #[test]
    fn a_score_is_read_at_the_rightmost_token_that_is_not_padding() {
        let sequences =
            [sequence(&[5, 6, 2, 2], 2), sequence(&[2, 9], 1), sequence(&[2, 2], 1), sequence(&[2, 7, 2], 1)];
        let batch = PackedBatch::with_padding(&sequences, TrainingHead::Score, Some(2)).expect("a batch");
        // A sequence of padding alone is read at its first token.
        assert_eq!(batch.selected, [1, 5, 6, 9]);
        assert_eq!(batch.tokens(), 11);
    }

    #[test]
    fn each_row_has_one_place_and_padding_has_no_row() {
        let batch = batch(TrainingHead::Score);
        let places = batch.attention(4, 2);
        assert_eq!(places.query_index.len(), 2 * 4 * 4);
        for (row, &place) in (0_i64..).zip(&places.query_inverse) {
            assert_eq!(places.query_index[usize::try_from(place).expect("a place")], row);
        }
        assert_eq!(places.query_index.iter().filter(|&&row| row == -1).count(), 2 * 4);
        // Row 13 is head 1 of token 3; its place is sequence 0, head 1, position 3.
        assert_eq!(places.query_inverse[13], 7);
        // Row 11 of the keys is head 1 of token 5: sequence 1, head 1, position 1.
        assert_eq!(places.key_inverse[11], (2 + 1) * 4 + 1);
    }

    #[test]
    fn a_token_sees_itself_and_earlier_tokens_inside_the_window() {
        let batch = batch(TrainingHead::Score);
        let (infinity, mask) = (f32::NEG_INFINITY, batch.mask(2, None));
        assert_eq!(mask[..8], [0.0, infinity, infinity, infinity, 0.0, 0.0, infinity, infinity]);
        assert_eq!(mask[..16], mask[16..]);
        let windowed = batch.mask(1, Some(2));
        assert_eq!(windowed[..8], mask[..8]);
        assert_eq!(windowed[8..], [infinity, 0.0, 0.0, infinity, infinity, infinity, 0.0, 0.0]);
    }

    #[test]
    fn an_untrainable_sequence_is_named() {
        let error = PackedBatch::new(&[sequence(&[1, 2], 1), sequence(&[1, 2], 2)], TrainingHead::Vocabulary)
            .expect_err("no completion")
            .to_string();
        assert!(error.contains("sequence 1"), "{error}");
        assert!(PackedBatch::new(&[], TrainingHead::Score).is_err());
        assert!(PackedBatch::new(&[sequence(&[], 0)], TrainingHead::Score).is_err());
    }
}
