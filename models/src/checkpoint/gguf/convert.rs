//! Dequantises a GGUF file once, into a safetensors file of 32-bit floats with the names and the row order of
//! Hugging Face.

use std::fs::{self, File};
use std::io::{BufWriter, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use safetensors::Dtype;

use super::families::GgufFamily;
use super::header::{Header, TensorInfo};
use super::names::{Change, Destination, RowOrder, destination};
use crate::cache::dequantised_dir;
use crate::checkpoint::config::ModelConfig;
use crate::checkpoint::fingerprint::of_file;
use crate::checkpoint::layout;
use crate::checkpoint::safetensors::{header, locate};
use crate::checkpoint::weights::transposed;
use crate::error::ModelError;

/// Version of the conversion. Raised when the same GGUF file would give another safetensors file.
const CONVERTER_VERSION: u32 = 1;
/// The approximate number of float bytes that are held at a time.
const CHUNK_BYTES: usize = 1 << 20;
/// The name prefix of unfinished files.
const UNFINISHED: &str = "unfinished-";

/// Returns the dequantised weights of the GGUF file at `path`, whose BLAKE3 hash is `hash` (of a split model,
/// the hashes of all files). They are
/// converted if they are not in the cache.
///
/// The file is written under a temporary name, synced and renamed, under a lock. A process that dies leaves
/// no partial file under the final name. Of several processes that start together, one converts and the
/// others wait.
pub(super) fn dequantised(
    path: &Path,
    header: &Header,
    (family, config): (&GgufFamily, &ModelConfig),
    hash: &str,
    cache_dir: &Path,
) -> Result<PathBuf, ModelError> {
    let key = blake3::hash(format!("{hash} converter {CONVERTER_VERSION}").as_bytes()).to_hex();
    let folder = dequantised_dir(cache_dir);
    let target = folder.join(format!("{key}.safetensors"));
    if is_whole(&target, cache_dir) {
        return Ok(target);
    }
    let plan = plan(header, family, config).map_err(|reason| ModelError::file(path, reason))?;
    let in_cache = |error: std::io::Error| {
        ModelError::file(&target, format!("failed to write the dequantised weights into the cache: {error}"))
    };
    fs::create_dir_all(&folder).map_err(in_cache)?;
    let lock = File::create(folder.join("lock")).map_err(in_cache)?;
    lock.lock().map_err(in_cache)?;
    if is_whole(&target, cache_dir) {
        return Ok(target);
    }
    remove_unfinished(&folder).map_err(in_cache)?;
    tracing::info!(path = %path.display(), "dequantising weights into the cache");
    let mut file = unfinished_file(&folder).map_err(in_cache)?;
    let open = |file: &PathBuf| File::open(file).map_err(|error| ModelError::file(file, error));
    let mut sources = header.files.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    write(&plan, &mut sources, BufWriter::new(file.as_file_mut())).map_err(in_cache)?;
    file.as_file().sync_all().map_err(in_cache)?;
    file.persist(&target).map_err(|error| in_cache(error.error))?;
    fs::write(checksum_path(&target), of_file(&target, cache_dir)?).map_err(in_cache)?;
    File::open(&folder).and_then(|folder| folder.sync_all()).map_err(in_cache)?;
    Ok(target)
}

/// Whether the cached file is unchanged. An untouched file is not read again, because its hash is cached.
fn is_whole(target: &Path, cache_dir: &Path) -> bool {
    let written = fs::read_to_string(checksum_path(target)).unwrap_or_default();
    locate(target).is_ok() && of_file(target, cache_dir).is_ok_and(|now| now == written)
}

/// Returns the checksum file of a cached file: its BLAKE3 hash, in hex.
fn checksum_path(target: &Path) -> PathBuf {
    target.with_extension("blake3")
}

/// Returns a temporary file whose permissions follow the umask: a cache may be shared.
fn unfinished_file(folder: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(UNFINISHED);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
    builder.tempfile_in(folder)
}

/// Deletes the temporary files of processes that died. Only the lock holder writes any, so none is in use.
fn remove_unfinished(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// One tensor to write.
struct TensorPlan<'a> {
    name: String,
    info: &'a TensorInfo,
    change: Change,
}

/// Returns the tensors to write, in the order of the source file.
fn plan<'a>(
    header: &'a Header,
    family: &GgufFamily,
    config: &ModelConfig,
) -> Result<Vec<TensorPlan<'a>>, String> {
    let mut missing = layout::required(config);
    let mut steps = Vec::new();
    for (from, info) in &header.tensors {
        let Destination::Tensor { name, change } = destination(from, family, config)? else { continue };
        let tensor = TensorPlan { name, info, change };
        if let Some(shape) = missing.remove(&tensor.name)
            && shape != tensor.shape()
        {
            return Err(format!(
                "tensor {from} has shape {:?} but the metadata require {shape:?}",
                tensor.shape()
            ));
        }
        tensor.check().map_err(|reason| format!("tensor {from}: {reason}"))?;
        steps.push(tensor);
    }
    if let Some((name, _)) = missing.first_key_value() {
        return Err(format!("no tensor exists for {name}"));
    }
    steps.sort_by_key(|tensor| (tensor.info.file, tensor.info.offset));
    Ok(steps)
}

