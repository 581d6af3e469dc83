//! Files that stand in for a model's file: Git LFS pointers, web pages and messages of failed downloads.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use crate::error::ModelError;

/// The number of bytes that tell a stand-in.
const START_BYTES: u64 = 64;

/// Kinds of stand-ins by their first bytes, in lower case.
const STAND_INS: [(&str, &str); 6] = [
    (
        "version https://git-lfs.github.com/spec/",
        "a Git LFS pointer instead of the file: run `git lfs pull` in its repository",
    ),
    ("<!doctype html", WEB_PAGE),
    ("<html", WEB_PAGE),
    ("entry not found", MESSAGE),
    ("repository not found", MESSAGE),
    ("invalid username or password", MESSAGE),
];
const WEB_PAGE: &str =
    "a web page instead of the file: download the file itself, for example with `hf download`";
const MESSAGE: &str = "the message of a failed download instead of the file: download it again";

/// Refuses content that stands in for the file.
///
/// # Errors
/// [`ModelError::File`] that names the kind and the way out.
pub(super) fn refuse(path: &Path, content: &[u8]) -> Result<(), ModelError> {
    let content = content.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(content).trim_ascii_start();
    let begins = |start: &str| {
        content.get(..start.len()).is_some_and(|found| found.eq_ignore_ascii_case(start.as_bytes()))
    };
    match STAND_INS.iter().find(|(start, _)| begins(start)) {
        Some((_, reason)) => Err(ModelError::file(path, reason)),
        None => Ok(()),
    }
}

/// As [`refuse`], for a file that is not read whole. An unreadable file is no stand-in.
pub(super) fn refuse_file(path: &Path) -> Result<(), ModelError> {
    let mut start = Vec::new();
    match File::open(path).and_then(|file| file.take(START_BYTES).read_to_end(&mut start)) {
        Ok(_) => refuse(path, &start),
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stand_ins_are_named_and_other_content_passes() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1\n";
        for (content, word) in [
            (pointer.as_slice(), "git lfs pull"),
            (b"<html>Access denied</html>", "web page"),
            (b"\n <!DOCTYPE HTML><title>", "web page"),
            (b"\xEF\xBB\xBF<html lang=\"en\">", "web page"),
            (b"Entry not found", "download it again"),
        ] {
            let reason = refuse(Path::new("x"), content).expect_err(word).to_string();
            assert!(reason.contains(word), "{reason}");
        }
        for content in [b"".as_slice(), b"{}", b"GGUF", b"<|im_start|>", b"<s>[INST]", b"version"] {
            refuse(Path::new("x"), content).expect("no stand-in");
        }
    }
}
