//! The steps of the pipeline.
//!
//! [`PIPELINE`] is the one table of the pipeline; the events of a step are those of the domain's
//! [`StepName`]. Subscriptions, roles, parked messages, traces, the skipping of recorded results and the
//! picture in ARCHITECTURE.md are derived from it.

pub(crate) mod conflict;
pub(crate) mod evaluation;
pub(crate) mod feedback;
pub(crate) mod generation;
pub(crate) mod prompt;
pub(crate) mod reward;
pub(crate) mod round;
pub(crate) mod training;

use dissent_domain::event::StepName;

use crate::runner::spec::{Presence, StepSpec};

/// The steps of the pipeline, in the order of [`StepName::ALL`].
pub(crate) static PIPELINE: [StepSpec; 8] = [
    StepSpec {
        name: StepName::Prompt,
        consumes: StepName::Prompt.consumes(),
        emits: StepName::Prompt.emits(),
        presence: Presence::Always,
        begins_trace: true,
        is_role: false,
        skips_recorded: false,
    },
    StepSpec {
        name: StepName::Generation,
        consumes: StepName::Generation.consumes(),
        emits: StepName::Generation.emits(),
        presence: Presence::Always,
        begins_trace: false,
        is_role: true,
        skips_recorded: true,
    },
    StepSpec {
        name: StepName::Reward,
        consumes: StepName::Reward.consumes(),
        emits: StepName::Reward.emits(),
        presence: Presence::Always,
        begins_trace: false,
        is_role: true,
        skips_recorded: true,
    },
    StepSpec {
        name: StepName::Conflict,
        consumes: StepName::Conflict.consumes(),
        emits: StepName::Conflict.emits(),
        presence: Presence::Always,
        begins_trace: false,
        is_role: true,
        skips_recorded: false,
    },
    StepSpec {
        name: StepName::Round,
        consumes: StepName::Round.consumes(),
        emits: StepName::Round.emits(),
        presence: Presence::Always,
        begins_trace: true,
        is_role: false,
        skips_recorded: false,
    },
    StepSpec {
        name: StepName::Feedback,
        consumes: StepName::Feedback.consumes(),
        emits: StepName::Feedback.emits(),
        presence: Presence::Oracle,
        begins_trace: false,
        is_role: true,
        skips_recorded: true,
    },
    StepSpec {
        name: StepName::Training,
        consumes: StepName::Training.consumes(),
        emits: StepName::Training.emits(),
        presence: Presence::Learning,
        begins_trace: false,
        is_role: true,
        skips_recorded: false,
    },
    StepSpec {
        name: StepName::Evaluation,
        consumes: StepName::Evaluation.consumes(),
        emits: StepName::Evaluation.emits(),
        presence: Presence::Learning,
        begins_trace: false,
        is_role: true,
        skips_recorded: true,
    },
];

/// The row of a step.
pub(crate) const fn spec(name: StepName) -> &'static StepSpec {
    &PIPELINE[name as usize]
}

/// The table as a picture: each step with the events that it consumes (→) and emits. Commands of operators
/// and judgements of people come from outside.
#[cfg(test)]
fn pipeline_diagram() -> String {
    let mut picture = String::new();
    for spec in &PIPELINE {
        let flags = [
            (spec.is_role, "worker"),
            (spec.begins_trace, "begins traces"),
            (spec.skips_recorded, "skips recorded results"),
        ];
        let mut notes: Vec<&str> =
            flags.iter().filter(|(is_set, _)| *is_set).map(|(_, note)| *note).collect();
        match spec.presence {
            Presence::Always => {}
            Presence::Learning => notes.insert(0, "if the experiment learns"),
            Presence::Oracle => notes.insert(0, "if an oracle judges"),
        }
        let notes = if notes.is_empty() { String::new() } else { format!("({})", notes.join(", ")) };
        picture += format!("{:<11} {notes}", spec.name.name()).trim_end();
        picture.push('\n');
        picture += &lines("  ← ", spec.consumes);
        picture += &lines("  → ", spec.emits);
    }
    picture
}

/// Names of events after an arrow, wrapped at 100 columns.
#[cfg(test)]
fn lines(arrow: &str, kinds: &[dissent_domain::event::EventType]) -> String {
    let (mut text, mut line) = (String::new(), arrow.to_owned());
    for (index, kind) in kinds.iter().enumerate() {
        if line.chars().count() + kind.name().len() > 98 {
            text += line.trim_end();
            text.push('\n');
            line = "    ".to_owned();
        }
        line += kind.name();
        if index + 1 < kinds.len() {
            line += ", ";
        }
    }
    text + &line + "\n"
}

#[cfg(test)]
mod tests {
    use dissent_domain::event::{EventBody as _, EventType};

    use super::*;
    use crate::runner::step::Step;

    #[test]
    fn rows_stand_in_the_order_of_the_names() {
        for name in StepName::ALL {
            assert_eq!(spec(name).name, name);
        }
        assert_eq!(PIPELINE.len(), StepName::ALL.len());
    }

    #[test]
    fn each_typed_step_handles_what_its_row_consumes() {
        fn check<S: Step>() {
            assert_eq!(spec(S::NAME).consumes, [S::Input::EVENT_TYPE], "{}", S::NAME.name());
        }
        check::<prompt::PromptStep>();
        check::<generation::GenerationStep>();
        check::<reward::RewardStep>();
        check::<conflict::ConflictStep>();
        check::<feedback::oracle::OracleStep>();
        check::<training::TrainingStep>();
        check::<evaluation::EvaluationStep>();
    }

    #[test]
    fn every_consumed_event_is_emitted_or_comes_from_outside() {
        let outside = [EventType::ExperimentStarted, EventType::ExperimentResumed];
        for kind in PIPELINE.iter().flat_map(|spec| spec.consumes) {
            let is_emitted = PIPELINE.iter().any(|spec| spec.emits.contains(kind));
            assert!(is_emitted || outside.contains(kind), "{}", kind.name());
        }
    }

    #[test]
    fn the_picture_in_architecture_md_shows_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../ARCHITECTURE.md");
        let text = std::fs::read_to_string(path).unwrap();
        let fence = "```text pipeline\n";
        let start = text.find(fence).expect("a fence of `text pipeline`") + fence.len();
        let shown = &text[start..start + text[start..].find("```").unwrap()];
        let table = pipeline_diagram();
        assert!(shown == table, "in ARCHITECTURE.md, replace the block `text pipeline` by:\n{table}");
    }
}
