//! Which rows of a table: filtered, sorted, paged.

use std::cmp::Ordering;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Cell, Column, ExperimentTables, Kind, Row, TableName};
use crate::error::BadInput;

/// Most rows of a page.
const LIMIT_MAX: usize = 1000;
/// Rows of a page, if none are asked for.
const LIMIT_DEFAULT: usize = 100;
/// Most filters of a query.
const FILTERS_MAX: usize = 32;

/// How a filter compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Is,
    IsNot,
    AtLeast,
    AtMost,
    Contains,
}

/// A condition that rows meet.
#[derive(Debug, Clone, PartialEq)]
struct Filter {
    column: usize,
    comparison: Comparison,
    value: Cell,
}

/// Which rows of a table, in which order, from where on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Query {
    table: TableName,
    filters: Vec<Filter>,
    /// The column, and whether the largest values come first.
    sort: Option<(usize, bool)>,
    limit: usize,
    cursor: Option<Cursor>,
    /// Filters and order as text: a cursor belongs to its query.
    identity: String,
}

/// The row after which a page begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Cursor {
    /// Hash of the query.
    query: String,
    /// The value by which rows are sorted.
    value: Value,
    /// The place of the row.
    place: usize,
}

/// A page of rows.
#[derive(Debug, Serialize)]
pub(crate) struct Page {
    /// The rows, each with its columns by name.
    pub(crate) rows: Vec<Map<String, Value>>,
    /// The cursor of the next page; `None` at the end.
    pub(crate) next: Option<String>,
}

impl Query {
    /// All rows of a table, conflicts by strength.
    pub(crate) fn all(table: TableName) -> Self {
        let sort = default_sort(table);
        Self { table, filters: Vec::new(), sort, limit: LIMIT_DEFAULT, cursor: None, identity: String::new() }
    }

    /// Reads a query from pairs, as in the address of a page: `sort=-pacs`, `limit=50`, `cursor=…`,
    /// `round=2`,
    /// `pacs.gte=0.5`, `text.contains=sorry`; also `.lte` and `.ne`. An empty value is that of empty cells.
    ///
    /// # Errors
    /// If a pair is unknown or its value is not allowed, with what is.
    pub(crate) fn parse(
        table: TableName,
        pairs: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, BadInput> {
        let mut query = Self::all(table);
        let mut cursor = None;
        for (key, value) in pairs {
            match key.as_str() {
                "limit" => query.limit = limit(&value)?,
                "cursor" => cursor = Some(value),
                "sort" => query.sort = Some(sort(table, &value)?),
                _ => query.filters.push(filter(table, &key, &value)?),
            }
        }
        if query.filters.len() > FILTERS_MAX {
            return Err(BadInput(format!("at most {FILTERS_MAX} filters are allowed")));
        }
        query.identity = query.identity();
        query.cursor = cursor.map(|text| query.read_cursor(&text)).transpose()?;
        Ok(query)
    }

    pub(crate) const fn table(&self) -> TableName {
        self.table
    }

    fn identity(&self) -> String {
        let mut text = format!("{} {:?}", self.table, self.sort);
        for filter in &self.filters {
            let _ = write!(text, " {filter:?}");
        }
        blake3::hash(text.as_bytes()).to_hex().as_str().get(..16).unwrap_or_default().to_owned()
    }

    fn read_cursor(&self, text: &str) -> Result<Cursor, BadInput> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        let cursor: Option<Cursor> = bytes.and_then(|bytes: Vec<u8>| serde_json::from_slice(&bytes).ok());
        let bad = |reason: &str| BadInput(format!("cursor: {reason}: send `next` of the page before"));
        let cursor = cursor.ok_or_else(|| bad("it cannot be read"))?;
        if cursor.query == self.identity { Ok(cursor) } else { Err(bad("it belongs to another query")) }
    }

    /// Returns the rows that meet the filters, in order.
    pub(crate) fn select<'a>(&self, tables: &'a ExperimentTables) -> Vec<&'a Row> {
        let meets = |row: &&Row| self.filters.iter().all(|filter| filter.holds(&row.cells[filter.column]));
        let mut rows: Vec<&Row> = tables.rows(self.table).iter().filter(meets).collect();
        rows.sort_by(|a, b| self.order((self.sort_value(a), a.place), (self.sort_value(b), b.place)));
        rows
    }

    /// Returns a page of the rows.
    pub(crate) fn page(&self, tables: &ExperimentTables) -> Page {
        let rows = self.select(tables);
        let begin = self.cursor.as_ref().map_or(0, |cursor| {
            let (value, place) = (cell(&cursor.value), cursor.place);
            rows.partition_point(|row| {
                self.order((self.sort_value(row), row.place), (&value, place)) != Ordering::Greater
            })
        });
        let rest = rows.get(begin..).unwrap_or_default();
        let page = rest.get(..self.limit).unwrap_or(rest);
        let last = page.last().filter(|_| rest.len() > page.len());
        let next = last.and_then(|row| {
            let value = serde_json::to_value(self.sort_value(row)).ok()?;
            let cursor = Cursor { query: self.identity.clone(), value, place: row.place };
            Some(URL_SAFE_NO_PAD.encode(serde_json::to_vec(&cursor).ok()?))
        });
        Page { rows: page.iter().map(|row| object(self.table, row)).collect(), next }
    }

    fn sort_value<'a>(&self, row: &'a Row) -> &'a Cell {
        self.sort.map_or(&Cell::Null, |(column, _)| &row.cells[column])
    }

    /// Orders rows by value and place; empty values come last in both directions.
    fn order(&self, a: (&Cell, usize), b: (&Cell, usize)) -> Ordering {
        let is_descending = self.sort.is_some_and(|(_, descending)| descending);
        let by_value = match (a.0, b.0) {
            (Cell::Null, Cell::Null) => Ordering::Equal,
            (Cell::Null, _) => Ordering::Greater,
            (_, Cell::Null) => Ordering::Less,
            (a, b) if is_descending => compare(b, a),
            (a, b) => compare(a, b),
        };
        by_value.then(a.1.cmp(&b.1))
    }
}

