//! Quantised blocks as groups of integers.
//!
//! Formulas and bit layouts are those of ggml (`ggml-quants.c`, `dequantize_row_*`). K-quant blocks have 256
//! elements in 8 or 16 groups. The other blocks have 32 elements, which are one group.

use half::f16;

/// The integers that the four bits of an IQ4 element select. They lie closer together near zero, where most
/// weights are.
pub(super) const NON_LINEAR: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The form of a type's groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grouping {
    /// Elements of a group: 16 or 32.
    pub(super) elements: usize,
    /// The least integer.
    pub(super) least: i8,
    /// The greatest integer.
    pub(super) greatest: i8,
    /// Whether a group has a minimum.
    pub(super) minimum: bool,
}

/// Groups in sequence. The number of an element is scale · q, plus the minimum of its group if there is one.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// q of every element.
    pub(super) integers: Vec<i8>,
    /// The scale of every group.
    pub(super) scales: Vec<f32>,
    /// The minimum of every group; empty for types without one.
    pub(super) minima: Vec<f32>,
}

impl Groups {
    /// Appends the numbers to `out`.
    pub(super) fn dequantise(&self, grouping: Grouping, out: &mut Vec<f32>) {
        let groups = self.integers.chunks_exact(grouping.elements).zip(&self.scales);
        if grouping.minimum {
            for ((integers, &scale), &minimum) in groups.zip(&self.minima) {
                out.extend(integers.iter().map(|&q| scale * f32::from(q) + minimum));
            }
        } else {
            groups.for_each(|(integers, &scale)| {
                out.extend(integers.iter().map(|&q| scale * f32::from(q)));
            });
        }
    }

    pub(super) fn clear(&mut self) {
        self.integers.clear();
        self.scales.clear();
        self.minima.clear();
    }

    fn add(&mut self, scale: f32, integers: impl Iterator<Item = i8>) {
        self.scales.push(scale);
        self.integers.extend(integers);
    }

    fn add_above(&mut self, minimum: f32, scale: f32, integers: impl Iterator<Item = i8>) {
        self.minima.push(minimum);
        self.add(scale, integers);
    }
}

fn half_at<const N: usize>(block: &[u8; N], offset: usize) -> f32 {
    f16::from_le_bytes([block[offset], block[offset + 1]]).to_f32()
}

/// Returns the low four bits of every byte, then the high four.
fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> {
    bytes.iter().map(|&byte| byte & 0x0f).chain(bytes.iter().map(|&byte| byte >> 4))
}

/// Returns a byte's low four bits, or its high four.
fn nibble(byte: u8, high: bool) -> u8 {
    if high { byte >> 4 } else { byte & 0x0f }
}

/// Returns the two bits of a byte from bit 2 · `pair` on.
fn pair(byte: u8, pair: usize) -> u8 {
    byte >> (2 * pair) & 3
}

/// Returns q − `zero` for q of at most seven bits.
fn less(q: u8, zero: i8) -> i8 {
    q.cast_signed() - zero
}

/// Reads a Q4_0 block. Layout: half scale, then 16 bytes of two elements each, the first 16 in the low
/// nibbles. Number: scale · (q − 8).
pub(super) fn q4_0(block: &[u8; 18], out: &mut Groups) {
    out.add(half_at(block, 0), nibbles(&block[2..]).map(|q| less(q, 8)));
}

/// Reads a Q4_1 block. Layout: half scale, half minimum, then as [`q4_0`]. Number: scale · q + minimum.
pub(super) fn q4_1(block: &[u8; 20], out: &mut Groups) {
    out.add_above(half_at(block, 2), half_at(block, 0), nibbles(&block[4..]).map(u8::cast_signed));
}

/// Returns the five-bit integers of a block: 32 fifth bits, then nibbles.
fn five_bits(fifths: [u8; 4], low: &[u8]) -> impl Iterator<Item = u8> {
    let fifths = u32::from_le_bytes(fifths);
    nibbles(low).enumerate().map(move |(index, low)| if fifths >> index & 1 == 1 { low | 16 } else { low })
}

