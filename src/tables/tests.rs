//! Properties of the tables: pages, filters and formats agree.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::tables::query::object;

/// A query without filters, as `Query::parse` reads it.
fn parse(table: TableName, pairs: &[(&str, &str)]) -> Result<Query, BadInput> {
    Query::parse(table, pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())))
}

fn arbitrary_cell(kind: Kind) -> BoxedStrategy<Cell> {
    let present = match kind {
        Kind::Bool => any::<bool>().prop_map(Cell::Bool).boxed(),
        Kind::Int => (-3_i64..3).prop_map(Cell::Int).boxed(),
        Kind::Number => prop_oneof![(-2_i32..3).prop_map(|n| f64::from(n) / 2.0), -1e9..1e9_f64]
            .prop_map(Cell::from)
            .boxed(),
        Kind::Text => "[ab\"',\n=é😀]{0,3}".prop_map(|text| Cell::from(text.as_str())).boxed(),
    };
    prop_oneof![1 => Just(Cell::Null), 4 => present].boxed()
}

prop_compose! {
    fn arbitrary_rows(table: TableName, most: usize)(
        rows in prop::collection::vec(
            table.columns().iter().map(|column| arbitrary_cell(column.kind)).collect::<Vec<_>>(), 0..most,
        ),
    ) -> Vec<Row> {
        rows.into_iter().enumerate().map(|(place, cells)| Row { place, cells }).collect()
    }
}

fn tables(table: TableName, rows: Vec<Row>) -> ExperimentTables {
    let mut tables = ExperimentTables::default();
    *tables.rows_mut(table) = rows;
    tables
}

fn written(tables: &ExperimentTables, query: &Query, format: Format) -> Vec<u8> {
    let mut out = Vec::new();
    write(tables, query, format, &mut out).unwrap();
    out
}

fn json_rows(tables: &ExperimentTables, query: &Query) -> Vec<Value> {
    let text = String::from_utf8(written(tables, query, Format::Jsonl)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const TABLE: TableName = TableName::Comparisons;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pages_visit_each_row_once_in_order_while_rows_are_added(
        rows in arbitrary_rows(TABLE, 40),
        added in arbitrary_rows(TABLE, 10),
        limit in 1..7_usize,
        column in 0..TABLE.columns().len(),
        descending: bool,
    ) {
        let sort = format!("{}{}", if descending { "-" } else { "" }, TABLE.columns()[column].name);
        let limit = limit.to_string();
        let first = parse(TABLE, &[("sort", &sort), ("limit", &limit)]).unwrap();
        let count = rows.len();
        let mut tables = tables(TABLE, rows);
        let before: Vec<usize> = first.select(&tables).iter().map(|row| row.place).collect();
        let mut page = first.page(&tables);
        for mut row in added {
            row.place = tables.rows(TABLE).len();
            tables.rows_mut(TABLE).push(row);
        }
        let all: Vec<Value> = first.select(&tables).iter().map(|row| Value::Object(object(TABLE, row))).collect();
        let mut visited: Vec<Value> = page.rows.into_iter().map(Value::Object).collect();
        let seen_before_adding = visited.len();
        while let Some(cursor) = page.next.take() {
            let next = parse(TABLE, &[("sort", &sort), ("limit", &limit), ("cursor", &cursor)]).unwrap();
            page = next.page(&tables);
            visited.extend(page.rows.drain(..).map(Value::Object));
        }
        // All rows that were there are visited, and those that were added after the last visited one.
        prop_assert!(visited.len() >= count.max(seen_before_adding).min(before.len()));
        let mut rest = all.iter();
        for row in &visited {
            prop_assert!(rest.any(|other| other == row), "a row is visited twice or out of order");
        }
    }

    #[test]
    fn a_filter_keeps_the_rows_that_meet_it(
        rows in arbitrary_rows(TABLE, 40),
        bound in -2_i32..3,
        word in "[ab]{0,2}",
    ) {
        let tables = tables(TABLE, rows);
        let all = json_rows(&tables, &Query::all(TABLE));
        let bound = f64::from(bound) / 2.0;
        let kept = |pairs: &[(&str, &str)]| json_rows(&tables, &parse(TABLE, pairs).unwrap());
        let text = bound.to_string();
        let by = |keep: &dyn Fn(&Value) -> bool| all.iter().filter(|row| keep(row)).cloned().collect::<Vec<_>>();
        let number = |row: &Value| row["first_pacs"].as_f64();
        prop_assert_eq!(kept(&[("first_pacs.gte", &text)]), by(&|row| number(row).is_some_and(|n| n >= bound)));
        prop_assert_eq!(kept(&[("first_pacs.lte", &text)]), by(&|row| number(row).is_some_and(|n| n <= bound)));
        prop_assert_eq!(kept(&[("first_pacs", &text)]), by(&|row| number(row) == Some(bound)));
        prop_assert_eq!(kept(&[("first_pacs.ne", &text)]), by(&|row| number(row) != Some(bound)));
        prop_assert_eq!(kept(&[("first_pacs", "")]), by(&|row| row["first_pacs"].is_null()));
        prop_assert_eq!(kept(&[("is_audit", "true")]), by(&|row| row["is_audit"] == true));
        let has = |row: &Value| row["prompt"].as_str().is_some_and(|text| text.to_lowercase().contains(&word));
        prop_assert_eq!(kept(&[("prompt.contains", &word)]), by(&has));
    }

    #[test]
    fn csv_and_parquet_hold_the_rows_of_json_lines(rows in arbitrary_rows(TABLE, 30)) {
        let tables = tables(TABLE, rows);
        let query = Query::all(TABLE);
        let expected = json_rows(&tables, &query);
        let bytes = written(&tables, &query, Format::Csv);
        let mut reader = csv::Reader::from_reader(bytes.as_slice());
        let names: Vec<String> = reader.headers().unwrap().iter().map(str::to_owned).collect();
        prop_assert_eq!(&names, &TABLE.columns().iter().map(|column| column.name.to_owned()).collect::<Vec<_>>());
        for (record, row) in reader.records().zip(&expected) {
            for (cell, name) in record.unwrap().iter().zip(&names) {
                let value = match &row[name] {
                    Value::Null => String::new(),
                    Value::String(text) => text.clone(),
                    Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => row[name].to_string(),
                };
                prop_assert_eq!(cell, value);
            }
        }
        prop_assert_eq!(parquet_rows(written(&tables, &query, Format::Parquet)), expected);
    }
}

fn parquet_rows(bytes: Vec<u8>) -> Vec<Value> {
    use parquet::file::reader::FileReader as _;
    use parquet::file::serialized_reader::SerializedFileReader;
    use parquet::record::Field;
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, &bytes).unwrap();
    let reader = SerializedFileReader::new(file).unwrap();
    let rows = reader.get_row_iter(None).unwrap();
    #[expect(clippy::wildcard_enum_match_arm, reason = "tables have four kinds of columns")]
    let value = |field: &Field| match field {
        Field::Null => Value::Null,
        Field::Bool(value) => Value::from(*value),
        Field::Long(value) => Value::from(*value),
        Field::Double(value) => Value::from(*value),
        Field::Str(value) => Value::from(value.clone()),
        other => panic!("{other:?}"),
    };
    rows.map(|row| row.unwrap().get_column_iter().map(|(name, field)| (name.clone(), value(field))).collect())
        .collect()
}

