//! Sealed comments, erasure, backup and restore.

use std::path::Path;

use dissent_domain::event::EventId;
use dissent_domain::id::ExperimentId;

use super::*;
use crate::accounts::{
    AccountsError, AuditEntry, AuditFilter, Channel, Claim, Scope, WebhookEvent, erased_list,
};

fn event(name: &str) -> EventId {
    EventId::of_experiment(&ExperimentId::new(name).unwrap())
}

#[test]
fn a_sealed_comment_belongs_to_its_person_and_event() {
    let place = Place::new();
    let accounts = &place.accounts;
    let (ann, ben) = (place.person("ann", Role::Annotator), place.person("ben", Role::Annotator));
    let sealed = accounts.seal(&ann, event("a"), "The first lies.").unwrap();
    assert!(
        !sealed.contains("lies") && sealed == accounts.seal(&ann, event("a"), "The first lies.").unwrap()
    );
    let unseal = |person, of: &str, text: &str| accounts.unseal(person, event(of), text).unwrap();
    assert_eq!(unseal(&ann, "a", &sealed).as_deref(), Some("The first lies."));
    assert_eq!((unseal(&ann, "b", &sealed), unseal(&ben, "a", &sealed)), (None, None));
    let mut damaged = sealed.clone();
    damaged.pop();
    assert_eq!((unseal(&ann, "a", &damaged), unseal(&ann, "a", "plain")), (None, None));
}

#[test]
fn an_erased_person_leaves_no_name_and_no_secret_and_a_restore_keeps_it_so() {
    let place = Place::new();
    let accounts = &place.accounts;
    place.person("root", Role::Admin);
    let name = "Hildegard Unverwechselbar";
    let ann = place.with_password(name, Role::Annotator);
    let session = accounts.sign_in(name, PASSWORD, "a", NOW).unwrap();
    let link = accounts.create_link(&ann, NOW + DAY, NOW).unwrap();
    let token = accounts.create_token(&ann, name, &[Scope::Judge], None, NOW + DAY, NOW).unwrap();
    let sealed = accounts.seal(&ann, event("a"), "a comment").unwrap();
    accounts.set_owner("e", &ann).unwrap();
    let entry = AuditEntry {
        at: NOW,
        person: Some(ann.clone()),
        via: Channel::Session,
        action: "GET /x".to_owned(),
        object: "/x".to_owned(),
        request_id: "r".to_owned(),
        outcome: "200".to_owned(),
    };
    accounts.record(&[entry]).unwrap();
    let backup = place.folder.path().join("backup");
    accounts.backup(&backup).unwrap();
    assert!(holds(&backup, name.as_bytes()));

    accounts.erase(&ann).unwrap();
    assert!(accounts.erase(&ann).is_err() && accounts.person(&ann).is_err());
    std::fs::rename(&backup, place.folder.path().with_extension("backup")).unwrap();
    let backup = place.folder.path().with_extension("backup");
    assert!(!holds(place.folder.path(), name.as_bytes()), "the files have the name");
    assert!(
        accounts.session(&session.secret, NOW).is_err() && accounts.open_link(&link.secret, NOW).is_err()
    );
    assert!(accounts.token(&token.text, NOW).is_err() && accounts.visible(&ann).unwrap().is_empty());
    assert_eq!(accounts.unseal(&ann, event("a"), &sealed).unwrap(), None);
    assert!(accounts.seal(&ann, event("a"), "more").is_err());
    let trail = accounts.audit(&AuditFilter::default(), 10, None).unwrap();
    assert_eq!((trail.rows.len(), trail.rows[0].person.as_deref()), (1, Some(ann.as_str())));
    assert!(accounts.create(name, Role::Annotator, NOW).unwrap().id != ann, "the name is free again");

    // A data folder that lost its accounts, with the list of the erased.
    let restored = tempfile::tempdir().unwrap();
    std::fs::copy(place.folder.path().join(erased_list::LIST), restored.path().join(erased_list::LIST))
        .unwrap();
    assert!(Accounts::restore(&backup, restored.path()).unwrap());
    let accounts = Accounts::open(&restored.path().join(FILE)).unwrap();
    assert!(accounts.person(&ann).is_err() && accounts.session(&session.secret, NOW).is_err());
    assert_eq!(accounts.unseal(&ann, event("a"), &sealed).unwrap(), None);
    drop(accounts);
    assert!(!holds(restored.path(), name.as_bytes()), "the restored files have the name");
    assert!(Accounts::restore(&backup, restored.path()).is_err(), "it replaces nothing");
    std::fs::remove_dir_all(backup).unwrap();
}

