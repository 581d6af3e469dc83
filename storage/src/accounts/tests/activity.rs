//! The audit trail, repeated requests and webhooks.

use std::collections::BTreeSet;

use super::*;
use crate::accounts::{
    ANSWER_BYTES_MAX, AccountsError, AuditEntry, AuditFilter, Channel, Claim, WebhookEvent,
};

#[test]
fn the_audit_trail_is_paged_filtered_and_bounded() {
    let place = Place::new();
    let ann = place.person("ann", Role::Viewer);
    let entry = |n: u64, person: Option<&PersonId>| AuditEntry {
        at: NOW + n,
        person: person.cloned(),
        via: Channel::Token("t".to_owned()),
        action: "x".repeat(600),
        object: format!("/{n}"),
        request_id: String::new(),
        outcome: "200".to_owned(),
    };
    let entries: Vec<AuditEntry> = (0..30).map(|n| entry(n, (n % 3 == 0).then_some(&ann))).collect();
    place.accounts.record(&entries).unwrap();
    let all = AuditFilter::default();
    let first = place.accounts.audit(&all, 20, None).unwrap();
    let second = place.accounts.audit(&all, 20, first.next.as_deref()).unwrap();
    let objects: Vec<String> = first.rows.iter().chain(&second.rows).map(|row| row.object.clone()).collect();
    assert_eq!(objects, (0..30).rev().map(|n| format!("/{n}")).collect::<Vec<_>>());
    assert!(second.next.is_none() && first.rows[0].action.len() == 500);
    let of_ann = AuditFilter { person: Some(ann.to_string()), object: None };
    let of_ann = place.accounts.audit(&of_ann, 100, None).unwrap();
    assert!(of_ann.rows.len() == 10 && of_ann.rows[0].name.as_deref() == Some("ann"));
    let of_path = AuditFilter { person: None, object: Some("/7".to_owned()) };
    assert_eq!(place.accounts.audit(&of_path, 100, None).unwrap().rows.len(), 1);
    place.accounts.record(&[entry(401 * DAY, None)]).unwrap();
    assert_eq!(place.accounts.audit(&all, 100, None).unwrap().rows.len(), 1, "old entries go");
    assert!(place.accounts.audit(&all, 1, Some("x")).is_err());
}

#[test]
fn a_repeated_request_gets_the_first_answer() {
    let place = Place::new();
    let accounts = &place.accounts;
    let ann = place.person("ann", Role::Researcher);
    let claim =
        |person: Option<&PersonId>, request: &[u8], now| accounts.claim(person, "k", request, now).unwrap();
    assert_eq!(claim(Some(&ann), b"a", NOW), Claim::New);
    assert_eq!(claim(Some(&ann), b"a", NOW), Claim::InFlight);
    assert_eq!(claim(None, b"a", NOW), Claim::New, "a key belongs to its caller");
    accounts.finish(Some(&ann), "k", 201, b"body", "application/json").unwrap();
    let done =
        Claim::Done { status: 201, body: b"body".to_vec(), content_type: "application/json".to_owned() };
    assert_eq!(claim(Some(&ann), b"a", NOW), done);
    assert_eq!(claim(Some(&ann), b"b", NOW), Claim::Mismatch);
    accounts.abandon(Some(&ann), "k").unwrap();
    assert_eq!(claim(Some(&ann), b"a", NOW), done, "an answer is not given back");
    assert_eq!(claim(Some(&ann), b"a", NOW + DAY), Claim::New);
    assert_eq!(claim(None, b"a", NOW + HOUR), Claim::New, "the first was lost");
    accounts.abandon(None, "k").unwrap();
    assert_eq!(claim(None, b"b", NOW + HOUR), Claim::New);
}