/// Reads a Q5_0 block. Layout: half scale, fifth bits, nibbles. Number: scale · (q − 16).
pub(super) fn q5_0(block: &[u8; 22], out: &mut Groups) {
    let fifths = [block[2], block[3], block[4], block[5]];
    out.add(half_at(block, 0), five_bits(fifths, &block[6..]).map(|q| less(q, 16)));
}

/// Reads a Q5_1 block. Layout: half scale, half minimum, fifth bits, nibbles. Number: scale · q + minimum.
pub(super) fn q5_1(block: &[u8; 24], out: &mut Groups) {
    let fifths = [block[4], block[5], block[6], block[7]];
    let integers = five_bits(fifths, &block[8..]).map(u8::cast_signed);
    out.add_above(half_at(block, 2), half_at(block, 0), integers);
}

/// Reads a Q8_0 block. Layout: half scale, 32 signed bytes. Number: scale · q.
pub(super) fn q8_0(block: &[u8; 34], out: &mut Groups) {
    out.add(half_at(block, 0), block[2..].iter().map(|&byte| byte.cast_signed()));
}

/// Reads a Q2_K block. Layout: 16 bytes with a group's scale in the low nibble and its minimum in the high
/// one, 64 bytes of bit pairs, half scale, half minimum scale. In each half of the block, the pairs of 32
/// bytes make four runs of 32 elements. Number: scale · group scale · q − minimum scale · group minimum, in
/// groups of 16.
pub(super) fn q2_k(block: &[u8; 84], out: &mut Groups) {
    let (scale, minimum) = (half_at(block, 80), half_at(block, 82));
    for (group, &both) in block[..16].iter().enumerate() {
        let (run, part) = (group / 2, group % 2);
        let pairs = &block[16 + run / 4 * 32 + part * 16..][..16];
        let integers = pairs.iter().map(|&byte| pair(byte, run % 4).cast_signed());
        out.add_above(-(minimum * f32::from(both >> 4)), scale * f32::from(both & 0x0f), integers);
    }
}

/// Reads a Q3_K block. Layout: 32 bytes of third bits, 64 of bit pairs as in [`q2_k`], twelve of group
/// scales, half scale. Bit r of the third bits' byte i belongs to element i of run r. Number: scale · (group
/// scale − 32) · (q − 4), in groups of 16.
///
/// Of the six bits of the 16 group scales, the first eight bytes hold the low four: those of groups 0 to 7 in
/// their low nibbles. The last four bytes hold the upper pairs: those of groups 0 to 3 in their lowest bits.
pub(super) fn q3_k(block: &[u8; 110], out: &mut Groups) {
    let scale = half_at(block, 108);
    let packed = &block[96..108];
    for group in 0..16 {
        let group_scale = nibble(packed[group % 8], group >= 8) | pair(packed[8 + group % 4], group / 4) << 4;
        let (run, part) = (group / 2, group % 2);
        let pairs = &block[32 + run / 4 * 32 + part * 16..][..16];
        let thirds = &block[part * 16..][..16];
        let integers = pairs
            .iter()
            .zip(thirds)
            .map(|(&byte, &third)| less(pair(byte, run % 4) | (third >> run & 1) << 2, 4));
        out.add(scale * f32::from(less(group_scale, 32)), integers);
    }
}

/// Returns the eight six-bit scales and minima that Q4_K and Q5_K pack into twelve bytes.
///
/// Bytes 0 to 3 are four scales, bytes 4 to 7 four minima. The last four bytes hold the low nibbles of the
/// other four scales and minima. The top bits of the first eight bytes are their upper bits.
fn scales_and_minima(packed: &[u8]) -> [(f32, f32); 8] {
    std::array::from_fn(|group| {
        let (scale, minimum) = if group < 4 {
            (packed[group] & 0x3f, packed[group + 4] & 0x3f)
        } else {
            let low = packed[group + 4];
            let upper = |byte: u8| (byte >> 2) & 0x30;
            (low & 0x0f | upper(packed[group - 4]), low >> 4 | upper(packed[group]))
        };
        (scale.into(), minimum.into())
    })
}

