//! Source files that the book links to: copied beside the built pages, so that the book is whole wherever it
//! lies.

use std::path::Path;

use anyhow::{Context, Result};

use super::links::normal;
use super::page::Page;

/// The relative path from a chapter to the workspace.
const TO_WORKSPACE: &str = "../../../";

/// Copies each source file that a chapter links to, as text, and points the built pages to the copies.
/// Returns the number of copies.
///
/// # Errors
/// If a page or a source file cannot be read or written.
pub(super) fn bring_along(workspace: &Path, chapters: &Path, output: &Path) -> Result<usize> {
    let mut targets: Vec<String> = Vec::new();
    for path in files_with_end(chapters, "md")? {
        let text = std::fs::read_to_string(&path)?;
        let links = Page::parse(&text).links().into_iter().map(|(_, target)| target);
        targets.extend(links.filter(|target| target.starts_with(TO_WORKSPACE)));
    }
    targets.sort_unstable();
    targets.dedup();
    for target in &targets {
        let from = normal(&chapters.join(without_anchor(target)));
        let below = from.strip_prefix(workspace).unwrap_or(&from);
        if from.is_file() {
            let to = output.join("source").join(format!("{}.txt", below.display()));
            std::fs::create_dir_all(to.parent().unwrap_or(output))?;
            std::fs::copy(&from, &to).with_context(|| format!("failed to copy {}", from.display()))?;
        }
    }
    for page in files_with_end(output, "html")? {
        let mut html = std::fs::read_to_string(&page)?;
        for target in &targets {
            let file = without_anchor(target);
            let copy = format!("href=\"source/{}.txt\"", &file[TO_WORKSPACE.len()..]);
            // mdBook takes a link to another Markdown file for one to a chapter.
            let as_chapter =
                file.strip_suffix(".md").map(|stem| target.replacen(file, &format!("{stem}.html"), 1));
            for linked in [Some(target.clone()), as_chapter].into_iter().flatten() {
                html = html.replace(&format!("href=\"{linked}\""), &copy);
            }
        }
        std::fs::write(&page, html)?;
    }
    Ok(targets.len())
}

/// Returns a link's file. A copy is plain text, without anchors.
fn without_anchor(target: &str) -> &str {
    target.split('#').next().unwrap_or(target)
}

fn files_with_end(folder: &Path, extension: &str) -> Result<Vec<std::path::PathBuf>> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("failed to list {}", folder.display()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    Ok(paths.filter(|path| path.extension().is_some_and(|found| found == extension)).collect())
}
