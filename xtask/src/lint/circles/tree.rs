//! The modules of a crate: their files, the names that they define or import, and the paths in their code.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use syn::{Attribute, Expr, ExprLit, Item, ItemMod, Lit, MetaNameValue};

use super::references::{self, Reference};

/// A parsed crate; the module at index 0 is its root.
pub(crate) struct Tree {
    pub(super) files: Vec<PathBuf>,
    pub(super) modules: Vec<Module>,
    /// The files of `macro_rules!` definitions, which are in scope by the order of the text.
    pub(super) macros: HashMap<String, Vec<usize>>,
}

/// A module: a file, or a part of one.
pub(super) struct Module {
    pub(super) parent: Option<usize>,
    /// Index of its file.
    pub(super) file: usize,
    pub(super) names: HashMap<String, Vec<Binding>>,
    /// Paths of glob imports.
    pub(super) globs: Vec<Vec<String>>,
    pub(super) references: Vec<Reference>,
}

/// The meaning of a name in a module. A name may have several, in different namespaces.
#[derive(Clone)]
pub(super) enum Binding {
    /// An item that the module with this index defines.
    Item(usize),
    /// A child module.
    Child(usize),
    /// An import, as written.
    Import(Vec<String>),
}

/// A place in the source where modules are declared.
struct Place {
    module: usize,
    /// The folder of the files of its child modules.
    folder: PathBuf,
    /// The folder that `#[path]` is relative to.
    path_folder: PathBuf,
}

impl Tree {
    /// Parses the crate with the root file `root`.
    pub(crate) fn load(root: &Path) -> Result<Self> {
        let mut tree = Self { files: Vec::new(), modules: Vec::new(), macros: HashMap::new() };
        let folder = root.parent().with_context(|| format!("{} has no folder", root.display()))?.to_owned();
        tree.load_file(root, None, folder)?;
        Ok(tree)
    }

    fn load_file(&mut self, path: &Path, parent: Option<usize>, folder: PathBuf) -> Result<Option<usize>> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
        let source = syn::parse_file(&text).with_context(|| format!("failed to parse {}", path.display()))?;
        if references::is_test_only(&source.attrs) {
            return Ok(None);
        }
        self.files.push(path.to_owned());
        let module = self.add(parent, self.files.len() - 1);
        let path_folder = path.parent().map(Path::to_owned).unwrap_or_default();
        self.load_items(&source.items, &Place { module, folder, path_folder })?;
        Ok(Some(module))
    }

    fn add(&mut self, parent: Option<usize>, file: usize) -> usize {
        let (names, globs, references) = (HashMap::new(), Vec::new(), Vec::new());
        self.modules.push(Module { parent, file, names, globs, references });
        self.modules.len() - 1
    }

    fn load_items(&mut self, items: &[Item], place: &Place) -> Result<()> {
        for item in items.iter().filter(|item| !references::is_test_only(references::attributes(item))) {
            if let Item::Mod(declaration) = item {
                if let Some(child) = self.load_module(declaration, place)? {
                    self.bind(place.module, &declaration.ident, Binding::Child(child));
                }
                continue;
            }
            if let Some(name) = references::defined(item) {
                self.bind(place.module, name, Binding::Item(place.module));
            }
            if let Item::Macro(definition) = item
                && let Some(name) = &definition.ident
            {
                self.macros.entry(name.to_string()).or_default().push(self.modules[place.module].file);
                if definition.attrs.iter().any(|attribute| attribute.path().is_ident("macro_export")) {
                    self.bind(0, name, Binding::Item(place.module));
                }
            }
            let found = references::of(item);
            let module = &mut self.modules[place.module];
            for (name, path) in found.imports {
                module.names.entry(name).or_default().push(Binding::Import(path));
            }
            module.globs.extend(found.globs);
            module.references.extend(found.references);
        }
        Ok(())
    }

    fn bind(&mut self, module: usize, name: &syn::Ident, binding: Binding) {
        self.modules[module].names.entry(name.to_string()).or_default().push(binding);
    }

    /// Loads a child module, inline or from its file.
    fn load_module(&mut self, declaration: &ItemMod, place: &Place) -> Result<Option<usize>> {
        let name = declaration.ident.to_string();
        let file = self.modules[place.module].file;
        if let Some((_, items)) = &declaration.content {
            let module = self.add(Some(place.module), file);
            let folder = place.folder.join(&name);
            self.load_items(items, &Place { module, path_folder: folder.clone(), folder })?;
            return Ok(Some(module));
        }
        if let Some(path) = path_attribute(&declaration.attrs) {
            let path = place.path_folder.join(path);
            let folder = path.parent().map(Path::to_owned).unwrap_or_default();
            return self.load_file(&path, Some(place.module), folder);
        }
        let folder = place.folder.join(&name);
        for path in [place.folder.join(format!("{name}.rs")), folder.join("mod.rs")] {
            if path.exists() {
                return self.load_file(&path, Some(place.module), folder);
            }
        }
        bail!("no file for module {name} of {}", self.files[file].display())
    }
}

/// Returns the value of `#[path = "…"]`.
fn path_attribute(attributes: &[Attribute]) -> Option<String> {
    attributes.iter().filter(|attribute| attribute.path().is_ident("path")).find_map(|attribute| {
        let Ok(MetaNameValue { value: Expr::Lit(ExprLit { lit: Lit::Str(path), .. }), .. }) =
            attribute.meta.require_name_value()
        else {
            return None;
        };
        Some(path.value())
    })
}
