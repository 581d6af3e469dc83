//! The accounts as a server uses them.

use std::collections::BTreeSet;
use std::path::Path;

use dissent_domain::event::EventId;
use dissent_domain::id::ExperimentId;

use super::*;

const NOW: u64 = 1_700_000_000;
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
const PASSWORD: &str = "correct horse";

struct Place {
    folder: tempfile::TempDir,
    accounts: Accounts,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let accounts = Accounts::open(&folder.path().join(FILE)).unwrap();
        Self { folder, accounts }
    }

    fn person(&self, name: &str, role: Role) -> PersonId {
        self.accounts.create(name, role, NOW).unwrap().id
    }

    fn with_password(&self, name: &str, role: Role) -> PersonId {
        let id = self.person(name, role);
        self.accounts.set_password(&id, PASSWORD).unwrap();
        id
    }
}

fn event(name: &str) -> EventId {
    EventId::of_experiment(&ExperimentId::new(name).unwrap())
}

#[test]
fn the_first_admin_comes_by_a_link_that_works_once() {
    let place = Place::new();
    let accounts = &place.accounts;
    let old = accounts.first_admin_link(NOW).unwrap().unwrap();
    let link = accounts.first_admin_link(NOW).unwrap().unwrap();
    let redeem = |secret: &str, now| accounts.redeem(secret, Some("Ann"), PASSWORD, now);
    assert!(matches!(redeem(&old, NOW), Err(AccountsError::Ended)), "a newer link ends it");
    assert!(matches!(redeem(&link, NOW + DAY), Err(AccountsError::Ended)), "it expires");
    assert!(matches!(accounts.redeem(&link, None, PASSWORD, NOW), Err(AccountsError::BadInput { .. })));
    assert!(matches!(accounts.redeem(&link, Some("Ann"), "short", NOW), Err(AccountsError::BadInput { .. })));
    let signed_in = redeem(&link, NOW).unwrap();
    assert_eq!((signed_in.person.role, signed_in.person.name.as_str()), (Role::Admin, "Ann"));
    assert!(matches!(redeem(&link, NOW), Err(AccountsError::Ended)), "it works once");
    assert!(accounts.first_admin_link(NOW).unwrap().is_none());
    assert!(accounts.sign_in("ann ", PASSWORD, "a", NOW).is_ok());
}

#[test]
fn people_sign_in_by_password_and_sessions_end() {
    let place = Place::new();
    let accounts = &place.accounts;
    let ann = place.with_password("Ann", Role::Researcher);
    let signed_in = accounts.sign_in("ANN", PASSWORD, "a", NOW).unwrap();
    let session = accounts.session(&signed_in.secret, NOW).unwrap();
    assert!(session.person.id == ann && session.has_csrf(&signed_in.csrf) && !session.has_csrf(""));
    assert!(accounts.session("other", NOW).is_err());
    // It lives while it is used, at most a week.
    let mut now = NOW;
    while now < NOW + 7 * DAY - 11 * HOUR {
        now += 11 * HOUR;
        accounts.session(&signed_in.secret, now).unwrap();
    }
    assert!(accounts.session(&signed_in.secret, NOW + 7 * DAY).is_err());
    let idle = accounts.sign_in("ann", PASSWORD, "a", NOW).unwrap();
    assert!(accounts.session(&idle.secret, NOW + 12 * HOUR).is_err());
    // A change of the password ends the others; a disabled person has none.
    let (kept, other) =
        (accounts.sign_in("ann", PASSWORD, "a", NOW).unwrap(), accounts.sign_in("ann", PASSWORD, "a", NOW).unwrap());
    assert!(accounts.change_password(&ann, "wrong", "battery staple", &kept.secret, NOW).is_err());
    accounts.change_password(&ann, PASSWORD, "battery staple", &kept.secret, NOW).unwrap();
    assert!(accounts.session(&kept.secret, NOW).is_ok() && accounts.session(&other.secret, NOW).is_err());
    accounts.sign_out(&kept.secret).unwrap();
    assert!(accounts.session(&kept.secret, NOW).is_err());
    assert!(matches!(accounts.sign_in("ann", PASSWORD, "a", NOW), Err(AccountsError::WrongCredentials)));
    let open = accounts.sign_in("ann", "battery staple", "a", NOW).unwrap();
    let disabled = PersonChange { disabled: Some(true), ..PersonChange::default() };
    accounts.change(&ann, &disabled, None).unwrap();
    assert!(accounts.session(&open.secret, NOW).is_err());
    assert!(matches!(accounts.sign_in("ann", "battery staple", "a", NOW), Err(AccountsError::WrongCredentials)));
}

