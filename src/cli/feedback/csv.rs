//! Comparisons as a table, of cells that a spreadsheet shows and does not run.

use super::comparisons::Row;
use crate::text;

/// The columns of a table, in their order.
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

/// Begins a table.
pub(super) fn begin(out: &mut Vec<u8>) -> anyhow::Result<()> {
    // Without it, some spreadsheets take UTF-8 for something else.
    out.extend_from_slice("\u{FEFF}".as_bytes());
    write(out, &COLUMNS.map(str::to_owned))
}

/// Adds a comparison, with what is to be said of it left empty.
pub(super) fn line(out: &mut Vec<u8>, row: &Row<'_>) -> anyhow::Result<()> {
    let text = |text: &str| guarded(&text::visible(text));
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
    write(out, &cells)
}

fn write(out: &mut Vec<u8>, cells: &[String; 12]) -> anyhow::Result<()> {
    let mut writer = ::csv::Writer::from_writer(out);
    writer.write_record(cells)?;
    Ok(writer.flush()?)
}

/// Whether a spreadsheet would take a cell that begins so for a formula.
fn starts_formula(text: &str) -> bool {
    text.starts_with(['=', '+', '-', '@', '\t', '\r', '＝', '＋', '－', '＠'])
}

/// A text as a cell: an apostrophe in front makes a formula a text, as spreadsheets have it.
fn guarded(text: &str) -> String {
    if starts_formula(text) { format!("'{text}") } else { text.to_owned() }
}

/// The text of a cell that [`guarded`] wrote.
pub(super) fn unguarded(cell: &str) -> &str {
    match cell.strip_prefix('\'') {
        Some(text) if starts_formula(text) => text,
        Some(_) | None => cell,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_become_texts_and_come_back() {
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
            assert!(!starts_formula(&guarded(text)), "{text:?}");
            assert_eq!(unguarded(&guarded(text)), text);
        }
        assert_eq!(guarded("=1"), "'=1");
    }
}
