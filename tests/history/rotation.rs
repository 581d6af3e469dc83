//! Retention, backup and restore.

use dissent_domain::log::EventLog;
use serde_json::json;

use super::histories::{DataFolders, awaiting_judgements, in_order, learning_plan, measured, plan};

/// Returns a data folder with the finished experiment `old` and the unfinished `loop`.
fn folders() -> DataFolders {
    let folders = DataFolders::new();
    folders.append("data", &measured(plan("old"), &in_order(), 0.0).recorded);
    folders.append("data", &awaiting_judgements(learning_plan("loop")).recorded);
    folders
}

#[test]
fn archiving_copies_a_finished_experiment_and_keeps_it_in_the_log() {
    let folders = folders();
    let archive = folders.path("archive");
    let arguments = ["log", "archive", "old", "--to", archive.to_str().unwrap()];
    let head = folders.log("data").head();
    let first = folders.json("data", &arguments, 0);
    assert_eq!(first, folders.json("data", &arguments, 0), "a repetition changes nothing");
    assert_eq!(folders.log("data").head(), head);
    let (a, b) = (format!("{}:old", folders.path("data").display()), format!("{}:old", archive.display()));
    assert_eq!(folders.json("data", &["log", "diff", &a, &b], 0)["same_order"], true);
    folders.output("archive", &["replay", "--verify"], 0);
}

#[test]
fn archiving_with_remove_rewrites_the_log_and_keeps_the_old_one() {
    let folders = folders();
    let (before, archive) = (folders.log("data").head(), folders.path("archive"));
    let stays = folders.json("data", &["experiment", "show", "loop"], 0)["overview"].clone();
    let found =
        folders.json("data", &["log", "archive", "old", "--remove", "--to", archive.to_str().unwrap()], 0);
    assert_eq!(found["kept"].as_u64().unwrap() + found["events"].as_u64().unwrap(), before);
    assert_eq!(folders.log("data").streams().unwrap().len(), 1);
    let now = folders.json("data", &["experiment", "show", "loop"], 0)["overview"].clone();
    assert_eq!((&now["state_hash"], &now["events"]), (&stays["state_hash"], &stays["events"]));
    folders.output("data", &["log", "verify"], 0);
    folders.output("archive", &["replay", "--verify"], 0);

    let old = folders.path("data").join("log.old-1");
    assert_eq!(found["old"], json!(old));
    let restored = folders.json("again", &["log", "restore", old.to_str().unwrap()], 0);
    assert_eq!(restored["events"], before);
}

#[test]
fn archiving_refuses_unfinished_and_damaged_experiments() {
    let folders = folders();
    let archive = folders.path("archive");
    let archive = archive.to_str().unwrap();
    folders.output("data", &["log", "archive", "loop", "--remove", "--to", archive], 2);
    let data = folders.path("data");
    folders.output("data", &["log", "archive", "old", "--to", data.to_str().unwrap()], 2);
    let mut bad = measured(plan("bad"), &in_order(), 0.0).recorded;
    let last = bad.len() - 1;
    bad[last].event.causation = None;
    folders.append("data", &bad);
    folders.output("data", &["log", "archive", "bad", "--to", archive], 3);
    assert!(!std::path::Path::new(archive).exists(), "no archive was created");
}

#[test]
fn a_backup_is_restored_only_into_a_folder_without_a_log() {
    let folders = folders();
    let backup = folders.path("backup");
    let backup = backup.to_str().unwrap();
    folders.output("data", &["log", "backup", backup], 0);
    folders.output("data", &["log", "restore", backup], 2);
    folders.output("new", &["log", "restore", "nowhere"], 2);
    folders.output("new", &["log", "restore", backup], 0);
    assert_eq!(folders.log("new").read(0, 1000).unwrap(), folders.log("data").read(0, 1000).unwrap());
}
