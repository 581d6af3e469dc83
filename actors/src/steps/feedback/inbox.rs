//! The judgements of a file that a process of version 0.1 left for the run that has the log open.

use std::io;
use std::path::Path;

use dissent_domain::event::FeedbackReceived;

/// Largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// The judgements in a file.
///
/// # Errors
/// If the file cannot be read, is larger than 64 MiB, or has an invalid line, whose number the error names.
pub fn read_judgements(file: &Path) -> io::Result<Vec<FeedbackReceived>> {
    let bytes = std::fs::metadata(file)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(io::Error::other(format!(
            "the file has {bytes} bytes: split it into files of at most {FILE_BYTES_MAX}"
        )));
    }
    let text = std::fs::read_to_string(file)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parse = |(number, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| io::Error::other(format!("line {}: {error}", number + 1)))
    };
    lines.map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_invalid_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.jsonl");
        let good = r#"{"round":0,"comparison":1,"annotator":"ann","verdict":"second"}"#;
        std::fs::write(&file, format!("{good}\n{{\"round\":0}}\n")).unwrap();
        assert!(read_judgements(&file).unwrap_err().to_string().contains("line 2"));
        std::fs::write(&file, good).unwrap();
        assert_eq!(read_judgements(&file).unwrap()[0].comparison, 1);
    }
}