#[test]
fn ten_thousand_wrong_passwords_lock_out_nobody_else_and_cost_few_hashes() {
    let place = Place::new();
    let accounts = &place.accounts;
    for name in ["ann", "ben"] {
        place.with_password(name, Role::Researcher);
    }
    accounts.sign_in("ann", PASSWORD, "home", NOW).unwrap();
    let begun = std::time::Instant::now();
    let one_hash = {
        accounts.sign_in("nobody", PASSWORD, "x", NOW).unwrap_err();
        begun.elapsed()
    };
    let begun = std::time::Instant::now();
    let throttled = (0..10_000)
        .filter(|n| {
            let name = if n % 2 == 0 { "ann".to_owned() } else { format!("name-{n}") };
            let wrong = accounts.sign_in(&name, "wrong password", "evil", NOW);
            matches!(wrong, Err(AccountsError::Throttled { .. }))
        })
        .count();
    assert!(throttled >= 10_000 - 25, "{throttled}");
    assert!(begun.elapsed() < one_hash * 1000, "{:?}, a hash takes {one_hash:?}", begun.elapsed());
    assert!(accounts.sign_in("ben", PASSWORD, "office", NOW).is_ok());
    assert!(accounts.sign_in("ann", PASSWORD, "home", NOW).is_ok(), "the owner, where she signed in before");
    assert!(accounts.sign_in("ann", PASSWORD, "evil", NOW).is_err());
}

#[test]
fn tokens_act_for_their_person_within_their_scope_until_they_expire() {
    let place = Place::new();
    let accounts = &place.accounts;
    let (ann, ben) = (place.person("ann", Role::Researcher), place.person("ben", Role::Researcher));
    let scope = [Scope::Read, Scope::Judge];
    let experiments = ["e".to_owned()];
    let made = accounts.create_token(&ann, "tool", &scope, Some(&experiments), NOW + DAY, NOW).unwrap();
    let caller = accounts.token(&made.text, NOW).unwrap();
    assert_eq!((caller.person.id, caller.scope), (ann.clone(), scope.to_vec()));
    assert_eq!(caller.experiments.as_deref(), Some(&experiments[..]));
    let listed = accounts.tokens(Some(&ann)).unwrap();
    assert_eq!((listed.len(), listed[0].used_at), (1, Some(NOW)));
    assert!(accounts.tokens(Some(&ben)).unwrap().is_empty() && accounts.tokens(None).unwrap().len() == 1);
    let mut other = made.text.clone();
    other.pop();
    for wrong in ["", "dissent_", "dissent__", &other, &format!("{other}_"), &made.id] {
        assert!(matches!(accounts.token(wrong, NOW), Err(AccountsError::Ended)), "{wrong}");
    }
    assert!(accounts.token(&made.text, NOW + DAY).is_err(), "it expires");
    assert!(accounts.create_token(&ann, "x", &[], None, NOW + DAY, NOW).is_err());
    assert!(accounts.create_token(&ann, "x", &scope, None, NOW, NOW).is_err());
    assert!(accounts.create_token(&ann, "x", &scope, None, NOW + 400 * DAY, NOW).is_err());
    assert!(accounts.revoke_token(Some(&ben), &made.id).is_err(), "of another person");
    accounts.revoke_token(Some(&ann), &made.id).unwrap();
    assert!(accounts.token(&made.text, NOW).is_err());
}

#[test]
fn personal_links_open_sessions_until_they_are_revoked() {
    let place = Place::new();
    let accounts = &place.accounts;
    let ann = place.person("ann", Role::Annotator);
    let link = accounts.create_link(&ann, NOW + DAY, NOW).unwrap();
    let (one, two) = (accounts.open_link(&link.secret, NOW).unwrap(), accounts.open_link(&link.secret, NOW).unwrap());
    assert!(one.person.id == ann && one.secret != two.secret);
    assert!(accounts.open_link(&link.secret, NOW + DAY).is_err() && accounts.open_link("", NOW).is_err());
    assert!(matches!(accounts.redeem(&link.secret, None, PASSWORD, NOW), Err(AccountsError::Ended)));
    assert_eq!(accounts.links(&ann).unwrap().len(), 1);
    accounts.revoke_link(&link.id).unwrap();
    assert!(accounts.open_link(&link.secret, NOW).is_err() && accounts.session(&one.secret, NOW).is_err());
    assert!(accounts.revoke_link(&link.id).is_err());
    let admin = place.person("root", Role::Admin);
    assert!(accounts.create_link(&admin, NOW + DAY, NOW).is_err());
}

