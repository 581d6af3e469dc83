//! Flat tables of a log.

use std::collections::BTreeMap;

use serde_json::Value;

use super::histories::{DataFolders, PROMPTS, learning_plan, learnt};

const TABLES: [&str; 9] = [
    "events",
    "completions",
    "scores",
    "conflicts",
    "comparisons",
    "feedback",
    "pairs",
    "trainings",
    "evaluations",
];

fn rows(folders: &DataFolders, table: &str) -> Vec<serde_json::Map<String, Value>> {
    let file = folders.path(&format!("{table}.jsonl"));
    folders.output("data", &["log", "export", "--table", table, file.to_str().unwrap()], 0);
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn folders() -> (DataFolders, usize) {
    let folders = DataFolders::new();
    let history = learnt(learning_plan("loop"));
    folders.append("data", &history.recorded);
    (folders, history.recorded.len())
}

#[test]
fn rows_of_a_table_have_the_same_flat_columns() {
    let (folders, events) = folders();
    let mut counts = BTreeMap::new();
    for table in TABLES {
        let rows = rows(&folders, table);
        let columns: Vec<&String> = rows[0].keys().collect();
        assert_eq!(&columns[..3], ["position", "time_us", "experiment"], "{table}");
        for row in &rows {
            assert_eq!(row.keys().collect::<Vec<_>>(), columns, "{table}");
            for (column, value) in row {
                let scalar = |value: &Value| !value.is_object() && !value.is_array();
                let flat = scalar(value) || value.as_array().is_some_and(|list| list.iter().all(scalar));
                assert!(flat, "{table}.{column}: {value}");
            }
        }
        counts.insert(table, rows.len());
    }
    let measured = 2 * (PROMPTS as usize - 1);
    assert_eq!(counts["events"], events);
    assert_eq!((counts["completions"], counts["scores"]), (4 * 2 * PROMPTS as usize, 4 * measured));
    assert_eq!((counts["conflicts"], counts["evaluations"]), (measured, 3));
    assert_eq!(counts["comparisons"], counts["feedback"]);
    assert_eq!(counts["pairs"], counts["comparisons"]);
    // Two rounds of two trainings each: requested, started, done.
    assert_eq!(counts["trainings"], 12);
}

#[test]
fn written_columns_are_the_documented_ones() {
    let (folders, _) = folders();
    let help = folders.output("data", &["log", "export", "--help"], 0);
    let documented = help.split_once("Tables (").unwrap().1.replace("\n               ", " ");
    for table in TABLES {
        let line = documented.lines().find(|line| line.trim_start().starts_with(table)).unwrap();
        let line =
            line.replace(" (a list, by completion)", "").replace(" (two lists)", "").replace(" and ", ", ");
        let named: Vec<&str> =
            line.trim_start().strip_prefix(table).unwrap().split(',').map(str::trim).collect();
        let written = rows(&folders, table);
        let columns: Vec<&str> = written[0].keys().skip(3).map(String::as_str).collect();
        assert_eq!(named, columns, "{table}");
    }
}

#[test]
fn a_table_of_one_experiment_goes_to_stdout_and_an_unknown_table_is_refused() {
    let (folders, _) = folders();
    let rows = folders.output("data", &["log", "export", "--table", "scores", "--experiment", "loop"], 0);
    let first: Value = serde_json::from_str(rows.lines().next().unwrap()).unwrap();
    assert_eq!((&first["experiment"], &first["completion"]), (&"loop".into(), &0.into()));
    assert!(first["reward"].is_f64());
    folders.output("data", &["log", "export", "--table", "rewards"], 2);
}
