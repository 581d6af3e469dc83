//! The header of a GGUF file: metadata and the locations of the tensors.
//!
//! Every count and length is checked against the rest of the file before any allocation.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use super::blocks::BlockType;
use crate::checkpoint::stand_in;
use crate::error::ModelError;

const MAGIC: [u8; 4] = *b"GGUF";
/// The highest accepted number of metadata entries, and of tensors.
const ENTRIES_MAX: u64 = 1 << 16;
/// The longest accepted array: longer than any vocabulary.
const ARRAY_MAX: u64 = 1 << 24;
/// The longest accepted key or tensor name, in bytes.
const NAME_BYTES_MAX: u64 = 1 << 16;
/// The longest accepted text, in bytes.
const TEXT_BYTES_MAX: u64 = 1 << 24;
/// The highest accepted number of dimensions of a tensor.
const DIMENSIONS_MAX: u32 = 4;
/// The default alignment of the tensors, in bytes.
const ALIGNMENT: u64 = 32;

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Integer(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Integers(Vec<i64>),
    Floats(Vec<f64>),
}

/// The location of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TensorInfo {
    /// Row-major shape. ggml writes the innermost dimension first; this order is reversed.
    pub shape: Vec<usize>,
    /// The storage type of its elements.
    pub block_type: BlockType,
    /// Offset in bytes from the beginning of the file.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// The index of its file among [`Header::files`].
    pub file: usize,
}

impl TensorInfo {
    /// Elements of one row: the innermost dimension.
    pub(crate) fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Product of all dimensions but the innermost.
    pub(crate) fn rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }
}

/// Metadata and tensors.
#[derive(Debug, Clone, Default)]
pub(crate) struct Header {
    pub metadata: BTreeMap<String, Value>,
    pub tensors: BTreeMap<String, TensorInfo>,
    /// The files of the model: one, or the parts of a split model.
    pub files: Vec<PathBuf>,
}

impl Header {
    /// Adds the tensors of a further part.
    pub(super) fn add_part(&mut self, path: PathBuf, part: Self) -> Result<(), String> {
        let file = self.files.len();
        self.files.push(path);
        for (name, info) in part.tensors {
            if self.tensors.insert(name.clone(), TensorInfo { file, ..info }).is_some() {
                return Err(format!("tensor {name} is in two parts"));
            }
        }
        Ok(())
    }

    /// Reads the bytes of a tensor.
    pub(crate) fn read_tensor(&self, info: &TensorInfo) -> std::io::Result<Vec<u8>> {
        let path = self.files.get(info.file).ok_or(ErrorKind::NotFound)?;
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(info.offset))?;
        let mut bytes = Vec::new();
        file.take(info.bytes).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        let Value::Text(value) = self.metadata.get(key)? else { return None };
        Some(value)
    }

    pub(crate) fn integer(&self, key: &str) -> Option<i64> {
        let Value::Integer(value) = self.metadata.get(key)? else { return None };
        Some(*value)
    }

    pub(crate) fn bool(&self, key: &str) -> Option<bool> {
        let Value::Bool(value) = self.metadata.get(key)? else { return None };
        Some(*value)
    }

    pub(crate) fn texts(&self, key: &str) -> Option<&[String]> {
        let Value::Texts(value) = self.metadata.get(key)? else { return None };
        Some(value)
    }

    pub(crate) fn integers(&self, key: &str) -> Option<&[i64]> {
        let Value::Integers(value) = self.metadata.get(key)? else { return None };
        Some(value)
    }

    pub(crate) fn floats(&self, key: &str) -> Option<&[f64]> {
        let Value::Floats(value) = self.metadata.get(key)? else { return None };
        Some(value)
    }
}

/// Reads a file's header.
pub(super) fn read(path: &Path) -> Result<Header, ModelError> {
    let wrong = |error: std::io::Error| ModelError::file(path, error);
    let file = File::open(path).map_err(wrong)?;
    let bytes = file.metadata().map_err(wrong)?.len();
    let header = parse(BufReader::new(file), bytes).or_else(|reason| {
        stand_in::refuse_file(path)?;
        Err(ModelError::file(path, reason))
    })?;
    Ok(Header { files: vec![path.to_owned()], ..header })
}

/// Reads the header of a file of `file_bytes` bytes.
pub(super) fn parse(source: impl Read, file_bytes: u64) -> Result<Header, String> {
    let mut reader = Reader { source, left: file_bytes };
    if reader.array::<4>().ok() != Some(MAGIC) {
        return Err("not a GGUF file".to_owned());
    }
    let version = reader.u32()?;
    if !(2..=3).contains(&version) {
        return Err(format!(
            "GGUF version {version} (or byte order) is not supported: use little-endian 2 or 3"
        ));
    }
    let tensor_count = reader.count("tensors", ENTRIES_MAX)?;
    let metadata_count = reader.count("metadata entries", ENTRIES_MAX)?;
    let mut header = Header::default();
    for _ in 0..metadata_count {
        let key = reader.text(NAME_BYTES_MAX)?;
        let value = reader.value().map_err(|reason| format!("metadata {key}: {reason}"))?;
        header.metadata.insert(key, value);
    }
    let mut infos = Vec::new();
    for _ in 0..tensor_count {
        let name = reader.text(NAME_BYTES_MAX)?;
        let info = reader.tensor_info().map_err(|reason| format!("tensor {name}: {reason}"))?;
        infos.push((name, info));
    }
    let alignment = match header.integer("general.alignment") {
        None => ALIGNMENT,
        Some(given) => u64::try_from(given)
            .ok()
            .filter(|given| given.is_power_of_two() && *given <= 1 << 20)
            .ok_or_else(|| format!("general.alignment {given} is not a power of two"))?,
    };
    let data_start = (file_bytes - reader.left).next_multiple_of(alignment);
    header.tensors = place(infos, data_start, file_bytes)?;
    Ok(header)
}

