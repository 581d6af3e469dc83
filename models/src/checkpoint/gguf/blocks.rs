//! The storage types of GGUF, and the dequantisation of their blocks.
//!
//! Quantised blocks are read as groups of integers with one scale each: see [`super::groups`].

use half::{bf16, f16};

use super::groups::{self, Grouping, Groups};

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
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq4Nl,
    Iq4Xs,
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
            10 => return Ok(Self::Q2K),
            11 => return Ok(Self::Q3K),
            12 => return Ok(Self::Q4K),
            13 => return Ok(Self::Q5K),
            14 => return Ok(Self::Q6K),
            20 => return Ok(Self::Iq4Nl),
            23 => return Ok(Self::Iq4Xs),
            30 => return Ok(Self::Bf16),
            16..=19 | 21 | 22 | 29 => "an IQ1, IQ2 or IQ3 type",
            24..=27 => "an integer type",
            28 => "F64",
            _ => "unknown",
        };
        Err(format!(
            "element type {code} ({name}) is not supported: use F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, \
             Q4_K, Q5_K, Q6_K, IQ4_NL or IQ4_XS"
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
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::Iq4Nl => "IQ4_NL",
            Self::Iq4Xs => "IQ4_XS",
        }
    }

    /// Returns the numbers of elements and of bytes of one block.
    pub(super) const fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q4Zero | Self::Iq4Nl => (32, 18),
            Self::Q4One => (32, 20),
            Self::Q5Zero => (32, 22),
            Self::Q5One => (32, 24),
            Self::Q8Zero => (32, 34),
            Self::Q2K => (K_ELEMENTS, 84),
            Self::Q3K => (K_ELEMENTS, 110),
            Self::Q4K => (K_ELEMENTS, 144),
            Self::Q5K => (K_ELEMENTS, 176),
            Self::Q6K => (K_ELEMENTS, 210),
            Self::Iq4Xs => (K_ELEMENTS, 136),
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

    /// Returns the form of the groups of a quantised type; `None` for floats.
    pub(super) const fn grouping(self) -> Option<Grouping> {
        let (elements, integers, minimum) = match self {
            Self::F32 | Self::F16 | Self::Bf16 => return None,
            Self::Q4Zero => (32, (-8, 7), false),
            Self::Q4One | Self::Q4K => (32, (0, 15), true),
            Self::Q5Zero => (32, (-16, 15), false),
            Self::Q5One | Self::Q5K => (32, (0, 31), true),
            Self::Q8Zero => (32, (i8::MIN, i8::MAX), false),
            Self::Q2K => (16, (0, 3), true),
            Self::Q3K => (16, (-4, 3), false),
            Self::Q6K => (16, (-32, 31), false),
            Self::Iq4Nl | Self::Iq4Xs => (32, (groups::NON_LINEAR[0], groups::NON_LINEAR[15]), false),
        };
        let (least, greatest) = integers;
        Some(Grouping { elements, least, greatest, minimum })
    }

    /// Appends the groups of whole blocks to `out`. Blocks of floats have none.
    pub(super) fn read_groups(self, bytes: &[u8], out: &mut Groups) {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => {}
            Self::Q4Zero => each(bytes, out, groups::q4_0),
            Self::Q4One => each(bytes, out, groups::q4_1),
            Self::Q5Zero => each(bytes, out, groups::q5_0),
            Self::Q5One => each(bytes, out, groups::q5_1),
            Self::Q8Zero => each(bytes, out, groups::q8_0),
            Self::Q2K => each(bytes, out, groups::q2_k),
            Self::Q3K => each(bytes, out, groups::q3_k),
            Self::Q4K => each(bytes, out, groups::q4_k),
            Self::Q5K => each(bytes, out, groups::q5_k),
            Self::Q6K => each(bytes, out, groups::q6_k),
            Self::Iq4Nl => each(bytes, out, groups::iq4_nl),
            Self::Iq4Xs => each(bytes, out, groups::iq4_xs),
        }
    }

    /// Dequantises whole blocks and appends the floats to `out`.
    pub(super) fn dequantise(self, bytes: &[u8], out: &mut Vec<f32>) {
        let half = |bytes: [u8; 2]| f16::from_le_bytes(bytes).to_f32();
        match self {
            Self::F32 => out.extend(bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes))),
            Self::F16 => out.extend(bytes.as_chunks().0.iter().map(|&bytes| half(bytes))),
            Self::Bf16 => {
                out.extend(bytes.as_chunks().0.iter().map(|&bytes| bf16::from_le_bytes(bytes).to_f32()))
            }
            Self::Q4Zero
            | Self::Q4One
            | Self::Q5Zero
            | Self::Q5One
            | Self::Q8Zero
            | Self::Q2K
            | Self::Q3K
            | Self::Q4K
            | Self::Q5K
            | Self::Q6K
            | Self::Iq4Nl
            | Self::Iq4Xs => {
                let Some(grouping) = self.grouping() else { return };
                let mut groups = Groups::default();
                self.read_groups(bytes, &mut groups);
                groups.dequantise(grouping, out);
            }
        }
    }
}

fn each<const N: usize>(bytes: &[u8], out: &mut Groups, block: impl Fn(&[u8; N], &mut Groups)) {
    bytes.as_chunks().0.iter().for_each(|bytes| block(bytes, out));
}
