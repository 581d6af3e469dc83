//! A bar chart of mean|PACS| by category, with the interval of noise.

use dissent_domain::conflict::NullBand;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::axis::{Axis, Scale};
use super::canvas::{
    Canvas, Chart, DrawResult, SMALL, WIDTH, anchored_text, draw, role, room_for, style_axes,
};
use crate::report::data::CategoryFigures;
use crate::text;
use crate::text::{excerpt, visible};

/// Limit of drawn categories, those with the largest mean|PACS|.
const CATEGORIES_MAX: usize = 16;

pub(super) fn chart(categories: &[CategoryFigures], band: &NullBand) -> anyhow::Result<Chart> {
    let mut shown: Vec<&CategoryFigures> = categories.iter().collect();
    shown.sort_by(|a, b| b.mean_abs_pacs.total_cmp(&a.mean_abs_pacs));
    shown.truncate(CATEGORIES_MAX);
    let height = 150 + 62 * u32::try_from(shown.len()).unwrap_or(0);
    let noise = band.mean_abs_pacs.mean;
    let description = format!(
        "Mean |PACS| by category, against {noise:.2} under noise: {}.",
        shown
            .iter()
            .map(|category| format!("{} {:.2}", name(category), category.mean_abs_pacs))
            .collect::<Vec<_>>()
            .join(", ")
    );
    let description = minijinja::HtmlEscape(&description).to_string();
    draw((WIDTH, height), "Conflict by category", &description, |canvas| paint(canvas, &shown, band))
}

fn name(category: &CategoryFigures) -> String {
    category.category.as_deref().map_or_else(|| "(none)".to_owned(), |name| excerpt(&visible(name), 24))
}

fn paint(canvas: &Canvas<'_>, categories: &[&CategoryFigures], band: &NullBand) -> DrawResult {
    let count = categories.len() as f64;
    let noise = &band.mean_abs_pacs;
    let largest = categories.iter().map(|category| category.mean_abs_pacs).fold(noise.q95, f64::max) * 1.2;
    let label = |category: &&CategoryFigures| {
        format!("{} ({})", name(category), text::grouped(category.prompts.into()))
    };
    let labels: Vec<String> = categories.iter().map(label).collect();
    let mut chart = ChartBuilder::on(canvas)
        .margin(12)
        .margin_top(36)
        .x_label_area_size(104)
        .y_label_area_size(room_for(labels.iter().map(String::as_str)))
        .build_cartesian_2d(Axis::new(Scale::Linear, 0.0..largest, 6), 0.0..count)?;
    style_axes(chart.configure_mesh())
        .disable_y_mesh()
        .disable_y_axis()
        .x_desc("mean |PACS|")
        .y_labels(0)
        .draw()?;
    for (index, (category, name)) in categories.iter().zip(labels).enumerate() {
        let middle = count - index as f64 - 0.5;
        let bar = [(0.0, middle - 0.26), (category.mean_abs_pacs, middle + 0.26)];
        chart.draw_series([Rectangle::new(bar, role::BAR.filled())])?;
        // The 95 % interval of a mean over this many prompts under noise.
        let half = 1.96 * noise.sd / f64::from(category.prompts.max(1)).sqrt();
        let interval = [(noise.mean - half, middle - 0.42), (noise.mean + half, middle + 0.42)];
        chart.draw_series([Rectangle::new(interval, role::NOISE.mix(0.3).filled())])?;
        let mean = format!("{:.2}", category.mean_abs_pacs);
        for (x, offset, text, colour) in [(0.0, -12, name, role::INK), (largest, -4, mean, role::MEAN)] {
            let style = anchored_text(SMALL, colour, HPos::Right, VPos::Center);
            chart.draw_series([EmptyElement::at((x, middle)) + Text::new(text, (offset, 0), style)])?;
        }
    }
    Ok(())
}