#[test]
fn audit_and_kept_answers_lose_the_name_of_an_erased_person() {
    let place = Place::new();
    let accounts = &place.accounts;
    let (ann, ben) = (place.person("Ann Müller", Role::Viewer), place.person("Ben", Role::Viewer));
    let entry = |object: &str| AuditEntry {
        at: NOW,
        person: Some(ben.clone()),
        via: Channel::Session,
        action: "POST".to_owned(),
        object: object.to_owned(),
        request_id: String::new(),
        outcome: "200".to_owned(),
    };
    accounts.record(&["/people?name=ann müller", "/people/Anna", "/x"].map(entry)).unwrap();
    for (key, body) in [("a", "{\"name\":\"Ann Müller\"}"), ("b", "{}")] {
        accounts.claim(Some(&ben), key, b"r", NOW).unwrap();
        accounts.finish(Some(&ben), key, 200, body.as_bytes(), "application/json").unwrap();
    }
    accounts.claim(Some(&ann), "a", b"r", NOW).unwrap();
    let hook =
        |owner| accounts.create_webhook(Some(owner), "https://x", &[WebhookEvent::RoundWaits], None, NOW);
    hook(&ann).unwrap();
    hook(&ben).unwrap();
    accounts.erase(&ann).unwrap();
    let trail = accounts.audit(&AuditFilter::default(), 10, None).unwrap().rows;
    let objects: Vec<&str> = trail.iter().map(|row| row.object.as_str()).collect();
    assert_eq!(objects, ["/x", "/people/Anna", "erased"]);
    assert_eq!(accounts.claim(Some(&ben), "a", b"r", NOW).unwrap(), Claim::New);
    assert!(matches!(accounts.claim(Some(&ben), "b", b"r", NOW).unwrap(), Claim::Done { .. }));
    assert_eq!(accounts.webhooks(None).unwrap().len(), 1);
    assert_eq!(accounts.erased().unwrap(), [ann]);
    assert!(
        !holds(place.folder.path(), "Müller".as_bytes()) && !holds(place.folder.path(), "müller".as_bytes())
    );
}

#[test]
fn an_erasure_that_was_listed_but_not_committed_is_finished_by_the_next_start() {
    let place = Place::new();
    let name = "Hildegard Unverwechselbar";
    let ann = place.person(name, Role::Annotator);
    let list = place.folder.path().join(erased_list::LIST);
    erased_list::append(&list, [&ann]).unwrap();
    let Place { folder, accounts } = place;
    drop(accounts);
    let accounts = Accounts::open(&folder.path().join(FILE)).unwrap();
    assert!(accounts.person(&ann).is_err() && !holds(folder.path(), name.as_bytes()));
}

#[test]
fn erasures_of_elsewhere_are_applied_also_to_unknown_people() {
    let place = Place::new();
    let accounts = &place.accounts;
    let (ann, ben) = (place.person("ann", Role::Viewer), place.person("ben", Role::Viewer));
    let unknown: PersonId = "p_0000000000000000".parse().unwrap();
    assert_eq!(accounts.apply_erasures(&[ann.clone(), unknown.clone()]).unwrap(), 1);
    assert_eq!(accounts.apply_erasures(&[ann.clone(), unknown.clone()]).unwrap(), 0, "again");
    assert!(accounts.person(&ann).is_err() && accounts.person(&ben).is_ok());
    assert_eq!(accounts.erased().unwrap(), [unknown, ann.clone()]);
    assert_eq!(accounts.people(10, None).unwrap().rows.len(), 1);
    assert!(matches!(accounts.erase(&ann), Err(AccountsError::NotFound { .. })));
}

