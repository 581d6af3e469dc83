//! The table: one line per group of graphs of a family, or per graph; then the failures, by reason.

use std::collections::BTreeMap;

use crate::counters::Counts;

/// The outcome of one graph.
pub(crate) struct Outcome {
    pub(crate) family: String,
    /// Graphs of a group share a line of the table.
    pub(crate) group: String,
    pub(crate) graph: String,
    pub(crate) placed: Placed,
    /// Decode steps, by the number of rows.
    pub(crate) decoding: Vec<Decoding>,
}

/// The place of a graph's nodes.
pub(crate) enum Placed {
    /// All nodes are on CUDA, and the graph ran.
    OnCuda { nodes: usize },
    /// The family does not have the type.
    Refused,
    /// A check failed.
    Failed { reason: String },
}

/// The cost of one decode step.
pub(crate) struct Decoding {
    pub(crate) rows: u64,
    pub(crate) counts: Counts,
}

/// A family and a group of its graphs, or one graph of it.
type Group<'o> = (&'o str, String);

/// Prints the table and the failures; returns whether there is none.
#[expect(clippy::print_stdout, reason = "the output of a program")]
pub(crate) fn print(outcomes: &[Outcome], verbose: bool) -> bool {
    println!("decode step: rows, bytes to the device, bytes back, launches");
    println!("{:<20} {:<56} {:>7} {:>10}  decode steps", "family", "graphs", "placed", "nodes");
    let mut groups: Vec<(Group<'_>, Vec<&Outcome>)> = Vec::new();
    for outcome in outcomes {
        let Outcome { family, group, graph, .. } = outcome;
        let group = if verbose { format!("{group}: {graph}") } else { group.clone() };
        let group = (family.as_str(), group);
        match groups.last_mut() {
            Some((last, members)) if *last == group => members.push(outcome),
            Some(_) | None => groups.push((group, vec![outcome])),
        }
    }
    for ((family, group), members) in &groups {
        println!("{family:<20} {group:<56} {}", columns(members));
    }
    for (reason, groups) in failures(outcomes) {
        println!("failed: {reason}");
        for ((family, group), graphs) in groups {
            println!("  {family}: {group} ({graphs})");
        }
    }
    let count = |is: fn(&Placed) -> bool| outcomes.iter().filter(|outcome| is(&outcome.placed)).count();
    let on_cuda = count(|placed| matches!(placed, Placed::OnCuda { .. }));
    let refused = count(|placed| matches!(placed, Placed::Refused));
    let failed = outcomes.len() - on_cuda - refused;
    println!("{on_cuda} graphs are on CUDA, {failed} fail, {refused} are refused because f16 is too narrow");
    failed == 0 && on_cuda > 0
}

/// Returns the columns of a group: placed graphs of all, their nodes, and decode steps.
fn columns(members: &[&Outcome]) -> String {
    let nodes: Vec<usize> = members
        .iter()
        .filter_map(|outcome| match outcome.placed {
            Placed::OnCuda { nodes } => Some(nodes),
            Placed::Refused | Placed::Failed { .. } => None,
        })
        .collect();
    let range = match (nodes.iter().min(), nodes.iter().max()) {
        (Some(least), Some(most)) if least != most => format!("{least}–{most}"),
        (Some(nodes), _) => nodes.to_string(),
        (None, _) => "-".to_owned(),
    };
    let steps = members.iter().flat_map(|outcome| &outcome.decoding).map(|Decoding { rows, counts }| {
        let Counts { bytes_to_device, bytes_to_host, launches, .. } = counts;
        format!("{rows}, {bytes_to_device}, {bytes_to_host}, {launches}")
    });
    let steps: Vec<String> = steps.collect();
    let placed = format!("{}/{}", nodes.len(), members.len());
    format!("{placed:>7} {range:>10}  {}", steps.join("; ")).trim_end().to_owned()
}

/// Returns the number of failed graphs of each group, by reason.
fn failures(outcomes: &[Outcome]) -> BTreeMap<&str, BTreeMap<Group<'_>, usize>> {
    let mut failures: BTreeMap<&str, BTreeMap<Group<'_>, usize>> = BTreeMap::new();
    for Outcome { family, group, placed, .. } in outcomes {
        if let Placed::Failed { reason } = placed {
            *failures.entry(reason).or_default().entry((family, group.clone())).or_default() += 1;
        }
    }
    failures
}
