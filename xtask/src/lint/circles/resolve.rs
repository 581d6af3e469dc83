//! From paths in the code to the files that define the named items.

use std::collections::HashSet;

use super::graph::Imports;
use super::references::{Kind, Reference};
use super::tree::{Binding, Tree};

/// The target of a path.
#[derive(Clone)]
enum Target {
    Module(usize),
    /// An item of a module, by its name.
    Item(usize, String),
    /// An item of another crate.
    External,
}

/// The bindings that a resolution has followed: module, name, index among the name's bindings.
type Followed = HashSet<(usize, String, usize)>;

/// Returns the imports between the files of a crate.
pub(super) fn imports(tree: &Tree) -> Imports {
    let mut imports = Imports::new();
    for (index, module) in tree.modules.iter().enumerate() {
        for reference in &module.references {
            for (target, name) in tree.targets(index, reference) {
                if target == module.file {
                    continue;
                }
                let edges = imports.entry(tree.files[module.file].clone()).or_default();
                let names = edges.entry(tree.files[target].clone()).or_default();
                names.entry(name).or_insert(reference.line);
            }
        }
    }
    imports
}

impl Tree {
    /// Returns the files that a reference imports from, each with the name of the item.
    fn targets(&self, module: usize, reference: &Reference) -> Vec<(usize, String)> {
        let mut targets = self.resolve(module, &reference.path, &Followed::new());
        if let (true, Kind::Macro, [name]) = (targets.is_empty(), reference.kind, reference.path.as_slice()) {
            let defining = self.macros.get(name).map_or(&[][..], Vec::as_slice);
            return match defining {
                [file] => vec![(*file, format!("{name}!"))],
                _ => Vec::new(),
            };
        }
        if reference.kind == Kind::Token
            && reference.path.len() == 1
            && !self.is_named(module, &reference.path[0])
        {
            targets.clear();
        }
        let is_import = |owner: usize| reference.kind != Kind::ReExport || !self.is_below(owner, module);
        targets
            .into_iter()
            .filter_map(|target| match target {
                Target::Item(owner, name) if is_import(owner) => Some((self.modules[owner].file, name)),
                Target::Item(..) | Target::Module(_) | Target::External => None,
            })
            .collect()
    }

    /// Whether a module defines or imports the name itself, not by a glob.
    fn is_named(&self, module: usize, name: &str) -> bool {
        self.modules[module].names.contains_key(name)
    }

    /// Whether a module is `ancestor` or lies below it.
    fn is_below(&self, module: usize, ancestor: usize) -> bool {
        module == ancestor
            || self.modules[module].parent.is_some_and(|parent| self.is_below(parent, ancestor))
    }

    /// Returns the targets of a path that is written in a module; none if it leads out of the crate or to a
    /// local name.
    fn resolve(&self, module: usize, path: &[String], followed: &Followed) -> Vec<Target> {
        let mut base = module;
        let mut rest = path;
        let mut is_anchored = false;
        while let Some((first, further)) = rest.split_first() {
            base = match first.as_str() {
                "crate" => 0,
                "self" => base,
                "super" => self.modules[base].parent.unwrap_or(base),
                _ => break,
            };
            is_anchored = true;
            rest = further;
        }
        let mut targets = vec![Target::Module(base)];
        for name in rest {
            targets = self.step(targets, name, is_anchored, followed);
            is_anchored = true;
        }
        targets
    }

    /// Follows a path by one segment. A name that a module must have but does not define stems from one of
    /// its macros.
    fn step(&self, from: Vec<Target>, name: &str, is_anchored: bool, followed: &Followed) -> Vec<Target> {
        let mut targets = Vec::new();
        for target in from {
            let Target::Module(module) = target else {
                targets.push(target);
                continue;
            };
            let found = self.look_up(module, name, followed);
            if found.is_empty() && is_anchored {
                targets.push(Target::Item(module, name.to_owned()));
            }
            targets.extend(found);
        }
        targets
    }

    /// Returns the meanings of a name in a module; empty if the module has no such name.
    fn look_up(&self, module: usize, name: &str, followed: &Followed) -> Vec<Target> {
        let mut targets = Vec::new();
        for (index, binding) in self.modules[module].names.get(name).into_iter().flatten().enumerate() {
            match binding {
                Binding::Item(owner) => targets.push(Target::Item(*owner, name.to_owned())),
                Binding::Child(child) => targets.push(Target::Module(*child)),
                Binding::Import(path) => {
                    let Some(followed) = one_further(followed, module, name, index) else { continue };
                    let imported = self.resolve(module, path, &followed);
                    let is_external = imported.is_empty();
                    targets.extend(imported);
                    targets.extend(is_external.then_some(Target::External));
                }
            }
        }
        if !targets.is_empty() {
            return targets;
        }
        for (index, glob) in self.modules[module].globs.iter().enumerate() {
            // Globs are numbered from the far end, apart from the bindings of the name itself.
            let Some(followed) = one_further(followed, module, name, usize::MAX - index) else { continue };
            for base in self.resolve(module, glob, &followed) {
                if let Target::Module(base) = base {
                    targets.extend(self.look_up(base, name, &followed));
                }
            }
        }
        targets
    }
}

/// Returns the followed bindings with one more; `None` if that one was followed before, because imports may
/// form a circle.
fn one_further(followed: &Followed, module: usize, name: &str, index: usize) -> Option<Followed> {
    let mut further = followed.clone();
    further.insert((module, name.to_owned(), index)).then_some(further)
}
