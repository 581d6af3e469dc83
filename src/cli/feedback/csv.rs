//! Comparisons as CSV, without cells that a spreadsheet runs as formulas.

use crate::feedback::comparisons::Row;
use crate::text;

/// Columns of the table, in order.
const COLUMNS: [&str; 12] = [
    "experiment",
    "round",
    "comparison",
    "prompt_id",
    "prompt",
    "first",
    "second",
    "annotator",
    "verdict",
    "first_unsafe",
    "second_unsafe",
    "comment",
];

/// Writes the header.
pub(super) fn write_header(out: &mut Vec<u8>) -> anyhow::Result<()> {
    // Some spreadsheets recognise UTF-8 only by this byte order mark.
    out.extend_from_slice("\u{FEFF}".as_bytes());
    write_record(out, &COLUMNS.map(str::to_owned))
}

/// Writes one comparison, with empty cells for the judgement.
pub(super) fn write_row(out: &mut Vec<u8>, row: &Row<'_>) -> anyhow::Result<()> {
    let text = |text: &str| escape_formula(&text::visible(text));
    let cells = [
        text(row.experiment.as_str()),
        row.round.to_string(),
        row.comparison.to_string(),
        text(row.prompt_id.as_str()),
        text(row.prompt),
        text(row.first),
        text(row.second),
        text(row.annotator.unwrap_or_default()),
        String::new(),
        String::new(),
        String::new(),
        String::new(),
    ];
    write_record(out, &cells)
}

fn write_record(out: &mut Vec<u8>, cells: &[String; 12]) -> anyhow::Result<()> {
    let mut writer = ::csv::Writer::from_writer(out);
    writer.write_record(cells)?;
    Ok(writer.flush()?)
}

/// Whether a spreadsheet reads a cell with this text as a formula.
fn starts_formula(text: &str) -> bool {
    text.starts_with(['=', '+', '-', '@', '\t', '\r', '＝', '＋', '－', '＠'])
}

/// Returns the text as a cell. Spreadsheets read a formula after an apostrophe as text.
fn escape_formula(text: &str) -> String {
    if starts_formula(text) { format!("'{text}") } else { text.to_owned() }
}

/// Returns the text of a cell that [`escape_formula`] wrote.
pub(super) fn unescape_formula(cell: &str) -> &str {
    match cell.strip_prefix('\'') {
        Some(text) if starts_formula(text) => text,
        Some(_) | None => cell,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_formulas_are_texts_and_can_be_unescaped() {
        for text in [
            "=HYPERLINK(\"http://x\")",
            "+1",
            "-2+3",
            "@SUM(A1)",
            "\t=1",
            "'quoted'",
            "plain",
            "",
            "'",
            "＝1",
        ] {
            assert!(!starts_formula(&escape_formula(text)), "{text:?}");
            assert_eq!(unescape_formula(&escape_formula(text)), text);
        }
        assert_eq!(escape_formula("=1"), "'=1");
    }
}
