//! The list of erased people beside the database. A restored older database erases them again.
//!
//! Each line is a JSON object with the id of a person. An id is on the list before the erasure is committed.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{AccountsError, PersonId};

/// File name of the list.
pub(super) const LIST: &str = "erased.jsonl";

#[derive(Serialize, Deserialize)]
struct Line {
    person: PersonId,
}

/// Returns the path of the list beside a database.
pub(super) fn beside(database: &Path) -> PathBuf {
    database.with_file_name(LIST)
}

/// Returns the ids of a list. A missing list is empty, and an unfinished last line is ignored: its erasure
/// was not committed.
///
/// # Errors
/// If the list cannot be read, or a line is damaged.
pub(super) fn read(list: &Path) -> Result<BTreeSet<PersonId>, AccountsError> {
    match std::fs::read_to_string(list) {
        Ok(text) => parse(list, &text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(AccountsError::io(format!("read {}", list.display()))(error)),
    }
}

fn parse(list: &Path, text: &str) -> Result<BTreeSet<PersonId>, AccountsError> {
    let finished = text.rfind('\n').and_then(|end| text.get(..end)).unwrap_or_default();
    let lines = finished.lines().enumerate().filter(|(_, line)| !line.is_empty());
    lines
        .map(|(index, line)| match serde_json::from_str::<Line>(line) {
            Ok(line) => Ok(line.person),
            Err(error) => {
                Err(AccountsError::Damaged(format!("{}, line {}: {error}", list.display(), index + 1)))
            }
        })
        .collect()
}

/// Adds ids to a list, except known ones; durable on return. An unfinished last line is removed.
///
/// # Errors
/// If the list cannot be read or written, or a line is damaged.
pub(super) fn append<'a>(
    list: &Path,
    people: impl IntoIterator<Item = &'a PersonId>,
) -> Result<(), AccountsError> {
    let failed = || AccountsError::io(format!("write {}", list.display()));
    let mut options = OpenOptions::new();
    let opened = options.create(true).truncate(false).read(true).write(true).mode(0o600).open(list);
    let mut file = opened.map_err(failed())?;
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(failed())?;
    let known = parse(list, &text)?;
    let end = text.rfind('\n').map_or(0, |end| end as u64 + 1);
    file.set_len(end).and_then(|()| file.seek(SeekFrom::Start(end))).map_err(failed())?;
    let mut added = String::new();
    for person in people.into_iter().filter(|person| !known.contains(person)) {
        let line = Line { person: person.clone() };
        let line = serde_json::to_string(&line).map_err(|error| AccountsError::Damaged(error.to_string()))?;
        added.push_str(&line);
        added.push('\n');
    }
    file.write_all(added.as_bytes()).and_then(|()| file.sync_all()).map_err(failed())?;
    sync_folder(list)
}

/// Makes the names in the folder of a file durable.
///
/// # Errors
/// If the folder cannot be synced.
pub(super) fn sync_folder(file: &Path) -> Result<(), AccountsError> {
    let folder = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(AccountsError::io(format!("sync {}", folder.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(letter: char) -> PersonId {
        format!("p_{}", letter.to_string().repeat(16)).parse().unwrap()
    }

    #[test]
    fn an_unfinished_line_is_ignored_and_not_glued_to_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join(LIST);
        assert!(read(&list).unwrap().is_empty());
        append(&list, [&person('a')]).unwrap();
        let whole = std::fs::read(&list).unwrap();
        append(&list, [&person('b')]).unwrap();
        let both = std::fs::read(&list).unwrap();
        for cut in whole.len()..both.len() {
            std::fs::write(&list, &both[..cut]).unwrap();
            assert_eq!(read(&list).unwrap(), BTreeSet::from([person('a')]));
            append(&list, [&person('c'), &person('a')]).unwrap();
            assert_eq!(read(&list).unwrap(), BTreeSet::from([person('a'), person('c')]));
            assert_eq!(
                std::fs::read_to_string(&list).unwrap().lines().count(),
                2,
                "known ids are not repeated"
            );
        }
    }

    #[test]
    fn a_damaged_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join(LIST);
        append(&list, [&person('a')]).unwrap();
        let text = std::fs::read_to_string(&list).unwrap();
        std::fs::write(&list, format!("{text}{{\"person\":\"../x\"}}\n")).unwrap();
        let error = read(&list).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
        assert!(append(&list, [&person('b')]).is_err());
    }
}
