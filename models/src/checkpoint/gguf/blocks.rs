//! The storage types of GGUF, and the dequantisation of their blocks.
//!
//! Formulas and bit layouts are those of ggml (`ggml-quants.c`, `dequantize_row_*`). K-quant blocks have 256
//! elements in 8 or 16 groups, each with its own scale. The other blocks have 32 elements with one scale.

use half::{bf16, f16};

/// Elements of a K-quant block.
const K_ELEMENTS: usize = 256;

/// The storage type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum BlockType {
    F32,
    F16,
    Bf16,
    Q4Zero,
    Q4One,
    Q5Zero,
    Q5One,
    Q8Zero,
    Q4K,
    Q5K,
    Q6K,
}

impl BlockType {
    /// Returns the type with this code in a file. The error names an unsupported type.
    pub(super) fn from_code(code: u32) -> Result<Self, String> {
        let name = match code {
            0 => return Ok(Self::F32),
            1 => return Ok(Self::F16),
            2 => return Ok(Self::Q4Zero),
            3 => return Ok(Self::Q4One),
            6 => return Ok(Self::Q5Zero),
            7 => return Ok(Self::Q5One),
            8 => return Ok(Self::Q8Zero),
            12 => return Ok(Self::Q4K),
            13 => return Ok(Self::Q5K),
            14 => return Ok(Self::Q6K),
            30 => return Ok(Self::Bf16),
            10 => "Q2_K",
            11 => "Q3_K",
            16..=19 | 21 | 22 | 29 => "an IQ1, IQ2 or IQ3 type",
            20 => "IQ4_NL",
            23 => "IQ4_XS",
            24..=27 => "an integer type",
            28 => "F64",
            _ => "unknown",
        };
        Err(format!(
            "element type {code} ({name}) is not supported: use F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K or \
             Q6_K"
        ))
    }

    /// Returns the name in ggml.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q4Zero => "Q4_0",
            Self::Q4One => "Q4_1",
            Self::Q5Zero => "Q5_0",
            Self::Q5One => "Q5_1",
            Self::Q8Zero => "Q8_0",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// Returns the numbers of elements and of bytes of one block.
    pub(super) const fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q4Zero => (32, 18),
            Self::Q4One => (32, 20),
            Self::Q5Zero => (32, 22),
            Self::Q5One => (32, 24),
            Self::Q8Zero => (32, 34),
            Self::Q4K => (K_ELEMENTS, 144),
            Self::Q5K => (K_ELEMENTS, 176),
            Self::Q6K => (K_ELEMENTS, 210),
        }
    }

    /// Returns the size of a tensor of row-major `shape`, in bytes. A row must consist of whole blocks.
    pub(super) fn bytes_of(self, shape: &[usize]) -> Result<u64, String> {
        let (elements, bytes) = self.block();
        let columns = shape.last().copied().unwrap_or(1);
        if !columns.is_multiple_of(elements) {
            return Err(format!(
                "row length {columns} is not a multiple of the {} block size, {elements} elements",
                self.name()
            ));
        }
        shape
            .iter()
            .try_fold(1, |product: usize, dimension| product.checked_mul(*dimension))
            .and_then(|count| (count / elements).checked_mul(bytes))
            // The elements as 32-bit floats must not overflow either.
            .filter(|_| {
                shape
                    .iter()
                    .try_fold(4, |product: usize, dimension| product.checked_mul(*dimension))
                    .is_some()
            })
            .map(|bytes| bytes as u64)
            .ok_or_else(|| format!("the shape {shape:?} is too large"))
    }

    /// Dequantises whole blocks and appends the floats to `out`.
    pub(super) fn dequantise(self, bytes: &[u8], out: &mut Vec<f32>) {
        match self {
            Self::F32 => out.extend(bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes))),
            Self::F16 => {
                out.extend(bytes.as_chunks().0.iter().map(|&bytes| f16::from_le_bytes(bytes).to_f32()))
            }
            Self::Bf16 => {
                out.extend(bytes.as_chunks().0.iter().map(|&bytes| bf16::from_le_bytes(bytes).to_f32()))
            }
            Self::Q4Zero => each(bytes, out, q4_0),
            Self::Q4One => each(bytes, out, q4_1),
            Self::Q5Zero => each(bytes, out, q5_0),
            Self::Q5One => each(bytes, out, q5_1),
            Self::Q8Zero => each(bytes, out, q8_0),
            Self::Q4K => each(bytes, out, q4_k),
            Self::Q5K => each(bytes, out, q5_k),
            Self::Q6K => each(bytes, out, q6_k),
        }
    }
}

fn each<const N: usize>(bytes: &[u8], out: &mut Vec<f32>, block: impl Fn(&[u8; N], &mut Vec<f32>)) {
    bytes.as_chunks().0.iter().for_each(|bytes| block(bytes, out));
}

fn half_at<const N: usize>(block: &[u8; N], offset: usize) -> f32 {
    f16::from_le_bytes([block[offset], block[offset + 1]]).to_f32()
}

/// Returns a byte's low four bits, then its high four.
fn nibble(byte: u8, high: bool) -> u8 {
    if high { byte >> 4 } else { byte & 0x0f }
}

