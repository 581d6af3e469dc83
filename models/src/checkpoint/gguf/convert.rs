//! Writes the weights of a GGUF file once into the cache, with the names and the row order of Hugging Face.
//!
//! They are 32-bit floats, or quantised matrices are packed.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use dissent_domain::weight_form::WeightForm;
use safetensors::Dtype;

use super::families::GgufFamily;
use super::groups::Groups;
use super::header::{Header, TensorInfo};
use super::names::{Change, Destination, RowOrder, destination};
use super::packing::pack;
use crate::cache::{dequantised_dir, packed_dir};
use crate::checkpoint::cache_file::{WriteFault, written_once};
use crate::checkpoint::config::ModelConfig;
use crate::checkpoint::layout;
use crate::checkpoint::packed::{PackedShape, Part, is_factor};
use crate::checkpoint::safetensors::header;
use crate::checkpoint::weights::{Dtype as Float, TensorRef, transposed};
use crate::error::ModelError;

/// Version of the conversion to floats. Raised when the same GGUF file would give another file.
const CONVERTER_VERSION: u32 = 1;
/// Version of the packing, likewise.
const PACKER_VERSION: u32 = 1;
/// The approximate number of float bytes that are held at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// Returns the file with the weights of the GGUF file at `path`. They are converted if they are not in the
/// cache. `hash` is the BLAKE3 hash of the file; of a split model, the hashes of all files.
pub(super) fn converted(
    path: &Path,
    header: &Header,
    (family, config): (&GgufFamily, &ModelConfig),
    form: WeightForm,
    hash: &str,
    cache_dir: &Path,
) -> Result<PathBuf, ModelError> {
    let packs = form == WeightForm::AsStored;
    let (folder, key) = if packs {
        (packed_dir(cache_dir), format!("{hash} packer {PACKER_VERSION}"))
    } else {
        (dequantised_dir(cache_dir), format!("{hash} converter {CONVERTER_VERSION}"))
    };
    written_once(&folder, &key, cache_dir, |out| {
        let plan = plan(header, family, config, packs).map_err(|reason| ModelError::file(path, reason))?;
        tracing::info!(path = %path.display(), packed = packs, "converting weights into the cache");
        let open = |file: &PathBuf| File::open(file).map_err(|error| ModelError::file(file, error));
        let mut sources = header.files.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        write(&plan, &mut sources, out).map_err(WriteFault::Cache)
    })
}

/// Returns the floats that [`converted`] would write, at no place: nothing is converted.
pub(super) fn outline(
    path: &Path,
    header: &Header,
    (family, config): (&GgufFamily, &ModelConfig),
) -> Result<Vec<(String, TensorRef)>, ModelError> {
    let plan = plan(header, family, config, false).map_err(|reason| ModelError::file(path, reason))?;
    let tensor = |planned: TensorPlan<'_>| {
        let shape = planned.shape();
        let bytes = (shape.iter().product::<usize>() * Float::F32.size()) as u64;
        (planned.name, TensorRef { file: path.to_owned(), offset: 0, bytes, dtype: Float::F32, shape })
    };
    Ok(plan.into_iter().map(tensor).collect())
}

/// One tensor of the source file.
struct TensorPlan<'a> {
    name: String,
    info: &'a TensorInfo,
    change: Change,
    /// Its form if it is packed.
    packed: Option<PackedShape>,
}

/// Returns the tensors to write, in the order of the source file.
fn plan<'a>(
    header: &'a Header,
    family: &GgufFamily,
    config: &ModelConfig,
    packs: bool,
) -> Result<Vec<TensorPlan<'a>>, String> {
    let mut missing = layout::required(config);
    let mut steps = Vec::new();
    for (from, info) in &header.tensors {
        let Destination::Tensor { name, change } = destination(from, family, config)? else { continue };
        let packed = if packs && is_factor(&name, config) { packed_shape(info) } else { None };
        let tensor = TensorPlan { name, info, change, packed };
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

/// Returns the packed form of a matrix; `None` for floats. GGUF files hold matrices as `[outputs, inputs]`,
/// as products take them.
fn packed_shape(info: &TensorInfo) -> Option<PackedShape> {
    let grouping = info.block_type.grouping()?;
    let &[outputs, inputs] = info.shape.as_slice() else { return None };
    Some(PackedShape { outputs, inputs, bits: grouping.bits(), block: grouping.elements })
}

impl TensorPlan<'_> {
    /// Returns the shape of the tensor as floats.
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

    /// Returns the tensors that are written for this one.
    fn written(&self) -> Vec<Written<'_>> {
        let minimum = self.info.block_type.grouping().is_some_and(|grouping| grouping.minimum);
        let parts: &[Option<Part>] = match self.packed {
            None => &[None],
            Some(_) if minimum => &[Some(Part::Integers), Some(Part::Scales), Some(Part::Constants)],
            Some(_) => &[Some(Part::Integers), Some(Part::Scales)],
        };
        parts.iter().map(|&part| Written { tensor: self, part }).collect()
    }
}

