//! Import circles between the files of a crate.
//!
//! A file imports another if its code names an item of the other. Names count in a `use`, in a path, in the
//! arguments of a macro and in an attribute. A re-export is resolved to the file that defines the name, so
//! the re-exporting module does not count. Test code and `mod` declarations do not count either.

mod graph;
mod references;
mod resolve;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use self::graph::Imports;
use self::tree::Tree;
use crate::cache::workspace_dir;
use crate::process::{cargo, output_of};

/// Names shown for one edge; an edge between two files may have dozens.
const NAMES_SHOWN: usize = 8;

/// Files that import each other, directly or through further files of the circle.
pub(crate) struct Circle {
    files: BTreeSet<PathBuf>,
    edges: Vec<Edge>,
}

/// One file imports another.
struct Edge {
    from: PathBuf,
    to: PathBuf,
    names: BTreeMap<String, usize>,
}

/// Fails if a crate of the workspace has an import circle; prints every circle.
pub(crate) fn check() -> Result<()> {
    let mut files = 0;
    let mut found = 0;
    for root in targets()? {
        let tree = Tree::load(&root)?;
        files += tree.files.len();
        for circle in circles(&tree) {
            found += 1;
            println!("{circle}");
        }
    }
    if found > 0 {
        bail!("{found} import circles: move the named items into a file that both sides can import");
    }
    println!("no import circle in {files} files");
    Ok(())
}

/// Returns the root files of the workspace's libraries and programs, in order.
fn targets() -> Result<Vec<PathBuf>> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        targets: Vec<Target>,
    }
    #[derive(Deserialize)]
    struct Target {
        kind: Vec<String>,
        src_path: PathBuf,
    }
    let mut metadata: Command = cargo();
    metadata.args(["metadata", "--no-deps", "--format-version=1", "--locked"]);
    let metadata: Metadata =
        serde_json::from_str(&output_of(&mut metadata)?).context("failed to read cargo's metadata")?;
    let mut roots: Vec<PathBuf> = metadata
        .packages
        .into_iter()
        .flat_map(|package| package.targets)
        .filter(|target| target.kind.iter().any(|kind| kind == "lib" || kind == "bin"))
        .map(|target| target.src_path)
        .collect();
    roots.sort();
    Ok(roots)
}

/// Returns the import circles of a crate, largest first.
pub(crate) fn circles(tree: &Tree) -> Vec<Circle> {
    let imports = resolve::imports(tree);
    let mut circles: Vec<Circle> =
        graph::components(&imports).into_iter().map(|files| Circle::of(files, &imports)).collect();
    circles.sort_by_key(|circle| std::cmp::Reverse(circle.files.len()));
    circles
}

impl Circle {
    fn of(files: BTreeSet<PathBuf>, imports: &Imports) -> Self {
        let mut edges = Vec::new();
        for from in &files {
            for (to, names) in imports.get(from).into_iter().flatten() {
                if files.contains(to) {
                    edges.push(Edge { from: from.clone(), to: to.clone(), names: names.clone() });
                }
            }
        }
        Self { files, edges }
    }
}

