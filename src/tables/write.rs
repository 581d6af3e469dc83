//! Writes tables as JSON lines, CSV or Parquet.

use std::io::{self, Write};
use std::str::FromStr;
use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, Type as PhysicalType, ZstdLevel};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;

use super::query::object;
use super::{Cell, Column, ExperimentTables, Kind, Query, Row, TableName};
use crate::error::BadInput;

/// Rows of a row group of Parquet, which its reader decodes together.
const GROUP_ROWS: usize = 20_000;

/// A format of tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// JSON Lines.
    Jsonl,
    /// Comma-separated values with a header, as RFC 4180 has them.
    Csv,
    /// Parquet, zstd-compressed.
    Parquet,
}

impl Format {
    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::Jsonl => "application/jsonl",
            Self::Csv => "text/csv; charset=utf-8",
            Self::Parquet => "application/vnd.apache.parquet",
        }
    }

    pub(crate) const fn extension(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
            Self::Parquet => "parquet",
        }
    }
}

impl FromStr for Format {
    type Err = BadInput;

    fn from_str(name: &str) -> Result<Self, BadInput> {
        match name {
            "jsonl" => Ok(Self::Jsonl),
            "csv" => Ok(Self::Csv),
            "parquet" => Ok(Self::Parquet),
            _ => Err(BadInput("format: use jsonl, csv or parquet".to_owned())),
        }
    }
}

/// Writes the rows of a query, all pages of it.
///
/// # Errors
/// If `out` fails.
pub(crate) fn write(
    tables: &ExperimentTables,
    query: &Query,
    format: Format,
    mut out: impl Write + Send,
) -> anyhow::Result<()> {
    let (table, rows) = (query.table(), query.select(tables));
    match format {
        Format::Jsonl => json_lines(table, &rows, &mut out)?,
        Format::Csv => csv(table, &rows, &mut out)?,
        Format::Parquet => parquet(table, &rows, &mut out)?,
    }
    Ok(out.flush()?)
}

fn json_lines(table: TableName, rows: &[&Row], out: &mut impl Write) -> io::Result<()> {
    for row in rows {
        serde_json::to_writer(&mut *out, &object(table, row))?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

fn csv(table: TableName, rows: &[&Row], out: &mut impl Write) -> anyhow::Result<()> {
    let mut writer = ::csv::WriterBuilder::new().terminator(::csv::Terminator::CRLF).from_writer(out);
    writer.write_record(table.columns().iter().map(|column| column.name))?;
    for row in rows {
        writer.write_record(row.cells.iter().map(|cell| match cell {
            Cell::Null => String::new(),
            Cell::Bool(value) => value.to_string(),
            Cell::Int(value) => value.to_string(),
            // As JSON writes it: the shortest text that is read back as the same number.
            Cell::Number(value) => serde_json::Value::from(*value).to_string(),
            Cell::Text(text) => text.to_string(),
        }))?;
    }
    Ok(writer.flush()?)
}

fn schema(table: TableName) -> Result<Type, ParquetError> {
    let field = |column: &Column| {
        let (physical, logical) = match column.kind {
            Kind::Bool => (PhysicalType::BOOLEAN, None),
            Kind::Int => (PhysicalType::INT64, None),
            Kind::Number => (PhysicalType::DOUBLE, None),
            Kind::Text => (PhysicalType::BYTE_ARRAY, Some(LogicalType::String)),
        };
        let field = Type::primitive_type_builder(column.name, physical)
            .with_repetition(Repetition::OPTIONAL)
            .with_logical_type(logical);
        field.build().map(Arc::new)
    };
    let fields = table.columns().iter().map(field).collect::<Result<_, _>>()?;
    Type::group_type_builder(table.name()).with_fields(fields).build()
}

fn parquet(table: TableName, rows: &[&Row], out: &mut (impl Write + Send)) -> anyhow::Result<()> {
    let compression = Compression::ZSTD(ZstdLevel::try_new(3)?);
    let properties = WriterProperties::builder().set_compression(compression).build();
    let mut writer = SerializedFileWriter::new(out, Arc::new(schema(table)?), Arc::new(properties))?;
    // A file without a row group is one that some readers refuse.
    let groups = if rows.is_empty() { vec![rows] } else { rows.chunks(GROUP_ROWS).collect() };
    for group in groups {
        let mut group_writer = writer.next_row_group()?;
        for (index, column) in table.columns().iter().enumerate() {
            let Some(mut writer) = group_writer.next_column()? else {
                anyhow::bail!("Parquet has no column {}", column.name)
            };
            let cells = || group.iter().map(|row| &row.cells[index]);
            let present: Vec<i16> = cells().map(|cell| i16::from(*cell != Cell::Null)).collect();
            write_column(writer.untyped(), cells(), &present)?;
            writer.close()?;
        }
        group_writer.close()?;
    }
    writer.close()?;
    Ok(())
}

/// Writes the values of a column that are present, and which are.
fn write_column<'a>(
    writer: &mut ColumnWriter<'_>,
    cells: impl Iterator<Item = &'a Cell>,
    present: &[i16],
) -> Result<(), ParquetError> {
    let levels = Some(present);
    match writer {
        ColumnWriter::BoolColumnWriter(writer) => {
            let values: Vec<bool> = cells.filter_map(as_bool).collect();
            writer.write_batch(&values, levels, None)?;
        }
        ColumnWriter::Int64ColumnWriter(writer) => {
            let values: Vec<i64> = cells.filter_map(as_int).collect();
            writer.write_batch(&values, levels, None)?;
        }
        ColumnWriter::DoubleColumnWriter(writer) => {
            let values: Vec<f64> = cells.filter_map(as_number).collect();
            writer.write_batch(&values, levels, None)?;
        }
        ColumnWriter::ByteArrayColumnWriter(writer) => {
            let values: Vec<ByteArray> = cells.filter_map(as_text).collect();
            writer.write_batch(&values, levels, None)?;
        }
        ColumnWriter::Int32ColumnWriter(_)
        | ColumnWriter::Int96ColumnWriter(_)
        | ColumnWriter::FloatColumnWriter(_)
        | ColumnWriter::FixedLenByteArrayColumnWriter(_) => {
            return Err(ParquetError::General("a column of a type that no table has".to_owned()));
        }
    }
    Ok(())
}

fn as_bool(cell: &Cell) -> Option<bool> {
    if let Cell::Bool(value) = cell { Some(*value) } else { None }
}

fn as_int(cell: &Cell) -> Option<i64> {
    if let Cell::Int(value) = cell { Some(*value) } else { None }
}

fn as_number(cell: &Cell) -> Option<f64> {
    if let Cell::Number(value) = cell { Some(*value) } else { None }
}

fn as_text(cell: &Cell) -> Option<ByteArray> {
    if let Cell::Text(text) = cell { Some(text.as_bytes().to_vec().into()) } else { None }
}
