//! `dissent replay --what-if`: compares the recorded selection with that of other settings.

mod verdicts;

use std::io::Write as _;

use anyhow::Context as _;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_domain::plan::Plan;
use dissent_domain::what_if::{
    Compared, Cost, Overlap, PromptCompared, RoundCompared, WhatIf, WhatIfOutcome,
};
use serde::Serialize;

use crate::history;
use crate::history::overview::ExperimentHistory;
use crate::history::pairs::Pairs;
use crate::history::settings::{self, Scope, Setting};
use crate::text::visible;
use verdicts::{ComparedPair, Known, Verdicts};

/// Options of the comparison and of its output.
pub(super) struct Options<'a> {
    /// Stop after this position of the log.
    pub(super) at: Option<u64>,
    /// The settings that differ from the recorded ones.
    pub(super) settings: &'a [Setting],
    /// Largest number of prompts with different selections to list per round.
    pub(super) top: usize,
    /// Print as JSON.
    pub(super) json: bool,
}

#[derive(Serialize)]
struct Outcome<'a> {
    experiment: &'a ExperimentId,
    recorded: Settings<'a>,
    changed: Settings<'a>,
    #[serde(flatten)]
    outcome: &'a WhatIfOutcome,
    /// The recorded verdicts on the comparisons of both selections.
    known: Known,
    /// The comparisons that only one of the selections has, with their texts and recorded verdicts.
    different: Vec<ComparedPair<'a>>,
}

/// Settings that determine a selection.
#[derive(Serialize)]
struct Settings<'a> {
    conflict: &'a dissent_domain::plan::ConflictPlan,
    feedback: Option<&'a dissent_domain::plan::FeedbackPlan>,
}

impl<'a> Settings<'a> {
    fn of(plan: &'a Plan) -> Self {
        let feedback = plan.learning.as_ref().map(|learning| &learning.feedback);
        Self { conflict: &plan.conflict, feedback }
    }
}

pub(super) fn run(
    log: &dyn EventLog,
    experiment: &ExperimentId,
    options: &Options<'_>,
) -> anyhow::Result<()> {
    let history = ExperimentHistory::read(log, experiment, options.at)?;
    let recorded = history
        .experiment()
        .plan()
        .context("the experiment has no plan at this position: use a later --at")?;
    let changed = settings::changed(recorded, options.settings, Scope::Selection)?;
    let mut what_if = WhatIf::new(recorded.clone(), changed.clone());
    let mut pairs = Pairs::with_all_texts();
    history::each(log, experiment, options.at, &mut |event| {
        pairs.apply(event)?;
        Ok(what_if.apply(&event.decode()?)?)
    })?;
    let found = what_if.outcome();
    let verdicts = Verdicts::of(&pairs);
    let mut out = std::io::stdout().lock();
    if options.json {
        let (recorded, changed) = (Settings::of(recorded), Settings::of(&changed));
        let different = found.rounds.iter().flat_map(|round| verdicts.different(round)).collect();
        let known = verdicts.known(&found.rounds);
        let outcome = Outcome { experiment, recorded, changed, outcome: &found, known, different };
        serde_json::to_writer_pretty(&mut out, &outcome)?;
        return Ok(writeln!(out)?);
    }
    let settings: Vec<String> = options.settings.iter().map(ToString::to_string).collect();
    writeln!(out, "{experiment} with {}", settings.join(" "))?;
    print(&mut out, &found, &verdicts, options.top)?;
    Ok(())
}

fn print(
    out: &mut impl std::io::Write,
    found: &WhatIfOutcome,
    verdicts: &Verdicts<'_>,
    top: usize,
) -> std::io::Result<()> {
    for round in &found.rounds {
        print_compared(out, &format!("round {}", round.round), &round.compared)?;
        verdicts.known(std::slice::from_ref(round)).print(out)?;
        print_prompts(out, round, verdicts, top)?;
    }
    if found.rounds.len() > 1 {
        print_compared(out, "all rounds", &found.total)?;
        verdicts.known(&found.rounds).print(out)?;
        writeln!(
            out,
            "from the second round on, the scores come from models that learnt from the recorded judgements"
        )?;
    }
    for round in &found.undecided {
        writeln!(out, "round {round} has no selection yet, and is not compared")?;
    }
    Ok(())
}

fn print_compared(out: &mut impl std::io::Write, title: &str, compared: &Compared) -> std::io::Result<()> {
    let cost = |cost: &Cost| {
        format!(
            "{} completions of {} prompts, {} comparisons, {} judgements",
            cost.completions, cost.prompts, cost.comparisons, cost.labels
        )
    };
    let overlap = |overlap: &Overlap| {
        format!(
            "{} kept, {} new, {} dropped (Jaccard {:.3})",
            overlap.kept, overlap.new, overlap.dropped, overlap.jaccard
        )
    };
    writeln!(out, "{title}")?;
    writeln!(out, "  recorded     {}", cost(&compared.recorded))?;
    writeln!(
        out,
        "  changed      {}, {} of them not in the log",
        cost(&compared.changed),
        compared.labels_missing
    )?;
    writeln!(out, "  completions  {}", overlap(&compared.completions))?;
    writeln!(out, "  comparisons  {}", overlap(&compared.comparisons))
}

/// Prints the prompts whose selections differ.
fn print_prompts(
    out: &mut impl std::io::Write,
    round: &RoundCompared,
    verdicts: &Verdicts<'_>,
    top: usize,
) -> std::io::Result<()> {
    let different: Vec<&PromptCompared> = round.prompts.iter().filter(|prompt| !prompt.is_same()).collect();
    if different.is_empty() || top == 0 {
        return Ok(());
    }
    writeln!(out, "  {:<24} {:>11} {:>13}  completions", "prompt", "mean|PACS|", "tau distance")?;
    for prompt in different.iter().take(top) {
        let name: String = visible(prompt.prompt_id.as_str()).chars().take(24).collect();
        let distance = prompt.kendall_tau_distance.map_or("undefined".to_owned(), |tau| format!("{tau:.3}"));
        let (recorded, changed) = (joined(&prompt.recorded), joined(&prompt.changed));
        writeln!(out, "  {name:<24} {:>11.3} {distance:>13}  {recorded} -> {changed}", prompt.mean_abs_pacs)?;
        for pair in verdicts.different_of(round.round, prompt) {
            pair.print(out)?;
        }
    }
    let more = different.len().saturating_sub(top);
    if more > 0 {
        writeln!(out, "  and {more} more: see --top and --json")?;
    }
    Ok(())
}

fn joined(completions: &[u32]) -> String {
    if completions.is_empty() {
        return "none".to_owned();
    }
    completions.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}
