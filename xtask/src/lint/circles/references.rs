//! The names that an item defines, imports and refers to.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Ident, ImplItem, Item, Meta, TraitItem, UseTree, Visibility};

/// serde's attributes whose value is a path in a string.
const SERDE_PATHS: [&str; 9] = [
    "default",
    "deserialize_with",
    "from",
    "into",
    "remote",
    "serialize_with",
    "skip_serializing_if",
    "try_from",
    "with",
];

/// A path in the source that may lead to another file.
pub(super) struct Reference {
    pub(super) path: Vec<String>,
    pub(super) line: usize,
    pub(super) kind: Kind,
}

/// How a path is written.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// In a private `use`.
    Import,
    /// In a `pub use`.
    ReExport,
    /// In code: an expression, a type, a pattern, a bound.
    Code,
    /// As the name of a macro.
    Macro,
    /// Among the tokens of a macro or an attribute, where an identifier may mean anything.
    Token,
}

/// The references and imports of an item, those inside its functions included.
#[derive(Default)]
pub(super) struct Found {
    pub(super) references: Vec<Reference>,
    /// Imported names and their paths.
    pub(super) imports: Vec<(String, Vec<String>)>,
    pub(super) globs: Vec<Vec<String>>,
}

/// Collects the references and imports of an item.
pub(super) fn of(item: &Item) -> Found {
    let mut found = Found::default();
    found.visit_item(item);
    found
}

/// Returns the names that an item defines in its module.
#[expect(clippy::wildcard_enum_match_arm, reason = "the other items define no name that a path can lead to")]
pub(super) fn defined(item: &Item) -> Option<&Ident> {
    match item {
        Item::Const(item) => Some(&item.ident),
        Item::Enum(item) => Some(&item.ident),
        Item::Fn(item) => Some(&item.sig.ident),
        Item::Macro(item) => item.ident.as_ref(),
        Item::Static(item) => Some(&item.ident),
        Item::Struct(item) => Some(&item.ident),
        Item::Trait(item) => Some(&item.ident),
        Item::TraitAlias(item) => Some(&item.ident),
        Item::Type(item) => Some(&item.ident),
        Item::Union(item) => Some(&item.ident),
        _ => None,
    }
}

/// Returns the attributes of an item.
#[expect(clippy::wildcard_enum_match_arm, reason = "the remaining items have no parsed attributes")]
pub(super) fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::TraitAlias(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Whether code with these attributes is compiled for tests only.
pub(super) fn is_test_only(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().segments.last().is_some_and(|segment| segment.ident == "test")
            || attribute
                .meta
                .require_list()
                .is_ok_and(|list| list.path.is_ident("cfg") && holds(list.tokens.clone()) == Some(false))
    })
}

/// Whether a `cfg` predicate holds outside tests; `None` if that depends on the platform or on features.
fn holds(predicate: TokenStream) -> Option<bool> {
    let mut tokens = predicate.into_iter();
    let Some(TokenTree::Ident(name)) = tokens.next() else { return None };
    let operands = match tokens.next() {
        None => return (name == "test").then_some(false),
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis => split(group.stream()),
        Some(_) => return None,
    };
    let mut values = operands.into_iter().map(holds);
    match name.to_string().as_str() {
        "not" => values.next().flatten().map(|value| !value),
        "all" => combined(values, false),
        "any" => combined(values, true),
        _ => None,
    }
}

/// Returns `decisive` if an operand has that value, and otherwise `None` if an operand is unknown.
fn combined(values: impl Iterator<Item = Option<bool>>, decisive: bool) -> Option<bool> {
    let mut result = Some(!decisive);
    for value in values {
        if value == Some(decisive) {
            return value;
        }
        result = result.and(value);
    }
    result
}

/// Returns the tokens between commas.
fn split(tokens: TokenStream) -> Vec<TokenStream> {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    tokens
        .split(|token| matches!(token, TokenTree::Punct(mark) if mark.as_char() == ','))
        .filter(|part| !part.is_empty())
        .map(|part| part.iter().cloned().collect())
        .collect()
}

impl Found {
    fn refer(&mut self, path: Vec<String>, line: usize, kind: Kind) {
        if !path.is_empty() && path.first().is_some_and(|first| first != "Self") {
            self.references.push(Reference { path, line, kind });
        }
    }

    /// Collects the leaves of a `use` tree.
    fn import(&mut self, tree: &UseTree, prefix: &[String], kind: Kind) {
        let longer = |ident: &Ident| [prefix, &[ident.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.import(&path.tree, &longer(&path.ident), kind),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.import(tree, prefix, kind)),
            UseTree::Name(name) if name.ident == "self" && !prefix.is_empty() => {
                self.leaf(prefix.last().cloned(), prefix.to_vec(), name.ident.span().start().line, kind);
            }
            UseTree::Name(name) => {
                let line = name.ident.span().start().line;
                self.leaf(Some(name.ident.to_string()), longer(&name.ident), line, kind);
            }
            UseTree::Rename(rename) => {
                let path = if rename.ident == "self" { prefix.to_vec() } else { longer(&rename.ident) };
                let name = Some(rename.rename.to_string()).filter(|name| name != "_");
                self.leaf(name, path, rename.ident.span().start().line, kind);
            }
            UseTree::Glob(glob) => {
                self.globs.push(prefix.to_vec());
                self.refer(prefix.to_vec(), glob.star_token.spans[0].start().line, kind);
            }
        }
    }