/// One tensor to write: the floats of a tensor of the source, or a part of its packed matrix.
struct Written<'a> {
    tensor: &'a TensorPlan<'a>,
    part: Option<Part>,
}

fn write(plan: &[TensorPlan<'_>], sources: &mut [File], out: &mut impl Write) -> std::io::Result<()> {
    let all: Vec<Written<'_>> = plan.iter().flat_map(TensorPlan::written).collect();
    // `BlockType::bytes_of` has checked that the sizes do not overflow.
    out.write_all(&header(all.iter().map(Written::entry))?)?;
    for written in &all {
        let source = sources.get_mut(written.tensor.info.file).ok_or(ErrorKind::NotFound)?;
        written.write(source, out)?;
    }
    Ok(())
}

impl Written<'_> {
    fn entry(&self) -> (String, Dtype, Vec<usize>) {
        match (self.tensor.packed, self.part) {
            (Some(packed), Some(part)) => packed.tensor(&self.tensor.name, part),
            (_, _) => (self.tensor.name.clone(), Dtype::F32, self.tensor.shape()),
        }
    }

    fn write(&self, source: &mut File, out: &mut impl Write) -> std::io::Result<()> {
        let info = self.tensor.info;
        let (rows, columns) = self.tensor.matrix();
        if info.bytes == 0 {
            return Ok(());
        }
        let row_bytes = info.bytes / rows as u64;
        let order = self.tensor.order();
        let whole = self.part.is_none() && self.tensor.change == Change::Transposed;
        let piece_rows = match order.piece_rows() {
            Some(rows) => rows,
            None if whole => rows,
            None => (CHUNK_BYTES / (columns * size_of::<f32>())).clamp(1, rows),
        };
        let (mut raw, mut ordered, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
        let (mut groups, mut floats) = (Groups::default(), Vec::new());
        for piece in 0..rows.div_ceil(piece_rows) {
            let first = if order == RowOrder::Same { piece * piece_rows } else { order.source_row(piece) };
            let count = piece_rows.min(rows - piece * piece_rows);
            raw.clear();
            source.seek(SeekFrom::Start(info.offset + first as u64 * row_bytes))?;
            Read::by_ref(source).take(count as u64 * row_bytes).read_to_end(&mut raw)?;
            if raw.len() as u64 != count as u64 * row_bytes {
                return Err(std::io::Error::other("the GGUF file shrank while it was read"));
            }
            in_order(order, &mut raw, count, &mut ordered);
            bytes.clear();
            match (self.part, info.block_type.grouping()) {
                (Some(part), Some(grouping)) => {
                    groups.clear();
                    info.block_type.read_groups(&raw, &mut groups);
                    pack(&groups, grouping, part, &mut bytes);
                }
                (_, _) => {
                    floats.clear();
                    info.block_type.dequantise(&raw, &mut floats);
                    match self.tensor.change {
                        Change::Rows(_) => {}
                        Change::Transposed => floats = transposed(&floats, columns),
                        Change::PlusOne => floats.iter_mut().for_each(|number| *number -= 1.0),
                    }
                    bytes.extend(floats.iter().flat_map(|value| value.to_le_bytes()));
                }
            }
            out.write_all(&bytes)?;
        }
        Ok(())
    }
}

/// Puts the rows of a piece into the order in which they are written. `buffer` is reused.
fn in_order(order: RowOrder, raw: &mut Vec<u8>, rows: usize, buffer: &mut Vec<u8>) {
    if order.piece_rows().is_none() {
        return;
    }
    let row_bytes = raw.len() / rows.max(1);
    buffer.clear();
    for row in 0..rows {
        buffer.extend_from_slice(&raw[order.within(row) * row_bytes..][..row_bytes]);
    }
    std::mem::swap(raw, buffer);
}
