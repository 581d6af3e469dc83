//! Checks that the targets of all relative links, anchors and source paths in the Markdown pages exist.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::page::Page;

/// Folders without pages for readers: build output, templates and recorded snapshots.
const PASSED_OVER: [&str; 6] = ["target", ".git", ".dissent", "src", "snapshots", "node_modules"];
/// Suffixes that mark a code span as the path of a file of this repository.
const PATH_ENDS: [&str; 8] = [".rs", ".md", ".toml", ".yaml", ".yml", ".py", ".html", "/"];

/// Checks every page below the workspace.
///
/// # Errors
/// If a page cannot be read, or a target does not exist; the error names all missing targets.
pub(super) fn check(workspace: &Path) -> Result<()> {
    let pages = read_pages(workspace)?;
    let mut faults = Vec::new();
    let mut checked = 0;
    for (path, page) in &pages {
        let shown = path.strip_prefix(workspace).unwrap_or(path).display().to_string();
        for (line, target) in page.links() {
            checked += 1;
            if let Err(reason) = follow(path, &target, &pages) {
                faults.push(format!("{shown}:{line}: link `{target}`: {reason}"));
            }
        }
        for (line, span) in page.code_spans() {
            if is_source_path(workspace, &span) {
                checked += 1;
                if !workspace.join(&span).exists() {
                    faults.push(format!("{shown}:{line}: path `{span}` does not exist"));
                }
            }
        }
    }
    faults.extend(unlisted_chapters(workspace, &pages));
    if !faults.is_empty() {
        bail!("{} dead links:\n{}", faults.len(), faults.join("\n"));
    }
    println!("links: {checked} links and paths in {} pages are valid", pages.len());
    Ok(())
}

type Pages = BTreeMap<PathBuf, Page>;

fn read_pages(workspace: &Path) -> Result<Pages> {
    let mut pages = Pages::new();
    let mut folders = vec![workspace.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries =
            std::fs::read_dir(&folder).with_context(|| format!("failed to list {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let is_book = path.ends_with("docs/book/src");
            if path.is_dir() && !path.is_symlink() && (is_book || !PASSED_OVER.contains(&name.as_str())) {
                folders.push(path);
            } else if name.ends_with(".md") {
                let text = std::fs::read_to_string(&path)
                    .with_context(|| format!("failed to read {}", path.display()))?;
                pages.insert(path, Page::parse(&text));
            }
        }
    }
    Ok(pages)
}

/// Follows one link of a page.
fn follow(page: &Path, target: &str, pages: &Pages) -> Result<(), String> {
    let is_elsewhere = target.contains("://") || target.starts_with("mailto:");
    if is_elsewhere || target.is_empty() {
        return Ok(());
    }
    let (file, anchor) = target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
    let folder = page.parent().unwrap_or(Path::new("."));
    let path = if file.is_empty() { page.to_path_buf() } else { normal(&folder.join(file)) };
    if !path.exists() {
        return Err(format!("there is no {}", path.display()));
    }
    match (anchor, pages.get(&path)) {
        (Some(anchor), Some(page)) if !page.heading_ids().iter().any(|id| id == anchor) => {
            Err(format!("{} has no heading #{anchor}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Removes `.` and `..` from a path lexically, without access to the file system.
pub(super) fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => normal.push(component),
        }
    }
    normal
}

/// Whether a code span names a file or folder of this repository, such as `src/lib.rs`.
fn is_source_path(workspace: &Path, span: &str) -> bool {
    let plain = span.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    let first = span.split('/').next().unwrap_or_default();
    plain
        && span.contains('/')
        && !first.is_empty()
        && first != "target"
        && PATH_ENDS.iter().any(|end| span.ends_with(end))
        && workspace.join(first).is_dir()
}

/// Returns the pages of the book that its table of contents lacks, which mdBook does not build.
fn unlisted_chapters(workspace: &Path, pages: &Pages) -> Vec<String> {
    let chapters = workspace.join(super::page::BOOK).join("src");
    let Some(summary) = pages.get(&chapters.join("SUMMARY.md")) else { return Vec::new() };
    let listed: Vec<PathBuf> =
        summary.links().into_iter().map(|(_, target)| normal(&chapters.join(target))).collect();
    let is_unlisted = |path: &&PathBuf| {
        path.starts_with(&chapters) && !path.ends_with("SUMMARY.md") && !listed.contains(path)
    };
    let unlisted = pages.keys().filter(is_unlisted);
    unlisted.map(|path| format!("{}: SUMMARY.md does not list it", path.display())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_links_anchors_and_paths_are_named_with_their_lines() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("docs")).unwrap();
        let page = "# One\n[a](b.md#two) [b](b.md#three) [c](#one)\n[d](gone.md) `docs/b.md` `docs/c.md`\n";
        std::fs::write(folder.path().join("docs/a.md"), page).unwrap();
        std::fs::write(folder.path().join("docs/b.md"), "## Two\n").unwrap();
        let error = check(folder.path()).unwrap_err().to_string();
        assert!(error.starts_with("3 dead links:"), "{error}");
        for fault in ["docs/a.md:2: link `b.md#three`", "a.md:3: link `gone.md`", "path `docs/c.md`"] {
            assert!(error.contains(fault), "{fault}: {error}");
        }
    }

    #[test]
    fn the_pages_of_this_repository_have_no_dead_link() {
        check(&crate::cache::workspace_dir()).unwrap();
    }
}