impl fmt::Display for Circle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "import circle of {} files:", self.files.len())?;
        let workspace = workspace_dir();
        let shown = |path: &Path| path.strip_prefix(&workspace).unwrap_or(path).display().to_string();
        for edge in &self.edges {
            write!(f, "\n  {} -> {}: ", shown(&edge.from), shown(&edge.to))?;
            let names =
                edge.names.iter().take(NAMES_SHOWN).map(|(name, line)| format!("{name} (line {line})"));
            write!(f, "{}", names.collect::<Vec<_>>().join(", "))?;
            if edge.names.len() > NAMES_SHOWN {
                write!(f, " and {} more", edge.names.len() - NAMES_SHOWN)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the circles of a crate with these files, as text without the crate's folder.
    fn circles_of(files: &[(&str, &str)]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let tree = Tree::load(&folder.path().join("lib.rs")).unwrap();
        let prefix = format!("{}/", folder.path().display());
        circles(&tree).iter().map(|circle| circle.to_string().replace(&prefix, "")).collect()
    }

    #[test]
    fn a_circle_is_reported_with_its_edges_and_names() {
        let found = circles_of(&[
            ("lib.rs", "mod a;\nmod b;\nmod c;\n"),
            ("a.rs", "use crate::b::Left;\npub struct Right(Left);\n"),
            ("b.rs", "pub struct Left;\nfn f() { let _ = super::c::g(); }\n"),
            ("c.rs", "pub fn g() { drop::<Vec<crate::a::Right>>(vec![]) }\n"),
        ]);
        assert_eq!(
            found,
            [
                "import circle of 3 files:\n  a.rs -> b.rs: Left (line 1)\n  b.rs -> c.rs: g (line 2)\n  c.rs -> a.rs: Right (line 1)"
            ]
        );
    }

    #[test]
    fn a_re_export_is_resolved_to_the_file_that_defines_the_name() {
        let files = [
            ("lib.rs", "mod a;\nmod shapes;\npub use shapes::Square;\n"),
            ("a.rs", "use crate::Square;\nuse super::shapes::Circle;\npub struct A(Square, Circle);\n"),
            (
                "shapes/mod.rs",
                "mod square;\nmod circle;\npub use self::square::Square;\npub use circle::*;\n",
            ),
            ("shapes/square.rs", "pub struct Square(super::Circle);\n"),
            ("shapes/circle.rs", "pub struct Circle;\n"),
        ];
        assert_eq!(circles_of(&files), Vec::<String>::new());
    }

    #[test]
    fn a_re_export_does_not_hide_a_circle() {
        let found = circles_of(&[
            ("lib.rs", "mod shapes;\n"),
            (
                "shapes/mod.rs",
                "mod square;\nmod circle;\npub use self::square::Square;\npub use circle::Circle;\n",
            ),
            ("shapes/square.rs", "pub struct Square(super::Circle);\n"),
            ("shapes/circle.rs", "pub struct Circle(Option<Box<crate::shapes::Square>>);\n"),
        ]);
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("circle.rs -> shapes/square.rs: Square"), "{}", found[0]);
        assert!(!found[0].contains("mod.rs"), "{}", found[0]);
    }

    #[test]
    fn a_parent_that_uses_its_child_and_is_used_by_it_is_a_circle() {
        let found = circles_of(&[
            ("lib.rs", "mod a;\n"),
            ("a.rs", "mod child;\npub use self::child::Child;\npub struct Parent(Child);\n"),
            ("a/child.rs", "pub struct Child(Option<Box<super::Parent>>);\n"),
        ]);
        assert_eq!(
            found,
            [
                "import circle of 2 files:\n  a/child.rs -> a.rs: Parent (line 1)\n  a.rs -> a/child.rs: Child (line 3)"
            ]
        );
    }

    #[test]
    fn tests_declarations_and_visibilities_are_no_imports() {
        let files = [
            ("lib.rs", "mod a;\nmod b;\n#[cfg(test)]\nmod tests;\n"),
            ("a.rs", "use crate::b::B;\npub(in crate::a) struct A(B);\npub(super) fn a() {}\n"),
            (
                "b.rs",
                "pub struct B;\n#[cfg(all(test, unix))]\nfn t() { crate::a::a() }\n#[test]\nfn u() { crate::a::a() }\n",
            ),
        ];
        assert_eq!(circles_of(&files), Vec::<String>::new());
    }

    #[test]
    fn macros_and_attributes_import_too() {
        let found = circles_of(&[
            ("lib.rs", "mod a;\nmod b;\n"),
            ("a.rs", "pub fn a() { println!(\"{}\", crate::b::b()) }\n"),
            (
                "b.rs",
                "#[derive(Serialize)]\nstruct B {\n #[serde(skip_serializing_if = \"crate::a::a\")]\n x: u8 }\npub fn b() {}\n",
            ),
        ]);
        assert_eq!(
            found,
            ["import circle of 2 files:\n  a.rs -> b.rs: b (line 1)\n  b.rs -> a.rs: a (line 3)"]
        );
    }
}
