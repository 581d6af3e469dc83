//! The |PACS| of every completion in descending order, with the selected completions marked.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::axis::{Axis, Scale};
use super::canvas::{Canvas, Chart, DrawResult, HEIGHT, TEXT, WIDTH, anchored_text, draw, role, style_axes};
use crate::report::data::PromptFigures;

/// Limit of drawn columns; a column then shows the mean of several completions.
const COLUMNS_MAX: usize = 300;

pub(super) fn chart(prompts: &[&PromptFigures], delta: f64) -> anyhow::Result<Chart> {
    let mut sorted: Vec<(f64, bool)> = prompts
        .iter()
        .flat_map(|prompt| &prompt.completions)
        .filter_map(|completion| Some((completion.pacs?.abs(), completion.selected)))
        .collect();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
    let selected = sorted.iter().filter(|(_, selected)| *selected).count();
    let description = format!(
        "|PACS| of {} completions in descending order, from {:.2}; {selected} of them are selected.",
        sorted.len(),
        sorted.first().map_or(0.0, |(largest, _)| *largest)
    );
    draw((WIDTH, HEIGHT), "Every completion by its conflict, and the selection", &description, |canvas| {
        paint(canvas, &sorted, delta)
    })
}

fn paint(canvas: &Canvas<'_>, sorted: &[(f64, bool)], delta: f64) -> DrawResult {
    let count = sorted.len();
    let top = sorted.first().map_or(1.0, |(largest, _)| largest.max(delta)) * 1.1;
    let mut chart = ChartBuilder::on(canvas)
        .margin(12)
        .margin_right(32)
        .x_label_area_size(104)
        .y_label_area_size(104)
        .build_cartesian_2d(
            Axis::new(Scale::Whole, 0.0..count as f64, 6),
            Axis::new(Scale::Linear, 0.0..top.max(0.1), 6),
        )?;
    style_axes(chart.configure_mesh())
        .disable_x_mesh()
        .x_desc("completions, the most conflicting first")
        .y_desc("|PACS|")
        .draw()?;
    let width = count.div_ceil(COLUMNS_MAX).max(1);
    for (index, column) in sorted.chunks(width).enumerate() {
        let left = (index * width) as f64;
        let right = left + column.len() as f64;
        let gap = if count < 150 { 0.08 } else { 0.0 };
        let height = column.iter().map(|(pacs, _)| pacs).sum::<f64>() / column.len() as f64;
        let share = column.iter().filter(|(_, selected)| *selected).count() as f64 / column.len() as f64;
        let corners = |to: f64| [(left + gap, 0.0), (right - gap, to)];
        chart.draw_series([Rectangle::new(corners(height), role::MUTED.mix(0.35).filled())])?;
        if share > 0.0 {
            chart.draw_series([Rectangle::new(corners(height), role::PICK.mix(share).filled())])?;
        }
    }
    if delta > 0.0 {
        chart
            .draw_series(LineSeries::new([(0.0, delta), (count as f64, delta)], role::INK.stroke_width(2)))?;
        let style = anchored_text(TEXT, role::INK, HPos::Right, VPos::Bottom);
        let text = Text::new(format!("δ = {delta}"), (-8, -6), style);
        chart.draw_series([EmptyElement::at((count as f64, delta)) + text])?;
    }
    Ok(())
}
