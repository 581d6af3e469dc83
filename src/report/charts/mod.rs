//! The charts of a report, as SVG that takes its colours from the page it stands in.

mod answers;
mod canvas;
mod categories;
mod curves;
mod cut;
mod histogram;

use serde::Serialize;

use super::data::{PromptFigures, ReportData};
pub(crate) use canvas::{Canvas, Chart, Drawn, SMALL, WIDTH, anchored, draw, role, styled};
use curves::MetricChart;

/// The charts of a report; none where there is nothing to draw.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub(super) struct Charts {
    /// z-scores of every answer: reward against log-probability.
    pub(super) answers: Option<Chart>,
    /// How mean|PACS| is distributed over prompts.
    pub(super) pacs: Option<Chart>,
    /// How the Kendall-tau distance is.
    pub(super) distance: Option<Chart>,
    /// mean|PACS| by category.
    pub(super) categories: Option<Chart>,
    /// Every |PACS|, descending.
    pub(super) cut: Option<Chart>,
    /// The gold reward over rounds.
    pub(super) gold: Option<Chart>,
    /// The rewards by the models over rounds.
    pub(super) rewards: Option<Chart>,
    /// How the trainings went.
    pub(super) trainings: Vec<MetricChart>,
}

/// Draws what there is to draw.
///
/// # Errors
/// As the drawing library; writing to memory gives it no reason to.
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
    Ok(Charts {
        answers: Some(answers::chart(&prompts)?),
        pacs: Some(histogram::pacs(&prompts, band)?),
        distance: Some(histogram::distance(&prompts, band)?),
        categories: if by_category.is_empty() { None } else { Some(categories::chart(by_category, band)?) },
        cut: Some(cut::chart(&prompts, delta)?),
        ..Charts::default()
    })
}