#[test]
fn an_erasure_says_so_if_another_process_keeps_old_bytes_in_use() {
    let place = Place::new();
    let ann = place.person("Hildegard", Role::Viewer);
    let mut other = rusqlite::Connection::open(place.folder.path().join(FILE)).unwrap();
    let reading = other.transaction().unwrap();
    let rows: u64 = reading.query_row("SELECT count(*) FROM people", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 1);
    place.accounts.connection().busy_timeout(std::time::Duration::ZERO).unwrap();
    let erased = place.accounts.erase(&ann);
    assert!(matches!(erased, Err(AccountsError::NotWiped)), "{erased:?}");
    assert!(place.accounts.person(&ann).is_err(), "the person is erased");
    drop(reading);
    drop(other);
    let Place { folder, accounts } = place;
    drop(accounts);
    drop(Accounts::open(&folder.path().join(FILE)).unwrap());
    assert!(!holds(folder.path(), b"Hildegard"), "the next start removes them");
}

#[test]
fn a_backup_replaces_nothing_and_a_restore_ends_sessions() {
    let place = Place::new();
    let accounts = &place.accounts;
    let ann = place.person("ann", Role::Annotator);
    let link = accounts.create_link(&ann, NOW + DAY, NOW).unwrap();
    let session = accounts.open_link(&link.secret, NOW).unwrap().secret;
    let backups = tempfile::tempdir().unwrap();
    let backup = backups.path().join("a");
    accounts.backup(&backup).unwrap();
    assert!(matches!(accounts.backup(&backup), Err(AccountsError::BadInput { .. })));
    let listed = |folder: &Path| {
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(listed(&backup), ["accounts.sqlite", "erased.jsonl"]);
    let restored = tempfile::tempdir().unwrap();
    std::fs::write(restored.path().join("accounts.sqlite-wal"), "of another database").unwrap();
    assert!(Accounts::restore(&backup, restored.path()).unwrap());
    assert_eq!(listed(restored.path()), ["accounts.sqlite", "erased.jsonl"]);
    let accounts = Accounts::open(&restored.path().join(FILE)).unwrap();
    assert_eq!(accounts.person(&ann).unwrap().name, "ann");
    assert!(accounts.session(&session, NOW).is_err() && accounts.link(&link.secret, NOW).is_ok());
    assert!(!Accounts::restore(backups.path(), restored.path()).unwrap(), "there is no copy");
}

#[test]
fn people_whom_only_the_backup_knows_as_erased_stay_erased() {
    let place = Place::new();
    let (ann, ben) = (place.person("ann", Role::Viewer), place.person("ben", Role::Viewer));
    place.accounts.erase(&ann).unwrap();
    let backup = tempfile::tempdir().unwrap();
    place.accounts.backup(backup.path()).unwrap();
    let restored = tempfile::tempdir().unwrap();
    erased_list::append(&restored.path().join(erased_list::LIST), [&ben]).unwrap();
    Accounts::restore(backup.path(), restored.path()).unwrap();
    let accounts = Accounts::open(&restored.path().join(FILE)).unwrap();
    assert!(accounts.person(&ann).is_err() && accounts.person(&ben).is_err());
    assert_eq!(accounts.erased().unwrap().len(), 2);
}

#[test]
fn two_texts_of_one_event_are_sealed_with_different_nonces() {
    let place = Place::new();
    let ann = place.person("ann", Role::Annotator);
    let seal = |text: &str| place.accounts.seal(&ann, event("a"), text).unwrap();
    let (a, b) = (seal("The first lies."), seal("The second lies."));
    let nonce = "sealed:1:".len() + 32;
    assert!(a.starts_with("sealed:1:") && a[..nonce] != b[..nonce]);
    let mixed = format!("{}{}", &a[..nonce], &b[nonce..]);
    assert_eq!(place.accounts.unseal(&ann, event("a"), &mixed).unwrap(), None);
    assert!(place.accounts.seal(&ann, event("a"), &"x".repeat((256 << 10) + 1)).is_err());
    for cut in 0..a.len() {
        assert_eq!(place.accounts.unseal(&ann, event("a"), &a[..cut]).unwrap(), None);
    }
}
