//! Retention, backup and restore.

use dissent_domain::log::EventLog;
use serde_json::json;

use super::made::{Shelf, asking, in_order, learning_plan, measured, plan};

/// A shelf with a finished experiment `old`, and `loop`, which is not.
fn shelf() -> Shelf {
    let shelf = Shelf::new();
    shelf.keep("data", &measured(plan("old"), &in_order(), 0.0).recorded);
    shelf.keep("data", &asking(learning_plan("loop")).recorded);
    shelf
}

#[test]
fn a_finished_experiment_is_copied_to_an_archive_and_stays_where_it_was() {
    let shelf = shelf();
    let archive = shelf.path("archive");
    let arguments = ["log", "archive", "old", "--to", archive.to_str().unwrap()];
    let head = shelf.log("data").head();
    let first = shelf.json("data", &arguments, 0);
    assert_eq!(first, shelf.json("data", &arguments, 0), "a second time changes nothing");
    assert_eq!(shelf.log("data").head(), head);
    let (a, b) = (format!("{}:old", shelf.path("data").display()), format!("{}:old", archive.display()));
    assert!(shelf.says("data", &["log", "diff", &a, &b], 0).contains("in the same order"));
    assert!(shelf.says("archive", &["replay", "--verify"], 0).contains("verified: 1 experiment"));
}

#[test]
fn what_is_archived_is_removed_only_if_asked_and_the_old_log_is_kept() {
    let shelf = shelf();
    let (before, archive) = (shelf.log("data").head(), shelf.path("archive"));
    let stays = shelf.json("data", &["experiment", "show", "loop"], 0)["overview"].clone();
    let found =
        shelf.json("data", &["log", "archive", "old", "--remove", "--to", archive.to_str().unwrap()], 0);
    assert_eq!(found["kept"].as_u64().unwrap() + found["events"].as_u64().unwrap(), before);
    assert_eq!(shelf.log("data").streams().unwrap().len(), 1);
    let now = shelf.json("data", &["experiment", "show", "loop"], 0)["overview"].clone();
    assert_eq!((&now["state_hash"], &now["events"]), (&stays["state_hash"], &stays["events"]));
    assert!(shelf.says("data", &["log", "verify"], 0).contains("sound"));
    assert!(shelf.says("archive", &["replay", "--verify"], 0).contains("old: sound"));

    let old = shelf.path("data").join("log.old-1");
    assert_eq!(found["old"], json!(old));
    let restored = shelf.json("again", &["log", "restore", old.to_str().unwrap()], 0);
    assert_eq!(restored["events"], before);
}

#[test]
fn what_is_not_finished_or_not_sound_is_not_archived() {
    let shelf = shelf();
    let archive = shelf.path("archive");
    let archive = archive.to_str().unwrap();
    let said = shelf.says("data", &["log", "archive", "loop", "--remove", "--to", archive], 2);
    assert!(said.contains("loop is not finished"), "{said}");
    let data = shelf.path("data");
    let said = shelf.says("data", &["log", "archive", "old", "--to", data.to_str().unwrap()], 2);
    assert!(said.contains("the log itself"), "{said}");
    let mut bad = measured(plan("bad"), &in_order(), 0.0).recorded;
    let last = bad.len() - 1;
    bad[last].event.causation = None;
    shelf.keep("data", &bad);
    shelf.says("data", &["log", "archive", "bad", "--to", archive], 3);
    assert!(!std::path::Path::new(archive).exists(), "nothing was begun");
}

#[test]
fn a_backup_is_restored_where_there_is_no_log() {
    let shelf = shelf();
    let backup = shelf.path("backup");
    let backup = backup.to_str().unwrap();
    shelf.says("data", &["log", "backup", backup], 0);
    let said = shelf.says("data", &["log", "restore", backup], 2);
    assert!(said.contains("has a log already"), "{said}");
    assert!(shelf.says("new", &["log", "restore", "nowhere"], 2).contains("no backup"));
    shelf.says("new", &["log", "restore", backup], 0);
    assert_eq!(shelf.log("new").read(0, 1000).unwrap(), shelf.log("data").read(0, 1000).unwrap());
}