#[test]
fn an_invitation_sets_a_password_once() {
    let place = Place::new();
    let accounts = &place.accounts;
    let ann = place.person("ann", Role::Researcher);
    let (old, new) = (accounts.invite(&ann, NOW + DAY, NOW).unwrap(), accounts.invite(&ann, NOW + DAY, NOW).unwrap());
    assert!(accounts.redeem(&old, None, PASSWORD, NOW).is_err());
    assert!(accounts.open_link(&new, NOW).is_err(), "it is no personal link");
    assert_eq!(accounts.redeem(&new, None, PASSWORD, NOW).unwrap().person.id, ann);
    assert!(accounts.redeem(&new, None, PASSWORD, NOW).is_err());
    assert!(accounts.sign_in("ann", PASSWORD, "a", NOW).is_ok());
}

#[test]
fn names_are_unique_in_any_case_and_the_last_admin_stays() {
    let place = Place::new();
    let accounts = &place.accounts;
    let admin = place.person("Zoë", Role::Admin);
    assert!(matches!(accounts.create(" ZOË ", Role::Viewer, NOW), Err(AccountsError::NameTaken)));
    for name in ["", "  ", "a\nb", "\u{202e}abc", &"x".repeat(81)] {
        assert!(matches!(accounts.create(name, Role::Viewer, NOW), Err(AccountsError::BadInput { .. })), "{name:?}");
    }
    let change = |role: Option<Role>, disabled: Option<bool>| PersonChange { role, disabled, name: None };
    assert!(matches!(accounts.change(&admin, &change(Some(Role::Viewer), None), None), Err(AccountsError::LastAdmin)));
    assert!(matches!(accounts.change(&admin, &change(None, Some(true)), None), Err(AccountsError::LastAdmin)));
    assert!(matches!(accounts.erase(&admin), Err(AccountsError::LastAdmin)));
    let other = place.person("other", Role::Admin);
    accounts.change(&other, &change(None, Some(true)), None).unwrap();
    assert!(matches!(accounts.erase(&admin), Err(AccountsError::LastAdmin)), "the other is disabled");
    accounts.change(&other, &change(None, Some(false)), None).unwrap();
    let revision = accounts.person(&admin).unwrap().revision;
    let changed = accounts.change(&admin, &change(Some(Role::Viewer), None), Some(revision)).unwrap();
    assert_eq!((changed.role, changed.revision), (Role::Viewer, revision + 1));
    let stale = accounts.change(&admin, &change(Some(Role::Admin), None), Some(revision));
    assert!(matches!(stale, Err(AccountsError::Stale)));
}