#[test]
fn webhooks_are_delivered_once_to_each_subscriber_who_may_know() {
    let place = Place::new();
    let accounts = &place.accounts;
    let [ann, ben] = ["ann", "ben"].map(|name| place.person(name, Role::Researcher));
    accounts.set_owner("e", &ann).unwrap();
    let finished = [WebhookEvent::ExperimentFinished];
    let subscribe = |owner: Option<&PersonId>, only| {
        accounts.create_webhook(owner, "https://lab.example/hook", &finished, only, NOW).unwrap()
    };
    let of_ann = subscribe(Some(&ann), Some("e"));
    subscribe(Some(&ben), None);
    subscribe(None, Some("other"));
    let note = |key: &str| accounts.enqueue(WebhookEvent::ExperimentFinished, "e", key, "{}", NOW).unwrap();
    assert_eq!((note("1"), note("1"), note("2")), (1, 0, 1));
    assert_eq!(accounts.enqueue(WebhookEvent::RoundWaits, "e", "3", "{}", NOW).unwrap(), 0);
    let due = accounts.due_deliveries(NOW, 10).unwrap();
    assert_eq!((due.len(), due[0].secret.as_str()), (2, of_ann.secret.as_str()));
    accounts.delivered(due[0].id).unwrap();
    accounts.delivery_failed(due[1].id, "refused", NOW).unwrap();
    assert!(accounts.due_deliveries(NOW + 9, 10).unwrap().is_empty());
    assert_eq!(accounts.due_deliveries(NOW + 20, 10).unwrap().len(), 1);
    let mut now = NOW;
    while let Some(due) = accounts.due_deliveries(now, 1).unwrap().pop().or_else(|| {
        (now < NOW + 2 * DAY).then(|| accounts.due_deliveries(now + 2 * HOUR, 1).unwrap().pop()).flatten()
    }) {
        accounts.delivery_failed(due.id, "refused", now).unwrap();
        now += HOUR;
    }
    let listed = accounts.deliveries(Some(&ann), &of_ann.id).unwrap();
    let states: BTreeSet<&str> = listed.iter().map(|delivery| delivery.state.as_str()).collect();
    assert_eq!(states, BTreeSet::from(["delivered", "given_up"]));
    assert!(accounts.deliveries(Some(&ben), &of_ann.id).is_err());
    assert!(accounts.delete_webhook(Some(&ben), &of_ann.id).is_err());
    accounts.delete_webhook(Some(&ann), &of_ann.id).unwrap();
    for url in ["", "ftp://x/", "file:///etc/passwd", "https://a:b@x/", "javascript:alert(1)"] {
        assert!(accounts.create_webhook(None, url, &finished, None, NOW).is_err(), "{url}");
    }
}

#[test]
fn the_retention_of_the_audit_trail_can_be_set() {
    let place = Place::new();
    let entry = |at| AuditEntry {
        at,
        person: None,
        via: Channel::Nobody,
        action: String::new(),
        object: String::new(),
        request_id: "ü".repeat(400),
        outcome: String::new(),
    };
    place.accounts.set_audit_days(10);
    place.accounts.record(&[entry(NOW), entry(NOW + 5 * DAY)]).unwrap();
    let rows = || place.accounts.audit(&AuditFilter::default(), 10, None).unwrap().rows;
    assert!(rows().len() == 2 && rows()[0].request_id.len() == 500);
    assert_eq!(place.accounts.prune_audit(NOW + 10 * DAY).unwrap(), 0);
    assert_eq!(place.accounts.prune_audit(NOW + 11 * DAY).unwrap(), 1);
    place.accounts.record(&[entry(NOW + 30 * DAY)]).unwrap();
    assert_eq!(rows().len(), 1);
}

#[test]
fn the_audit_trail_names_how_the_caller_was_known() {
    let place = Place::new();
    let channels = [
        Channel::Local,
        Channel::Session,
        Channel::Link("l".into()),
        Channel::Token("t".into()),
        Channel::Nobody,
    ];
    let entries = channels.map(|via| AuditEntry {
        at: NOW,
        person: None,
        via,
        action: String::new(),
        object: String::new(),
        request_id: String::new(),
        outcome: String::new(),
    });
    place.accounts.record(&entries).unwrap();
    let rows = place.accounts.audit(&AuditFilter::default(), 10, None).unwrap().rows;
    let via: Vec<&str> = rows.iter().rev().map(|row| row.via.as_str()).collect();
    assert_eq!(via, ["local", "session", "link l", "token t", "nobody"]);
}

#[test]
fn kept_answers_and_keys_are_bounded() {
    let place = Place::new();
    let accounts = &place.accounts;
    for key in ["", &"k".repeat(201)] {
        assert!(matches!(accounts.claim(None, key, b"r", NOW), Err(AccountsError::BadInput { .. })));
    }
    accounts.claim(None, "k", b"r", NOW).unwrap();
    let large = vec![b'x'; ANSWER_BYTES_MAX + 1];
    assert!(accounts.finish(None, "k", 200, &large, "text/plain").is_err());
    assert_eq!(accounts.claim(None, "k", b"r", NOW).unwrap(), Claim::InFlight);
    accounts.finish(None, "k", 200, &large[1..], "text/plain").unwrap();
    accounts.finish(None, "k", 500, b"", "text/plain").unwrap();
    assert!(
        matches!(accounts.claim(None, "k", b"r", NOW).unwrap(), Claim::Done { status: 200, .. }),
        "the first"
    );
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000) \
                INSERT INTO requests (owner, key, request, at) SELECT '', 'n' || i, x'00', ?1 FROM n";
    accounts.connection().execute(fill, [NOW]).unwrap();
    assert!(matches!(accounts.claim(None, "new", b"r", NOW), Err(AccountsError::Throttled { .. })));
    assert_eq!(accounts.claim(None, "new", b"r", NOW + DAY).unwrap(), Claim::New);
}