/// Reads a Q4_K block. Layout: half scale, half minimum scale, packed group scales and minima, nibbles. Of
/// each 32 bytes, the low nibbles are one group and the high nibbles the next. Number: scale · group scale ·
/// q − minimum scale · group minimum.
pub(super) fn q4_k(block: &[u8; 144], out: &mut Groups) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    for (group, (group_scale, group_minimum)) in scales_and_minima(&block[4..16]).into_iter().enumerate() {
        let bytes = &block[16 + group / 2 * 32..][..32];
        let integers = bytes.iter().map(|&byte| nibble(byte, group % 2 == 1).cast_signed());
        out.add_above(-(minimum * group_minimum), scale * group_scale, integers);
    }
}

/// Reads a Q5_K block. Layout: as [`q4_k`], with 32 bytes of fifth bits before the nibbles. Bit g of byte i
/// belongs to element i of group g.
pub(super) fn q5_k(block: &[u8; 176], out: &mut Groups) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let fifths = &block[16..48];
    for (group, (group_scale, group_minimum)) in scales_and_minima(&block[4..16]).into_iter().enumerate() {
        let bytes = &block[48 + group / 2 * 32..][..32];
        let integers = bytes
            .iter()
            .zip(fifths)
            .map(|(&byte, &fifth)| (nibble(byte, group % 2 == 1) | (fifth >> group & 1) << 4).cast_signed());
        out.add_above(-(minimum * group_minimum), scale * group_scale, integers);
    }
}

/// Reads a Q6_K block. Layout: 128 bytes of low nibbles, 64 of upper bit pairs, 16 signed group scales, half
/// scale. In each half of the block, 64 bytes of nibbles and 32 of pairs make four runs of 32 elements.
/// Number: scale · group scale · (q − 32), in groups of 16.
pub(super) fn q6_k(block: &[u8; 210], out: &mut Groups) {
    let scale = half_at(block, 208);
    for group in 0..16 {
        let (half, row, part) = (group / 8, group / 2 % 4, group % 2);
        let low = &block[half * 64 + row % 2 * 32 + part * 16..][..16];
        let pairs = &block[128 + half * 32 + part * 16..][..16];
        let integers = low
            .iter()
            .zip(pairs)
            .map(|(&low, &upper)| less(nibble(low, row >= 2) | pair(upper, row) << 4, 32));
        out.add(scale * f32::from(block[192 + group].cast_signed()), integers);
    }
}

/// Reads an IQ4_NL block. Layout: as [`q4_0`]. Number: scale · the integer that the nibble selects.
pub(super) fn iq4_nl(block: &[u8; 18], out: &mut Groups) {
    out.add(half_at(block, 0), non_linear(&block[2..]));
}

/// Reads an IQ4_XS block. Layout: half scale, 16 upper bit pairs of group scales, eight low nibbles of them,
/// then 16 bytes of each group as in [`q4_0`]. Number: scale · (group scale − 32) · the integer that the
/// nibble selects.
pub(super) fn iq4_xs(block: &[u8; 136], out: &mut Groups) {
    let scale = half_at(block, 0);
    for group in 0..8 {
        let low = nibble(block[4 + group / 2], group % 2 == 1);
        let upper = pair(block[2 + group / 4], group % 4);
        let group_scale = scale * f32::from(less(low | upper << 4, 32));
        out.add(group_scale, non_linear(&block[8 + group * 16..][..16]));
    }
}

fn non_linear(bytes: &[u8]) -> impl Iterator<Item = i8> {
    nibbles(bytes).map(|index| NON_LINEAR[usize::from(index)])
}