impl TensorPlan<'_> {
    /// Returns the shape of the tensor as it is written.
    fn shape(&self) -> Vec<usize> {
        let mut shape = self.info.shape.clone();
        if self.change == Change::Transposed {
            shape.reverse();
        }
        shape
    }

    fn order(&self) -> RowOrder {
        match self.change {
            Change::Rows(order) => order,
            Change::Transposed | Change::PlusOne => RowOrder::Same,
        }
    }

    /// Rows and columns for the reordering. A vector is one row, unless it is the bias of a reordered matrix:
    /// then it has one row per element.
    fn matrix(&self) -> (usize, usize) {
        match (self.info.shape.len(), self.order()) {
            (1, RowOrder::Same) => (1, self.info.columns()),
            (1, _) => (self.info.columns(), 1),
            _ => (self.info.rows(), self.info.columns()),
        }
    }

    fn check(&self) -> Result<(), String> {
        let (rows, columns) = self.matrix();
        let (block, _) = self.info.block_type.block();
        if !columns.is_multiple_of(block) {
            return Err(format!("a bias in blocks of {block} elements is not supported"));
        }
        match self.order().piece_rows() {
            Some(piece) if !rows.is_multiple_of(piece) => {
                Err(format!("{rows} rows are not a multiple of {piece}"))
            }
            _ => Ok(()),
        }
    }
}

fn write(plan: &[TensorPlan<'_>], sources: &mut [File], mut out: impl Write) -> std::io::Result<()> {
    // `BlockType::bytes_of` has checked that the sizes do not overflow.
    let tensors = plan.iter().map(|tensor| (tensor.name.clone(), Dtype::F32, tensor.shape()));
    out.write_all(&header(tensors)?)?;
    for tensor in plan {
        let source = sources.get_mut(tensor.info.file).ok_or(ErrorKind::NotFound)?;
        write_tensor(tensor, source, &mut out)?;
    }
    out.flush()
}

fn write_tensor(tensor: &TensorPlan<'_>, source: &mut File, out: &mut impl Write) -> std::io::Result<()> {
    let info = tensor.info;
    let (rows, columns) = tensor.matrix();
    if info.bytes == 0 {
        return Ok(());
    }
    let row_bytes = info.bytes / rows as u64;
    let order = tensor.order();
    let piece_rows = match order.piece_rows() {
        Some(rows) => rows,
        None if tensor.change == Change::Transposed => rows,
        None => (CHUNK_BYTES / (columns * size_of::<f32>())).clamp(1, rows),
    };
    let (mut raw, mut floats, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    for piece in 0..rows.div_ceil(piece_rows) {
        let first = if order == RowOrder::Same { piece * piece_rows } else { order.source_row(piece) };
        let count = piece_rows.min(rows - piece * piece_rows);
        raw.clear();
        source.seek(SeekFrom::Start(info.offset + first as u64 * row_bytes))?;
        source.take(count as u64 * row_bytes).read_to_end(&mut raw)?;
        floats.clear();
        info.block_type.dequantise(&raw, &mut floats);
        if floats.len() != count * columns {
            return Err(std::io::Error::other("the GGUF file shrank while it was read"));
        }
        match tensor.change {
            Change::Rows(_) => {}
            Change::Transposed => floats = transposed(&floats, columns),
            Change::PlusOne => floats.iter_mut().for_each(|number| *number -= 1.0),
        }
        bytes.clear();
        for row in 0..count {
            let from = order.within(row) * columns;
            bytes.extend(floats[from..from + columns].iter().flat_map(|value| value.to_le_bytes()));
        }
        out.write_all(&bytes)?;
    }
    Ok(())
}
