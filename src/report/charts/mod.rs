//! The charts of a report, as SVG in the colours of the page.

mod axis;
mod canvas;
mod categories;
mod completions;
mod curves;
mod histogram;
mod marks;
mod selection;
mod shape;

use serde::Serialize;

use super::data::{Judged, PromptFigures, ReportData, Status};
pub(crate) use axis::{Axis, Scale};
pub(crate) use canvas::{
    Canvas, Chart, DrawResult, SMALL, WIDTH, anchored_text, draw, role, room_for, style_axes,
};
use curves::MetricChart;
use marks::MarkCount;
pub(crate) use shape::Shape;

/// The charts of a report; `None` for a chart without data.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub(super) struct Charts {
    /// The z-scores of every completion: reward against log-probability.
    pub(super) completions: Option<Chart>,
    /// The legend of `completions`.
    pub(super) marks: Vec<MarkCount>,
    /// Whether the marks show the outcomes of judged pairs.
    pub(super) is_judged: bool,
    /// Judged pairs of the round without a mark, because their completions bear those of other pairs.
    pub(super) unmarked: usize,
    /// The distribution of mean|PACS| over prompts.
    pub(super) pacs: Option<Chart>,
    /// The distribution of the Kendall-tau distance over prompts.
    pub(super) distance: Option<Chart>,
    /// mean|PACS| by category.
    pub(super) categories: Option<Chart>,
    /// |PACS| of every completion, descending, with the selected ones marked.
    pub(super) selection: Option<Chart>,
    /// The gold reward over rounds.
    pub(super) gold: Option<Chart>,
    /// The rewards of the models over rounds.
    pub(super) rewards: Option<Chart>,
    /// The metrics of the trainings.
    pub(super) trainings: Vec<MetricChart>,
}

/// Draws the charts of a report.
///
/// # Errors
/// If the drawing library fails, which it does not when it writes to memory.
pub(super) fn charts(data: &ReportData) -> anyhow::Result<Charts> {
    let mut charts = conflict_charts(data)?;
    if let Some(learning) = &data.learning {
        charts.gold = curves::gold(learning)?;
        charts.rewards = curves::rewards(learning)?;
        for training in &learning.trainings {
            charts.trainings.extend(curves::metrics(training)?);
        }
    }
    Ok(charts)
}

fn conflict_charts(data: &ReportData) -> anyhow::Result<Charts> {
    let Some(band) = &data.null_band else { return Ok(Charts::default()) };
    let prompts: Vec<&PromptFigures> =
        data.prompts.iter().filter(|prompt| prompt.mean_abs_pacs.is_some()).collect();
    if prompts.is_empty() {
        return Ok(Charts::default());
    }
    let delta = data.plan.conflict.selection.effective_delta();
    let by_category = &data.categories;
    let (completions, marks) = completions::chart(&prompts, data.status == Status::Complete)?;
    let marked = prompts.iter().flat_map(|prompt| &prompt.completions);
    let marked = marked.filter(|completion| matches!(completion.judged, Judged::At(_))).count();
    Ok(Charts {
        completions: Some(completions),
        marks,
        is_judged: marked > 0,
        unmarked: judged_pairs(data).saturating_sub(marked),
        pacs: Some(histogram::pacs(&prompts, band)?),
        distance: Some(histogram::distance(&prompts, band)?),
        categories: if by_category.is_empty() { None } else { Some(categories::chart(by_category, band)?) },
        selection: Some(selection::chart(&prompts, delta)?),
        ..Charts::default()
    })
}

/// The number of judged pairs of the reported round.
fn judged_pairs(data: &ReportData) -> usize {
    let outcomes = data.learning.iter().flat_map(|learning| &learning.outcomes);
    outcomes.filter(|figures| figures.round == data.round).map(|figures| figures.counts.all()).sum()
}
