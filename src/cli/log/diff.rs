//! `dissent log diff`: compares two histories and shows where they differ.

use std::io::Write as _;
use std::path::Path;

use dissent_domain::id::ExperimentId;
use serde::Serialize;

use crate::cli::experiment_arg::{ExperimentRef, Target};
use crate::history::difference::{self, Difference, KindDifference, Side};
use crate::log_access::open;
use crate::text::visible;

/// The two histories differ; the exit code is 1.
#[derive(Debug, thiserror::Error)]
#[error("the experiments differ")]
pub(crate) struct Differs;

#[derive(Serialize)]
struct Outcome<'a> {
    a: &'a ExperimentId,
    b: &'a ExperimentId,
    #[serde(flatten)]
    difference: &'a Difference,
}

pub(super) fn run(
    data_dir: Option<&Path>,
    a: &ExperimentRef,
    b: &ExperimentRef,
    as_json: bool,
) -> anyhow::Result<()> {
    let Target { experiment: a, data_dir: folder_a } = a.target(data_dir)?;
    let Target { experiment: b, data_dir: folder_b } = b.target(data_dir)?;
    let first = open::read_log(&folder_a)?;
    // A process can open a log only once, also if the two paths of its folder are written differently.
    let same = folder_a.canonicalize().ok().zip(folder_b.canonicalize().ok()).is_some_and(|(a, b)| a == b);
    let second = if same { None } else { Some(open::read_log(&folder_b)?) };
    let (first, second) = (&*first, &**second.as_ref().unwrap_or(&first));
    open::require_experiment(first, &a)?;
    open::require_experiment(second, &b)?;
    let difference = difference::between(
        &Side { log: first, experiment: a.clone() },
        &Side { log: second, experiment: b.clone() },
    )?;
    let mut out = std::io::stdout().lock();
    if as_json {
        let outcome = Outcome { a: &a, b: &b, difference: &difference };
        serde_json::to_writer_pretty(&mut out, &outcome)?;
        writeln!(out)?;
    } else {
        print(&mut out, &difference)?;
    }
    if difference.same { Ok(()) } else { Err(Differs.into()) }
}

fn print(out: &mut impl std::io::Write, found: &Difference) -> std::io::Result<()> {
    let events: u64 = found.kinds.values().map(|kind| kind.same).sum();
    if found.same {
        let order = if found.same_order { "in the same order" } else { "in another order" };
        writeln!(out, "no difference: {events} events, {order}")?;
    } else {
        writeln!(out, "{events} events are the same; the first {} in the same order", found.common)?;
    }
    if let Some(parting) = &found.parting {
        let shown =
            |subject: &Option<String>| subject.as_deref().map_or("no more events".to_owned(), visible);
        writeln!(out, "at event {} of the streams: A has {}", parting.version, shown(&parting.a))?;
        writeln!(out, "{:>width$} B has {}", "", shown(&parting.b), width = digits(parting.version) + 25)?;
    }
    if let Some(first) = &found.first {
        writeln!(out, "first difference, at position {}: {}", first.position, visible(&first.subject))?;
        writeln!(out, "  {}", visible(&first.what))?;
    }
    if !found.same {
        print_kinds(out, found)?;
    }
    let [a, b] = &found.state_hashes;
    writeln!(out, "state of A {a}\nstate of B {b}")
}

fn digits(number: u64) -> usize {
    number.to_string().len()
}

fn print_kinds(out: &mut impl std::io::Write, found: &Difference) -> std::io::Result<()> {
    writeln!(out, "{:<32} {:>9} {:>9} {:>9} {:>9}", "events", "same", "different", "only in A", "only in B")?;
    for (name, kind) in &found.kinds {
        let KindDifference { same, different, only_a, only_b, fields } = kind;
        writeln!(out, "{name:<32} {same:>9} {different:>9} {only_a:>9} {only_b:>9}")?;
        for (field, difference) in fields.iter().filter(|_| !kind.is_same()) {
            let apart = difference.largest.map(|apart| format!(", at most {apart:.3e} apart"));
            let apart = apart.unwrap_or_default();
            writeln!(
                out,
                "    {} in {}{apart}",
                visible(field),
                crate::text::count(difference.events, "event")
            )?;
        }
    }
    Ok(())
}
