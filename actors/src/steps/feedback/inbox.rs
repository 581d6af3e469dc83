//! The inbox: judgements of people that arrive while this process has the log open.
//!
//! Other processes move files of JSON Lines into a folder; each line has the fields of a `FeedbackReceived`.
//! About once a second the watch reads the files in the order of their names. It removes a file once all its
//! judgements are decided, and renames an unreadable one, so that no file is lost or read again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dissent_domain::event::{FeedbackReceived, StepName};
use dissent_domain::event_ids::feedback_requested_id;
use dissent_domain::plan::Plan;
use dissent_queues::BrokerError;

use crate::error::RunFailure;
use crate::runner::context::StepContext;
use crate::runner::propose::propose;
use crate::runner::step::Consequence;

const INTERVAL: Duration = Duration::from_secs(1);
/// Largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Reads the folder until it is aborted.
pub(crate) async fn watch(folder: PathBuf, plan: Arc<Plan>, context: StepContext) {
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        ticks.tick().await;
        let watched = folder.clone();
        let found = tokio::task::spawn_blocking(move || whole_files(&watched)).await.unwrap_or_default();
        for file in found {
            if let Err(error) = record(&file, &plan, &context).await {
                return context.failure.report(RunFailure::broker("record judgements", error));
            }
        }
    }
}

/// The complete files, by name; empty if the folder does not exist.
fn whole_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        // Regular files only: reading a pipe would block.
        .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl") && path.is_file())
        .collect();
    files.sort();
    files
}

/// Proposes the judgements of a file, then removes the file.
async fn record(file: &Path, plan: &Plan, context: &StepContext) -> Result<(), BrokerError> {
    let judgements = match read_judgements(file) {
        Ok(judgements) => judgements,
        Err(error) => {
            tracing::error!(file = %file.display(), %error, "renaming an unreadable file of judgements");
            let _ = std::fs::rename(file, file.with_extension("jsonl.unreadable"));
            return Ok(());
        }
    };
    for judgement in judgements {
        let cause = feedback_requested_id(plan, judgement.round, judgement.comparison);
        let consequence = Consequence { cause, events: vec![judgement.into()] };
        // A rejection is logged: the judgement came too late, or twice.
        propose(context, StepName::Feedback, &consequence).await?;
    }
    // If the file remains, it is read again, which changes nothing.
    if let Err(error) = std::fs::remove_file(file) {
        tracing::warn!(file = %file.display(), %error, "failed to remove a file of recorded judgements");
    }
    Ok(())
}

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
    fn complete_files_are_found_in_the_order_of_their_names() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.jsonl", "a.jsonl", ".c.partial", "d.jsonl.unreadable"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let names: Vec<_> =
            whole_files(folder.path()).iter().map(|file| file.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["a.jsonl", "b.jsonl"]);
        assert!(whole_files(&folder.path().join("none")).is_empty());
        std::fs::create_dir(folder.path().join("e.jsonl")).unwrap();
        assert_eq!(whole_files(folder.path()).len(), 2, "a folder is not read");
    }

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