#[test]
fn an_unusable_query_is_refused_with_what_is_allowed() {
    for (pairs, part) in [
        (&[("x", "1")][..], "round"),
        (&[("sort", "x")], "round"),
        (&[("limit", "0")], "1 to 1000"),
        (&[("limit", "1001")], "1 to 1000"),
        (&[("round", "one")], "integer"),
        (&[("first_pacs.gte", "nan")], "number"),
        (&[("first_pacs.gte", "")], "number"),
        (&[("first_pacs.contains", "1")], "texts"),
        (&[("prompt.gte", "a")], "order"),
        (&[("is_audit", "yes")], "true or false"),
        (&[("cursor", "x")], "next"),
    ] {
        let error = parse(TABLE, pairs).unwrap_err().to_string();
        assert!(error.contains(part), "{pairs:?}: {error}");
    }
    assert!(parse(TABLE, &[("round", "1"); 33]).is_err());
}

#[test]
fn a_cursor_belongs_to_its_query() {
    let cells = |n: i64| TABLE.columns().iter().map(|_| Cell::Int(n)).collect();
    let rows = (0..5).map(|place| Row { place, cells: cells(0) }).collect();
    let tables = tables(TABLE, rows);
    let next = parse(TABLE, &[("limit", "2")]).unwrap().page(&tables).next.unwrap();
    assert!(parse(TABLE, &[("limit", "3"), ("cursor", &next)]).is_ok());
    for other in [("sort", "round"), ("round", "1")] {
        assert!(parse(TABLE, &[other, ("cursor", &next)]).is_err(), "{other:?}");
    }
    assert!(parse(TableName::Prompts, &[("cursor", &next)]).is_err());
}

#[test]
fn the_book_has_every_column() {
    let chapter = include_str!("../../docs/book/src/tables.md");
    for table in TableName::ALL {
        let title = format!("## {}\n", table.name()).to_lowercase();
        let section = chapter.to_lowercase().split_once(&title).unwrap().1.to_owned();
        let section = section.split("\n## ").next().unwrap().to_owned();
        for column in table.columns() {
            let about = column.about.replace('|', "&#124;");
            let kind = serde_json::to_value(column.kind).unwrap();
            let row = format!("| `{}` | {} | {about} |", column.name, kind.as_str().unwrap()).to_lowercase();
            assert!(section.contains(&row), "docs/book/src/tables.md lacks {table}: {row}");
        }
    }
}

#[test]
fn columns_are_named_once_and_documented() {
    for table in TableName::ALL {
        let names: BTreeSet<&str> = table.columns().iter().map(|column| column.name).collect();
        assert_eq!(names.len(), table.columns().len(), "{table}");
        assert!(table.columns().iter().all(|column| !column.about.is_empty()));
        assert_eq!(table.to_string().parse::<TableName>().unwrap(), table);
    }
    assert_eq!("pairs".parse::<TableName>().unwrap(), TableName::Comparisons);
    assert!("x".parse::<TableName>().is_err());
}
