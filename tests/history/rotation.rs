//! Retention, backup and restore.

use dissent_domain::log::EventLog;
use serde_json::json;

use super::made::{Shelf, asking, in_order, learning_plan, measured, plan};

/// A shelf with the finished experiment `old` and the unfinished `loop`.
fn shelf() -> Shelf {
    let shelf = Shelf::new();
    shelf.keep("data", &measured(plan("old"), &in_order(), 0.0).recorded);
    shelf.keep("data", &asking(learning_plan("loop")).recorded);
    shelf
}

#[test]
fn archiving_copies_a_finished_experiment_and_keeps_it_in_the_log() {
    let shelf = shelf();
    let archive = shelf.path("archive");
    let arguments = ["log", "archive", "old", "--to", archive.to_str().unwrap()];
    let head = shelf.log("data").head();
    let first = shelf.json("data", &arguments, 0);
    assert_eq!(first, shelf.json("data", &arguments, 0), "a second time changes nothing");
    assert_eq!(shelf.log("data").head(), head);
    let (a, b) = (format!("{}:old", shelf.path("data").display()), format!("{}:old", archive.display()));
    assert_eq!(shelf.json("data", &["log", "diff", &a, &b], 0)["same_order"], true);
    shelf.says("archive", &["replay", "--verify"], 0);
}

#[test]
fn archiving_with_remove_rewrites_the_log_and_keeps_the_old_one() {
    let shelf = shelf();
    let (before, archive) = (shelf.log("data").head(), shelf.path("archive"));
    let stays = shelf.json("data", &["experiment", "show", "loop"], 0)["overview"].clone();
    let found =
        shelf.json("data", &["log", "archive", "old", "--remove", "--to", archive.to_str().unwrap()], 0);
    assert_eq!(found["kept"].as_u64().unwrap() + found["events"].as_u64().unwrap(), before);
    assert_eq!(shelf.log("data").streams().unwrap().len(), 1);
    let now = shelf.json("data", &["experiment", "show", "loop"], 0)["overview"].clone();
    assert_eq!((&now["state_hash"], &now["events"]), (&stays["state_hash"], &stays["events"]));
    shelf.says("data", &["log", "verify"], 0);
    shelf.says("archive", &["replay", "--verify"], 0);

    let old = shelf.path("data").join("log.old-1");
    assert_eq!(found["old"], json!(old));
    let restored = shelf.json("again", &["log", "restore", old.to_str().unwrap()], 0);
    assert_eq!(restored["events"], before);
}

#[test]
fn archiving_refuses_unfinished_and_damaged_experiments() {
    let shelf = shelf();
    let archive = shelf.path("archive");
    let archive = archive.to_str().unwrap();
    shelf.says("data", &["log", "archive", "loop", "--remove", "--to", archive], 2);
    let data = shelf.path("data");
    shelf.says("data", &["log", "archive", "old", "--to", data.to_str().unwrap()], 2);
    let mut bad = measured(plan("bad"), &in_order(), 0.0).recorded;
    let last = bad.len() - 1;
    bad[last].event.causation = None;
    shelf.keep("data", &bad);
    shelf.says("data", &["log", "archive", "bad", "--to", archive], 3);
    assert!(!std::path::Path::new(archive).exists(), "nothing was begun");
}

#[test]
fn a_backup_is_restored_only_into_a_folder_without_a_log() {
    let shelf = shelf();
    let backup = shelf.path("backup");
    let backup = backup.to_str().unwrap();
    shelf.says("data", &["log", "backup", backup], 0);
    shelf.says("data", &["log", "restore", backup], 2);
    shelf.says("new", &["log", "restore", "nowhere"], 2);
    shelf.says("new", &["log", "restore", backup], 0);
    assert_eq!(shelf.log("new").read(0, 1000).unwrap(), shelf.log("data").read(0, 1000).unwrap());
}