#[test]
fn a_webhook_that_is_off_gets_no_new_events_and_keeps_those_due() {
    let place = Place::new();
    let accounts = &place.accounts;
    let ann = place.person("ann", Role::Admin);
    let events = [WebhookEvent::RoundWaits, WebhookEvent::RoundWaits];
    let hook = accounts.create_webhook(Some(&ann), "https://x", &events, None, NOW).unwrap();
    let note = |key: &str| accounts.enqueue(WebhookEvent::RoundWaits, "e", key, "{}", NOW).unwrap();
    assert_eq!(note("1"), 1);
    accounts.enable_webhook(Some(&ann), &hook.id, false).unwrap();
    assert!(note("2") == 0 && accounts.due_deliveries(NOW, 10).unwrap().is_empty());
    let listed = accounts.webhooks(Some(&ann)).unwrap();
    assert!(!listed[0].enabled && listed[0].events == [WebhookEvent::RoundWaits]);
    accounts.enable_webhook(None, &hook.id, true).unwrap();
    assert_eq!((accounts.due_deliveries(NOW, 10).unwrap().len(), note("3")), (1, 1));
    assert!(matches!(accounts.enable_webhook(None, "x", true), Err(AccountsError::NotFound { .. })));
    let ben = place.person("ben", Role::Admin);
    assert!(accounts.enable_webhook(Some(&ben), &hook.id, false).is_err(), "of another person");
}

#[test]
fn pauses_between_attempts_double_and_are_spread() {
    let place = Place::new();
    let accounts = &place.accounts;
    let hook = accounts.create_webhook(None, "https://x", &[WebhookEvent::RoundWaits], None, NOW).unwrap();
    accounts.enqueue(WebhookEvent::RoundWaits, "e", "1", "{}", NOW).unwrap();
    let id = accounts.due_deliveries(NOW, 1).unwrap()[0].id;
    for pause in [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600] {
        accounts.delivery_failed(id, &"why".repeat(200), NOW).unwrap();
        let delivery = accounts.deliveries(None, &hook.id).unwrap().remove(0);
        assert!(
            (pause..=pause + pause / 4).contains(&(delivery.due_at - NOW)),
            "{pause} {}",
            delivery.due_at - NOW
        );
        assert_eq!(delivery.reason.map(|reason| reason.len()), Some(300));
    }
    accounts.delivery_failed(id, "late", NOW + DAY).unwrap();
    assert_eq!(accounts.deliveries(None, &hook.id).unwrap()[0].state, "given_up");
    accounts.delivery_failed(id, "again", NOW + DAY).unwrap();
    assert_eq!(accounts.deliveries(None, &hook.id).unwrap()[0].reason.as_deref(), Some("late"));
    accounts.delete_webhook(None, &hook.id).unwrap();
    accounts.delivered(id).unwrap();
    accounts.delivery_failed(id, "gone", NOW).unwrap();
}

#[test]
fn deliveries_are_bounded_and_ended_ones_are_known_for_a_month() {
    let place = Place::new();
    let accounts = &place.accounts;
    let hook = accounts.create_webhook(None, "https://x", &[WebhookEvent::RoundWaits], None, NOW).unwrap();
    let note = |key: &str, now| accounts.enqueue(WebhookEvent::RoundWaits, "e", key, "{}", now);
    assert_eq!(note("1", NOW).unwrap(), 1);
    accounts.delivered(accounts.due_deliveries(NOW, 1).unwrap()[0].id).unwrap();
    assert_eq!((note("2", NOW + 29 * DAY).unwrap(), note("1", NOW + 29 * DAY).unwrap()), (1, 0));
    assert_eq!((note("3", NOW + 31 * DAY).unwrap(), note("1", NOW + 31 * DAY).unwrap()), (1, 1));
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9997) \
                INSERT INTO deliveries (webhook, event_key, payload, created_at, due_at) \
                SELECT ?1, 'n' || i, '', ?2, ?2 FROM n";
    accounts.connection().execute(fill, rusqlite::params![hook.id, NOW + 31 * DAY]).unwrap();
    assert!(accounts.due_deliveries(NOW + 31 * DAY, 20_000).unwrap().len() == 10_000);
    note("new", NOW + 31 * DAY).unwrap();
    let due = accounts.due_deliveries(NOW + 31 * DAY, 20_000).unwrap();
    assert_eq!(due.len(), 10_000, "the oldest is given up");
    assert!(note("", NOW).is_err() && note(&"k".repeat(1001), NOW).is_err());
    let large = "x".repeat((64 << 10) + 1);
    assert!(accounts.enqueue(WebhookEvent::RoundWaits, "e", "k", &large, NOW).is_err());
}

#[test]
fn one_owner_cannot_take_all_subscriptions() {
    let place = Place::new();
    let [ann, ben] = ["ann", "ben"].map(|name| place.person(name, Role::Researcher));
    let create = |owner: Option<&PersonId>| {
        place.accounts.create_webhook(owner, "https://x", &[WebhookEvent::RoundWaits], None, NOW)
    };
    for _ in 0..100 {
        create(Some(&ann)).unwrap();
    }
    assert!(matches!(create(Some(&ann)), Err(AccountsError::BadInput { field: "webhooks", .. })));
    assert!(create(Some(&ben)).is_ok() && create(None).is_ok());
}
