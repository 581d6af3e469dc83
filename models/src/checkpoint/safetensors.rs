//! Headers of `.safetensors` files: the location of each tensor. The weights themselves are not read.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use safetensors::tensor::{Dtype as StoredDtype, Metadata, TensorInfo};

use super::stand_in;
use super::weights::{BytesRef, Dtype, TensorRef};
use crate::error::ModelError;

/// The longest accepted header, in bytes; the format's own limit.
const HEADER_BYTES_MAX: u64 = 100_000_000;
/// Bytes of the header's length field.
const LENGTH_BYTES: usize = 8;

/// The alignment of the data in written files, in bytes, for memory maps.
const DATA_ALIGNMENT: usize = 64;

/// Returns the header of a file with these tensors, marked as written by PyTorch. The tensors' elements
/// follow in the same order.
pub(super) fn header(
    tensors: impl IntoIterator<Item = (String, StoredDtype, Vec<usize>)>,
) -> std::io::Result<Vec<u8>> {
    let mut end = 0;
    let infos = tensors
        .into_iter()
        .map(|(name, dtype, shape)| {
            let start = end;
            end = start + shape.iter().product::<usize>() * dtype.bitsize() / 8;
            (name, TensorInfo { dtype, shape, data_offsets: (start, end) })
        })
        .collect();
    let metadata = Metadata::new(Some([("format".to_owned(), "pt".to_owned())].into()), infos)
        .map_err(std::io::Error::other)?;
    let mut json = serde_json::to_vec(&metadata)?;
    // Trailing spaces are the format's own padding.
    json.resize((json.len() + LENGTH_BYTES).next_multiple_of(DATA_ALIGNMENT) - LENGTH_BYTES, b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    Ok(header)
}

/// The entry of one tensor in a file's header.
#[derive(Debug)]
pub(super) enum Located {
    /// Usable weights.
    Weights(TensorRef),
    /// A tensor of unsigned bytes.
    Bytes(BytesRef),
    /// A tensor of another type that is not a float of 16 or 32 bits (position buffers, packed weights), with
    /// the name of its type.
    Unusable(String),
}

/// Returns the tensors of a file, in the order of their offsets.
///
/// The header is checked against the length of the file. The tensors must follow one another without gap or
/// overlap up to the end, with the length that shape and type require.
pub(super) fn locate(path: &Path) -> Result<Vec<(String, Located)>, ModelError> {
    let wrong = |reason: &dyn std::fmt::Display| ModelError::file(path, reason);
    // The real path: ONNX Runtime refuses external data behind symbolic links.
    let real = path.canonicalize().map_err(|error| wrong(&error))?;
    stand_in::refuse_file(&real)?;
    let mut file = File::open(&real).map_err(|error| wrong(&error))?;
    let file_bytes = file.metadata().map_err(|error| wrong(&error))?.len();
    let mut length = [0; LENGTH_BYTES];
    file.read_exact(&mut length).map_err(|_| wrong(&"too short to be a safetensors file"))?;
    let header_bytes = u64::from_le_bytes(length);
    let room = file_bytes.saturating_sub(LENGTH_BYTES as u64);
    if header_bytes > room.min(HEADER_BYTES_MAX) {
        return Err(wrong(&format!(
            "not a safetensors file, or truncated: the header claims {header_bytes} bytes, {room} are left"
        )));
    }
    let mut header = Vec::new();
    file.take(header_bytes).read_to_end(&mut header).map_err(|error| wrong(&error))?;
    let metadata: Metadata = serde_json::from_slice(&header)
        .map_err(|error| wrong(&format!("invalid safetensors header: {error}")))?;
    let data_bytes = metadata.data_len() as u64;
    if data_bytes != room - header_bytes {
        return Err(wrong(&format!(
            "truncated or damaged: the tensors take {data_bytes} bytes, the file has {}",
            room - header_bytes
        )));
    }
    let data_offset = LENGTH_BYTES as u64 + header_bytes;
    Ok(metadata
        .offset_keys()
        .into_iter()
        .filter_map(|name| {
            let info = metadata.info(&name)?;
            let offset = data_offset + info.data_offsets.0 as u64;
            let Some(dtype) = Dtype::of_stored(info.dtype) else {
                if info.dtype == StoredDtype::U8 {
                    let (file, shape) = (real.clone(), info.shape.clone());
                    return Some((name, Located::Bytes(BytesRef { file, offset, shape })));
                }
                return Some((name, Located::Unusable(format!("{:?}", info.dtype))));
            };
            let tensor = TensorRef {
                file: real.clone(),
                offset,
                bytes: (info.data_offsets.1 - info.data_offsets.0) as u64,
                dtype,
                shape: info.shape.clone(),
            };
            Some((name, Located::Weights(tensor)))
        })
        .collect())
}