    fn leaf(&mut self, name: Option<String>, path: Vec<String>, line: usize, kind: Kind) {
        if let Some(name) = name {
            self.imports.push((name, path.clone()));
        }
        self.refer(path, line, kind);
    }

    /// Collects the paths among the tokens of a macro or an attribute.
    fn scan(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let is_mark = |index: usize, mark: char| matches!(tokens.get(index), Some(TokenTree::Punct(found)) if found.as_char() == mark);
        let mut index = 0;
        while index < tokens.len() {
            match &tokens[index] {
                TokenTree::Group(group) => self.scan(group.stream()),
                TokenTree::Ident(first) => {
                    let is_member =
                        index > 0 && is_mark(index - 1, '.') && !(index > 1 && is_mark(index - 2, '.'));
                    let mut path = vec![first.to_string()];
                    while is_mark(index + 1, ':')
                        && is_mark(index + 2, ':')
                        && let Some(TokenTree::Ident(next)) = tokens.get(index + 3)
                    {
                        path.push(next.to_string());
                        index += 3;
                    }
                    if !is_member {
                        self.refer(path, first.span().start().line, Kind::Token);
                    }
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
            index += 1;
        }
    }

    /// Collects the paths that serde's attributes hold in strings.
    fn scan_serde(&mut self, tokens: TokenStream) {
        for pair in split(tokens) {
            let pair: Vec<TokenTree> = pair.into_iter().collect();
            let [TokenTree::Ident(key), TokenTree::Punct(_), TokenTree::Literal(value)] = pair.as_slice()
            else {
                continue;
            };
            let text = value.to_string();
            if SERDE_PATHS.iter().any(|name| key == name) {
                let path = text.trim_matches('"').split("::").map(str::to_owned).collect();
                self.refer(path, value.span().start().line, Kind::Code);
            }
        }
    }
}

impl<'ast> Visit<'ast> for Found {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_test_only(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "only items with attributes can be left out")]
    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        let attributes: &[Attribute] = match item {
            ImplItem::Const(item) => &item.attrs,
            ImplItem::Fn(item) => &item.attrs,
            ImplItem::Type(item) => &item.attrs,
            ImplItem::Macro(item) => &item.attrs,
            _ => &[],
        };
        if !is_test_only(attributes) {
            visit::visit_impl_item(self, item);
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "only items with attributes can be left out")]
    fn visit_trait_item(&mut self, item: &'ast TraitItem) {
        let attributes: &[Attribute] = match item {
            TraitItem::Const(item) => &item.attrs,
            TraitItem::Fn(item) => &item.attrs,
            TraitItem::Type(item) => &item.attrs,
            TraitItem::Macro(item) => &item.attrs,
            _ => &[],
        };
        if !is_test_only(attributes) {
            visit::visit_trait_item(self, item);
        }
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        if !is_test_only(&field.attrs) {
            visit::visit_field(self, field);
        }
    }

    fn visit_field_value(&mut self, value: &'ast syn::FieldValue) {
        if !is_test_only(&value.attrs) {
            visit::visit_field_value(self, value);
        }
    }

    fn visit_variant(&mut self, variant: &'ast syn::Variant) {
        if !is_test_only(&variant.attrs) {
            visit::visit_variant(self, variant);
        }
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        if !is_test_only(&arm.attrs) {
            visit::visit_arm(self, arm);
        }
    }

    fn visit_local(&mut self, local: &'ast syn::Local) {
        if !is_test_only(&local.attrs) {
            visit::visit_local(self, local);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if item.leading_colon.is_none() {
            let is_private = matches!(item.vis, Visibility::Inherited);
            self.import(&item.tree, &[], if is_private { Kind::Import } else { Kind::ReExport });
        }
    }

    /// Skips a visibility such as `pub(in crate::a)`, which is not an import.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none()
            && let Some(first) = path.segments.first()
        {
            let segments = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.refer(segments, first.ident.span().start().line, Kind::Code);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        if let Some(first) = call.path.segments.first() {
            let segments = call.path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.refer(segments, first.ident.span().start().line, Kind::Macro);
        }
        self.scan(call.tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if let Meta::List(list) = &attribute.meta {
            if list.path.is_ident("serde") {
                self.scan_serde(list.tokens.clone());
            } else if !list.path.is_ident("cfg") {
                self.scan(list.tokens.clone());
            }
        }
    }
}