#[test]
fn lists_are_paged_in_order() {
    let place = Place::new();
    for n in 0..25 {
        place.person(&format!("Person {n:02}"), Role::Viewer);
    }
    let (mut names, mut cursor) = (Vec::new(), None);
    loop {
        let page = place.accounts.people(10, cursor.as_deref()).unwrap();
        names.extend(page.rows.into_iter().map(|person| person.name));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    let expected: Vec<String> = (0..25).map(|n| format!("Person {n:02}")).collect();
    assert_eq!(names, expected);
}

#[test]
fn an_experiment_is_seen_by_its_owner_and_those_it_is_shared_with() {
    let place = Place::new();
    let accounts = &place.accounts;
    let [ann, ben, cy] = ["ann", "ben", "cy"].map(|name| place.person(name, Role::Researcher));
    accounts.set_owner("e", &ann).unwrap();
    accounts.share("e", &ben, Access::Read).unwrap();
    let access = |person| accounts.access(person, "e").unwrap();
    assert_eq!((access(&ann), access(&ben), access(&cy)), (Some(Access::Owner), Some(Access::Read), None));
    accounts.share("e", &ben, Access::Write).unwrap();
    assert!(access(&ben) > Some(Access::Read) && access(&ben) < Some(Access::Owner));
    assert!(accounts.share("e", &ann, Access::Read).is_err() && accounts.share("e", &cy, Access::Owner).is_err());
    let names: Vec<String> = accounts.shares("e").unwrap().into_iter().map(|share| share.name).collect();
    assert_eq!(names, ["ann", "ben"]);
    assert_eq!(accounts.visible(&ben).unwrap(), ["e"]);
    accounts.unshare("e", &ben).unwrap();
    assert!(access(&ben).is_none() && accounts.unshare("e", &ann).is_err());
}

#[test]
fn a_sealed_comment_belongs_to_its_person_and_event() {
    let place = Place::new();
    let accounts = &place.accounts;
    let (ann, ben) = (place.person("ann", Role::Annotator), place.person("ben", Role::Annotator));
    let sealed = accounts.seal(&ann, event("a"), "The first lies.").unwrap();
    assert!(!sealed.contains("lies") && sealed == accounts.seal(&ann, event("a"), "The first lies.").unwrap());
    let unseal = |person, of: &str, text: &str| accounts.unseal(person, event(of), text).unwrap();
    assert_eq!(unseal(&ann, "a", &sealed).as_deref(), Some("The first lies."));
    assert_eq!((unseal(&ann, "b", &sealed), unseal(&ben, "a", &sealed)), (None, None));
    let mut damaged = sealed.clone();
    damaged.pop();
    assert_eq!((unseal(&ann, "a", &damaged), unseal(&ann, "a", "plain")), (None, None));
}

/// Whether any file of a folder has these bytes.
fn holds(folder: &Path, bytes: &[u8]) -> bool {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
    let mut files = files.collect::<Vec<_>>().into_iter();
    files.any(|file| file.windows(bytes.len()).any(|window| window == bytes))
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
    assert!(accounts.session(&session.secret, NOW).is_err() && accounts.open_link(&link.secret, NOW).is_err());
    assert!(accounts.token(&token.text, NOW).is_err() && accounts.visible(&ann).unwrap().is_empty());
    assert_eq!(accounts.unseal(&ann, event("a"), &sealed).unwrap(), None);
    assert!(accounts.seal(&ann, event("a"), "more").is_err());
    let trail = accounts.audit(&AuditFilter::default(), 10, None).unwrap();
    assert_eq!((trail.rows.len(), trail.rows[0].person.as_deref()), (1, None));
    assert!(accounts.create(name, Role::Annotator, NOW).unwrap().id != ann, "the name is free again");

    // A data folder that lost its accounts, with the list of the erased.
    let restored = tempfile::tempdir().unwrap();
    std::fs::copy(place.folder.path().join(erasure::LIST), restored.path().join(erasure::LIST)).unwrap();
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
    let claim = |person: Option<&PersonId>, request: &[u8], now| accounts.claim(person, "k", request, now).unwrap();
    assert_eq!(claim(Some(&ann), b"a", NOW), Claim::New);
    assert_eq!(claim(Some(&ann), b"a", NOW), Claim::InFlight);
    assert_eq!(claim(None, b"a", NOW), Claim::New, "a key belongs to its caller");
    accounts.finish(Some(&ann), "k", 201, b"body", "application/json").unwrap();
    let done = Claim::Done { status: 201, body: b"body".to_vec(), content_type: "application/json".to_owned() };
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
fn a_signature_is_that_of_the_standard() {
    // HMAC-SHA256 with the key "key" of "1.The quick brown fox", from Python's hmac.
    let found = signature("key", 1, "The quick brown fox");
    assert_eq!(found, "t=1,v1=1ef269d2a2a1f8d397e0e25c3e3013fb5687509234565e6e49ea45a138768457");
}

#[test]
fn addresses_of_this_host_and_its_networks_are_not_public() {
    for ip in [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1",
        "224.0.0.1", "255.255.255.255", "198.18.0.1", "192.0.2.1", "::1", "::", "fe80::1", "fd00::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "2001:db8::1", "64:ff9b::7f00:1", "ff02::1",
    ] {
        assert!(!target_is_public(ip.parse().unwrap()), "{ip}");
    }
    for ip in ["8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8"] {
        assert!(target_is_public(ip.parse().unwrap()), "{ip}");
    }
}

#[test]
fn a_database_of_a_newer_program_is_refused_by_its_version() {
    let place = Place::new();
    place.accounts.connection().pragma_update(None, "user_version", 9).unwrap();
    let error = Accounts::open(&place.folder.path().join(FILE)).unwrap_err();
    assert!(matches!(error, AccountsError::NewerVersion { found: 9, .. }), "{error}");
}

#[test]
fn only_the_owner_of_the_process_can_read_the_files() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new();
    place.person("ann", Role::Viewer);
    for entry in std::fs::read_dir(place.folder.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", entry.path());
    }
}

#[test]
fn threads_use_the_accounts_together() {
    let place = Place::new();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let accounts = place.accounts.clone();
            scope.spawn(move || {
                for m in 0..20 {
                    let person = accounts.create(&format!("{n}-{m}"), Role::Annotator, NOW).unwrap();
                    let link = accounts.create_link(&person.id, NOW + DAY, NOW).unwrap();
                    assert_eq!(accounts.open_link(&link.secret, NOW).unwrap().person.id, person.id);
                }
            });
        }
    });
    assert_eq!(place.accounts.people(1000, None).unwrap().rows.len(), 160);
}
