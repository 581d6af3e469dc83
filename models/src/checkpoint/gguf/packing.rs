//! The mapping of quantised blocks to packed matrices, exactly: `MatMulNBits` computes with the same numbers.

use super::groups::{Grouping, Groups};
use crate::checkpoint::packed::{Part, push_integers};

impl Grouping {
    /// Returns the bits of a packed integer.
    pub(super) fn bits(self) -> usize {
        if i16::from(self.greatest) - i16::from(self.least) < 16 { 4 } else { 8 }
    }

    /// Returns the number that is subtracted from every q, so that it fits between −zero and zero − 1. The
    /// constants of the blocks make up for it.
    fn shift(self) -> i16 {
        let zero = self.zero();
        if i16::from(self.greatest) < zero { 0 } else { i16::from(self.least) + zero }
    }

    /// Returns the packed integer that stands for 0.
    fn zero(self) -> i16 {
        1 << (self.bits() - 1)
    }
}

/// Appends a part of the packed blocks of these groups: little-endian.
pub(super) fn pack(groups: &Groups, grouping: Grouping, part: Part, out: &mut Vec<u8>) {
    let (shift, zero) = (grouping.shift(), grouping.zero());
    let floats = |out: &mut Vec<u8>, floats: &mut dyn Iterator<Item = f32>| {
        out.extend(floats.flat_map(f32::to_le_bytes));
    };
    match part {
        Part::Integers => {
            let stored = |&q: &i8| u8::try_from(i16::from(q) - shift + zero).unwrap_or(u8::MAX);
            push_integers(groups.integers.iter().map(stored), grouping.bits(), out);
        }
        Part::Scales => floats(out, &mut groups.scales.iter().copied()),
        Part::Constants => {
            let shift = f32::from(shift);
            let both = groups.minima.iter().zip(&groups.scales);
            floats(out, &mut both.map(|(minimum, scale)| minimum + shift * scale));
        }
    }
}