/// Dequantises a Q4_0 block. Layout: half scale, then 16 bytes of two elements each, the first 16 in the low
/// nibbles. Value: scale · (q − 8).
fn q4_0(block: &[u8; 18], out: &mut Vec<f32>) {
    let scale = half_at(block, 0);
    for high in [false, true] {
        out.extend(block[2..].iter().map(|&byte| scale * (f32::from(nibble(byte, high)) - 8.0)));
    }
}

/// Dequantises a Q4_1 block. Layout: half scale, half minimum, then as [`q4_0`]. Value: scale · q + minimum.
fn q4_1(block: &[u8; 20], out: &mut Vec<f32>) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    for high in [false, true] {
        out.extend(block[4..].iter().map(|&byte| scale * f32::from(nibble(byte, high)) + minimum));
    }
}

/// Returns the five-bit numbers of a block: 32 fifth bits, then nibbles.
fn five_bits(fifths: [u8; 4], nibbles: &[u8]) -> impl Iterator<Item = f32> {
    let fifths = u32::from_le_bytes(fifths);
    let low = nibbles.iter().map(|&byte| byte & 0x0f).chain(nibbles.iter().map(|&byte| byte >> 4));
    low.enumerate().map(move |(index, low)| {
        let fifth = if fifths >> index & 1 == 1 { 16.0 } else { 0.0 };
        f32::from(low) + fifth
    })
}

/// Dequantises a Q5_0 block. Layout: half scale, fifth bits, nibbles. Value: scale · (q − 16).
fn q5_0(block: &[u8; 22], out: &mut Vec<f32>) {
    let scale = half_at(block, 0);
    let fifths = [block[2], block[3], block[4], block[5]];
    out.extend(five_bits(fifths, &block[6..]).map(|q| scale * (q - 16.0)));
}

/// Dequantises a Q5_1 block. Layout: half scale, half minimum, fifth bits, nibbles. Value: scale · q +
/// minimum.
fn q5_1(block: &[u8; 24], out: &mut Vec<f32>) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let fifths = [block[4], block[5], block[6], block[7]];
    out.extend(five_bits(fifths, &block[8..]).map(|q| scale * q + minimum));
}

/// Dequantises a Q8_0 block. Layout: half scale, 32 signed bytes. Value: scale · q.
fn q8_0(block: &[u8; 34], out: &mut Vec<f32>) {
    let scale = half_at(block, 0);
    out.extend(block[2..].iter().map(|&byte| scale * f32::from(byte.cast_signed())));
}

/// Returns the eight six-bit scales and minima that K-quants pack into twelve bytes.
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

/// Dequantises a Q4_K block. Layout: half scale, half minimum scale, packed group scales and minima, nibbles.
/// Of each 32 bytes, the low nibbles are one group and the high nibbles the next. Value: scale · group scale
/// · q − minimum scale · group minimum.
fn q4_k(block: &[u8; 144], out: &mut Vec<f32>) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    for (group, (group_scale, group_minimum)) in scales_and_minima(&block[4..16]).into_iter().enumerate() {
        let nibbles = &block[16 + group / 2 * 32..][..32];
        let (scale, minimum) = (scale * group_scale, minimum * group_minimum);
        out.extend(nibbles.iter().map(|&byte| scale * f32::from(nibble(byte, group % 2 == 1)) - minimum));
    }
}

/// Dequantises a Q5_K block. Layout: as [`q4_k`], with 32 bytes of fifth bits before the nibbles. Bit g of
/// byte i belongs to element i of group g.
fn q5_k(block: &[u8; 176], out: &mut Vec<f32>) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let fifths = &block[16..48];
    for (group, (group_scale, group_minimum)) in scales_and_minima(&block[4..16]).into_iter().enumerate() {
        let nibbles = &block[48 + group / 2 * 32..][..32];
        let (scale, minimum) = (scale * group_scale, minimum * group_minimum);
        out.extend(nibbles.iter().zip(fifths).map(|(&byte, &fifth)| {
            let q = nibble(byte, group % 2 == 1) | (fifth >> group & 1) << 4;
            scale * f32::from(q) - minimum
        }));
    }
}

/// Dequantises a Q6_K block. Layout: 128 bytes of low nibbles, 64 of upper bit pairs, 16 signed group scales,
/// half scale. In each half of the block, 64 bytes of nibbles and 32 of pairs make four runs of 32 elements.
/// Value: scale · group scale · (q − 32), in groups of 16.
fn q6_k(block: &[u8; 210], out: &mut Vec<f32>) {
    let scale = half_at(block, 208);
    for run in 0..8 {
        let (part, row) = (run / 4, run % 4);
        let nibbles = &block[part * 64 + row % 2 * 32..][..32];
        let pairs = &block[128 + part * 32..][..32];
        for (index, (&low, &pair)) in nibbles.iter().zip(pairs).enumerate() {
            let q = nibble(low, row >= 2) | (pair >> (2 * row) & 3) << 4;
            let group_scale = f32::from(block[192 + run * 2 + index / 16].cast_signed());
            out.push(scale * group_scale * (f32::from(q) - 32.0));
        }
    }
}
