//! The lift table: how well selection rules find the errors of the proxy.

use dissent_domain::analysis::Interval;
use dissent_domain::conflict::Rule;
use dissent_domain::experiment::Experiment;
use dissent_domain::lift::{Conclusion, ErrorsFound, Lift, NoLift, RuleLift, lift};
use serde::Serialize;

use crate::text::{count, grouped, percent, signed};

/// The lift of an experiment, or why there is none.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LiftFigures {
    /// The answer in words to the question: do conflicts find the proxy's errors, better than random pairs?
    pub answer: String,
    /// The table; `None` if the judgements cannot tell anything.
    pub table: Option<Lift>,
}

impl LiftFigures {
    /// Estimates the lift of an experiment from its judgements so far.
    #[must_use]
    pub fn of(experiment: &Experiment) -> Self {
        match lift(experiment) {
            Ok(lift) => Self { answer: answer(&lift), table: Some(lift) },
            Err(reason) => Self { answer: no_answer(reason), table: None },
        }
    }
}

/// A row of the table, as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct LiftRow {
    pub(crate) rule: String,
    pub(crate) is_in_use: bool,
    pub(crate) auroc: String,
    pub(crate) pairs: String,
    pub(crate) errors: String,
    pub(crate) versus_random: String,
    pub(crate) versus_margin: String,
    pub(crate) is_clear: bool,
}

/// The lift part of a page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct LiftPage {
    pub(crate) answer: String,
    /// What the table is computed from; empty without a table.
    pub(crate) basis: String,
    pub(crate) rows: Vec<LiftRow>,
    /// Which rules too few judgements tell apart.
    pub(crate) unknown: String,
}

impl LiftPage {
    pub(crate) fn new(figures: &LiftFigures) -> Self {
        let Some(lift) = &figures.table else {
            return Self {
                answer: figures.answer.clone(),
                basis: String::new(),
                rows: Vec::new(),
                unknown: String::new(),
            };
        };
        Self { answer: figures.answer.clone(), basis: basis(lift), rows: rows(lift), unknown: unknown(lift) }
    }
}

fn rows(lift: &Lift) -> Vec<LiftRow> {
    let random = LiftRow {
        rule: "random pairs".to_owned(),
        is_in_use: false,
        auroc: "0.50".to_owned(),
        pairs: grouped(lift.pairs as u64),
        errors: share(&lift.random),
        versus_random: DASH.to_owned(),
        versus_margin: DASH.to_owned(),
        is_clear: false,
    };
    lift.rules.iter().map(|rule| row(rule, lift.rule)).chain([random]).collect()
}

const DASH: &str = "–";

fn row(lift: &RuleLift, in_use: Rule) -> LiftRow {
    let points = |interval: &Option<Interval>| interval.as_ref().map_or_else(|| DASH.to_owned(), difference);
    LiftRow {
        rule: lift.rule.name().to_owned(),
        is_in_use: lift.rule == in_use,
        auroc: lift.auroc.map_or_else(
            || DASH.to_owned(),
            |auroc| format!("{:.2} ({:.2} to {:.2})", auroc.mean, auroc.low, auroc.high),
        ),
        pairs: grouped(lift.pairs as u64),
        errors: match &lift.errors {
            ErrorsFound::Estimated(errors) => share(errors),
            ErrorsFound::TooFewDraws(few) => {
                format!("unknown: {} of {} other pairs judged", few.drawn, grouped(few.others as u64))
            }
            ErrorsFound::Nothing => "asks nothing".to_owned(),
        },
        versus_random: points(&lift.versus_random),
        versus_margin: points(&lift.versus_margin),
        is_clear: lift.is_clear,
    }
}

fn share(interval: &Interval) -> String {
    format!("{:.2} ({:.2} to {:.2})", interval.mean, interval.low, interval.high)
}

fn difference(interval: &Interval) -> String {
    format!("{} ({} to {})", signed(interval.mean, 2), signed(interval.low, 2), signed(interval.high, 2))
}

fn basis(lift: &Lift) -> String {
    let errors = |errors: f64| format!("{} of them errors", crate::text::short(errors));
    format!(
        "From {} that the rule selected ({}) and {} that the audit drew uniformly ({}), of {} in all. An error is a pair \
         that the proxy orders against the judgement; a tie is none. Intervals are at 95 %, over prompts. AUROC is the \
         probability that a rule prefers a pair with an error to a pair without; 0.5 is chance.",
        count(lift.selected as u64, "judged pair"),
        errors(lift.selected_errors),
        grouped(lift.audited as u64),
        errors(lift.audited_errors),
        count(lift.pairs as u64, "pair"),
    )
}

/// Names what more judgements would tell of other rules; empty if every rule has an estimate.
fn unknown(lift: &Lift) -> String {
    let few = |rule: &RuleLift| match &rule.errors {
        ErrorsFound::TooFewDraws(few) => Some(few.more_audited),
        ErrorsFound::Estimated(_) | ErrorsFound::Nothing => None,
    };
    let unknown: Vec<u64> = lift.rules.iter().filter_map(few).collect();
    let Some(least) = unknown.iter().min() else { return String::new() };
    format!(
        "For {} too few uniform draws fall among the pairs that the rule would have asked about. About {} of the audit \
         would tell of the first of them.",
        count(unknown.len() as u64, "rule"),
        count(*least, "more judged pair"),
    )
}

/// The answer to the question, from the difference between the rule and random pairs.
fn answer(lift: &Lift) -> String {
    let rule = lift.rule;
    let of_rule = lift.rules.first().and_then(|row| match &row.errors {
        ErrorsFound::Estimated(errors) => Some((errors.mean, row.versus_random?)),
        ErrorsFound::TooFewDraws(_) | ErrorsFound::Nothing => None,
    });
    let Some((errors, versus)) = of_rule else {
        return format!(
            "Not enough labels yet: no judged pair of the rule “{rule}” can be compared with random pairs."
        );
    };
    let against = format!(
        "the rule “{rule}” finds {errors:.2} errors a label, random pairs about {:.2}: a difference of {}",
        lift.random.mean,
        difference(&versus)
    );
    match lift.conclusion {
        Conclusion::Yes => format!("Yes: {against}."),
        Conclusion::No => format!("No, fewer: {against}."),
        Conclusion::Same => {
            format!("No: {against}. It is less than {} either way.", percent(dissent_domain::lift::SMALL))
        }
        Conclusion::NotEnough { more_labels: Some(more) } => {
            format!("Not enough labels yet: {against}. About {} would tell.", count(more, "more label"))
        }
        Conclusion::NotEnough { more_labels: None } => {
            format!(
                "Not enough labels yet: {against}. More than ten times as many labels would be needed to tell."
            )
        }
    }
}

fn no_answer(reason: NoLift) -> String {
    let text = reason.to_string();
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    let way_out = match reason {
        NoLift::NoAudit => " Set feedback.audit, such as 0.15, in the next experiment.",
        NoLift::NoFeedback | NoLift::TooFew { .. } | NoLift::NothingSelected => "",
    };
    format!("Unknown. {first}{}.{way_out}", letters.as_str())
}