/// Converts offsets within the data to offsets within the file, and checks that every tensor lies inside the
/// file.
fn place(
    infos: Vec<(String, TensorInfo)>,
    data_start: u64,
    file_bytes: u64,
) -> Result<BTreeMap<String, TensorInfo>, String> {
    let mut seen = BTreeSet::new();
    let mut tensors = BTreeMap::new();
    for (name, mut info) in infos {
        if !seen.insert(name.clone()) {
            return Err(format!("duplicate tensor {name}"));
        }
        let start = data_start.checked_add(info.offset);
        let end = start.and_then(|start| start.checked_add(info.bytes)).filter(|end| *end <= file_bytes);
        let (Some(start), Some(_)) = (start, end) else {
            return Err(format!("tensor {name} reaches beyond the end of the file: the file is truncated"));
        };
        info.offset = start;
        tensors.insert(name, info);
    }
    Ok(tensors)
}

/// Reads little-endian values and tracks the number of bytes left.
struct Reader<R> {
    source: R,
    left: u64,
}

impl<R: Read> Reader<R> {
    fn take(&mut self, bytes: u64) -> Result<(), String> {
        self.left = self.left.checked_sub(bytes).ok_or("the file ends in the middle of its header")?;
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N as u64)?;
        let mut bytes = [0; N];
        self.source.read_exact(&mut bytes).map_err(|error| error.to_string())?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    fn count(&mut self, what: &str, most: u64) -> Result<u64, String> {
        let count = self.u64()?;
        if count > most { Err(format!("{count} {what} exceed the limit of {most}")) } else { Ok(count) }
    }

    fn text(&mut self, bytes_max: u64) -> Result<String, String> {
        let length = self.count("bytes of text", bytes_max)?;
        self.take(length)?;
        let mut bytes = Vec::new();
        (&mut self.source).take(length).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        if bytes.len() as u64 != length {
            return Err("the file ends in the middle of its header".to_owned());
        }
        String::from_utf8(bytes).map_err(|error| error.to_string())
    }

    fn value(&mut self) -> Result<Value, String> {
        let kind = self.u32()?;
        if kind == 9 {
            return self.values();
        }
        Ok(match kind {
            6 | 12 => Value::Float(self.float(kind)?),
            7 => Value::Bool(self.array::<1>()? != [0]),
            8 => Value::Text(self.text(TEXT_BYTES_MAX)?),
            _ => Value::Integer(self.integer(kind)?),
        })
    }

    fn values(&mut self) -> Result<Value, String> {
        let kind = self.u32()?;
        let count = self.count("array elements", ARRAY_MAX)?;
        // Every element takes at least one byte, so a longer array cannot be in the file.
        if count > self.left {
            return Err("the file ends in the middle of its header".to_owned());
        }
        Ok(match kind {
            6 | 12 => Value::Floats((0..count).map(|_| self.float(kind)).collect::<Result<_, _>>()?),
            7 => Value::Integers(
                (0..count)
                    .map(|_| Ok(i64::from(self.array::<1>()? != [0])))
                    .collect::<Result<_, String>>()?,
            ),
            8 => Value::Texts((0..count).map(|_| self.text(TEXT_BYTES_MAX)).collect::<Result<_, _>>()?),
            9 => return Err("arrays of arrays are not supported".to_owned()),
            _ => Value::Integers((0..count).map(|_| self.integer(kind)).collect::<Result<_, _>>()?),
        })
    }

    fn float(&mut self, kind: u32) -> Result<f64, String> {
        if kind == 6 {
            Ok(f32::from_le_bytes(self.array()?).into())
        } else {
            Ok(f64::from_le_bytes(self.array()?))
        }
    }

    fn integer(&mut self, kind: u32) -> Result<i64, String> {
        Ok(match kind {
            0 => u8::from_le_bytes(self.array()?).into(),
            1 => i8::from_le_bytes(self.array()?).into(),
            2 => u16::from_le_bytes(self.array()?).into(),
            3 => i16::from_le_bytes(self.array()?).into(),
            4 => u32::from_le_bytes(self.array()?).into(),
            5 => i32::from_le_bytes(self.array()?).into(),
            10 => i64::try_from(u64::from_le_bytes(self.array()?)).map_err(|error| error.to_string())?,
            11 => i64::from_le_bytes(self.array()?),
            _ => return Err(format!("unknown value type {kind}")),
        })
    }

    /// Returns a tensor's entry. Its offset is still relative to the data.
    fn tensor_info(&mut self) -> Result<TensorInfo, String> {
        let dimensions = self.u32()?;
        if !(1..=DIMENSIONS_MAX).contains(&dimensions) {
            return Err(format!("{dimensions} dimensions are not between 1 and {DIMENSIONS_MAX}"));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            shape.push(usize::try_from(self.u64()?).map_err(|error| error.to_string())?);
        }
        shape.reverse();
        let block_type = BlockType::from_code(self.u32()?)?;
        let offset = self.u64()?;
        let bytes = block_type.bytes_of(&shape)?;
        Ok(TensorInfo { shape, block_type, offset, bytes, file: 0 })
    }
}
