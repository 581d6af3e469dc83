//! Judgements that a command of version 0.1 left in the data folder for the run that had the event log open.

use std::path::{Path, PathBuf};

use dissent_actors::{CommandError, Control, read_judgements};
use dissent_domain::id::ExperimentId;

/// Records the left judgements of an experiment, and removes their files. A judgement that the rules reject
/// is logged. A file stays for the next start if the journal fails.
pub(crate) async fn take_in(data_dir: &Path, experiment: &ExperimentId, control: &Control) {
    for file in left(data_dir, experiment) {
        let path = file.display();
        let judgements = match read_judgements(&file) {
            Ok(judgements) => judgements,
            Err(error) => {
                tracing::error!(file = %path, %error, "renaming an unreadable file of judgements");
                let _renamed = std::fs::rename(&file, file.with_extension("jsonl.unreadable"));
                continue;
            }
        };
        for judgement in judgements {
            match control.judge(experiment.clone(), vec![judgement]).await {
                Ok(_) => {}
                Err(error @ CommandError::JudgementsRejected { .. }) => {
                    tracing::warn!(file = %path, %error, "dropping a judgement");
                }
                Err(error) => {
                    tracing::error!(file = %path, %error, "keeping a file of judgements for the next start");
                    return;
                }
            }
        }
        if let Err(error) = std::fs::remove_file(&file) {
            tracing::warn!(file = %path, %error, "failed to remove a file of recorded judgements");
        }
    }
}

/// Returns the complete files of an experiment, in the order of their names. Each ends in `.jsonl`, and holds
/// one judgement a line.
fn left(data_dir: &Path, experiment: &ExperimentId) -> Vec<PathBuf> {
    let folder = data_dir.join("feedback-inbox").join(experiment.as_str());
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        // Regular files only: reading a pipe would block.
        .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl") && path.is_file())
        .collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_files_are_found_in_the_order_of_their_names() {
        let data = tempfile::tempdir().unwrap();
        let name = ExperimentId::new("e").unwrap();
        assert!(left(data.path(), &name).is_empty());
        let folder = data.path().join("feedback-inbox/e");
        std::fs::create_dir_all(folder.join("folder.jsonl")).unwrap();
        for name in ["b.jsonl", "a.jsonl", ".c.partial", "d.jsonl.unreadable"] {
            std::fs::write(folder.join(name), "").unwrap();
        }
        let found = left(data.path(), &name);
        let names: Vec<_> = found.iter().map(|file| file.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["a.jsonl", "b.jsonl"]);
    }
}
