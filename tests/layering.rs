//! The dependencies between crates match ARCHITECTURE.md, and heavy dependencies stay in their crates.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand, Package};

/// Heavy dependencies, and the crates that may use them outside their tests.
const HOME_OF: [(&str, &[&str]); 8] = [
    ("actix", &["actors", "src"]),
    ("axum", &["src"]),
    ("lapin", &["queues"]),
    ("object_store", &["storage"]),
    ("plotters", &["src"]),
    ("sled", &["storage"]),
    ("ort", &["models"]),
    ("tokenizers", &["models"]),
];

fn packages() -> Vec<Package> {
    let metadata = MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo metadata runs");
    metadata.packages
}

/// `dissent-queues` → `queues`, the root package → `src`.
fn folder(package: &str) -> Option<&str> {
    if package == "dissent" { Some("src") } else { package.strip_prefix("dissent-") }
}

/// The names in `[dependencies]`; tests may use further crates.
fn dependencies(package: &Package) -> impl Iterator<Item = &str> {
    package.dependencies.iter().filter(|d| d.kind == DependencyKind::Normal).map(|d| d.name.as_str())
}

fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let text = include_str!("../ARCHITECTURE.md");
    text.lines()
        .filter_map(|line| line.split_once(" ->"))
        .map(|(from, to)| (from.to_owned(), to.split_whitespace().map(str::to_owned).collect()))
        .collect()
}

#[test]
fn crate_dependencies_match_the_architecture_document() {
    let actual: BTreeMap<String, BTreeSet<String>> = packages()
        .iter()
        .filter_map(|package| {
            let members = dependencies(package).filter_map(folder).map(str::to_owned).collect();
            Some((folder(&package.name)?.to_owned(), members))
        })
        .collect();
    assert_eq!(actual, documented());
}

#[test]
fn heavy_dependencies_are_used_in_their_crate_only() {
    for package in packages() {
        let Some(here) = folder(&package.name) else { continue };
        for (dependency, homes) in HOME_OF {
            let used = dependencies(&package).any(|name| name == dependency);
            assert!(!used || homes.contains(&here), "{here} must not depend on {dependency}");
        }
    }
}
