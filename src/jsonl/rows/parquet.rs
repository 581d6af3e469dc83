//! Parquet: the rows of each row group, page by page.

use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::panic::{AssertUnwindSafe, catch_unwind};

use parquet::file::serialized_reader::SerializedFileReader;
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use serde::Serialize;

use super::compression::DECOMPRESSED_BYTES_MAX;
use super::row::{JsonRows, RowError, too_long};
use crate::jsonl::error::{Fault, LINE_BYTES_MAX};

/// Rows that are decoded together from each column.
const BATCH_ROWS: usize = 64;

/// The rows of a file.
pub(super) struct TableRows {
    rows: RowIter<'static>,
    row: u64,
    /// Bytes of text that may still be read.
    left: u64,
}

impl TableRows {
    pub(super) fn open(file: File) -> Result<Self, RowError> {
        let rows = caught(0, || {
            let reader = SerializedFileReader::new(file)?;
            Ok(RowIter::from_file_into(Box::new(reader)).with_batch_size(BATCH_ROWS))
        })?;
        Ok(Self { rows, row: 0, left: DECOMPRESSED_BYTES_MAX })
    }

    /// Copies an input that is not a file, because the description of a table is at its end.
    pub(super) fn copy(mut input: impl Read) -> io::Result<File> {
        let mut file = tempfile::tempfile()?;
        io::copy(&mut input, &mut file)?;
        file.rewind()?;
        Ok(file)
    }
}

impl JsonRows for TableRows {
    fn next(&mut self, row: &mut Vec<u8>) -> Result<Option<u64>, RowError> {
        let rows = &mut self.rows;
        let Some(read) = caught(self.row, || rows.next().transpose())? else { return Ok(None) };
        self.row += 1;
        row.clear();
        write_object(row, &read);
        if row.len() > LINE_BYTES_MAX {
            return Err(RowError::Fault(self.row, too_long()));
        }
        self.left = self.left.checked_sub(row.len() as u64).ok_or_else(|| {
            let reason =
                format!("the data set exceeds {DECOMPRESSED_BYTES_MAX} bytes: split it into several files");
            RowError::Io(self.row, io::Error::other(reason))
        })?;
        Ok(Some(self.row))
    }
}

/// Runs the library, which panics on some damaged files.
fn caught<T>(row: u64, work: impl FnOnce() -> parquet::errors::Result<T>) -> Result<T, RowError> {
    let damaged = |reason: String| RowError::Fault(row + 1, Fault::Damaged { container: "Parquet", reason });
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|error| damaged(error.to_string())),
        Err(_) => Err(damaged("inconsistent pages".to_owned())),
    }
}

fn write_object(out: &mut Vec<u8>, row: &Row) {
    out.push(b'{');
    for (index, (name, field)) in row.get_column_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_json(out, name);
        out.push(b':');
        write_field(out, field);
    }
    out.push(b'}');
}

fn write_field(out: &mut Vec<u8>, field: &Field) {
    match field {
        Field::Null => out.extend(b"null"),
        Field::Bool(truth) => write_json(out, truth),
        Field::Byte(number) => write_json(out, number),
        Field::Short(number) => write_json(out, number),
        Field::Int(number) | Field::Date(number) | Field::TimeMillis(number) => write_json(out, number),
        Field::Long(number)
        | Field::TimeMicros(number)
        | Field::TimestampMillis(number)
        | Field::TimestampMicros(number) => write_json(out, number),
        Field::UByte(number) => write_json(out, number),
        Field::UShort(number) => write_json(out, number),
        Field::UInt(number) => write_json(out, number),
        Field::ULong(number) => write_json(out, number),
        Field::Float16(number) => write_float(out, number.to_f64()),
        Field::Float(number) => write_float(out, f64::from(*number)),
        Field::Double(number) => write_float(out, *number),
        Field::Decimal(_) => out.extend(field.to_string().as_bytes()),
        Field::Str(text) => write_json(out, text),
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => write_json(out, text),
            // An image, for example. A field that is read is refused for its type.
            Err(_) => write_json(out, &serde_json::json!({"bytes": bytes.len()})),
        },
        Field::Group(row) => write_object(out, row),
        Field::ListInternal(list) => write_list(out, list.elements()),
        Field::MapInternal(map) => write_map(out, map.entries()),
    }
}

/// Writes a number. NaN and infinities are written as such, so that they are refused by the name of their
/// field.
fn write_float(out: &mut Vec<u8>, number: f64) {
    if number.is_finite() { write_json(out, &number) } else { out.extend(number.to_string().as_bytes()) }
}

fn write_list(out: &mut Vec<u8>, fields: &[Field]) {
    out.push(b'[');
    for (index, field) in fields.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_field(out, field);
    }
    out.push(b']');
}

fn write_map(out: &mut Vec<u8>, entries: &[(Field, Field)]) {
    out.push(b'{');
    for (index, (key, value)) in entries.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        if let Field::Str(key) = key {
            write_json(out, key);
        } else {
            write_json(out, &key.to_string());
        }
        out.push(b':');
        write_field(out, value);
    }
    out.push(b'}');
}

fn write_json(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    // Writing plain data to memory cannot fail.
    let _ = serde_json::to_writer(out, value);
}

#[cfg(test)]
mod tests;