/// A row, with its columns by name.
pub(super) fn object(table: TableName, row: &Row) -> Map<String, Value> {
    let value = |cell: &Cell| serde_json::to_value(cell).unwrap_or_default();
    table
        .columns()
        .iter()
        .zip(&row.cells)
        .map(|(column, cell)| (column.name.to_owned(), value(cell)))
        .collect()
}

fn cell(value: &Value) -> Cell {
    match value {
        Value::Bool(value) => Cell::Bool(*value),
        Value::Number(number) => match number.as_i64() {
            Some(value) => Cell::Int(value),
            None => number.as_f64().into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Null | Value::Array(_) | Value::Object(_) => Cell::Null,
    }
}

/// Compares values of one column. A number that was written without a fraction is read as an integer.
fn compare(a: &Cell, b: &Cell) -> Ordering {
    match (a, b) {
        (Cell::Bool(a), Cell::Bool(b)) => a.cmp(b),
        (Cell::Int(a), Cell::Int(b)) => a.cmp(b),
        (Cell::Text(a), Cell::Text(b)) => a.cmp(b),
        (a, b) => match (number(a), number(b)) {
            (Some(a), Some(b)) => a.total_cmp(&b),
            _ => Ordering::Equal,
        },
    }
}

#[expect(clippy::cast_precision_loss, reason = "such integers are counts and times below 2^53")]
fn number(cell: &Cell) -> Option<f64> {
    match cell {
        Cell::Int(value) => Some(*value as f64),
        Cell::Number(value) => Some(*value),
        Cell::Null | Cell::Bool(_) | Cell::Text(_) => None,
    }
}

impl Filter {
    fn holds(&self, cell: &Cell) -> bool {
        match self.comparison {
            Comparison::Is => is_same(cell, &self.value),
            Comparison::IsNot => !is_same(cell, &self.value),
            _ if *cell == Cell::Null => false,
            Comparison::AtLeast => compare(cell, &self.value) != Ordering::Less,
            Comparison::AtMost => compare(cell, &self.value) != Ordering::Greater,
            Comparison::Contains => match (cell, &self.value) {
                (Cell::Text(text), Cell::Text(part)) => text.to_lowercase().contains(part.as_ref()),
                _ => false,
            },
        }
    }
}

fn is_same(a: &Cell, b: &Cell) -> bool {
    match (a, b) {
        (Cell::Null, Cell::Null) => true,
        (Cell::Null, _) | (_, Cell::Null) => false,
        (a, b) => compare(a, b) == Ordering::Equal,
    }
}

fn default_sort(table: TableName) -> Option<(usize, bool)> {
    let strongest = |table: TableName| table.columns().iter().position(|column| column.name == "abs_pacs");
    (table == TableName::Conflicts).then(|| strongest(table)).flatten().map(|column| (column, true))
}

fn limit(value: &str) -> Result<usize, BadInput> {
    let parsed = value.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
    parsed.ok_or_else(|| BadInput(format!("limit: use 1 to {LIMIT_MAX}")))
}

fn sort(table: TableName, value: &str) -> Result<(usize, bool), BadInput> {
    let (name, descending) = match value.strip_prefix('-') {
        Some(name) => (name, true),
        None => (value, false),
    };
    Ok((column(table, "sort", name)?.0, descending))
}

fn column(table: TableName, key: &str, name: &str) -> Result<(usize, &'static Column), BadInput> {
    let columns = table.columns().iter().enumerate();
    columns.into_iter().find(|(_, column)| column.name == name).ok_or_else(|| {
        let known: Vec<&str> = table.columns().iter().map(|column| column.name).collect();
        let key = crate::text::visible(key);
        BadInput(format!("{key}: {table} has no such column: use one of {}", known.join(", ")))
    })
}

fn filter(table: TableName, key: &str, value: &str) -> Result<Filter, BadInput> {
    let (name, comparison) = match key.rsplit_once('.') {
        Some((name, "gte")) => (name, Comparison::AtLeast),
        Some((name, "lte")) => (name, Comparison::AtMost),
        Some((name, "ne")) => (name, Comparison::IsNot),
        Some((name, "contains")) => (name, Comparison::Contains),
        _ => (key, Comparison::Is),
    };
    let (column, found) = column(table, key, name)?;
    let bad = |what: &str| BadInput(format!("{key}: {what}"));
    let is_range = matches!(comparison, Comparison::AtLeast | Comparison::AtMost);
    let value = match found.kind {
        _ if value.is_empty() && !is_range && comparison != Comparison::Contains => Cell::Null,
        Kind::Text if is_range => return Err(bad("texts have no order: use = or .contains")),
        Kind::Text if comparison == Comparison::Contains => value.to_lowercase().as_str().into(),
        Kind::Text => value.into(),
        _ if comparison == Comparison::Contains => return Err(bad("only texts contain others")),
        Kind::Bool => value.parse::<bool>().map_err(|_| bad("use true or false"))?.into(),
        Kind::Int => Cell::Int(value.parse().map_err(|_| bad("use an integer"))?),
        Kind::Number => {
            let number = value.parse::<f64>().ok().filter(|number| number.is_finite());
            number.ok_or_else(|| bad("use a number"))?.into()
        }
    };
    Ok(Filter { column, comparison, value })
}
