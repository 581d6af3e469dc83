//! The metrics of a training, one JSON object a line, consistent with its checkpoints.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Map, Value};

use crate::jsonl::JsonLinesWriter;

/// A file to which metrics are appended.
pub(super) struct MetricsLog {
    path: PathBuf,
    file: File,
}

impl MetricsLog {
    /// Begins a log with the lines that a training has already reported. An existing file is replaced.
    pub(super) fn begin(path: &Path, reported: &[Map<String, Value>]) -> anyhow::Result<Self> {
        let mut writer = JsonLinesWriter::create(path)?;
        for line in reported {
            writer.write(line)?;
        }
        writer.finish()?;
        let file = File::options().append(true).open(path);
        let file = file.with_context(|| format!("failed to open {}", path.display()))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Reads the lines up to step `steps`, which precede the checkpoint from which a training resumes. The
    /// first incomplete line ends them.
    pub(super) fn reported(path: &Path, steps: u64) -> anyhow::Result<Vec<Map<String, Value>>> {
        let file = match File::open(path) {
            Ok(file) => BufReader::new(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("failed to open {}", path.display())),
        };
        let mut lines = Vec::new();
        for line in file.lines() {
            let Ok(Value::Object(line)) = serde_json::from_str(&line?) else { break };
            if line.get("step").and_then(Value::as_u64).is_none_or(|step| step > steps) {
                break;
            }
            lines.push(line);
        }
        Ok(lines)
    }

    /// Appends a line.
    pub(super) fn add(&mut self, line: &Map<String, Value>) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        // One write, so that a reader who follows the file sees whole lines.
        self.file.write_all(&bytes)
    }

    /// Makes the lines durable. Call it before the checkpoint that covers them is written.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line(step: u64) -> Map<String, Value> {
        json!({"step": step, "loss": 1.0 / step as f64}).as_object().cloned().unwrap()
    }

    #[test]
    fn a_log_continues_after_the_lines_of_its_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut log = MetricsLog::begin(&path, &[]).unwrap();
        for step in 1..=5 {
            log.add(&line(step)).unwrap();
        }
        // The process was killed in the middle of a line.
        std::fs::write(&path, [std::fs::read(&path).unwrap().as_slice(), b"{\"step\": 6, \"lo"].concat())
            .unwrap();
        assert_eq!(MetricsLog::reported(&path, 9).unwrap().len(), 5);
        let reported = MetricsLog::reported(&path, 3).unwrap();
        let mut log = MetricsLog::begin(&path, &reported).unwrap();
        log.add(&line(4)).unwrap();
        let expected: Vec<_> = (1..=4).map(line).collect();
        assert_eq!(MetricsLog::reported(&path, 9).unwrap(), expected);
        assert_eq!(MetricsLog::reported(&folder.path().join("none"), 9).unwrap(), []);
    }
}
