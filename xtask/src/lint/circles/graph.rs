//! The imports of a crate as a graph, and its strongly connected components.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// The imports of a crate: importing file → imported file → names, each with the line of its first use.
pub(super) type Imports = BTreeMap<PathBuf, BTreeMap<PathBuf, BTreeMap<String, usize>>>;

/// Returns the sets of two or more files that reach each other through imports.
pub(super) fn components(imports: &Imports) -> Vec<BTreeSet<PathBuf>> {
    let mut importers: BTreeMap<&PathBuf, Vec<&PathBuf>> = BTreeMap::new();
    for (from, targets) in imports {
        for to in targets.keys() {
            importers.entry(to).or_default().push(from);
        }
    }
    let imported =
        |file: &PathBuf| imports.get(file).into_iter().flat_map(|targets| targets.keys()).collect();
    let importing = |file: &PathBuf| importers.get(file).cloned().unwrap_or_default();
    let mut seen = BTreeSet::new();
    let mut components = Vec::new();
    for file in imports.keys() {
        if seen.contains(file) {
            continue;
        }
        let component: BTreeSet<PathBuf> = reached(file, imported)
            .intersection(&reached(file, importing))
            .map(|file| (*file).clone())
            .collect();
        seen.extend(component.iter().cloned());
        if component.len() > 1 {
            components.push(component);
        }
    }
    components
}

/// Returns the files that are reached from `start` by following `next`, `start` included.
fn reached<'a>(start: &'a PathBuf, next: impl Fn(&PathBuf) -> Vec<&'a PathBuf>) -> BTreeSet<&'a PathBuf> {
    let mut reached = BTreeSet::from([start]);
    let mut open = vec![start];
    while let Some(file) = open.pop() {
        for neighbour in next(file) {
            if reached.insert(neighbour) {
                open.push(neighbour);
            }
        }
    }
    reached
}
