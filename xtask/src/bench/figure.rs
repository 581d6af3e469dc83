//! A measured figure with its reference and target, and the table of all figures.

use serde::Serialize;

/// A measured figure.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    /// Name of the measurement, with its sizes.
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// The reference measurement, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reference: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<Target>,
}

/// The same work done by a reference implementation, and the ratio of both.
#[derive(Debug, Serialize)]
pub(crate) struct Reference {
    pub(crate) name: String,
    pub(crate) value: f64,
    /// Ours over the reference's: the median over alternating runs.
    pub(crate) ratio: f64,
}

/// The target of a figure.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Target {
    /// The value, at least.
    AtLeast(f64),
    /// The value, at most.
    AtMost(f64),
    /// The ratio to the reference, at least.
    RatioAtLeast(f64),
    /// The ratio to the reference, at most.
    RatioAtMost(f64),
}

impl Figure {
    /// Returns a figure with neither reference nor target.
    pub(crate) fn plain(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value, unit, reference: None, target: None }
    }

    pub(crate) fn with_target(self, target: Target) -> Self {
        Self { target: Some(target), ..self }
    }

    pub(crate) fn beside(self, name: impl Into<String>, value: f64, ratio: f64) -> Self {
        Self { reference: Some(Reference { name: name.into(), value, ratio }), ..self }
    }

    /// Whether the target is met; `None` without a target.
    fn met(&self) -> Option<bool> {
        let ratio = self.reference.as_ref().map_or(f64::NAN, |reference| reference.ratio);
        self.target.map(|target| match target {
            Target::AtLeast(least) => self.value >= least,
            Target::AtMost(most) => self.value <= most,
            Target::RatioAtLeast(least) => ratio >= least,
            Target::RatioAtMost(most) => ratio <= most,
        })
    }

    fn cells(&self) -> [String; 5] {
        let reference =
            self.reference.as_ref().map_or_else(String::new, |it| format!("{} {}", shown(it.value), it.name));
        let ratio = self.reference.as_ref().map_or_else(String::new, |it| format!("{:.2}×", it.ratio));
        let target = match (self.target, self.met()) {
            (Some(target), Some(met)) => {
                format!("{} ({})", target.text(), if met { "met" } else { "MISSED" })
            }
            _ => String::new(),
        };
        [self.name.clone(), format!("{} {}", shown(self.value), self.unit), reference, ratio, target]
    }
}

impl Target {
    fn text(self) -> String {
        match self {
            Self::AtLeast(least) => format!("≥ {}", shown(least)),
            Self::AtMost(most) => format!("≤ {}", shown(most)),
            Self::RatioAtLeast(least) => format!("≥ {}×", shown(least)),
            Self::RatioAtMost(most) => format!("≤ {}×", shown(most)),
        }
    }
}

/// Formats a small number with three significant digits, and a large one as an integer in groups of three
/// digits.
fn shown(value: f64) -> String {
    if value.abs() < 100.0 {
        return format!("{:.*}", if value.abs() < 10.0 { 2 } else { 1 }, value);
    }
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped
}

/// Returns the figures, one per line, in aligned columns.
pub(crate) fn table(figures: &[Figure]) -> String {
    let header = ["measured", "figure", "reference", "ratio", "target"].map(str::to_owned);
    let rows: Vec<[String; 5]> = std::iter::once(header).chain(figures.iter().map(Figure::cells)).collect();
    let widths = std::array::from_fn::<usize, 5, _>(|column| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
    });
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Returns the median; the mean of the two middle values of an even number. `None` without values.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    Some(if sorted.len().is_multiple_of(2) { f64::midpoint(sorted[middle - 1], upper) } else { upper })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_target_is_judged_by_the_ratio_and_not_by_the_value() {
        let figure = Figure::plain("a", 300.0, "/s").with_target(Target::RatioAtLeast(2.5));
        assert_eq!(figure.met(), Some(false), "no reference, not met");
        assert_eq!(figure.beside("b", 100.0, 3.0).met(), Some(true));
    }

    #[test]
    fn the_table_says_met_and_missed() {
        let text = table(&[
            Figure::plain("fast", 1_234_567.0, "/s").with_target(Target::AtLeast(200_000.0)),
            Figure::plain("slow", 120.0, "ms").with_target(Target::AtMost(100.0)),
        ]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[1].contains("1 234 567 /s") && lines[1].ends_with("≥ 200 000 (met)"), "{text}");
        assert!(lines[2].ends_with("≤ 100 (MISSED)"), "{text}");
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
