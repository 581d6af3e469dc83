//! The inbox: judgements that people made while this process has the log open.
//!
//! Other processes leave whole files of JSON lines in a folder, each line the fields of a `FeedbackReceived`. They are taken up
//! about once a second, in the order of their names, and removed once everything in them is decided. A file that cannot be read
//! is renamed, so that it is neither lost nor read again and again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dissent_domain::event::{FeedbackReceived, StepName};
use dissent_domain::event_ids::feedback_requested_id;
use dissent_domain::plan::Plan;
use dissent_queues::BrokerError;

use crate::step::{self, Consequence, Surroundings};

const INTERVAL: Duration = Duration::from_secs(1);
/// Largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Looks into the folder until it is aborted.
pub(crate) async fn watch(folder: PathBuf, plan: Arc<Plan>, around: Surroundings) {
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        ticks.tick().await;
        let looked_into = folder.clone();
        let found = tokio::task::spawn_blocking(move || whole_files(&looked_into)).await.unwrap_or_default();
        for file in found {
            if let Err(error) = take(&file, &plan, &around).await {
                return around.failure.report(format!("failed to take in judgements: {error}"));
            }
        }
    }
}

/// The files that are whole, by name; a folder that is not there has none.
fn whole_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        // Nothing that is no file: a pipe would be waited for without end.
        .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl") && path.is_file())
        .collect();
    files.sort();
    files
}

async fn take(file: &Path, plan: &Plan, around: &Surroundings) -> Result<(), BrokerError> {
    let judgements = match read(file) {
        Ok(judgements) => judgements,
        Err(error) => {
            tracing::error!(file = %file.display(), %error, "judgements that cannot be read are put aside");
            let _ = std::fs::rename(file, file.with_extension("jsonl.unreadable"));
            return Ok(());
        }
    };
    for judgement in judgements {
        let cause = feedback_requested_id(plan, judgement.round, judgement.comparison);
        let consequence = Consequence { cause, events: vec![judgement.into()] };
        // One that is rejected was told of in the log of this process: it came too late, or twice.
        step::propose(&*around.broker, &around.experiment, StepName::Feedback, &consequence).await?;
    }
    // Left where it is, it would be taken in again, and change nothing.
    if let Err(error) = std::fs::remove_file(file) {
        tracing::warn!(file = %file.display(), %error, "failed to remove judgements that were taken in");
    }
    Ok(())
}

/// The judgements in a file.
///
/// # Errors
/// If it cannot be read, is larger than 64 MiB, or has a line that is none: its number is named.
pub fn read(file: &Path) -> io::Result<Vec<FeedbackReceived>> {
    let bytes = std::fs::metadata(file)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it has {bytes} bytes: at most {FILE_BYTES_MAX} are read")));
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
    fn only_whole_files_are_found_in_the_order_of_their_names() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.jsonl", "a.jsonl", ".c.partial", "d.jsonl.unreadable"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let names: Vec<_> =
            whole_files(folder.path()).iter().map(|file| file.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["a.jsonl", "b.jsonl"]);
        assert!(whole_files(&folder.path().join("none")).is_empty());
        std::fs::create_dir(folder.path().join("e.jsonl")).unwrap();
        assert_eq!(whole_files(folder.path()).len(), 2, "what is no file is not read");
    }

    #[test]
    fn a_line_that_is_no_judgement_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.jsonl");
        let good = r#"{"round":0,"comparison":1,"annotator":"ann","verdict":"second"}"#;
        std::fs::write(&file, format!("{good}\n{{\"round\":0}}\n")).unwrap();
        assert!(read(&file).unwrap_err().to_string().contains("line 2"));
        std::fs::write(&file, good).unwrap();
        assert_eq!(read(&file).unwrap()[0].comparison, 1);
    }
}
