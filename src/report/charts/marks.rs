//! Marks of completions in the scatter plot, and their legend.

use dissent_domain::outcome::Outcome;
use plotters::style::RGBColor;
use serde::Serialize;

use super::canvas::role;
use super::shape::Shape;
use crate::report::data::{CompletionFigures, Judged};

/// The mark of a completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// A completion that is not selected, or is the other one of a judged pair.
    Plain,
    /// A selected completion with PACS > 0, before any judgement.
    ByProxy,
    /// A selected completion with PACS < 0, before any judgement.
    ByPolicy,
    /// A selected completion in no judged pair, while other pairs are judged.
    NotJudged,
    /// The completion at which the outcome of a judged pair stands.
    Judged(Outcome),
}

impl Mark {
    /// Returns the mark of a completion. `is_judged` tells whether any pair of the round is judged.
    pub(super) fn of(completion: &CompletionFigures, is_judged: bool) -> Self {
        match completion.judged {
            Judged::At(outcome) => Self::Judged(outcome),
            Judged::Beside => Self::Plain,
            Judged::No if !completion.selected => Self::Plain,
            Judged::No if is_judged => Self::NotJudged,
            Judged::No if completion.pacs > Some(0.0) => Self::ByProxy,
            Judged::No => Self::ByPolicy,
        }
    }

    /// The marks of a legend, in order.
    pub(super) fn legend(is_complete: bool, is_judged: bool) -> Vec<Self> {
        let mut marks: Vec<Self> = match (is_judged, is_complete) {
            (true, _) => Outcome::ALL.into_iter().map(Self::Judged).chain([Self::NotJudged]).collect(),
            (false, true) => vec![Self::ByProxy, Self::ByPolicy],
            (false, false) => Vec::new(),
        };
        marks.push(Self::Plain);
        marks
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "other completions",
            Self::ByProxy => "selected, PACS > 0",
            Self::ByPolicy => "selected, PACS < 0",
            Self::NotJudged => "selected, not judged",
            Self::Judged(outcome) => outcome.name(),
        }
    }

    pub(super) const fn shape(self) -> Shape {
        match self {
            Self::Plain | Self::ByProxy | Self::ByPolicy | Self::NotJudged => Shape::Disc,
            Self::Judged(Outcome::ProxyWrong) => Shape::Triangle,
            Self::Judged(Outcome::PolicyWrong) => Shape::Square,
            Self::Judged(Outcome::BothWrong) => Shape::Cross,
            Self::Judged(Outcome::FalseAlarm) => Shape::Ring,
        }
    }

    pub(super) const fn colour(self) -> RGBColor {
        match self {
            Self::Plain | Self::NotJudged => role::MUTED,
            Self::ByProxy | Self::Judged(Outcome::ProxyWrong) => role::PROXY,
            Self::ByPolicy | Self::Judged(Outcome::PolicyWrong) => role::POLICY,
            Self::Judged(Outcome::BothWrong) => role::PICK,
            Self::Judged(Outcome::FalseAlarm) => role::MEAN,
        }
    }
}

/// An entry of a legend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(in crate::report) struct MarkCount {
    /// The mark as SVG, in a square of 24 units around the origin.
    icon: String,
    name: &'static str,
    /// Completions with this mark.
    pub(super) count: usize,
}

impl MarkCount {
    pub(super) fn new(mark: Mark, count: usize) -> Self {
        let icon = match mark {
            Mark::Plain => r#"<circle r="6" fill="var(--muted)"/>"#.to_owned(),
            Mark::ByProxy | Mark::ByPolicy | Mark::NotJudged | Mark::Judged(_) => {
                mark.shape().icon(mark.colour())
            }
        };
        Self { icon, name: mark.name(), count }
    }

    /// The entry in words.
    pub(super) fn text(&self) -> String {
        format!("{} {}", self.name, self.count)
    }
}
